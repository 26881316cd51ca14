"""`deferred` as x402's JSON, through the facilitator object that every edge asks."""

import asyncio
import secrets
from dataclasses import dataclass, replace
from typing import Any

import pytest
from doubles import MUSIC, NETWORK, NEWS, PAGE, Payer
from marketplace import PRICE, TERMS, Marketplace

from tallystick.errors import MalformedError
from tallystick.facilitator import Settled, Verified
from tallystick.hexadecimal import to_hex
from tallystick.reasons import Reason
from tallystick.requests import blinded_hash
from tallystick.x402 import (
    DeferredPayment,
    PaymentPayload,
    PaymentRequirements,
    ResourceInfo,
    deferred_payload,
    encode_json,
    payment_identifier_extension,
    without_page,
)
from tallystick_aggregator.auth.credentials import ForbiddenError, Principal, Principals, Scope
from tallystick_aggregator.facilitator import Facilitator
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.port import PAYLOAD, Caller, EncodedPayment

ALICE = Payer("alice")
SELLER = Principal("news", frozenset({NEWS}), frozenset({Scope.CHARGE}))
STRANGER = Principal("music", frozenset({MUSIC}), frozenset({Scope.CHARGE}))
ACCEPTED = PaymentRequirements(
    scheme="deferred",
    network=NETWORK,
    amount=str(PRICE),
    asset=to_hex(TERMS.asset),
    pay_to=to_hex(NEWS),
    max_timeout_seconds=60,
)


def payload_of(number: int = 1, *, blind: bytes = b"", **changes: Any) -> PaymentPayload:
    """A payment as its payer writes it, by a spend key; `changes` are made to the JSON of its `payload`."""
    bound = blinded_hash(PAGE, blind) if blind else PAGE
    charge = ALICE.payment(number, PRICE, ceiling=1_000_000, key=ALICE.spend_key(), request=bound)
    payment = DeferredPayment(
        config=ALICE.config.channel(NEWS),
        payment_id=charge.payment_id,
        ceiling=charge.ceiling,
        signature=charge.signature,
        spend=charge.spend,
        channel_id=charge.channel_id,
        request_hash=bound,
        blind=blind,
    )
    return PaymentPayload(
        payload={**deferred_payload(payment), **changes},
        accepted=ACCEPTED,
        resource=ResourceInfo(url="https://news.example/articles/1"),
        extensions={**payment_identifier_extension(charge.payment_id), "pay-ahead": {"info": {"path": "/articles/*"}}},
    )


@dataclass
class Edge:
    """What an HTTP edge does, without HTTP: it decodes, asks the facilitator, encodes."""

    market: Marketplace
    facilitator: Facilitator

    async def verify(self, payment: PaymentPayload, seller: Principal = SELLER) -> Verified | Refusal:
        encoded = EncodedPayment(PAYLOAD, payment)
        return (await self.facilitator.verify(seller, TERMS, encoded, Caller(seller.name))).answer

    async def settle(
        self, payment: PaymentPayload, amount: int = PRICE, seller: Principal = SELLER, *, release: bool = False
    ) -> Settled | Refusal:
        encoded, terms = EncodedPayment(PAYLOAD, payment), replace(TERMS, amount=amount)
        return await self.facilitator.settle(seller, terms, encoded, Caller(seller.name), release=release)

    @property
    def charged(self) -> int:
        return self.market.channel(ALICE).charged


@pytest.fixture
async def edge(market: Marketplace) -> Edge:
    await market.fund(ALICE, 100_000)
    key = ALICE.spend_key()
    await market.writer.run(
        lambda draft, _ledger, moment: accounts.register_spend_key(draft, ALICE.account_id, key, moment, market.rules)
    )
    return Edge(market, Facilitator(Principals(lambda _: SELLER), [market.deferred, market.exact]))


def reason_of(answer: object) -> Reason:
    assert isinstance(answer, Refusal), answer
    return answer.reason


