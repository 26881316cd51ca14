"""The stored form of the ledger's state: one row for each account, channel, spend key, reservation, head and payment.

A row ends in the CRC-32 of its key and itself, so that a row that was damaged, or that belongs to another key, is found
out instead of being believed. Payments and channels come by the million: they are packed in one step each.
"""

import struct
from typing import Final, Literal
from zlib import crc32

from tallystick.errors import MalformedError
from tallystick.quantities import AccountId, Address, ChannelId
from tallystick_aggregator.ledger.ceilings import CEILING_BYTES, NO_CEILING, UsedCeilings
from tallystick_aggregator.ledger.payments import (
    PACKED_PAYMENT_BYTES,
    PAYMENT_KEY_BYTES,
    PackedPayment,
    PaymentKey,
    status_of,
)
from tallystick_aggregator.ledger.state import (
    Account,
    Approval,
    Attested,
    ChainHead,
    Channel,
    PendingRefund,
    Reservation,
    SpendKey,
)
from tallystick_aggregator.ledger.values import parse_escrow
from tallystick_aggregator.store.binary import Reader, UnstorableError, blob, fixed, flag, text, whole
from tallystick_aggregator.store.events import put_config, put_totals, take_config, take_totals
from tallystick_aggregator.store.port import StoreDamagedError

_CHECKSUM_BYTES: Final = 4


def seal(key: bytes, body: bytes) -> bytes:
    """The row for this key: the body and the checksum of both."""
    return body + crc32(body, crc32(key)).to_bytes(_CHECKSUM_BYTES, "big")


def unseal(key: bytes, row: bytes, what: str) -> bytes:
    """The body of the row for this key; raises StoreDamagedError."""
    body = row[:-_CHECKSUM_BYTES]
    if crc32(body, crc32(key)) != int.from_bytes(row[-_CHECKSUM_BYTES:], "big") or len(row) < _CHECKSUM_BYTES:
        raise StoreDamagedError(f"the stored {what} {key.hex()} does not match its checksum")
    return body


# Payments (`ledger.payments`), whose key (`state.payment_key`) is also the beginning of the reservation's handle.

PAYMENT_ROW_BYTES: Final = PACKED_PAYMENT_BYTES + _CHECKSUM_BYTES


def encode_payment(key: PaymentKey, payment: PackedPayment) -> bytes:
    """The row of a payment: always `PAYMENT_ROW_BYTES`."""
    return encode_keyed_payment(key, payment)[PAYMENT_KEY_BYTES:]


def encode_keyed_payment(key: PaymentKey, payment: PackedPayment) -> bytes:
    """The key and the row of a payment: checkpoints write hundreds of thousands of them."""
    body = key + payment
    if len(body) != PAYMENT_KEY_BYTES + PACKED_PAYMENT_BYTES:
        raise UnstorableError(
            f"a payment has a key of {PAYMENT_KEY_BYTES} bytes and is packed into {PACKED_PAYMENT_BYTES}"
        )
    return body + crc32(body).to_bytes(_CHECKSUM_BYTES, "big")


def decode_payment(key: PaymentKey, row: bytes) -> PackedPayment:
    """The payment in this row; raises StoreDamagedError."""
    if len(row) != PAYMENT_ROW_BYTES:
        raise StoreDamagedError(f"the stored payment {key.hex()} has {len(row)} bytes instead of {PAYMENT_ROW_BYTES}")
    payment = unseal(key, row, "payment")
    if status_of(payment) is None:
        raise StoreDamagedError(f"the stored payment {key.hex()} has no status that is known")
    return payment


# Channels.

_CHANNEL: Final = struct.Struct(">32s20s16s16s16s16sBBH")
"""account id, receiver, ceiling, charged, reserved, claimed; bytes of the signature, of each used ceiling, and how many

The signature, the used ceilings' floor if there is one (`_HAS_FLOOR`), the used ceilings, and what is counted of
charges in step if there are any (`_HAS_CHARGES`) follow."""
_HAS_FLOOR: Final = 128
_HAS_CHARGES: Final = 64
_NARROW: Final[dict[int, Literal["I", "Q"]]] = {4: "I", 8: "Q"}
"""Used ceilings are stored in the narrowest of 4, 8 or CEILING_BYTES bytes that holds them all."""
_WIDTHS: Final = frozenset({*_NARROW, CEILING_BYTES})


