"""Payments that nobody meant: junk, copied, foreign, for another request, or sent fifty times at once."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest
from market import PRICE, Market

from tallystick import payment_ids
from tallystick.channels import channel_id
from tallystick.errors import RefusedError
from tallystick.reasons import Reason
from tallystick.requests import request_hash
from tallystick.signatures import Signer
from tallystick.vouchers import sign_voucher
from tallystick.x402 import (
    PAYMENT_SIGNATURE_HEADER,
    PaymentPayload,
    decode_header,
    encode_header,
    read_deferred,
)
from tallystick_client import Aggregator
from tallystick_client.seller import Charge, Charged

FIRST = "/paid/page/first"


class Till:
    """The shop's own connection, and the channel of a payer that has paid for one page by voucher."""

    def __init__(self, market: Market, payer: Any, aggregator: Aggregator) -> None:
        (self.header,) = payer.payments
        self.payload = decode_header(self.header, PaymentPayload, "payment")
        self.paid = read_deferred(self.payload)
        self.aggregator = aggregator
        self.payer: Signer = payer.signer
        self.market = market
        self.domain = market.operator.domain
        self.channel_id = channel_id(self.domain, self.paid.config)

    def charge(self, ceiling: int, signer: Signer | None = None, channel: bytes | None = None) -> Charge:
        """A charge of one price, proven by a voucher that this signer made for this channel."""
        voucher = sign_voucher(signer or self.payer, self.domain, channel or self.channel_id, ceiling)
        return Charge(
            channel_id=self.channel_id,
            payment_id=payment_ids.new(),
            amount=PRICE,
            request_hash=request_hash("GET", b"/paid/page/by-hand"),
            ceiling=ceiling,
            signature=voucher.signature,
        )

    async def refusal(self, charge: Charge) -> Reason:
        """Why the aggregator refuses this charge."""
        with pytest.raises(RefusedError) as refused:
            await self.aggregator.charge(charge)
        return refused.value.reason

    async def get(self, path: str, header: str) -> httpx2.Response:
        """A request with this payment, as anybody may send it."""
        async with httpx2.AsyncClient(base_url=self.market.url) as http:
            return await http.get(path, headers={PAYMENT_SIGNATURE_HEADER: header})


@pytest.fixture
async def till(market: Market, shopper: Any) -> AsyncIterator[Till]:
    async with (
        shopper(proof="voucher") as payer,
        Aggregator(market.aggregator, token=market.seller_token) as aggregator,
    ):
        assert (await payer.http.get(FIRST)).status_code == 200
        yield Till(market, payer, aggregator)


async def test_a_payment_id_sent_fifty_times_at_once_is_charged_once(till: Till) -> None:
    charge = till.charge(ceiling=10 * PRICE)
    answers = await asyncio.gather(*(till.aggregator.charge(charge) for _ in range(50)))
    assert {answer.charged for answer in answers} == {2 * PRICE}
    assert sum(not answer.replayed for answer in answers) == 1


async def test_a_payment_id_sent_fifty_times_over_a_stream_is_charged_once(till: Till) -> None:
    charge = till.charge(ceiling=10 * PRICE)
    async with till.aggregator.stream_charges() as stream:
        answers = await asyncio.gather(*(stream.charge(charge) for _ in range(50)))
    assert all(isinstance(answer, Charged) and answer.charged == 2 * PRICE for answer in answers)
    assert sum(not answer.replayed for answer in answers) == 1


async def test_a_paid_request_sent_fifty_times_over_http_runs_its_handler_once(till: Till, market: Market) -> None:
    ran = market.handled("page first")
    answers = await asyncio.gather(*(till.get(FIRST, till.header) for _ in range(50)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert market.handled("page first") == ran
    assert (await till.aggregator.charge(till.charge(10 * PRICE))).charged == 2 * PRICE


async def test_the_same_payment_for_another_url_buys_nothing(till: Till, market: Market) -> None:
    answer = await till.get("/paid/page/another", till.header)
    assert answer.status_code == 402
    assert market.handled("page another") == 0


async def test_a_junk_signature_is_charged_to_nobody(till: Till) -> None:
    good = till.charge(ceiling=5 * PRICE)
    for signature in (bytes(65), secrets.token_bytes(64) + b"\x1b", good.signature[:64] + b"\x00"):
        assert await till.refusal(good._replace(signature=signature)) is Reason.VOUCHER_SIGNATURE
    assert (await till.aggregator.charge(good)).charged == 2 * PRICE


async def test_a_copied_voucher_is_charged_to_nobody(till: Till) -> None:
    copied = till.charge(1)._replace(ceiling=till.paid.ceiling, signature=till.paid.signature)
    assert await till.refusal(copied) is Reason.VOUCHER_USED


async def test_a_foreign_voucher_is_charged_to_nobody(till: Till) -> None:
    stranger = Signer(secrets.token_bytes(32))
    assert await till.refusal(till.charge(5 * PRICE, signer=stranger)) is Reason.VOUCHER_SIGNATURE
    assert await till.refusal(till.charge(5 * PRICE, channel=bytes(32))) is Reason.VOUCHER_SIGNATURE


@pytest.mark.parametrize(
    ("field", "value"),
    [("maxClaimableAmount", "-1"), ("maxClaimableAmount", "٣"), ("maxClaimableAmount", "01"), ("signature", "0x00")],
)
async def test_a_malformed_voucher_over_http_is_refused_by_the_fields_name(
    till: Till, market: Market, field: str, value: str
) -> None:
    voucher = dict(till.payload.payload["voucher"])
    forged = msgspec.structs.replace(till.payload, payload=till.payload.payload | {"voucher": voucher | {field: value}})
    answer = await till.get("/paid/page/forged", encode_header(forged))
    assert answer.status_code == 400
    assert field in answer.json()["message"]
    assert market.handled("page forged") == 0


async def test_another_sellers_token_charges_nothing_and_learns_nothing(till: Till, market: Market) -> None:
    token = market.add_seller(f"other-{secrets.token_hex(4)}", [secrets.token_bytes(20)], "charge")
    async with Aggregator(market.aggregator, token=token) as other:
        with pytest.raises(RefusedError) as refused:
            await other.charge(till.charge(5 * PRICE))
    assert refused.value.reason is Reason.CHANNEL_UNKNOWN
    assert refused.value.state is None
