"""The stored form of events. An entry holds the events of one commit:

    offset  bytes
    0       1      version of this layout: 1
    1       4      CRC-32 of all that follows, big-endian
    5       ...    events, each a tag byte and its fields (see `_LAYOUTS`, `_CHARGED_...`, `_CEILING_RAISED`)

Tags are for ever: a number is never given to another layout. Charges and raised ceilings are most of what is stored,
so they have layouts of fixed length, written and read in one step each; the others go field by field.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final
from zlib import crc32

from tallystick.channels import ChannelConfig
from tallystick.errors import MalformedError
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.values import parse_escrow
from tallystick_aggregator.store.binary import Reader, UnstorableError, blob, fixed, text, whole
from tallystick_aggregator.store.port import StoreDamagedError

VERSION: Final = 1
_KNOWN_ADDRESSES_MAX: Final = 65_536
_known_addresses: Final[dict[bytes, bytes]] = {}
_HEADER: Final = struct.Struct(">BI")

Put = Callable[[Any], bytes]
Take = Callable[[Reader], Any]


def encode_entry(events: Sequence[ev.Event]) -> bytes:
    """The stored form of the events of one commit. Raises UnstorableError on a value that no field can hold."""
    encoders = _ENCODERS
    try:
        body = b"".join([encoders[type(event)](event) for event in events])
    except (OverflowError, struct.error) as error:
        raise UnstorableError("an amount is negative or has more than 128 bits") from error
    return _HEADER.pack(VERSION, crc32(body)) + body


def decode_entry(entry: bytes, what: str = "a journal entry") -> list[ev.Event]:
    """The events of one commit.

    Raises StoreDamagedError on all that `encode_entry` cannot make; `what` names the entry.
    """
    if len(entry) < _HEADER.size:
        raise StoreDamagedError(f"{what} has {len(entry)} bytes; {_HEADER.size} is the least")
    version, checksum = _HEADER.unpack_from(entry)
    if version != VERSION:
        raise StoreDamagedError(f"{what} has layout version {version}; {VERSION} is known")
    if crc32(memoryview(entry)[_HEADER.size :]) != checksum:
        raise StoreDamagedError(f"{what} does not match its checksum")
    events: list[ev.Event] = []
    position, end = _HEADER.size, len(entry)
    try:
        while position < end:
            event, position = _DECODERS[entry[position]](entry, position + 1, what)
            events.append(event)
    except KeyError:
        raise StoreDamagedError(f"{what} holds an event of the unknown kind {entry[position]}") from None
    except struct.error:
        raise StoreDamagedError(f"{what} ends after {end} bytes, in the middle of an event") from None
    except MalformedError as error:
        raise StoreDamagedError(f"{what} holds an account that cannot be: {error}") from error
    return events


# The hot events.

_TAG_CHARGED_BY_VOUCHER: Final = b"\x01"
_TAG_CHARGED_BY_KEY: Final = b"\x02"
_TAG_CEILING_RAISED: Final = b"\x03"

_CHARGED_BY_VOUCHER: Final = struct.Struct(">32s16s32s16s16s")
"""channel id, payment id, request hash, amount, used ceiling"""
_CHARGED_BY_KEY: Final = struct.Struct(">32s16s32s16s32s")
"""channel id, payment id, request hash, amount, key id"""
_CEILING_RAISED: Final = struct.Struct(">32s16s65s")
"""channel id, ceiling, signature"""

Decoded = tuple[ev.Event, int]


def _encode_charged(event: ev.Charged) -> bytes:
    channel_id, payment_id, request_hash = event.channel_id, event.payment_id, event.request_hash
    used_ceiling, key_id = event.used_ceiling, event.key_id
    # What is too short or too long would move into its neighbour's bytes.
    if len(channel_id) != 32 or len(payment_id) != 16 or len(request_hash) != 32:
        raise UnstorableError("a charge has a channel id of 32 bytes, a payment id of 16 and a request hash of 32")
    amount = event.amount.to_bytes(16, "big")
    if not key_id:
        ceiling = used_ceiling.to_bytes(16, "big")
        return b"".join((_TAG_CHARGED_BY_VOUCHER, channel_id, payment_id, request_hash, amount, ceiling))
    if len(key_id) != 32 or used_ceiling:
        raise UnstorableError("a charge by spend key has a key id of 32 bytes and uses no ceiling")
    return b"".join((_TAG_CHARGED_BY_KEY, channel_id, payment_id, request_hash, amount, key_id))


def _decode_charged_by_voucher(data: bytes, position: int, _: str) -> Decoded:
    channel_id, payment_id, request_hash, amount, ceiling = _CHARGED_BY_VOUCHER.unpack_from(data, position)
    event = ev.Charged(
        channel_id, payment_id, int.from_bytes(amount, "big"), request_hash, int.from_bytes(ceiling, "big"), b""
    )
    return event, position + _CHARGED_BY_VOUCHER.size


def _decode_charged_by_key(data: bytes, position: int, _: str) -> Decoded:
    channel_id, payment_id, request_hash, amount, key_id = _CHARGED_BY_KEY.unpack_from(data, position)
    event = ev.Charged(channel_id, payment_id, int.from_bytes(amount, "big"), request_hash, 0, key_id)
    return event, position + _CHARGED_BY_KEY.size


def _encode_ceiling_raised(event: ev.CeilingRaised) -> bytes:
    channel_id, signature = event.channel_id, event.signature
    if len(channel_id) != 32 or len(signature) != 65:
        raise UnstorableError("a raised ceiling has a channel id of 32 bytes and a signature of 65")
    return _TAG_CEILING_RAISED + channel_id + event.ceiling.to_bytes(16, "big") + signature


def _decode_ceiling_raised(data: bytes, position: int, _: str) -> Decoded:
    channel_id, ceiling, signature = _CEILING_RAISED.unpack_from(data, position)
    return ev.CeilingRaised(channel_id, int.from_bytes(ceiling, "big"), signature), position + _CEILING_RAISED.size


# The others, field by field.


def put_config(config: ChannelConfig) -> bytes:
    """The stored form of a ChannelConfig."""
    return b"".join(
        (
            fixed(config.payer, 20),
            fixed(config.payer_authorizer, 20),
            fixed(config.receiver, 20),
            fixed(config.receiver_authorizer, 20),
            fixed(config.token, 20),
            whole(config.withdraw_delay_s),
            fixed(config.salt, 32),
        )
    )


def take_config(reader: Reader) -> ChannelConfig:
    """The ChannelConfig that is stored here; raises MalformedError if none can be like this."""
    addresses, shared = reader.fixed(100), _shared
    return ChannelConfig(
        addresses[:20],
        addresses[20:40],
        shared(addresses[40:60]),
        shared(addresses[60:80]),
        shared(addresses[80:]),
        reader.whole(),
        reader.fixed(32),
    )


def _shared(address: bytes) -> bytes:
    """The one copy of an address that many configs name: an operator's, a token's, zero, a seller's."""
    if len(_known_addresses) > _KNOWN_ADDRESSES_MAX:
        _known_addresses.clear()
    return _known_addresses.setdefault(address, address)