async def test_a_payload_is_verified_and_settled_with_what_x402_says_in_extra(edge: Edge) -> None:
    verified = await edge.verify(payload_of())
    assert isinstance(verified, Verified)
    assert verified.payer == ALICE.config.payer
    assert verified.extra == {
        "channelId": to_hex(ALICE.channel_id()),
        "chargedCumulativeAmount": "0",
        "reservedAmount": str(PRICE),
        "totalClaimed": "0",
    }
    settled = await edge.settle(payload_of(), PRICE - 1)
    assert isinstance(settled, Settled)
    assert (settled.amount, settled.transaction, settled.replayed) == (PRICE - 1, b"", False)
    assert settled.extra == {
        "chargedAmount": str(PRICE - 1),
        "channelState": {"channelId": to_hex(ALICE.channel_id()), "chargedCumulativeAmount": str(PRICE - 1)},
    }


async def test_a_repeated_settle_is_answered_alike_and_takes_nothing_more(edge: Edge) -> None:
    await edge.verify(payload_of())
    first, again = [await edge.settle(payload_of()) for _ in range(2)]
    assert isinstance(first, Settled)
    assert again == replace(first, replayed=True)
    assert edge.charged == PRICE


async def test_settle_alone_verifies_first(edge: Edge) -> None:
    settled = await edge.settle(payload_of(), 0)
    assert isinstance(settled, Settled)
    assert (settled.amount, edge.charged, edge.market.channel(ALICE).reserved) == (0, 0, 0)
    forged = payload_of(2)
    forged.payload["spendProof"]["mac"] = to_hex(bytes(32))
    assert reason_of(await edge.settle(forged)) is Reason.SPEND_KEY_PROOF
    assert edge.charged == 0


async def test_settles_of_one_payment_at_once_charge_it_once(edge: Edge) -> None:
    answers = await asyncio.gather(*(edge.settle(payload_of()) for _ in range(20)))
    assert sorted(answer.replayed for answer in answers if isinstance(answer, Settled)) == [False] + [True] * 19
    assert edge.charged == PRICE


async def test_a_payment_is_verified_once_so_that_no_seller_serves_it_twice(edge: Edge) -> None:
    answers = await asyncio.gather(*(edge.verify(payload_of()) for _ in range(5)))
    assert sum(isinstance(answer, Verified) for answer in answers) == 1
    assert reason_of(await edge.verify(payload_of())) is Reason.PAYMENT_PENDING
    await edge.settle(payload_of())
    assert reason_of(await edge.verify(payload_of())) is Reason.PAYMENT_USED


async def test_a_lost_response_followed_by_a_retry_charges_once(edge: Edge) -> None:
    """The seller's process dies after settling, or the answer to its settle is lost; the payer sends the same again."""
    await edge.verify(payload_of())
    await edge.settle(payload_of())
    assert reason_of(await edge.verify(payload_of())) is Reason.PAYMENT_USED
    assert isinstance(await edge.settle(payload_of()), Settled)
    assert edge.charged == PRICE


async def test_a_hundred_parallel_requests_on_one_channel_all_succeed(edge: Edge) -> None:
    async def sell(number: int) -> Settled | Refusal:
        payment = payload_of(number, blind=secrets.token_bytes(16))
        assert isinstance(await edge.verify(payment), Verified)
        return await edge.settle(payment)

    answers = await asyncio.gather(*map(sell, range(1, 101)))
    assert all(isinstance(answer, Settled) for answer in answers)
    assert edge.charged == 100 * PRICE


async def test_release_gives_it_back_for_good(edge: Edge) -> None:
    await edge.verify(payload_of())
    released = [await edge.settle(payload_of(), release=True) for _ in range(2)]
    assert [(one.amount, one.replayed) for one in released if isinstance(one, Settled)] == [(0, False), (0, True)]
    assert reason_of(await edge.settle(payload_of())) is Reason.RESERVATION_RELEASED
    assert reason_of(await edge.settle(payload_of(2), release=True)) is Reason.RESERVATION_UNKNOWN
    assert (edge.charged, edge.market.channel(ALICE).reserved) == (0, 0)


