"""How much gas our own transactions on one network took in the last hour, by kind and by payer, and what they move.

Counted from the outbox, so that a restart forgets nothing: what is mined counts with the gas that it used, what waits
with its gas limit, and what another transaction superseded not at all. Claims and gap fillers are counted alike.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from tallystick_aggregator.store.port import OutboundTransaction, Outbox, Payout, TransactionKind, TransactionStatus

HOUR_S: Final = 3_600
PAYERS_KINDS: Final = frozenset({TransactionKind.DEPOSIT, TransactionKind.REFUND, TransactionKind.EXACT})
"""Kinds that a payer's signature brings about. Where no payer is noted, it is the first word of the arguments."""
Key = TypeVar("Key")

_LANDED: Final = frozenset({TransactionStatus.MINED, TransactionStatus.FINAL, TransactionStatus.REVERTED})


class _Entry(NamedTuple):
    at: int
    kind: TransactionKind
    gas: int
    payer: bytes
    receiver: bytes
    is_under_way: bool
    has_reverted: bool
    reference: bytes
    moves: tuple[Payout, ...]


class GasMeter:
    """The last hour of one network's outbox. `clock` in seconds since the epoch, as the outbox has it."""

    def __init__(
        self, clock: Callable[[], float], *, counts: Callable[[OutboundTransaction], bool] = lambda _: True
    ) -> None:
        """`counts`: which of the outbox's transactions are counted here, where another meter counts the others."""
        self._clock = clock
        self._counts_it = counts
        self._entries: dict[int, _Entry] = {}
        """By the transaction's id, oldest first."""
        self._gas: Counter[TransactionKind] = Counter()
        self._counts: Counter[tuple[TransactionKind, bytes]] = Counter()
        self._received: Counter[bytes] = Counter()
        self._under_way: Counter[tuple[TransactionKind, bytes]] = Counter()
        self._leaving: defaultdict[tuple[bytes, bytes], Counter[bytes]] = defaultdict(Counter)
        """By payer and token: amounts, by the transaction's reference."""
        self._reverted: Counter[tuple[TransactionKind, bytes]] = Counter()

    async def load(self, outbox: Outbox, network: str) -> None:
        """Take in what the outbox has of the last hour."""
        sent = await outbox.since(network, int(self._clock()) - HOUR_S)
        for outbound in sorted(sent, key=lambda one: one.created_at):  # what is sent anew keeps its old place there
            self.note(outbound)

    def note(self, outbound: OutboundTransaction) -> None:
        """Count a transaction as it is now; to be called whenever it is stored."""
        if not self._counts_it(outbound):
            return
        known = self._entries.get(outbound.id)
        if outbound.status is TransactionStatus.SUPERSEDED:
            self._drop(outbound.id)
        elif outbound.created_at > self._clock() - HOUR_S:
            gas = outbound.gas_used if outbound.status in _LANDED else outbound.gas_limit
            if known is not None and known.at != outbound.created_at:  # sent anew: it is the youngest now
                self._drop(outbound.id)
                known = None
            if known is not None:
                self._add(known, -1)
            entry = _Entry(
                outbound.created_at,
                outbound.kind,
                gas,
                payer_of(outbound),
                outbound.payouts[0].receiver if outbound.kind in PAYERS_KINDS and outbound.payouts else b"",
                is_under_way=outbound.status is TransactionStatus.PENDING,
                has_reverted=outbound.status is TransactionStatus.REVERTED or bool(known and known.has_reverted),
                reference=outbound.reference,
                moves=outbound.payouts if outbound.kind is TransactionKind.EXACT else (),
            )
            self._entries[outbound.id] = entry
            self._add(entry, 1)

    def note_revert(self, outbound: OutboundTransaction) -> None:
        """Count a transaction as reverted that is in a block, and not final yet."""
        known = self._entries.get(outbound.id)
        if known is not None and not known.has_reverted:
            self._add(known, -1)
            self._entries[outbound.id] = known._replace(has_reverted=True)
            self._add(self._entries[outbound.id], 1)

    def spent(self, kind: TransactionKind) -> int:
        """Return the gas of the last hour's transactions of a kind."""
        self._forget()
        return self._gas[kind]

    def count(self, kind: TransactionKind, payer: bytes) -> int:
        """Return how many transactions of a kind this payer has brought about in the last hour."""
        self._forget()
        return self._counts[kind, payer]

    def count_to(self, receiver: bytes) -> int:
        """Return how many of the payers' transactions of the last hour pay this receiver."""
        self._forget()
        return self._received[receiver]

    def under_way(self, kind: TransactionKind, payer: bytes) -> int:
        """Return how many of a payer's transactions of a kind are in no block yet, as far as is known."""
        self._forget()
        return self._under_way[kind, payer]

    def leaving(self, payer: bytes, token: bytes) -> Mapping[bytes, int]:
        """Return the transfers of a payer's tokens that are in no block yet: atomic units, by what names each in the
        outbox.
        """
        self._forget()
        return self._leaving.get((payer, token), {})

    def reverted(self, kind: TransactionKind, payer: bytes) -> int:
        """Return how many of a payer's transactions of a kind from the last hour have reverted on chain."""
        self._forget()
        return self._reverted[kind, payer]

    def wait_s(self, kind: TransactionKind, gas: int, payer: bytes | None = None) -> int:
        """Return in how many seconds this much gas of a kind is an hour old; with a payer, one transaction of its."""
        self._forget()
        left, now = gas, self._clock()
        for entry in self._entries.values():
            if entry.kind is kind and payer in {None, entry.payer}:
                left -= entry.gas if payer is None else left
                if left <= 0:
                    return max(1, int(entry.at + HOUR_S - now) + 1)
        return HOUR_S

    def _forget(self) -> None:
        oldest = self._clock() - HOUR_S
        while self._entries:
            id_, entry = next(iter(self._entries.items()))
            if entry.at > oldest:
                return
            self._drop(id_)

    def _drop(self, id_: int) -> None:
        entry = self._entries.pop(id_, None)
        if entry is None:
            return
        self._add(entry, -1)

    def _add(self, entry: _Entry, times: int) -> None:
        self._gas[entry.kind] += times * entry.gas
        by = entry.kind, entry.payer
        _count(self._counts, by, times)
        if entry.receiver:
            _count(self._received, entry.receiver, times)
        if entry.is_under_way:
            _count(self._under_way, by, times)
            for payout in entry.moves:
                purse = entry.payer, payout.token
                _count(self._leaving[purse], entry.reference, times * payout.amount)
                if not self._leaving[purse]:
                    del self._leaving[purse]
        if entry.has_reverted:
            _count(self._reverted, by, times)


