import json

import grpc
import pytest
from doubles import MUSIC, NEWS, Payer
from marketplace import PRICE
from serving_twin import Edge, Metadata, bearer, charge_of

from tallystick.reasons import Reason
from tallystick.v1 import account_pb2, charge_pb2, facilitator_pb2, settlement_pb2
from tallystick_aggregator.auth.credentials import Scope

ALICE = Payer("alice")


async def refused(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call  # type: ignore[misc]
    return error.value


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "ts_no_bearer"),),
        (("authorization", "Basic dXNlcg=="),),
        (("authorization", "bearer lower"),),
        (("authorization", "Bearer "),),
        (("authorization", "Bearer unknown"),),
        (("authorization", "Bearer " + "x" * 300),),
        (("authorization", "Bearer a"), ("authorization", "Bearer b")),
    ],
)
async def test_a_call_without_one_good_token_is_unauthenticated(edge: Edge, metadata: Metadata) -> None:
    calls = [
        edge.facilitator.Supported(facilitator_pb2.SupportedRequest(), metadata=metadata),
        edge.facilitator.Verify(facilitator_pb2.VerifyRequest(), metadata=metadata),
        edge.facilitator.Settle(facilitator_pb2.SettleRequest(), metadata=metadata),
        edge.facilitator.PublishResources(facilitator_pb2.PublishResourcesRequest(), metadata=metadata),
        edge.charges.Charge(charge_pb2.ChargeRequest(), metadata=metadata),
        edge.settlements.ListSettlements(settlement_pb2.ListSettlementsRequest(), metadata=metadata),
        edge.settlements.SettleNow(settlement_pb2.SettleNowRequest(), metadata=metadata),
    ]
    for call in calls:
        error = await refused(call)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert error.details()
    stream = edge.charges.StreamCharges(metadata=metadata)
    assert (await refused(stream.read())).code() is grpc.StatusCode.UNAUTHENTICATED
    assert edge.settlement.asked == []


async def test_a_token_is_not_shown_when_it_is_refused(edge: Edge) -> None:
    token = "ts_" + "secret" * 7
    error = await refused(edge.facilitator.Supported(facilitator_pb2.SupportedRequest(), metadata=bearer(token)))
    assert "secret" not in str(error.details())


async def test_a_token_is_good_for_its_scopes_only(edge: Edge) -> None:
    reader = edge.token("reader", Scope.READ)
    charger = edge.token("charger", Scope.CHARGE)
    for call in (
        edge.charges.Charge(charge_pb2.ChargeRequest(), metadata=reader),
        edge.facilitator.Verify(facilitator_pb2.VerifyRequest(), metadata=reader),
        edge.facilitator.Settle(facilitator_pb2.SettleRequest(), metadata=reader),
        edge.facilitator.PublishResources(facilitator_pb2.PublishResourcesRequest(), metadata=reader),
        edge.settlements.ListSettlements(settlement_pb2.ListSettlementsRequest(), metadata=charger),
        edge.settlements.SettleNow(settlement_pb2.SettleNowRequest(), metadata=reader),
    ):
        error = await refused(call)
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "lacks the scope" in str(error.details())
    supported = await edge.facilitator.Supported(facilitator_pb2.SupportedRequest(), metadata=reader)
    assert (len(supported.kinds), list(supported.scopes)) == (2, ["read"])


async def test_a_revoked_token_is_refused_within_a_second(edge: Edge) -> None:
    token = edge.token("passing", Scope.READ)
    await edge.settlements.ListSettlements(settlement_pb2.ListSettlementsRequest(), metadata=token)
    edge.credentials.revoke("passing")
    call = edge.settlements.ListSettlements(settlement_pb2.ListSettlementsRequest(), metadata=token)
    assert (await refused(call)).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_seller_can_neither_charge_nor_verify_for_another(edge: Edge) -> None:
    await edge.market.fund(ALICE, 10_000, NEWS)
    payment = ALICE.payment(1, PRICE, ceiling=PRICE)
    request = charge_pb2.ChargeRequest(charge=charge_of(payment))
    answer = await edge.charges.Charge(request, metadata=edge.music)
    # As if the channel were not there: what other sellers have is nobody's business.
    assert answer.result.refusal.reason == Reason.CHANNEL_UNKNOWN
    assert not answer.result.refusal.HasField("totals")
    assert edge.market.channel(ALICE).charged == 0
    terms = facilitator_pb2.PaymentTerms(
        scheme="deferred", network="eip155:31337", amount=b"\x64", asset=bytes(20), pay_to=NEWS
    )
    error = await refused(edge.facilitator.Verify(facilitator_pb2.VerifyRequest(terms=terms), metadata=edge.music))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_channel_is_opened_by_its_sellers_token_or_its_payers_signature_only(edge: Edge) -> None:
    await edge.market.fund(ALICE, 10_000)
    config = ALICE.config.channel(NEWS)
    request = account_pb2.OpenChannelRequest(network="eip155:31337")
    request.config.payer = config.payer
    request.config.payer_authorizer = config.payer_authorizer
    request.config.receiver = config.receiver
    request.config.receiver_authorizer = config.receiver_authorizer
    request.config.token = config.token
    request.config.withdraw_delay_s = config.withdraw_delay_s
    request.config.salt = config.salt
    without = await refused(edge.accounts.OpenChannel(request))
    assert (without.code(), "authorization" in str(without.details())) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    by_another = await refused(edge.accounts.OpenChannel(request, metadata=edge.music))
    assert by_another.code() is grpc.StatusCode.PERMISSION_DENIED
    answer = await edge.accounts.OpenChannel(request, metadata=edge.news)
    assert answer.channel.channel_id == ALICE.channel_id()
    assert MUSIC not in {channel.receiver for channel in edge.market.ledger.channels.values()}


async def test_what_a_seller_publishes_is_listed_for_its_origins_only(edge: Edge) -> None:
    token = edge.token("charger", Scope.CHARGE)
    edge.credentials.bind("charger", ["https://news.example"])
    items = [{"resource": f"https://{site}.example/a"} for site in ("news", "music")]
    request = facilitator_pb2.PublishResourcesRequest(manifest=json.dumps({"items": items}).encode())
    answer = await edge.facilitator.PublishResources(request, metadata=token)
    assert (answer.listed, len(answer.dropped)) == (1, 1)
    assert answer.dropped[0].startswith("items[1].resource: ")
    odd = facilitator_pb2.PublishResourcesRequest(manifest=b"[]")
    error = await refused(edge.facilitator.PublishResources(odd, metadata=token))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "manifest" in str(error.details())