def encode_channel(channel: Channel) -> bytes:
    """The row of a channel."""
    used = channel.used
    width = next((width for width in _NARROW if used.highest < 1 << 8 * width), CEILING_BYTES)
    has_floor = used.floor != NO_CEILING
    charges = _charges(channel)
    form = width | (_HAS_FLOOR if has_floor else 0) | (_HAS_CHARGES if charges else 0)
    parts = (
        fixed(channel.account_id, 32),
        fixed(channel.receiver, 20),
        channel.ceiling.to_bytes(16, "big"),
        channel.charged.to_bytes(16, "big"),
        channel.reserved.to_bytes(16, "big"),
        channel.claimed.to_bytes(16, "big"),
        bytes((len(channel.signature), form)),
        len(used).to_bytes(2, "big"),
        channel.signature,
        used.floor.to_bytes(16, "big") if has_floor else b"",
        _narrowed(used.packed, width),
        charges,
    )
    return seal(channel.id, b"".join(parts))


def decode_channel(key: bytes, row: bytes) -> Channel:
    """The channel in this row; raises StoreDamagedError."""
    body = unseal(key, row, "channel")
    try:
        account_id, receiver, ceiling, charged, reserved, claimed, signed, form, count = _CHANNEL.unpack_from(body)
    except struct.error:
        raise StoreDamagedError(f"the stored channel {key.hex()} has only {len(body)} bytes") from None
    number = int.from_bytes
    channel = Channel(
        ChannelId(key),
        AccountId(account_id),
        Address(receiver),
        number(ceiling, "big"),
        body[_CHANNEL.size : _CHANNEL.size + signed],
        number(charged, "big"),
        number(reserved, "big"),
        number(claimed, "big"),
    )
    width = form & ~_HAS_FLOOR
    counted = width ^ _HAS_CHARGES in _WIDTHS
    if form & _HAS_FLOOR or counted or count:
        reader = Reader(body, f"the stored channel {key.hex()}", _CHANNEL.size + signed)
        floor = reader.amount() if form & _HAS_FLOOR else NO_CEILING
        channel.used = UsedCeilings(floor, _unpack_ceilings(reader, width ^ _HAS_CHARGES if counted else width, count))
        if counted:
            channel.charges = reader.whole()
            channel.attesting = tuple(Attested(reader.whole(), reader.whole()) for _ in range(reader.whole()))
        reader.done()
    return channel


def _charges(channel: Channel) -> bytes:
    """What is counted of charges in step; nothing where nothing is."""
    if not channel.charges and not channel.attesting:
        return b""
    numbers = (number for attested in channel.attesting for number in attested)
    return b"".join(map(whole, (channel.charges, len(channel.attesting), *numbers)))


def _narrowed(packed: bytes, width: int) -> bytes:
    """The last `width` bytes of each ceiling."""
    if width == CEILING_BYTES:
        return packed
    parts = CEILING_BYTES // width
    return memoryview(packed).cast(_NARROW[width])[parts - 1 :: parts].tobytes()


def _unpack_ceilings(reader: Reader, width: int, count: int) -> bytes:
    if width not in _WIDTHS:
        raise reader.damaged(f"holds used ceilings of {width} bytes each")
    narrow = reader.fixed(width * count)
    if width == CEILING_BYTES:
        return narrow
    parts = CEILING_BYTES // width
    packed = bytearray(CEILING_BYTES * count)
    memoryview(packed).cast(_NARROW[width])[parts - 1 :: parts] = memoryview(narrow).cast(_NARROW[width])
    return bytes(packed)


# The others, field by field.


