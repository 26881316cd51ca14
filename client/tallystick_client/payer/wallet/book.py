"""The wallet's book: what it deposited, signed, granted, and what became of it. In memory, pure; `store` keeps it.

Every unit of a channel's ceiling is in exactly one place:

    ceiling = free + committed
    committed = charged + unknown + disputed + the open part of every grant

- **open**: given to a grant; it may be unspent, or in a payment that is under way.
- **charged**: a seller's answer, or the aggregator, says that it was taken.
- **unknown**: it was sent, and no answer came; or its holder died. It counts as spent until it is reconciled.
- **disputed**: the aggregator counts more than this wallet ever sent. It counts as spent, and is never approved.

What leaves the wallet is a ceiling and a proof. Before either does, the book that allows it is on disk; what the disk
does not know yet (a payment charged or lost, headroom returned) makes it hold more as committed, never less. So a book
that is read again after a crash holds at least what may have been promised (threat 1), and no server adds to it
(threat 4).

Amounts are integers in atomic units.
"""

from collections.abc import Iterable, Iterator

from tallystick.quantities import MAX_AMOUNT
from tallystick_client.payer.policy.budgets import Limits
from tallystick_client.payer.policy.operators import Asset
from tallystick_client.payer.wallet.rows import (
    Account,
    Changes,
    Channel,
    ChannelDeposit,
    Counter,
    Deposit,
    ExactPayment,
    GrantRow,
    Refund,
    Row,
    SellerChannel,
    SpendKeyRow,
)


