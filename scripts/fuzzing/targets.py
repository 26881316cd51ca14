"""What is fuzzed: one function per decoder. Each takes any bytes and returns, or raises if the decoder is wrong.

A decoder may refuse an input only with the error that it promises, and what it takes must be what the encoder writes:
read, written and read again it is the same. Anything else, any other exception included, is a finding.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar
from zlib import crc32

from google.protobuf.message import DecodeError, Message

from fuzzing import seeds
from tallystick.amounts import decode_amount, encode_amount, format_price, parse_amount, parse_price, parse_uint64
from tallystick.codec import facilitator as facilitator_codec
from tallystick.codec.account import read_totals
from tallystick.codec.charge import read_charge, read_charges, write_charge
from tallystick.codec.common import fixed, read_channel
from tallystick.errors import Described, MalformedError, RefusedError
from tallystick.hexadecimal import checksum, parse_address, parse_bytes_up_to, to_hex
from tallystick.payment_ids import format_payment_id, parse_payment_id
from tallystick.tokens import Token
from tallystick.v1 import account_pb2, charge_pb2, facilitator_pb2, wallet_pb2
from tallystick.x402 import (
    HEADER_BYTES_MAX,
    PaymentPayload,
    decode_header,
    deferred_payload,
    encode_header,
    exact_payload,
    read_deferred,
    read_exact,
)
from tallystick.x402 import read_terms as read_payment_terms
from tallystick.x402.facilitator import VerifyRequest
from tallystick.x402.messages import decode_json, encode_json
from tallystick.x402.terms import Network
from tallystick_aggregator.api.grpc import codec
from tallystick_aggregator.api.grpc.fast_codec import Incoming, read_batch
from tallystick_aggregator.api.http.limits import HttpLimits
from tallystick_aggregator.api.http.requests import OldVersionError
from tallystick_aggregator.api.http.requests import read_request as read_http_request
from tallystick_aggregator.chain.port import ChainUnavailableError
from tallystick_aggregator.chain.rpc import answers
from tallystick_aggregator.store.events import VERSION, decode_entry, encode_entry
from tallystick_aggregator.store.port import StoreDamagedError
from tallystick_aggregator.store.rows import (
    decode_account,
    decode_channel,
    decode_head,
    decode_payment,
    decode_reservation,
    decode_spend_key,
    encode_account,
    encode_channel,
    encode_head,
    encode_payment,
    encode_reservation,
    encode_spend_key,
)
from tallystick_chain import answers as chain_answers
from tallystick_chain.errors import read_error
from tallystick_client.payer.errors import OfferNotAllowedError
from tallystick_client.payer.fleet import codec as wallet_codec
from tallystick_client.payer.policy.offers import Offer, choose, read_offers
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.wallet.schemes.port import by_name
from tallystick_client.payer.wallet.schemes.standard import STANDARD_SCHEMES
from tallystick_client.seller.paywall.offers import read_payment
from tallystick_contracts import claim_batch
from tallystick_contracts.events import decode as decode_log
from tallystick_contracts.log_words import LogError

T = TypeVar("T")

Table = tuple[int, Callable[[bytes, bytes], Any], Callable[[bytes, Any], bytes]]
"""Of the store: how long its keys are, what reads a row and what writes it."""

BATCH_MAX: Final = 8
_HTTP_LIMITS: Final = HttpLimits(body_bytes_max=16 * 1024 * 1024)
TOTALS_MAX: Final = 16


def stream_batch(data: bytes) -> None:
    """A batch of a charge stream, however it is read: the same outcome as by protobuf, and the same payments again."""
    expected = _outcome(lambda: _by_protobuf(data))
    got = _outcome(lambda: read_batch(data, BATCH_MAX))
    assert got == expected, f"read {got}, by protobuf {expected}"
    if isinstance(got, Incoming):
        again = charge_pb2.StreamChargesRequest(seq=got.seq, charges=[write_charge(one) for one in got.payments])
        assert read_batch(again.SerializeToString(), BATCH_MAX) == got


def grpc_request(data: bytes) -> None:
    """Every other request of a seller or payer; the first byte chooses which."""
    type_, read = _REQUESTS[data[0] % len(_REQUESTS)] if data else _REQUESTS[0]
    if (message := _parsed(type_, data[1:])) is not None:
        with suppress(MalformedError):
            read(message)


def payment_header(data: bytes) -> None:
    """A payment as a shop gets it with a request: the header's own text, and any JSON inside a good one."""
    for header in (data[:HEADER_BYTES_MAX], b64encode(data)):
        with suppress(MalformedError, RefusedError):
            read_payment([header], seeds.SHOP_OFFERS, bytes(32))
    payment = _taken(lambda: decode_json(data, PaymentPayload, "payment", HEADER_BYTES_MAX), MalformedError)
    if payment is None:
        return
    assert decode_header(encode_header(payment), PaymentPayload, "payment", 16 * HEADER_BYTES_MAX) == payment
    if (deferred := _taken(lambda: read_deferred(payment), MalformedError)) is not None:
        assert read_deferred(_with_payload(payment, deferred_payload(deferred))) == deferred
    if (exact := _taken(lambda: read_exact(payment), MalformedError)) is not None:
        assert read_exact(_with_payload(payment, exact_payload(exact))) == exact