def put_totals(totals: tuple[tuple[bytes, int], ...]) -> bytes:
    """The stored form of (receiver, total) pairs."""
    return whole(len(totals)) + b"".join([fixed(receiver, 20) + whole(total) for receiver, total in totals])


def take_totals(reader: Reader) -> tuple[tuple[bytes, int], ...]:
    """The (receiver, total) pairs that are stored here."""
    return tuple((reader.fixed(20), reader.whole()) for _ in range(reader.whole()))


def _bytes_of(length: int) -> tuple[Put, Take]:
    return (lambda value: fixed(value, length)), (lambda reader: reader.fixed(length))


_BYTES16: Final = _bytes_of(16)
_BYTES20: Final = _bytes_of(20)
_BYTES32: Final = _bytes_of(32)
_BYTES64: Final = _bytes_of(64)
_WHOLE: Final[tuple[Put, Take]] = whole, Reader.whole
_BLOB: Final[tuple[Put, Take]] = blob, Reader.blob
_ESCROW: Final[tuple[Put, Take]] = (lambda escrow: text(str(escrow))), (lambda reader: parse_escrow(reader.text()))
"""Its CAIP-10 name; the network's name alone, as it was stored before, is an escrow without an address."""
_CONFIG: Final[tuple[Put, Take]] = put_config, take_config
_TOTALS: Final[tuple[Put, Take]] = put_totals, take_totals