class Book:
    """All rows, and the sums that follow from them. Every method keeps the equation of the module's header."""

    def __init__(self) -> None:
        self.accounts: dict[bytes, Account] = {}
        self.channels: dict[bytes, Channel] = {}
        self.grants: dict[int, GrantRow] = {}
        self.spend_keys: dict[bytes, SpendKeyRow] = {}
        self.deposits: dict[bytes, Deposit] = {}
        self.refunds: dict[bytes, Refund] = {}
        self.exact_payments: dict[bytes, ExactPayment] = {}
        """Those that were sent, and may yet turn out not to be spent."""
        self.seller_channels: dict[bytes, SellerChannel] = {}
        self.channel_deposits: dict[bytes, ChannelDeposit] = {}
        """By their salts; those that have landed are not kept here."""
        self.counters: dict[Counter, int] = {}
        self._grants_of: dict[bytes, dict[int, GrantRow]] = {}
        self._next_grant_id = 1
        self._dirty: dict[int, Row] = {}
        self._dirty_counters: set[Counter] = set()
        self._removed_grants: list[int] = []

    # What changed.

    def changed(self, row: Row) -> None:
        """Note that a row must be written; for rows that are changed from outside, such as a deposit's status."""
        self._dirty[id(row)] = row

    def take_changes(self) -> Changes:
        """What has changed since the last call."""
        counters = {counter: self.counters[counter] for counter in self._dirty_counters}
        changes = Changes(list(self._dirty.values()), counters, self._removed_grants)
        self._dirty, self._dirty_counters, self._removed_grants = {}, set(), []
        return changes

    # Adding rows.

    def add(self, row: Row) -> None:
        """Take a new row, or one that was read from disk."""
        match row:
            case Account():
                self.accounts[row.id] = row
            case Channel():
                self.channels[row.id] = row
                self._commit(row, row.charged + row.unknown + row.disputed, 0)
            case GrantRow():
                self.grants[row.id] = row
                self._grants_of.setdefault(row.channel_id, {})[row.id] = row
                self._next_grant_id = max(self._next_grant_id, row.id + 1)
                self._commit(self.channels[row.channel_id], row.open, row.open)
            case SpendKeyRow():
                self.spend_keys[row.key_id] = row
            case Deposit():
                self.deposits[row.salt] = row
            case Refund():
                self.refunds[row.refund_id] = row
            case ExactPayment():
                self.exact_payments[row.nonce] = row
            case SellerChannel():
                self.seller_channels[row.id] = row
            case ChannelDeposit():
                self.channel_deposits[row.salt] = row
        self.changed(row)

    def new_grant(self, channel: Channel, host: str, holder: str, key_id: bytes, day: int) -> GrantRow:
        """A grant that holds nothing yet."""
        asset = self.accounts[channel.account_id].asset
        row = GrantRow(self._next_grant_id, channel.id, asset, host, holder, key_id, day)
        self.add(row)
        return row

    # Grants.

    def allot(self, row: GrantRow, amount: int, *, fresh: bool = False) -> int:
        """Give a grant `amount` more; returns the channel's ceiling after it, which the caller may then sign.

        `fresh`: no headroom that was signed before, for charges that are proven by vouchers (each needs a ceiling that
        no other has used). Raises OverflowError if a ceiling would no longer be an amount.
        """
        channel = self.channels[row.channel_id]
        ceiling = channel.ceiling + amount if fresh else max(channel.ceiling, channel.committed + amount)
        if ceiling > MAX_AMOUNT:
            raise OverflowError("a ceiling must be below 2**128")
        row.granted += amount
        channel.ceiling, channel.host = ceiling, row.host
        self._commit(channel, amount, amount)
        self._count(row.asset, row.host, row.day, amount)
        self.changed(row)
        self.changed(channel)
        return ceiling

    def report(self, row: GrantRow, charged: int, unknown: int) -> None:
        """Take over a grant's own totals; raises ValueError where they fall or exceed what the grant was given.

        What was unknown may turn out to be charged: no less is spent then.
        """
        more_charged, more_unknown = charged - row.charged, unknown - row.unknown
        if more_charged < 0 or not 0 <= more_charged + more_unknown <= row.open:
            raise ValueError(f"grant {row.id}: charged {charged} and unknown {unknown} do not fit {row.open} open")
        if not more_charged and not more_unknown:
            return
        channel = self.channels[row.channel_id]
        row.charged, row.unknown = charged, unknown
        channel.charged += more_charged
        channel.unknown += more_unknown
        self._commit(channel, 0, -more_charged - more_unknown)
        self.changed(row)
        self.changed(channel)

    def give_back(self, row: GrantRow, amount: int) -> None:
        """Take unspent headroom back from a grant: the channel, the account and the budgets have it again."""
        if not 0 <= amount <= row.open:
            raise ValueError(f"grant {row.id}: {amount} cannot be returned of {row.open} open")
        row.returned += amount
        self._commit(self.channels[row.channel_id], -amount, -amount)
        self._count(row.asset, row.host, row.day, -amount)
        self.changed(row)

    def close(self, row: GrantRow, now_s: int) -> None:
        """End a grant. What its holder still has open is unknown from now on: whoever it was given to may send it."""
        self.report(row, row.charged, row.unknown + row.open)
        row.closed_at = now_s
        if row.unknown:
            self.changed(row)
        else:
            self._remove(row)

    # After reconciliation.

    def resolve(self, rows: Iterable[GrantRow], charged: int, open_: int) -> int:
        """Settle what was unknown in closed grants of one channel: `charged` of it was taken, `open_` may yet be.

        The rest was never taken and is free again; returns it. Older grants are settled first.
        """
        freed = 0
        for row in sorted(rows, key=lambda row: row.id):
            channel = self.channels[row.channel_id]
            taken = min(row.unknown, charged)
            kept = min(row.unknown - taken, open_)
            gone = row.unknown - taken - kept
            charged, open_, freed = charged - taken, open_ - kept, freed + gone
            row.charged += taken
            row.unknown = kept
            channel.charged += taken
            channel.unknown -= taken + gone
            row.returned += gone
            self._commit(channel, -gone, 0)
            self._count(row.asset, row.host, row.day, -gone)
            self.changed(row)
            self.changed(channel)
            if not kept:
                self._remove(row)
        return freed

    def dispute(self, channel: Channel, amount: int, day: int) -> None:
        """Set what the aggregator counts beyond this book. It counts as spent at the channel's newest host, today."""
        more = amount - channel.disputed
        if more:
            channel.disputed = amount
            self._commit(channel, more, 0)
            self._count(self.accounts[channel.account_id].asset, channel.host, day, more)
            self.changed(channel)

    # Payments without a deposit.

    def spend(self, asset: Asset, host: str, day: int, amount: int) -> None:
        """Count in the budgets what a scheme pays by itself."""
        self._count(asset, host, day, amount)

    def spend_exact(self, payment: ExactPayment) -> None:
        """Count a payment that is about to be signed."""
        self._count(payment.asset, payment.host, payment.day, payment.amount)
        self.add(payment)

    def exact_is_spent(self, nonce: bytes) -> None:
        """Note that a transfer was made; one that is not known here is none of ours."""
        payment = self.exact_payments.pop(nonce, None)
        if payment is not None:
            payment.status = "spent"
            self.changed(payment)

    def free_exact(self, nonce: bytes) -> None:
        """Give the budgets back what was signed for a transfer that can no longer be made."""
        payment = self.exact_payments.pop(nonce)
        payment.status = "freed"
        self._count(payment.asset, payment.host, payment.day, -payment.amount)
        self.changed(payment)

    # Channels with one seller alone.

    def sign_step(self, channel: SellerChannel, host: str, day: int, ceiling: int) -> None:
        """Count a voucher that is about to be signed: only what it adds to all that were signed before can be taken."""
        more = max(0, ceiling - channel.signed)
        channel.signed += more
        channel.spent += more
        if more:
            self._count(channel.asset, host, day, more)
        self.changed(channel)

    def end_deposit(self, deposit: ChannelDeposit, status: str) -> None:
        """Note that a deposit has landed, or can land no more."""
        deposit.status = status
        self.changed(deposit)
        del self.channel_deposits[deposit.salt]
        if status == "landed":
            channel = self.seller_channels[deposit.channel_id]
            channel.deposited += deposit.amount
            self.changed(channel)

    # Budgets.

    def affordable(self, asset: Asset, host: str, day: int, limits: Limits) -> int:
        """The most that any budget still allows at this host today; may be below zero."""
        return min(left for _, _, left in self._budgets(asset, host, day, limits))

    def exceeded(self, asset: Asset, host: str, day: int, limits: Limits, amount: int) -> tuple[str, int] | None:
        """The first budget that does not allow `amount`, and what it still allows; None where all allow it."""
        budgets = self._budgets(asset, host, day, limits)
        return next(((name, max(0, left)) for name, _, left in budgets if amount > left), None)

    def spent(self, asset: Asset, host: str, day: int) -> dict[str, int]:
        """What is counted as spent at this host, on this day, and in all."""
        return {counter.kind: self.counters.get(counter, 0) for counter in _counters(asset, host, day)}

    def spent_by_exact(self, asset: Asset) -> int:
        """What was signed for payments without a deposit, in all: budgets count that, and what deposits committed."""
        committed = sum(account.committed for account in self.accounts.values() if account.asset == asset)
        committed += sum(channel.spent for channel in self.seller_channels.values() if channel.asset == asset)
        return self.counters.get(Counter(asset, "total", ""), 0) - committed

    def promised(self, asset: Asset, now_s: float) -> int:
        """What may yet leave the payer's address: by deposits under way, at whatever operator, and by transfers."""
        deposits = sum(
            deposit.amount
            for deposit in self.deposits.values()
            if deposit.status == "pending"
            and self.accounts[deposit.account_id].asset == asset
            and now_s < deposit.landable_until
        )
        deposits += sum(
            deposit.amount
            for deposit in self.channel_deposits.values()
            if self.seller_channels[deposit.channel_id].asset == asset and now_s < deposit.landable_until
        )
        transfers = sum(
            payment.amount
            for payment in self.exact_payments.values()
            if payment.asset == asset and now_s < payment.valid_before
        )
        return deposits + transfers

    def channels_of(self, account_id: bytes) -> Iterator[Channel]:
        """The account's channels."""
        return (channel for channel in self.channels.values() if channel.account_id == account_id)

    def grants_of(self, channel_id: bytes) -> list[GrantRow]:
        """The channel's grants, open and closed."""
        return list(self._grants_of.get(channel_id, {}).values())

    def check(self) -> None:
        """Assert the equations of the header over all rows: for tests, and when a wallet is opened."""
        for account in self.accounts.values():
            channels = list(self.channels_of(account.id))
            for channel in channels:
                rows = self.grants_of(channel.id)
                open_ = sum(row.open for row in rows)
                assert channel.committed == channel.charged + channel.unknown + channel.disputed + open_
                assert channel.unknown == sum(row.unknown for row in rows)
                assert min(channel.charged, channel.unknown, channel.disputed, 0, *(row.open for row in rows)) == 0
                assert channel.committed - channel.disputed <= channel.ceiling
            assert account.committed == sum(channel.committed for channel in channels)
            assert account.open == sum(row.open for channel in channels for row in self.grants_of(channel.id))
        for single in self.seller_channels.values():
            assert min(single.counted, single.missing, single.returned) >= 0
            assert single.counted <= single.signed
            assert single.spent <= single.signed

    def _budgets(self, asset: Asset, host: str, day: int, limits: Limits) -> Iterator[tuple[str, Counter, int]]:
        allowed = {"host": limits.per_host, "day": limits.per_day, "total": limits.total}
        for counter in _counters(asset, host, day):
            name = {"host": f"per_host ({host})", "day": "per_day", "total": "total"}[counter.kind]
            yield name, counter, allowed[counter.kind] - self.counters.get(counter, 0)

    def _commit(self, channel: Channel, committed: int, open_: int) -> None:
        account = self.accounts[channel.account_id]
        channel.committed += committed
        account.committed += committed
        account.open += open_

    def _count(self, asset: Asset, host: str, day: int, amount: int) -> None:
        for counter in _counters(asset, host, day):
            self.counters[counter] = self.counters.get(counter, 0) + amount
            self._dirty_counters.add(counter)

    def _remove(self, row: GrantRow) -> None:
        del self.grants[row.id]
        del self._grants_of[row.channel_id][row.id]
        self._dirty.pop(id(row), None)
        self._removed_grants.append(row.id)


def _counters(asset: Asset, host: str, day: int) -> tuple[Counter, Counter, Counter]:
    return Counter(asset, "host", host), Counter(asset, "day", str(day)), Counter(asset, "total", "")
