"""The SDK's resource servers selling by `batch-settlement` whose vouchers the facilitator manages."""

import asyncio
import gc
import re
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from x402 import schemas, x402ResourceServer, x402ResourceServerSync
from x402.http import PaymentOption
from x402.schemas import AssetAmount, hooks

sys.path.append(str(Path(__file__).parents[1] / "seller"))

from batch_shop import BatchAggregator, BatchBuyer
from seller_fakes import NETWORK, OPERATOR, SELLER, TOKEN, TOKEN_OF_SELLER, Running, start_server

from tallystick.errors import MalformedError
from tallystick.hexadecimal import checksum
from tallystick.tokens import Token
from tallystick.x402 import PaymentPayload, decode_header
from tallystick.x402.batch_settlement import (
    BatchSettlementCode,
    BatchSettlementSupport,
    read_correction,
    read_settlement,
)
from tallystick_client.x402 import FacilitatorClient, FacilitatorClientSync, FacilitatorManagedServerScheme
from tallystick_client.x402.messages import requirements_of

GUIDE = (Path(__file__).parents[3] / "docs/guides/facilitator.md").read_text(encoding="utf-8")
USDC = Token(TOKEN, "USDC", 6, "USD Coin", "2", min_deposit=50_000)
SUPPORT = BatchSettlementSupport(OPERATOR, 86_400, delegated_refund=True).extra()
FAILED = hooks.VerifiedPaymentCancelOptions(reason="handler_failed", response_status=500)


def kind(**changes: Any) -> schemas.SupportedKind:
    return schemas.SupportedKind(x402_version=2, scheme="batch-settlement", network=NETWORK, extra=SUPPORT | changes)


def wanted(amount: str = "1000", **extra: Any) -> schemas.PaymentRequirements:
    """What a route asks for, before the scheme adds to it."""
    return schemas.PaymentRequirements(
        scheme="batch-settlement",
        network=NETWORK,
        amount=amount,
        asset=checksum(TOKEN),
        pay_to=checksum(SELLER),
        max_timeout_seconds=60,
        extra=extra,
    )


def offered(scheme: FacilitatorManagedServerScheme, **extra: Any) -> schemas.PaymentRequirements:
    return scheme.enhance_payment_requirements(wanted(**extra), kind(), [])


class Nobody:
    """A facilitator that is not asked."""

    def verify(self, payload: Any, requirements: Any) -> schemas.VerifyResponse:
        raise AssertionError(payload, requirements)

    def settle(self, payload: Any, requirements: Any) -> schemas.SettleResponse:
        raise AssertionError(payload, requirements)


@pytest.fixture
def fake() -> BatchAggregator:
    return BatchAggregator()


@pytest.fixture
async def running(fake: BatchAggregator) -> AsyncIterator[Running]:
    running = await start_server(fake)
    yield running
    await running.stop()


class Shop:
    """A server of the SDK's, its scheme, and its one offer."""

    def __init__(self, client: FacilitatorClient) -> None:
        self.scheme = FacilitatorManagedServerScheme(client, tokens=[USDC])
        self.server = x402ResourceServer(client)
        self.server.register(NETWORK, self.scheme)
        self.offer = offered(self.scheme)

    def payment(self, header: dict[str, str]) -> schemas.PaymentPayload:
        message = decode_header(header["PAYMENT-SIGNATURE"], PaymentPayload, "PAYMENT-SIGNATURE")
        return schemas.PaymentPayload(x402_version=2, payload=message.payload, accepted=self.offer)

    def pay(self, ceiling: int, deposit: int = 0) -> schemas.PaymentPayload:
        return self.payment(BatchBuyer().pay(requirements_of(self.offer), ceiling, deposit=deposit))

    async def buy(self, ceiling: int, deposit: int = 0, price: str = "1000") -> schemas.SettleResponse:
        payment = self.pay(ceiling, deposit)
        verified = await self.server.verify_payment(payment, self.offer)
        assert verified.is_valid, verified.invalid_message
        taken = self.offer.model_copy(update={"amount": price})
        return await self.server.settle_payment(payment, taken)


@pytest.fixture
async def shop(running: Running) -> AsyncIterator[Shop]:
    client = FacilitatorClient(running.target, token=TOKEN_OF_SELLER, pauses_s=(0.0, 0.0), insecure=True)
    shop = Shop(client)
    await asyncio.to_thread(shop.server.initialize)
    yield shop
    await client.close()


