"""The outbox in the store's file: transactions that were or will be sent, each write a transaction of its own."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tallystick_aggregator.store.binary import UnstorableError
from tallystick_aggregator.store.port import OutboundTransaction, TransactionKind
from tallystick_aggregator.store.sqlite.database import Database, Rows
from tallystick_aggregator.store.sqlite.schema import ORDINALS
from tallystick_aggregator.store.transactions import decode_outgoing, encode_outgoing

_ADD: Final = """
INSERT INTO outbox (network, kind, reference, sender, nonce, status, receivers, payment_id, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (kind, reference) DO NOTHING RETURNING id"""
_UPDATE: Final = """
UPDATE outbox SET network = ?, kind = ?, reference = ?, sender = ?, nonce = ?, status = ?, receivers = ?,
    payment_id = ?, body = ?
WHERE id = ?"""
_BY_REFERENCE: Final = "SELECT id, body FROM outbox WHERE kind = ? AND reference = ?"
_BY_PAYMENT_ID: Final = "SELECT id, body FROM outbox WHERE payment_id = ?"
_OPEN: Final = "SELECT id, body FROM outbox WHERE network = ? AND status IN (1, 2) ORDER BY nonce, id"
_CLAIMS: Final = """
SELECT id, body FROM outbox WHERE id IN (
    SELECT DISTINCT id FROM outbox_receivers
    WHERE receiver IN (SELECT substr(?1, 20 * n + 1, 20) FROM ordinals WHERE n < ?2) AND (?3 = 0 OR id < ?3)
    ORDER BY id DESC LIMIT ?4
) ORDER BY id DESC"""
_BEFORE: Final = "SELECT id, body FROM outbox WHERE network = ?1 AND (?2 = 0 OR id < ?2) ORDER BY id DESC LIMIT ?3"
_ROWS_AT_ONCE: Final = 256
_NEXT_NONCE: Final = "SELECT max(nonce) + 1 FROM outbox WHERE network = ? AND sender = ?"


class SqliteOutbox:
    """See `port.Outbox`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, outbound: OutboundTransaction) -> OutboundTransaction:
        added = await self._database.write_returning(_ADD, _columns(outbound))
        if added:
            return replace(outbound, id=added[0][0])
        known = await self.by_reference(outbound.kind, outbound.reference)
        assert known is not None, "nothing is ever deleted from the outbox"
        return known

    async def update(self, outbound: OutboundTransaction) -> None:
        if await self._database.write(_UPDATE, (*_columns(outbound), outbound.id)) == 0:
            raise ValueError(f"the outbox has no transaction {outbound.id}")

    async def by_reference(self, kind: TransactionKind, reference: bytes) -> OutboundTransaction | None:
        found = _decoded(await self._database.read(_BY_REFERENCE, (kind, reference)))
        return found[0] if found else None

    async def by_payment_id(self, payment_id: bytes) -> OutboundTransaction | None:
        """See the port."""
        found = _decoded(await self._database.read(_BY_PAYMENT_ID, (payment_id,)))
        return found[0] if found else None

    async def open(self, network: str) -> Sequence[OutboundTransaction]:
        return _decoded(await self._database.read(_OPEN, (network,)))

    async def claims(self, receivers: Sequence[bytes], before_id: int, limit: int) -> Sequence[OutboundTransaction]:
        return _decoded(await self._database.read(_CLAIMS, (b"".join(receivers), len(receivers), before_id, limit)))

    async def since(self, network: str, created_at: int) -> Sequence[OutboundTransaction]:
        found: list[OutboundTransaction] = []
        before = 0
        while True:
            rows = _decoded(await self._database.read(_BEFORE, (network, before, _ROWS_AT_ONCE)))
            younger = [outbound for outbound in rows if outbound.created_at > created_at]
            found += younger
            if len(younger) < _ROWS_AT_ONCE:
                return found[::-1]
            before = younger[-1].id

    async def next_nonce(self, network: str, sender: bytes) -> int:
        ((nonce,),) = await self._database.read(_NEXT_NONCE, (network, sender))
        return int(nonce or 0)


def _columns(outbound: OutboundTransaction) -> tuple[object, ...]:
    receivers: list[bytes] = []
    if outbound.kind is TransactionKind.CLAIM:
        receivers = sorted({payout.receiver for payout in outbound.payouts})
    if len(receivers) > ORDINALS:
        raise UnstorableError(f"a claim pays {len(receivers)} receivers; at most {ORDINALS} fit")
    return (
        outbound.network,
        outbound.kind,
        outbound.reference,
        outbound.sender,
        outbound.nonce,
        outbound.status,
        b"".join(receivers),
        outbound.payment_id or None,
        encode_outgoing(outbound),
    )


def _decoded(rows: Rows) -> list[OutboundTransaction]:
    return [decode_outgoing(id_, body) for id_, body in rows]