def _count(counter: Counter[Key], key: Key, times: int) -> None:
    counter[key] += times
    if not counter[key]:
        del counter[key]


def payer_of(outbound: OutboundTransaction) -> bytes:
    """Return whose signature brought a transaction about; empty for those that we send by ourselves."""
    if outbound.payer or outbound.kind not in PAYERS_KINDS:
        return outbound.payer
    return outbound.data[16:36]


class MeteredOutbox:
    """An outbox whose every write is noted. See `store.port.Outbox`."""

    def __init__(self, outbox: Outbox, meter: GasMeter) -> None:
        self._outbox = outbox
        self._meter = meter

    async def add(self, outbound: OutboundTransaction) -> OutboundTransaction:
        added = await self._outbox.add(outbound)
        self._meter.note(added)
        return added

    async def update(self, outbound: OutboundTransaction) -> None:
        await self._outbox.update(outbound)
        self._meter.note(outbound)

    async def by_reference(self, kind: TransactionKind, reference: bytes) -> OutboundTransaction | None:
        return await self._outbox.by_reference(kind, reference)

    async def by_payment_id(self, payment_id: bytes) -> OutboundTransaction | None:
        """See the port."""
        return await self._outbox.by_payment_id(payment_id)

    async def open(self, network: str) -> Sequence[OutboundTransaction]:
        return await self._outbox.open(network)

    async def claims(self, receivers: Sequence[bytes], before_id: int, limit: int) -> Sequence[OutboundTransaction]:
        return await self._outbox.claims(receivers, before_id, limit)

    async def since(self, network: str, created_at: int) -> Sequence[OutboundTransaction]:
        return await self._outbox.since(network, created_at)

    async def next_nonce(self, network: str, sender: bytes) -> int:
        return await self._outbox.next_nonce(network, sender)
