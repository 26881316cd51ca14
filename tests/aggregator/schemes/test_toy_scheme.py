"""A scheme of a test's own is verified and settled through the real server, and nothing else knows of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from doubles import MUSIC, NETWORK, NEWS
from marketplace import OFFER, PRICE
from serving_twin import Edge, serving
from toy_scheme.tab import TabScheme
from wire import terms_of

from tallystick.hexadecimal import to_hex
from tallystick.reasons import Reason
from tallystick.v1 import facilitator_pb2
from tallystick.x402 import PaymentPayload, PaymentRequirements, encode_json

PAYER = bytes([7]) * 20
FIRST = facilitator_pb2.Attempt(id=bytes([1]) * 16, request_hash=bytes(32))
OTHER = facilitator_pb2.Attempt(id=bytes([2]) * 16, request_hash=bytes(32))


def line(number: int, secret: str = "open sesame", scheme: str = "tab") -> bytes:
    accepted = PaymentRequirements(
        scheme=scheme, network=NETWORK, amount=str(PRICE), asset="0x", pay_to="0x", max_timeout_seconds=60
    )
    payload = {"payer": to_hex(PAYER), "number": number, "amount": PRICE, "secret": secret}
    return encode_json(PaymentPayload(payload=payload, accepted=accepted))


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    token = next(iter(OFFER.tokens.values()))
    tab = TabScheme(NETWORK, token, {PAYER: "open sesame"}, limit=2 * PRICE)
    async with serving(tmp_path, schemes=[tab]) as opened:
        yield opened


async def verify(
    edge: Edge, payload: bytes, attempt: facilitator_pb2.Attempt = FIRST, receiver: bytes = NEWS
) -> facilitator_pb2.VerifyResponse:
    request = facilitator_pb2.VerifyRequest(terms=terms_of("tab", pay_to=receiver), payload=payload, attempt=attempt)
    return await edge.facilitator.Verify(request, metadata=edge.news)


async def settle(
    edge: Edge, payload: bytes, attempt: facilitator_pb2.Attempt = FIRST, *, release: bool = False
) -> facilitator_pb2.SettleResponse:
    request = facilitator_pb2.SettleRequest(terms=terms_of("tab"), payload=payload, attempt=attempt, release=release)
    return await edge.facilitator.Settle(request, metadata=edge.news)


async def test_a_registered_scheme_is_told_verified_and_settled(edge: Edge) -> None:
    supported = await edge.facilitator.Supported(facilitator_pb2.SupportedRequest(), metadata=edge.news)
    assert [(kind.scheme, kind.extra) for kind in supported.kinds][2:] == [("tab", b'{"limit":"200"}')]
    verified = await verify(edge, line(1))
    assert (verified.valid, verified.payer) == (True, PAYER)
    assert (await verify(edge, line(1), OTHER)).refusal.reason == Reason.PAYMENT_PENDING
    settled = [await settle(edge, line(1)) for _ in range(2)]
    assert [(answer.success, answer.payer, answer.amount) for answer in settled] == [(True, PAYER, bytes([PRICE]))] * 2
    assert (await settle(edge, line(1), OTHER)).refusal.reason == Reason.PAYMENT_USED


async def test_what_a_scheme_holds_is_released(edge: Edge) -> None:
    assert (await verify(edge, line(1))).valid
    assert (await settle(edge, line(1), release=True)).success
    assert (await verify(edge, line(1), OTHER)).valid


async def test_refusals_of_a_scheme_name_the_payer_and_reach_the_seller(edge: Edge) -> None:
    forged = await verify(edge, line(1, secret="guess"))
    assert (forged.valid, forged.payer, forged.refusal.reason) == (False, PAYER, Reason.CALL_SIGNATURE)
    for number in (1, 2):
        assert (await settle(edge, line(number))).success
    assert (await settle(edge, line(3))).refusal.reason == Reason.INSUFFICIENT_FUNDS


@pytest.mark.parametrize(
    ("payload", "field"),
    [(b"{}", "payload"), (line(1, scheme="exact"), "payload.accepted.scheme"), (line(1).replace(b"7", b"z"), "payer")],
)
async def test_what_is_no_payment_of_the_scheme_is_malformed(edge: Edge, payload: bytes, field: str) -> None:
    for call in (verify(edge, payload), settle(edge, payload)):
        with pytest.raises(grpc.aio.AioRpcError, match=field) as error:
            await call
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_only_the_receiver_has_a_payment_verified_or_settled(edge: Edge) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="not for the receiver") as error:
        await verify(edge, line(1), receiver=MUSIC)
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    request = facilitator_pb2.SettleRequest(terms=terms_of("tab"), payload=line(1), attempt=FIRST)
    with pytest.raises(grpc.aio.AioRpcError, match="not for the receiver"):
        await edge.facilitator.Settle(request, metadata=edge.music)