def encode_account(account: Account) -> bytes:
    """The row of an account."""
    refund, approval = account.refund, account.approval
    parts = (
        text(str(account.escrow)),
        put_config(account.config),
        *map(
            whole,
            (
                account.funds,
                account.withdrawing,
                account.withdraw_finalizes_at,
                account.refunding,
                account.committed,
                account.reserved,
                account.claimed,
                account.channels,
                account.reservations,
            ),
        ),
        flag(account.takes_spend_proofs_only),
        flag(refund is not None),
        b"" if refund is None else fixed(refund.refund_id, 32) + whole(refund.nonce) + whole(refund.amount),
        flag(approval is not None),
        b"" if approval is None else put_totals(approval.totals) + blob(approval.signature),
    )
    return seal(account.id, b"".join(parts))


def decode_account(key: bytes, row: bytes) -> Account:
    """The account in this row; raises StoreDamagedError."""
    reader = Reader(unseal(key, row, "account"), f"the stored account {key.hex()}")
    try:
        account = Account(AccountId(key), parse_escrow(reader.text()), take_config(reader))
    except MalformedError as error:
        raise reader.damaged(f"cannot be: {error}") from error
    account.funds, account.withdrawing, account.withdraw_finalizes_at, account.refunding = reader.wholes(4)
    account.committed, account.reserved, account.claimed = reader.wholes(3)
    account.channels, account.reservations = reader.wholes(2)
    account.takes_spend_proofs_only = reader.flag()
    if reader.flag():
        account.refund = PendingRefund(reader.fixed(32), reader.whole(), reader.whole())
    if reader.flag():
        totals = tuple((Address(receiver), total) for receiver, total in take_totals(reader))
        account.approval = Approval(totals, reader.blob())
    reader.done()
    return account


def encode_spend_key(name: bytes, key: SpendKey) -> bytes:
    """The row of a spend key, under its name (`state.spend_key_name`)."""
    numbers = b"".join(map(whole, (key.cap, key.expires_at, key.spent)))
    return seal(name, fixed(key.secret, 32) + numbers + flag(key.revoked))


def decode_spend_key(name: bytes, row: bytes) -> SpendKey:
    """The spend key in this row; raises StoreDamagedError."""
    reader = Reader(unseal(name, row, "spend key"), "a stored spend key")
    secret, cap, expires_at, spent = reader.fixed(32), reader.whole(), reader.whole(), reader.whole()
    key = SpendKey(AccountId(name[:32]), name[32:], secret, cap, expires_at, spent, reader.flag())
    reader.done()
    return key


def encode_reservation(reservation: Reservation, payment: PackedPayment) -> bytes:
    """The row of a reservation and its payment, under its handle: what is held and for what stays together."""
    handle = reservation.handle
    numbers = whole(reservation.amount) + whole(reservation.expires_at)
    payment_row = encode_payment(handle[:PAYMENT_KEY_BYTES], payment)
    return seal(handle, numbers + blob(reservation.key_id) + payment_row)


def decode_reservation(handle: bytes, row: bytes) -> tuple[Reservation, PackedPayment]:
    """The reservation in this row, and its payment; raises StoreDamagedError."""
    reader = Reader(unseal(handle, row, "reservation"), "a stored reservation")
    amount, expires_at, key_id = reader.whole(), reader.whole(), reader.blob()
    key = handle[:PAYMENT_KEY_BYTES]
    payment = decode_payment(key, reader.fixed(PAYMENT_ROW_BYTES))
    reader.done()
    return Reservation(handle, ChannelId(key[16:]), key[:16], amount, key_id, expires_at), payment


def encode_head(escrow: bytes, head: ChainHead) -> bytes:
    """The row of the head of an escrow's mirror, under the escrow's CAIP-10 name."""
    return seal(escrow, whole(head.number) + fixed(head.block_hash, 32))


def decode_head(escrow: bytes, row: bytes) -> ChainHead:
    """The head in this row; raises StoreDamagedError."""
    reader = Reader(unseal(escrow, row, "head"), f"the stored head of {escrow.decode()}")
    head = ChainHead(reader.whole(), reader.fixed(32))
    reader.done()
    return head