async def test_what_was_charged_at_once_is_answered_and_not_given_back(edge: Edge) -> None:
    await edge.settle(payload_of(2))  # opens the channel
    await edge.market.batcher.charge([ALICE.payment(1, PRICE, ceiling=1_000_000, key=ALICE.spend_key())])
    settled = await edge.settle(payload_of(1))
    assert isinstance(settled, Settled)
    assert settled.replayed
    assert reason_of(await edge.settle(payload_of(1), release=True)) is Reason.PAYMENT_ID_REUSED


async def test_only_whom_it_pays_settles_a_payload(edge: Edge) -> None:
    await edge.verify(payload_of())
    for release in (False, True):
        with pytest.raises(ForbiddenError, match="not for the receiver"):
            await edge.settle(payload_of(), seller=STRANGER, release=release)
    with pytest.raises(ForbiddenError, match="not for the receiver"):
        await edge.verify(payload_of(), STRANGER)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"requestHash": to_hex(bytes(32))}, Reason.PAYMENT_ID_REUSED),
        ({"channelConfig": None}, None),
        ({"requestHash": None}, None),
    ],
)
async def test_another_payment_under_its_id_is_refused(
    edge: Edge, change: dict[str, Any], reason: Reason | None
) -> None:
    await edge.verify(payload_of())
    changed = payload_of(**change)
    for call in (edge.verify(changed), edge.settle(changed), edge.settle(changed, release=True)):
        if reason is None:
            with pytest.raises(MalformedError, match=f"payload.*{next(iter(change))}"):
                await call
        else:
            assert reason_of(await call) is reason
    assert edge.charged == 0


async def test_no_more_is_taken_than_the_payer_accepted(edge: Edge) -> None:
    assert reason_of(await edge.settle(payload_of(), PRICE + 1)) is Reason.AMOUNT_ABOVE_AGREED
    await edge.verify(payload_of())
    assert reason_of(await edge.settle(payload_of(), PRICE + 1)) is Reason.AMOUNT_ABOVE_AGREED
    assert edge.charged == 0


async def test_the_terms_are_compared_at_settle_as_at_verify(edge: Edge) -> None:
    await edge.verify(payload_of())
    for terms, reason in (
        (replace(TERMS, asset=MUSIC), Reason.TOKEN_MISMATCH),
        (replace(TERMS, network=replace(TERMS.network, chain_id=1)), Reason.NETWORK_UNSUPPORTED),
    ):
        for release in (False, True):
            encoded = EncodedPayment(PAYLOAD, payload_of())
            answer = await edge.facilitator.settle(SELLER, terms, encoded, Caller("news"), release=release)
            assert reason_of(answer) is reason


async def test_what_a_seller_forwards_of_a_blinded_payment_tells_nothing_of_the_page(edge: Edge) -> None:
    """Neither by a word nor by a hash that could be tried out; and it is charged all the same."""
    payment = without_page(payload_of(blind=bytes(range(16))))
    seen = encode_json(payment).decode()
    assert "articles" not in seen
    assert "blind" not in seen
    assert PAGE.hex() not in seen
    assert bytes(range(16)).hex() not in seen
    assert isinstance(await edge.verify(payment), Verified)
    assert isinstance(await edge.settle(payment), Settled)
    assert edge.charged == PRICE


async def test_a_seller_that_forwards_whole_payloads_is_served_too(edge: Edge) -> None:
    payment = payload_of(blind=bytes(range(16)))
    assert isinstance(await edge.verify(payment), Verified)
    assert isinstance(await edge.settle(without_page(payment)), Settled), "the blind is nobody's business here"