def http_request(data: bytes) -> None:
    """What is posted to /verify or /settle over HTTP, and what its scheme then reads of the payment."""
    try:
        payload, requirements = read_http_request(data, VerifyRequest, _HTTP_LIMITS)
    except (MalformedError, OldVersionError):
        return
    request = VerifyRequest(payment_payload=payload, payment_requirements=requirements)
    again = read_http_request(encode_json(request), VerifyRequest, _HTTP_LIMITS)
    assert again == (payload, requirements)
    with suppress(MalformedError):
        read_payment_terms(requirements, "paymentRequirements")
    for read in (read_deferred, read_exact):
        with suppress(MalformedError):
            read(payload)


class _Paying:
    """What a wallet with the seeds' operator can pay with."""

    operators = (seeds.OPERATOR,)
    schemes = by_name(STANDARD_SCHEMES)
    allows_exact = True

    def can_defer(self, operator: Operator, token: Token) -> bool:
        del operator, token
        return True

    def channel_lack(self, offer: Offer) -> str:
        del offer
        return ""


def payment_required(data: bytes) -> None:
    """A 402 as a payer gets it: nothing in it may crash the wallet or be taken without being allowed."""
    with suppress(MalformedError, OfferNotAllowedError):
        required = read_offers(b64encode(data).decode())
        offer = choose(required, _Paying())
        assert offer.operator == seeds.OPERATOR
        assert offer.terms.amount > 0


def claim_batch_encoding(data: bytes) -> None:
    """The calldata of a claim: what is decoded encodes to the very same bytes."""
    if (batch := _taken(lambda: claim_batch.decode(data), claim_batch.ClaimBatchError)) is not None:
        assert claim_batch.encode(batch) == data
        assert claim_batch.encoded_size(batch) == len(data)


def escrow_log(data: bytes) -> None:
    """A log as an endpoint tells it: a byte that chooses the event, how many topics follow it, topics, data."""
    if len(data) < 2:
        return
    topics = [seeds.TOPICS[data[0] % len(seeds.TOPICS)]]
    count = data[1] % 4
    topics += [data[2 + 32 * n : 34 + 32 * n].ljust(32, b"\0") for n in range(count)]
    with suppress(LogError):
        decode_log(seeds.Log(tuple(topics), data[2 + 32 * count :]))


def rpc_answer(data: bytes) -> None:
    """What an endpoint answers, in JSON; the first byte chooses to what. It is read, or it is ChainUnavailableError."""
    if not data:
        return
    try:
        answer = json.loads(data[1:])
    except (ValueError, RecursionError):
        return
    with suppress(ChainUnavailableError):
        _ANSWERS[data[0] % len(_ANSWERS)](answer)


def journal_entry(data: bytes) -> None:
    """An entry of the journal's log whose checksum is right, and one whose is not."""
    entry = bytes((VERSION,)) + crc32(data).to_bytes(4, "big") + data
    if (events := _taken(lambda: decode_entry(entry), StoreDamagedError)) is not None:
        assert encode_entry(events) == entry
    with suppress(StoreDamagedError):
        decode_entry(data)


def journal_row(data: bytes, tables: Sequence[Table] | None = None) -> None:
    """A row of the store whose checksum is right; the first byte chooses the table."""
    if not data:
        return
    tables = TABLES if tables is None else tables
    key_bytes, read, write = tables[data[0] % len(tables)]
    key = b"\x01" * key_bytes
    row = data[1:] + crc32(data[1:], crc32(key)).to_bytes(4, "big")
    if (value := _taken(lambda: read(key, row), StoreDamagedError)) is not None:
        # Not the bytes: a row has few forms of one value, and the encoder chooses the shortest.
        assert read(key, write(key, value)) == value


def text(data: bytes) -> None:
    """Amounts, prices, addresses, bytes, payment ids and networks, as people and JSON write them."""
    value = data.decode("utf-8", "replace")
    if (amount := _taken(lambda: parse_amount(value, "amount"), MalformedError)) is not None:
        assert str(amount) == value
        assert decode_amount(encode_amount(amount), "amount") == amount
    if (time := _taken(lambda: parse_uint64(value, "time"), MalformedError)) is not None:
        assert str(time) == value
    if (price := _taken(lambda: parse_price(value), MalformedError)) is not None:
        assert parse_price(format_price(price.amount, 6, price.symbol)) == price
    if (address := _taken(lambda: parse_address(value, "address"), MalformedError)) is not None:
        assert checksum(address).lower() == value.lower()
    if (some := _taken(lambda: parse_bytes_up_to(value, 64, "bytes"), MalformedError)) is not None:
        assert to_hex(some) == value.lower()
    if (payment_id := _taken(lambda: parse_payment_id(value, "id"), MalformedError)) is not None:
        assert format_payment_id(payment_id).replace("-", "") == value.lower().replace("-", "")
    if (network := _taken(lambda: Network.parse(value, "network"), MalformedError)) is not None:
        assert str(network) == value


