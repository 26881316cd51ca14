"""How much gas our own transactions on one network took in the last hour, by kind and by payer.

Counted from the outbox, so that a restart forgets nothing: what is mined counts with the gas that it used, what waits
with its gas limit, and what another transaction superseded not at all. Claims and gap fillers are counted alike.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tallystick_aggregator.store.port import OutboundTransaction, Outbox, TransactionKind, TransactionStatus

HOUR_S: Final = 3_600
PAYERS_KINDS: Final = frozenset({TransactionKind.DEPOSIT, TransactionKind.REFUND, TransactionKind.EXACT})
"""Kinds that a payer's signature brings about. The first word of their arguments is the payer."""
_LANDED: Final = frozenset({TransactionStatus.MINED, TransactionStatus.FINAL, TransactionStatus.REVERTED})


class _Entry(NamedTuple):
    at: int
    kind: TransactionKind
    gas: int
    payer: bytes


class GasMeter:
    """The last hour of one network's outbox. `clock` in seconds since the epoch, as the outbox has it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[int, _Entry] = {}
        """By the transaction's id, oldest first."""
        self._gas: Counter[TransactionKind] = Counter()
        self._counts: Counter[tuple[TransactionKind, bytes]] = Counter()

    async def load(self, outbox: Outbox, network: str) -> None:
        """Take in what the outbox has of the last hour."""
        sent = await outbox.since(network, int(self._clock()) - HOUR_S)
        for outbound in sorted(sent, key=lambda one: one.created_at):  # what is sent anew keeps its old place there
            self.note(outbound)

    def note(self, outbound: OutboundTransaction) -> None:
        """Count a transaction as it is now; to be called whenever it is stored."""
        known = self._entries.get(outbound.id)
        if outbound.status is TransactionStatus.SUPERSEDED:
            self._drop(outbound.id)
        elif outbound.created_at > self._clock() - HOUR_S:
            gas = outbound.gas_used if outbound.status in _LANDED else outbound.gas_limit
            if known is not None and known.at != outbound.created_at:  # sent anew: it is the youngest now
                self._drop(outbound.id)
                known = None
            if known is not None:
                self._gas[known.kind] -= known.gas
                self._counts[known.kind, known.payer] -= 1
            entry = _Entry(outbound.created_at, outbound.kind, gas, payer_of(outbound))
            self._entries[outbound.id] = entry
            self._gas[entry.kind] += entry.gas
            self._counts[entry.kind, entry.payer] += 1

    def spent(self, kind: TransactionKind) -> int:
        """Return the gas of the last hour's transactions of a kind."""
        self._forget()
        return self._gas[kind]

    def count(self, kind: TransactionKind, payer: bytes) -> int:
        """Return how many transactions of a kind this payer has brought about in the last hour."""
        self._forget()
        return self._counts[kind, payer]

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
        self._gas[entry.kind] -= entry.gas
        self._counts[entry.kind, entry.payer] -= 1
        if not self._counts[entry.kind, entry.payer]:
            del self._counts[entry.kind, entry.payer]


def payer_of(outbound: OutboundTransaction) -> bytes:
    """Return whose signature brought a transaction about; empty for those that we send by ourselves."""
    return outbound.data[16:36] if outbound.kind in PAYERS_KINDS else b""


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

    async def open(self, network: str) -> Sequence[OutboundTransaction]:
        return await self._outbox.open(network)

    async def claims(self, receivers: Sequence[bytes], before_id: int, limit: int) -> Sequence[OutboundTransaction]:
        return await self._outbox.claims(receivers, before_id, limit)

    async def since(self, network: str, created_at: int) -> Sequence[OutboundTransaction]:
        return await self._outbox.since(network, created_at)

    async def next_nonce(self, network: str, sender: bytes) -> int:
        return await self._outbox.next_nonce(network, sender)
