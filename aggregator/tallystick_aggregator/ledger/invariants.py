"""What must always hold, by the numbers of design.md §6. Called by tests, by the simulation, and at start-up."""

from collections import defaultdict

from tallystick_aggregator.ledger.state import Ledger, PaymentStatus, exposure_key


class InvariantViolated(AssertionError):
    """The ledger contradicts itself: a bug, or a damaged store. Nothing may be served from it."""


def check_invariants(ledger: Ledger) -> None:
    """Check I1, the sums behind I2, and that reservations and payments agree; raise InvariantViolated."""
    committed: dict[bytes, int] = defaultdict(int)
    reserved: dict[bytes, int] = defaultdict(int)
    claimed: dict[bytes, int] = defaultdict(int)
    exposure: dict[bytes, int] = defaultdict(int)
    for channel in ledger.channels.values():
        _require(min(channel.ceiling, channel.charged, channel.reserved, channel.claimed) >= 0, "I1: negative total")
        spent = channel.charged + channel.reserved
        _require(spent <= max(channel.ceiling, channel.claimed), "I1: charged + reserved exceeds the ceiling")
        committed[channel.account_id] += channel.committed
        reserved[channel.account_id] += channel.reserved
        claimed[channel.account_id] += channel.claimed
        token = ledger.accounts[channel.account_id].config.token
        exposure[exposure_key(channel.receiver, token)] += channel.charged - channel.claimed
    for account in ledger.accounts.values():
        _require(account.committed == committed[account.id], "I2: committed is not the channels' sum")
        _require(account.reserved == reserved[account.id], "I2: reserved is not the channels' sum")
        _require(account.claimed == claimed[account.id], "I2: claimed is not the channels' sum")
    for key, amount in ledger.receiver_exposure.items():
        _require(exposure[key] == amount, "a seller's exposure is not its channels' sum")
    _check_reservations(ledger)


def _check_reservations(ledger: Ledger) -> None:
    held: dict[bytes, int] = defaultdict(int)
    for reservation in ledger.reservations.values():
        payment = ledger.payments[reservation.payment_id + reservation.channel_id]
        if payment.status is PaymentStatus.RESERVED:
            held[reservation.channel_id] += reservation.amount
    for channel in ledger.channels.values():
        _require(held[channel.id] == channel.reserved, "I1: reserved is not the open reservations' sum")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise InvariantViolated(what)
