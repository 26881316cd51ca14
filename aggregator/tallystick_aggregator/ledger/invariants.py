"""What must always hold, by the numbers of docs/design.md §6. Called by tests, by the simulation, and at start-up."""

from collections import Counter
from collections.abc import Iterable

from tallystick_aggregator.ledger.payments import PaymentStatus, status_of
from tallystick_aggregator.ledger.state import Account, Channel, Ledger, exposure_key


class InvariantError(AssertionError):
    """The ledger contradicts itself: a bug, or a damaged store. Nothing may be served from it."""


def check_invariants(ledger: Ledger) -> None:
    """Check I1, the sums behind I2, and that reservations and payments agree; raise InvariantError."""
    held, reservations = _held(ledger)
    opened = Counter(reservations)
    for channel_id, count in reservations.items():
        opened[ledger.channels[channel_id].receiver] += count
    _require(opened == Counter(ledger.open_reservations), "open reservations are not counted right")
    sums: dict[bytes, Counter[str]] = {account_id: Counter() for account_id in ledger.accounts}
    exposure: Counter[bytes] = Counter()
    for channel in ledger.channels.values():
        _check_channel(channel, held[channel.id])
        token = ledger.accounts[channel.account_id].config.token
        exposure[exposure_key(channel.receiver, token)] += channel.charged + channel.reserved - channel.claimed
        sums[channel.account_id].update(
            committed=channel.committed,
            reserved=channel.reserved,
            claimed=channel.claimed,
            channels=1,
            reservations=reservations[channel.id],
        )
    for account in ledger.accounts.values():
        _check_account(account, sums[account.id])
    for key in exposure.keys() | ledger.receiver_exposure.keys():
        _require(exposure[key] == ledger.receiver_exposure.get(key, 0), "a seller's exposure is not its channels' sum")


def short_accounts(ledger: Ledger, account_ids: Iterable[bytes]) -> dict[bytes, tuple[int, int]]:
    """Return those of these accounts on which I11 does not hold, with `committed` and `funds`, in atomic units.

    The ledger is not wrong then: the chain says less than it said when the charges were accepted. So it is no
    InvariantError; the watcher raises an alarm at every look, and nothing is charged or captured on the account.
    """
    accounts = (ledger.accounts[account_id] for account_id in account_ids if account_id in ledger.accounts)
    return {account.id: (account.committed, account.funds) for account in accounts if account.is_short}


def _check_channel(channel: Channel, held: int) -> None:
    _require(min(channel.ceiling, channel.charged, channel.reserved, channel.claimed) >= 0, "I1: negative total")
    _require(channel.claimed <= channel.charged, "I1: claimed exceeds charged")
    # On the canonical escrow a receiver may take by itself what is reserved (threat 36): until those reservations are
    # settled only the second holds. So it is where a channel's baseline was claimed before we knew it (I10).
    _require(
        channel.charged + channel.reserved <= channel.ceiling or channel.charged == channel.claimed,
        "I1: charged + reserved exceeds the ceiling",
    )
    # `Channel.has_used` looks no further where a ceiling is higher.
    _require(max(channel.used.highest, channel.used.floor) <= channel.ceiling, "a charge used a voucher not verified")
    totals = [channel.claimed, *(attested.total for attested in channel.attesting)]
    _require(totals == sorted(set(totals)), "charges are attested by a claim that the chain has, or twice")
    _require(min(channel.charges, *(a.charges for a in channel.attesting), 0) == 0, "charges are counted below 0")
    _require(held == channel.reserved, "I1: reserved is not the open reservations' sum")


def _check_account(account: Account, sums: Counter[str]) -> None:
    for what in ("committed", "reserved", "claimed", "channels", "reservations"):
        _require(getattr(account, what) == sums[what], f"I2: {what} is not the channels' sum")
    refunding = account.refund.amount if account.refund is not None else 0
    _require(account.refunding == refunding, "I2: refunding is not the pending refund's amount")


def _held(ledger: Ledger) -> tuple[Counter[bytes], Counter[bytes]]:
    """By channel id: what open reservations hold, and how many there are."""
    held: Counter[bytes] = Counter()
    count: Counter[bytes] = Counter()
    for reservation in ledger.reservations.values():
        payment = ledger.payments.get(reservation.payment_id + reservation.channel_id)
        _require(payment is not None, "a reservation has no payment")
        if payment is not None and status_of(payment) is PaymentStatus.RESERVED:
            held[reservation.channel_id] += reservation.amount
            count[reservation.channel_id] += 1
    return held, count


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise InvariantError(what)
