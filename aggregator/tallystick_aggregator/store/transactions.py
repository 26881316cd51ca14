"""The stored form of the outbox's transactions. What the outbox is searched by is in columns; the rest is one body."""

from typing import Final

from tallystick_aggregator.store.binary import Reader, blob, fixed, text, whole
from tallystick_aggregator.store.port import Attempt, Outgoing, Payout, TransactionKind, TransactionStatus

VERSION: Final = 1


def encode_outgoing(outgoing: Outgoing) -> bytes:
    """The stored form of a transaction, except for its id."""
    return b"".join(
        (
            bytes((VERSION, outgoing.kind, outgoing.status)),
            text(outgoing.network),
            blob(outgoing.reference),
            fixed(outgoing.sender, 20),
            whole(outgoing.nonce),
            fixed(outgoing.to, 20),
            blob(outgoing.data),
            whole(outgoing.gas_limit),
            whole(len(outgoing.attempts)),
            *map(_encode_attempt, outgoing.attempts),
            whole(outgoing.created_at),
            whole(outgoing.block_number),
            blob(outgoing.block_hash),
            blob(outgoing.transaction_hash),
            whole(outgoing.gas_used),
            whole(outgoing.effective_gas_price_wei),
            whole(outgoing.rows),
            whole(len(outgoing.payouts)),
            *map(_encode_payout, outgoing.payouts),
            blob(outgoing.memo),
        )
    )


def decode_outgoing(id_: int, body: bytes) -> Outgoing:
    """The transaction with this id; raises StoreDamaged."""
    reader = Reader(body, f"the stored transaction {id_}")
    version, kind, status = reader.byte(), reader.byte(), reader.byte()
    if version != VERSION:
        raise reader.damaged(f"has layout version {version}; {VERSION} is known")
    try:
        outgoing = Outgoing(
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
        )
    except ValueError as error:
        raise reader.damaged(f"is of an unknown kind or status: {error}") from error
    reader.done()
    return outgoing


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