def test_an_offer_has_the_facilitators_terms_and_the_tokens_domain() -> None:
    extra = offered(FacilitatorManagedServerScheme(Nobody(), tokens=[USDC])).extra
    assert extra == {
        "receiverAuthorizer": checksum(OPERATOR),
        "withdrawDelay": 86_400,
        "voucherManager": "facilitator",
        "name": "USD Coin",
        "version": "2",
        "minDeposit": "50000",
    }


@pytest.mark.parametrize(
    ("said", "deposit"), [({}, "10000"), ({"minDeposit": "7000"}, "7000"), ({"minDeposit": "7"}, "1000")]
)
def test_a_route_says_domain_and_deposit_and_never_less_than_the_price(said: dict[str, str], deposit: str) -> None:
    extra = offered(FacilitatorManagedServerScheme(Nobody()), name="Coin", version="1", **said).extra
    assert (extra["name"], extra["version"], extra["minDeposit"]) == ("Coin", "1", deposit)


def test_an_offer_in_a_token_without_a_domain_is_refused_by_name() -> None:
    with pytest.raises(MalformedError, match=r"extra\.name"):
        offered(FacilitatorManagedServerScheme(Nobody()))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"voucherManager": ["server"]}, "extra.voucherManager"),
        ({"voucherManager": None}, "extra.voucherManager"),
        ({"delegatedRefund": False}, "extra.delegatedRefund"),
        ({"withdrawDelay": "900"}, "extra.withdrawDelay"),
        ({"receiverAuthorizer": "0x12"}, "extra.receiverAuthorizer"),
    ],
)
def test_a_facilitator_that_does_not_manage_vouchers_is_told_at_the_start(changes: dict[str, Any], field: str) -> None:
    problem = FacilitatorManagedServerScheme(Nobody()).validate_facilitator_support(NETWORK, kind(**changes), [])
    assert problem is not None
    assert field in problem
    assert FacilitatorManagedServerScheme(Nobody()).validate_facilitator_support(NETWORK, kind(), []) is None


async def test_a_payment_is_settled_with_the_pending_id_that_verify_answered(shop: Shop, fake: BatchAggregator) -> None:
    landed = await shop.buy(1_000, deposit=50_000, price="700")
    assert (landed.success, landed.amount) == (True, "50000")
    charged = await shop.buy(1_700)
    assert (charged.success, charged.amount, charged.transaction) == (True, "", "")
    assert read_settlement(charged.extra or {}).charged == 1_000
    assert [payload.get("pendingId") for payload in fake.payloads] == [None, "pending-1", None, "pending-2"]
    assert fake.channels.channel.charged == 1_700


async def test_a_handler_that_fails_frees_the_channel_and_charges_nothing(shop: Shop, fake: BatchAggregator) -> None:
    await shop.buy(1_000, deposit=50_000)
    payment = shop.pay(2_000)
    assert (await shop.server.verify_payment(payment, shop.offer)).is_valid
    await shop.server.create_payment_cancellation_dispatcher(payment, shop.offer).cancel(FAILED)
    assert fake.payloads[-1]["cancel"] is True
    assert (fake.channels.channel.lock, fake.channels.channel.charged) == (None, 1_000)
    assert (await shop.buy(2_000)).success


async def test_nothing_is_freed_once_the_payment_went_to_settle(shop: Shop, fake: BatchAggregator) -> None:
    payment = shop.pay(1_000, deposit=50_000)
    assert (await shop.server.verify_payment(payment, shop.offer)).is_valid
    assert (await shop.server.settle_payment(payment, shop.offer)).success
    asked = len(fake.payloads)
    await shop.server.create_payment_cancellation_dispatcher(payment, shop.offer).cancel(FAILED)
    assert len(fake.payloads) == asked


async def test_who_signed_over_another_total_learns_the_channels_state(shop: Shop) -> None:
    await shop.buy(1_000, deposit=50_000)
    payment = shop.pay(9_000)
    verified = await shop.server.verify_payment(payment, shop.offer)
    assert verified.invalid_reason == BatchSettlementCode.CUMULATIVE_AMOUNT_MISMATCH
    dearer = shop.offer.model_copy(update={"amount": "5000"})
    answer = await shop.server.create_payment_required_response(
        [dearer, shop.offer], error=verified.invalid_reason, payment_payload=payment
    )
    other, paid = answer.accepts
    correction = read_correction(paid.extra or {})
    assert correction is not None
    state, newest = correction
    assert state.charged == 1_000
    assert newest is not None
    assert newest.signed_max_claimable == 1_000
    assert read_correction(other.extra or {}) is None
    assert read_correction(shop.offer.extra or {}) is None, "the next buyer's 402 has none of it"