_LAYOUTS: Final[dict[type[ev.Event], tuple[int, tuple[tuple[Put, Take], ...]]]] = {
    # tag, and how each field is stored, in the event's own order
    ev.AccountOpened: (16, (_BYTES32, _ESCROW, _CONFIG)),
    ev.AccountMirrored: (17, (_BYTES32, _WHOLE, _WHOLE, _WHOLE)),
    ev.ChannelOpened: (18, (_BYTES32, _BYTES32, _BYTES20, _WHOLE)),
    ev.ChannelClaimed: (19, (_BYTES32, _WHOLE)),
    ev.Reserved: (20, (_BYTES32, _BYTES16, _WHOLE, _BYTES32, _WHOLE, _BLOB, _BYTES64, _WHOLE)),
    ev.Captured: (21, (_BYTES64, _BYTES32, _BYTES16, _BLOB, _WHOLE)),
    ev.Released: (22, (_BYTES64,)),
    ev.Expired: (23, (_BYTES64,)),
    ev.SpendKeyRegistered: (24, (_BYTES32, _BYTES32, _BYTES32, _WHOLE, _WHOLE)),
    ev.SpendKeyRevoked: (25, (_BYTES32, _BYTES32)),
    ev.RefundStarted: (26, (_BYTES32, _BYTES32, _WHOLE, _WHOLE)),
    ev.RefundEnded: (27, (_BYTES32, _BYTES32)),
    ev.TotalsApproved: (28, (_BYTES32, _TOTALS, _BLOB)),
    ev.ChainAdvanced: (29, (_ESCROW, _WHOLE, _BYTES32)),
    ev.PaymentsForgotten: (30, (_WHOLE,)),
    ev.SpendKeyForgotten: (31, (_BYTES32, _BYTES32)),
    ev.CapturedInStep: (32, (_BYTES64, _BYTES32, _BYTES16, _BLOB, _WHOLE)),
    ev.ChargesAttested: (33, (_BYTES32, _WHOLE, _WHOLE, _WHOLE)),
}


def _field_encoder(tag: int, fields: tuple[tuple[Put, Take], ...]) -> Put:
    prefix = bytes((tag,))
    puts = tuple(put for put, _ in fields)

    def encode(event: Sequence[Any]) -> bytes:
        return prefix + b"".join([put(value) for put, value in zip(puts, event, strict=True)])

    return encode


def _field_decoder(
    event_type: Callable[..., ev.Event], fields: tuple[tuple[Put, Take], ...]
) -> Callable[[bytes, int, str], Decoded]:
    takes = tuple(take for _, take in fields)

    def decode(data: bytes, position: int, what: str) -> Decoded:
        reader = Reader(data, what, position)
        event = event_type(*[take(reader) for take in takes])
        return event, reader.position

    return decode


_ENCODERS: Final[dict[type[ev.Event], Put]] = {
    ev.Charged: _encode_charged,
    ev.CeilingRaised: _encode_ceiling_raised,
    **{event_type: _field_encoder(tag, fields) for event_type, (tag, fields) in _LAYOUTS.items()},
}
_DECODERS: Final[dict[int, Callable[[bytes, int, str], Decoded]]] = {
    _TAG_CHARGED_BY_VOUCHER[0]: _decode_charged_by_voucher,
    _TAG_CHARGED_BY_KEY[0]: _decode_charged_by_key,
    _TAG_CEILING_RAISED[0]: _decode_ceiling_raised,
    **{tag: _field_decoder(event_type, fields) for event_type, (tag, fields) in _LAYOUTS.items()},
}
