"""The stored form of the outbox's transactions. What the outbox is searched by is in columns; the rest is one body."""

from typing import Final

from tallystick_aggregator.store.binary import Reader, blob, fixed, text, whole
from tallystick_aggregator.store.port import Attempt, OutboundTransaction, Payout, TransactionKind, TransactionStatus

VERSION: Final = 2
"""Since 2 with payer and payment id at the end."""


def encode_outgoing(outbound: OutboundTransaction) -> bytes:
    """The stored form of a transaction, except for its id."""
    return b"".join(
        (
            bytes((VERSION, outbound.kind, outbound.status)),
            text(outbound.network),
            blob(outbound.reference),
            fixed(outbound.sender, 20),
            whole(outbound.nonce),
            fixed(outbound.to, 20),
            blob(outbound.data),
            whole(outbound.gas_limit),
            whole(len(outbound.attempts)),
            *map(_encode_attempt, outbound.attempts),
            whole(outbound.created_at),
            whole(outbound.block_number),
            blob(outbound.block_hash),
            blob(outbound.transaction_hash),
            whole(outbound.gas_used),
            whole(outbound.effective_gas_price_wei),
            whole(outbound.rows),
            whole(len(outbound.payouts)),
            *map(_encode_payout, outbound.payouts),
            blob(outbound.memo),
            blob(outbound.payer),
            blob(outbound.payment_id),
        )
    )


def decode_outgoing(id_: int, body: bytes) -> OutboundTransaction:
    """The transaction with this id; raises StoreDamagedError."""
    reader = Reader(body, f"the stored transaction {id_}")
    version, kind, status = reader.byte(), reader.byte(), reader.byte()
    if version not in {1, VERSION}:
        raise reader.damaged(f"has layout version {version}; 1 to {VERSION} are known")
    try:
        outbound = OutboundTransaction(
            id=id_,
            kind=TransactionKind(kind),
            status=TransactionStatus(status),
            network=reader.text(),
            reference=reader.blob(),
            sender=reader.fixed(20),
            nonce=reader.whole(),
            to=reader.fixed(20),
            data=reader.blob(),
            gas_limit=reader.whole(),
            attempts=tuple(_decode_attempt(reader) for _ in range(reader.whole())),
            created_at=reader.whole(),
            block_number=reader.whole(),
            block_hash=reader.blob(),
            transaction_hash=reader.blob(),
            gas_used=reader.whole(),
            effective_gas_price_wei=reader.whole(),
            rows=reader.whole(),
            payouts=tuple(_decode_payout(reader) for _ in range(reader.whole())),
            memo=reader.blob(),
            payer=b"" if version == 1 else reader.blob(),
            payment_id=b"" if version == 1 else reader.blob(),
        )
    except ValueError as error:
        raise reader.damaged(f"is of an unknown kind or status: {error}") from error
    reader.done()
    return outbound


def _encode_attempt(attempt: Attempt) -> bytes:
    return b"".join(
        (
            blob(attempt.transaction_hash),
            blob(attempt.raw),
            whole(attempt.max_fee_per_gas_wei),
            whole(attempt.max_priority_fee_per_gas_wei),
            whole(attempt.created_at),
        )
    )


def _decode_attempt(reader: Reader) -> Attempt:
    return Attempt(reader.blob(), reader.blob(), reader.whole(), reader.whole(), reader.whole())


def _encode_payout(payout: Payout) -> bytes:
    return fixed(payout.receiver, 20) + fixed(payout.token, 20) + whole(payout.amount)


def _decode_payout(reader: Reader) -> Payout:
    return Payout(reader.fixed(20), reader.fixed(20), reader.whole())