async def test_a_refund_passes_by_the_handler(shop: Shop, fake: BatchAggregator) -> None:
    await shop.buy(1_000, deposit=50_000)
    payment = shop.payment(BatchBuyer().refund(requirements_of(shop.offer), 1_000))
    verified = await shop.server.verify_payment(payment, shop.offer)
    assert verified.skip_handler is not None
    assert verified.skip_handler.body["message"] == "Refund acknowledged"
    refunded = await shop.server.settle_payment(payment, shop.offer)
    assert (refunded.success, refunded.amount) == (True, "49000")
    assert fake.channels.channel.balance == 1_000


async def test_the_same_payment_twice_at_once_is_charged_once(shop: Shop, fake: BatchAggregator) -> None:
    await shop.buy(1_000, deposit=50_000)
    first, second = shop.pay(2_000), shop.pay(2_000)
    assert (await shop.server.verify_payment(first, shop.offer)).is_valid
    verified = await shop.server.verify_payment(second, shop.offer)
    assert verified.invalid_reason == BatchSettlementCode.CHANNEL_BUSY
    await shop.server.create_payment_cancellation_dispatcher(second, shop.offer).cancel(FAILED)
    assert fake.channels.channel.lock is not None, "the channel is the first one's"
    assert (await shop.server.settle_payment(first, shop.offer)).success
    assert fake.channels.channel.charged == 2_000


async def test_nothing_is_remembered_of_a_payment_that_is_gone(shop: Shop) -> None:
    payment = shop.pay(1_000, deposit=50_000)
    assert (await shop.server.verify_payment(payment, shop.offer)).is_valid
    assert shop.scheme._answered
    del payment
    gc.collect()
    assert not shop.scheme._answered


async def test_a_server_without_an_event_loop_does_the_same(running: Running, fake: BatchAggregator) -> None:
    def sell() -> None:
        with FacilitatorClientSync(running.target, token=TOKEN_OF_SELLER, insecure=True) as client:
            server = x402ResourceServerSync(client)
            scheme = FacilitatorManagedServerScheme(client, tokens=[USDC])
            server.register(NETWORK, scheme)
            server.initialize()
            offer = offered(scheme)

            def pay(ceiling: int, deposit: int = 0) -> schemas.PaymentPayload:
                header = BatchBuyer().pay(requirements_of(offer), ceiling, deposit=deposit)["PAYMENT-SIGNATURE"]
                message = decode_header(header, PaymentPayload, "PAYMENT-SIGNATURE")
                return schemas.PaymentPayload(x402_version=2, payload=message.payload, accepted=offer)

            payment = pay(1_000, deposit=50_000)
            assert server.verify_payment(payment, offer).is_valid
            assert server.settle_payment(payment, offer).success
            failed = pay(2_000)
            assert server.verify_payment(failed, offer).is_valid
            server.create_payment_cancellation_dispatcher(failed, offer).cancel_sync(FAILED)

    await asyncio.to_thread(sell)
    assert (fake.channels.channel.lock, fake.channels.channel.charged) == (None, 1_000)


async def test_the_guides_snippet_makes_a_managed_offer(running: Running) -> None:
    found = re.search(
        r"(?:^    .*\n|^\n)*^    .*FacilitatorManagedServerScheme(?:.*\n)(?:^    .*\n|^\n)*", GUIDE, re.MULTILINE
    )
    assert found is not None
    client = FacilitatorClient(running.target, token=TOKEN_OF_SELLER, insecure=True)
    server = x402ResourceServer(client)
    price = AssetAmount(amount="1000", asset=checksum(TOKEN), extra={"name": "USD Coin", "version": "2"})
    names = {
        "server": server,
        "facilitator": client,
        "price": price,
        "NETWORK": NETWORK,
        "PaymentOption": PaymentOption,
    }

    exec(textwrap.dedent(found[0]), names)
    await asyncio.to_thread(server.initialize)

    option: Any = names["offer"]
    (offer,) = server.build_payment_requirements(option)
    assert (offer.scheme, offer.amount, offer.extra["voucherManager"]) == ("batch-settlement", "1000", "facilitator")
    await client.close()
