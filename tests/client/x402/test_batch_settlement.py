"""An aggregator as the SDK's facilitator client, for payments that the SDK's own servers write into."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from x402 import schemas

sys.path.append(str(Path(__file__).parents[1] / "seller"))

from batch_shop import BatchAggregator, BatchBuyer
from seller_fakes import NETWORK, OPERATOR, SELLER, TOKEN, TOKEN_OF_SELLER, start_server

from tallystick.hexadecimal import checksum
from tallystick.x402 import PaymentPayload, PaymentRequirements, decode_header
from tallystick.x402.batch_settlement import BatchSettlementCode, read_correction, read_settlement
from tallystick.x402.terms import BatchSettlementTerms
from tallystick_client.x402 import FacilitatorClient

EXTRA = BatchSettlementTerms(OPERATOR, 86_400, "USD Coin", "2", voucher_manager="facilitator").extra()


@pytest.fixture
def fake() -> BatchAggregator:
    return BatchAggregator()


@pytest.fixture
async def client(fake: BatchAggregator) -> AsyncIterator[FacilitatorClient]:
    running = await start_server(fake)
    client = FacilitatorClient(running.target, token=TOKEN_OF_SELLER, pauses_s=(0.0, 0.0), insecure=True)
    yield client
    await client.close()
    await running.stop()


def requirements(amount: str = "1000") -> schemas.PaymentRequirements:
    return schemas.PaymentRequirements(
        scheme="batch-settlement",
        network=NETWORK,
        amount=amount,
        asset=checksum(TOKEN),
        pay_to=checksum(SELLER),
        max_timeout_seconds=60,
        extra=EXTRA,
    )


def payment(ceiling: int, deposit: int = 0, **written: Any) -> schemas.PaymentPayload:
    """What a server passes on; `written`: by the server, into the client's payload."""
    offer = PaymentRequirements(
        scheme="batch-settlement",
        network=NETWORK,
        amount="1000",
        asset=checksum(TOKEN),
        pay_to=checksum(SELLER),
        max_timeout_seconds=60,
        extra=EXTRA,
    )
    header = BatchBuyer().pay(offer, ceiling, deposit=deposit)["PAYMENT-SIGNATURE"]
    message = decode_header(header, PaymentPayload, "PAYMENT-SIGNATURE")
    return schemas.PaymentPayload(x402_version=2, payload={**message.payload, **written}, accepted=requirements())


async def held(client: FacilitatorClient, ceiling: int, deposit: int = 0) -> str:
    verified = await client.verify(payment(ceiling, deposit), requirements())
    assert verified.is_valid, verified.invalid_message
    pending_id: str = (verified.extra or {})["pendingId"]
    return pending_id


async def test_a_channel_is_held_charged_and_freed(client: FacilitatorClient, fake: BatchAggregator) -> None:
    pending_id = await held(client, 1_000, deposit=50_000)
    settled = await client.settle(payment(1_000, 50_000, pendingId=pending_id), requirements("700"))
    assert settled.success, settled.error_message
    assert settled.amount == "50000"
    assert read_settlement(settled.extra or {}).charged == 700
    pending_id = await held(client, 1_700)
    freed = await client.settle(payment(1_700, pendingId=pending_id, cancel=True), requirements("0"))
    assert freed.success
    assert (fake.channels.channel.charged, fake.channels.channel.lock) == (700, None)
    pending_id = await held(client, 1_700)
    charged = await client.settle(payment(1_700, pendingId=pending_id), requirements())
    assert (charged.success, charged.amount, charged.transaction) == (True, "", "")


async def test_a_refusal_has_the_standards_code_and_what_corrects_it(client: FacilitatorClient) -> None:
    pending_id = await held(client, 1_000, deposit=50_000)
    await client.settle(payment(1_000, 50_000, pendingId=pending_id), requirements())
    verified = await client.verify(payment(5_000), requirements())
    assert verified.invalid_reason == BatchSettlementCode.CUMULATIVE_AMOUNT_MISMATCH
    correction = read_correction(verified.extra or {})
    assert correction is not None
    assert correction[0].charged == 1_000
    again = await client.settle(payment(1_000, 50_000, pendingId=pending_id), requirements())
    assert again.error_reason == BatchSettlementCode.CUMULATIVE_AMOUNT_MISMATCH, "the standard is not idempotent"
    assert (again.extra or {})["channelState"]["chargedCumulativeAmount"] == "1000"


async def test_a_settlement_whose_answer_was_lost_is_found(client: FacilitatorClient, fake: BatchAggregator) -> None:
    pending_id = await held(client, 1_000, deposit=50_000)
    fake.settle_trouble = [("after", grpc.StatusCode.UNAVAILABLE)]
    settled = await client.settle(payment(1_000, 50_000, pendingId=pending_id), requirements("400"))
    assert settled.success, settled.error_message
    assert read_settlement(settled.extra or {}).charged == 400
    assert settled.payer == "0x" + BatchBuyer().signer.address.hex()
    assert fake.channels.channel.charged == 400


async def test_what_is_supported_lists_who_manages_vouchers(client: FacilitatorClient) -> None:
    told = await asyncio.to_thread(client.get_supported)
    (kind,) = [kind for kind in told.kinds if kind.scheme == "batch-settlement"]
    assert kind.extra is not None
    assert kind.extra["voucherManager"] == ["server", "facilitator"]
    assert kind.extra["receiverAuthorizer"] == checksum(OPERATOR)