def wallet_message(data: bytes) -> None:
    """What a served wallet and its workers tell each other; the first byte chooses what."""
    type_, read = _WALLET_MESSAGES[data[0] % len(_WALLET_MESSAGES)] if data else _WALLET_MESSAGES[0]
    if (message := _parsed(type_, data[1:])) is not None:
        with suppress(MalformedError, OfferNotAllowedError):
            read(message)


# Parts.


def _taken(read: Callable[[], T], refusal: type[Exception]) -> T | None:
    """What a decoder takes; None if it refuses as it promises. What is asked of it afterwards must not be forgiven."""
    try:
        return read()
    except refusal:
        return None


def _by_protobuf(data: bytes) -> Incoming:
    request = _parsed(charge_pb2.StreamChargesRequest, data)
    if request is None:
        raise MalformedError("request", Described(f"{len(data)} bytes"), "a StreamChargesRequest")
    payments = read_charges(request.charges, BATCH_MAX)
    if not payments:
        raise MalformedError("charges", Described("none"), "at least one charge")
    return Incoming(request.seq, payments)


def _outcome(read: Callable[[], Incoming]) -> Incoming | str:
    try:
        return read()
    except MalformedError as error:
        return str(error)


def _parsed(type_: type[Message], data: bytes) -> Any:
    try:
        return type_.FromString(data)
    except DecodeError:
        return None


def _with_payload(payment: PaymentPayload, payload: dict[str, Any]) -> PaymentPayload:
    return PaymentPayload(payload=payload, accepted=payment.accepted, extensions=payment.extensions)


def _read_verify(request: facilitator_pb2.VerifyRequest) -> None:
    with suppress(MalformedError):
        facilitator_codec.read_terms(request)
    with suppress(MalformedError):
        facilitator_codec.read_deferred(request.deferred)
    facilitator_codec.read_exact(request.exact)


def _read_call(request: account_pb2.GetAccountRequest) -> None:
    with suppress(MalformedError):
        fixed(request.account_id, 32, "account_id")
    codec.read_call(request.authorization, present=request.HasField("authorization"))


_REQUESTS: Final[tuple[tuple[type[Message], Callable[[Any], object]], ...]] = (
    (charge_pb2.ChargeRequest, lambda request: read_charge(request.charge)),
    (facilitator_pb2.VerifyRequest, _read_verify),
    (facilitator_pb2.SettleRequest, lambda request: facilitator_codec.read_handle(request.handle)),
    (account_pb2.DepositRequest, codec.read_deposit),
    (account_pb2.GetAccountRequest, _read_call),
    (account_pb2.ApproveTotalsRequest, lambda request: read_totals(request.totals, TOTALS_MAX)),
    (account_pb2.OpenChannelRequest, lambda request: read_channel(request.config, "config")),
)

_WALLET_MESSAGES: Final[tuple[tuple[type[Message], Callable[[Any], object]], ...]] = (
    (wallet_pb2.WalletProblem, wallet_codec.read_problem),
    (wallet_pb2.DescribeResponse, wallet_codec.read_terms),
    (wallet_pb2.Payee, lambda payee: wallet_codec.read_payee(payee, (seeds.OPERATOR,))),
    (facilitator_pb2.ExactPayment, facilitator_codec.read_exact),
)

_ANSWERS: Final[tuple[Callable[[Any], object], ...]] = (
    chain_answers.read_bytes,
    chain_answers.read_integer,
    answers.read_block,
    chain_answers.read_base_fee,
    answers.read_transactions,
    answers.read_logs,
    answers.read_receipt,
    read_error,
    chain_answers.optional(answers.read_block),
)

TABLES: Final[tuple[Table, ...]] = (
    (48, decode_payment, encode_payment),
    (32, decode_channel, lambda _, channel: encode_channel(channel)),
    (32, decode_account, lambda _, account: encode_account(account)),
    (64, decode_spend_key, encode_spend_key),
    (64, decode_reservation, lambda _, both: encode_reservation(*both)),
    (12, decode_head, encode_head),
)


class Target(NamedTuple):
    """A decoder and what fuzzing starts from: well-formed inputs."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


TARGETS: Final[dict[str, Target]] = {
    "stream_batch": Target(stream_batch, seeds.stream_batches),
    "grpc_request": Target(grpc_request, seeds.grpc_requests),
    "payment_header": Target(payment_header, seeds.payments),
    "http_request": Target(http_request, seeds.http_requests),
    "payment_required": Target(payment_required, seeds.offers),
    "claim_batch": Target(claim_batch_encoding, seeds.claim_batches),
    "escrow_log": Target(escrow_log, seeds.logs),
    "rpc_answer": Target(rpc_answer, seeds.rpc_answers),
    "journal_entry": Target(journal_entry, seeds.journal_entries),
    "journal_row": Target(journal_row, seeds.journal_rows),
    "text": Target(text, seeds.texts),
    "wallet_message": Target(wallet_message, seeds.wallet_messages),
}
