"""x402's payment-identifier at the facilitator, and callers without a token: over x402's own JSON."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doubles import MUSIC, NETWORK, NEWS, Payer
from marketplace import EXACT_TERMS, PRICE, TERMS, Marketplace, marketplace, transfer_of

from tallystick.errors import MalformedError
from tallystick.facilitator import Settled, Verified
from tallystick.hexadecimal import checksum
from tallystick.reasons import Reason
from tallystick.x402 import ExactAuthorization, PaymentPayload, PaymentRequirements
from tallystick.x402.payloads import exact_payload
from tallystick_aggregator.auth.credentials import ForbiddenError, Principal, Principals, Scope
from tallystick_aggregator.facilitator import Facilitator
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.port import PAYLOAD, Caller, EncodedPayment
from tallystick_aggregator.store.port import OutboundTransaction
from tallystick_aggregator.store.sqlite.store import SqliteStore

ALICE = Payer("alice")
ADDRESS = ALICE.signer.address
NEWS_STAFF = Principal("news", frozenset({NEWS}), frozenset(Scope))
IDENTIFIER = "pay_7d5d747be160e280504c099d984bcfe0"


@pytest.fixture(autouse=True)
def _money(market: Marketplace) -> None:
    market.chain.balances[ADDRESS] = 1_000


def payment(transfer: ExactAuthorization, identifier: str | None = IDENTIFIER, **accepted: Any) -> EncodedPayment:
    """As the edge receives it."""
    requirements: dict[str, Any] = {
        "scheme": "exact",
        "network": NETWORK,
        "amount": str(transfer.value),
        "asset": checksum(EXACT_TERMS.asset),
        "pay_to": checksum(transfer.to),
        "max_timeout_seconds": 60,
        "extra": {"name": "USD Coin", "version": "2"},
    }
    extensions = None if identifier is None else {"payment-identifier": {"info": {"required": False, "id": identifier}}}
    message = PaymentPayload(
        payload=exact_payload(transfer),
        accepted=PaymentRequirements(**{**requirements, **accepted}),
        extensions=extensions,
    )
    return EncodedPayment(PAYLOAD, message)


class Edge:
    """What an edge does for a seller, or for a stranger."""

    def __init__(self, market: Marketplace, principal: Principal | None = NEWS_STAFF) -> None:
        open_schemes = [market.exact] if principal is None else []
        self._facilitator = Facilitator(Principals(lambda _: None), [market.deferred, market.exact], open_schemes)
        self._principal = principal
        self._caller = Caller(principal.name if principal else "")

    async def verify(self, made: EncodedPayment, **terms: Any) -> Verified | Refusal:
        asked = replace(EXACT_TERMS, **terms)
        return (await self._facilitator.verify(self._principal, asked, made, self._caller)).answer

    async def settle(self, made: EncodedPayment, **terms: Any) -> Settled | Refusal:
        asked = replace(EXACT_TERMS, **terms)
        return await self._facilitator.settle(self._principal, asked, made, self._caller, release=False)


def reason_of(answer: object) -> Reason:
    assert isinstance(answer, Refusal), answer
    return answer.reason


async def test_a_payment_in_x402s_own_json_is_verified_and_settled(market: Marketplace) -> None:
    edge = Edge(market)
    assert await edge.verify(payment(transfer_of(ALICE), None)) == Verified(ADDRESS)
    settled = await edge.settle(payment(transfer_of(ALICE), None))
    assert isinstance(settled, Settled)
    assert market.chain.balances[NEWS] == PRICE


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        ({"payload": {}}, "payload"),
        ({"payload": {"signature": "0x", "authorization": {}}}, "payload $.authorization"),
        ({"payload": exact_payload(transfer_of(ALICE)) | {"signature": "0xzz"}}, "payload.signature"),
    ],
)
async def test_a_payload_that_is_not_of_its_form_is_named_by_its_field(
    market: Marketplace, spoil: dict[str, Any], field: str
) -> None:
    whole = payment(transfer_of(ALICE)).message
    made = EncodedPayment(PAYLOAD, PaymentPayload(accepted=whole.accepted, **spoil))
    with pytest.raises(MalformedError) as raised:
        await Edge(market).verify(made)
    assert raised.value.field.startswith(field)


async def test_a_transfer_method_that_is_not_known_is_told_the_known_ones(market: Marketplace) -> None:
    made = payment(transfer_of(ALICE), extra={"assetTransferMethod": "teleport"})
    with pytest.raises(MalformedError, match="eip3009"):
        await Edge(market).verify(made)


async def test_a_payment_accepted_on_another_network_is_refused(market: Marketplace) -> None:
    refusal = await Edge(market).settle(payment(transfer_of(ALICE), network="eip155:1"))
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.field) == (Reason.NETWORK_UNSUPPORTED, "payload.accepted.network")
    assert not market.chain.sent


async def test_the_same_payment_under_its_identifier_is_answered_alike(market: Marketplace) -> None:
    edge = Edge(market)
    first = await edge.settle(payment(transfer_of(ALICE)))
    assert isinstance(first, Settled)
    assert await edge.settle(payment(transfer_of(ALICE))) == replace(first, replayed=True)
    assert await edge.verify(payment(transfer_of(ALICE))) == Verified(ADDRESS, replayed=True)
    assert len(market.chain.sent) == 1


async def test_another_payment_under_the_identifier_is_refused_before_anything_is_read(market: Marketplace) -> None:
    edge = Edge(market)
    await edge.settle(payment(transfer_of(ALICE)))
    market.chain.down = True  # it is looked up, not verified
    for ask in (edge.verify, edge.settle):
        refusal = await ask(payment(transfer_of(ALICE, 1)))
        assert isinstance(refusal, Refusal)
        assert (refusal.reason, refusal.field) == (
            Reason.PAYMENT_ID_REUSED,
            "extensions.payment-identifier.info.id",
        )
    assert len(market.chain.sent) == 1


async def test_two_payments_under_one_identifier_at_once_are_one_transfer(market: Marketplace) -> None:
    edge = Edge(market)
    answers = await asyncio.gather(*(edge.settle(payment(transfer_of(ALICE, number))) for number in range(5)))
    assert [type(answer) for answer in answers].count(Settled) == 1
    assert {reason_of(answer) for answer in answers if isinstance(answer, Refusal)} == {Reason.PAYMENT_ID_REUSED}
    assert len(market.chain.sent) == 1


async def test_an_identifier_is_a_sellers_own(market: Marketplace) -> None:
    assert isinstance(await Edge(market).settle(payment(transfer_of(ALICE))), Settled)
    music = Edge(market, Principal("music", frozenset({MUSIC}), frozenset(Scope)))
    other = payment(transfer_of(ALICE, 1, to=MUSIC))
    assert isinstance(await music.settle(other, pay_to=MUSIC), Settled)


async def test_a_payment_that_was_refused_leaves_its_identifier_free(market: Marketplace) -> None:
    edge = Edge(market)
    market.chain.balances[ADDRESS] = 0
    assert reason_of(await edge.settle(payment(transfer_of(ALICE)))) is Reason.INSUFFICIENT_BALANCE
    market.chain.balances[ADDRESS] = 1_000
    assert isinstance(await edge.settle(payment(transfer_of(ALICE, 1))), Settled)


@pytest.mark.parametrize("identifier", ["short", "x" * 129, "with spaces in it ok"])
async def test_an_identifier_that_the_extension_does_not_allow_is_named(market: Marketplace, identifier: str) -> None:
    with pytest.raises(MalformedError, match="16 to 128 characters"):
        await Edge(market).verify(payment(transfer_of(ALICE), identifier))


async def test_after_a_kill_between_settle_and_answer_the_retry_gets_the_same_answer(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    async with marketplace(store=store) as market:
        market.chain.balances[ADDRESS] = 1_000
        answer = await Edge(market).settle(payment(transfer_of(ALICE)))
    await store.close()
    assert isinstance(answer, Settled)
    store = await SqliteStore.open(tmp_path / "store.db")
    async with marketplace(store=store) as again:
        again.chain.continue_from(market.chain)
        assert await Edge(again).settle(payment(transfer_of(ALICE))) == replace(answer, replayed=True)
        assert reason_of(await Edge(again).settle(payment(transfer_of(ALICE, 1)))) is Reason.PAYMENT_ID_REUSED
        assert not again.chain.sent
    await store.close()


async def test_a_settlement_that_takes_too_long_names_its_transaction_and_its_outcome_comes_later(
    market: Marketplace,
) -> None:
    edge = Edge(market)
    market.chain.held = True
    pending = await edge.settle(payment(transfer_of(ALICE)), max_timeout_s=1)
    assert isinstance(pending, Refusal)
    (sent,) = market.chain.sent
    assert pending.reason is Reason.TRANSACTION_PENDING
    assert pending.transaction == sent.attempts[-1].transaction_hash
    assert pending.got == "0x" + pending.transaction.hex()
    market.chain.held = False
    settled = await edge.settle(payment(transfer_of(ALICE)))
    assert isinstance(settled, Settled)
    assert settled.transaction == sent.attempts[-1].transaction_hash


async def test_settle_waits_as_long_as_the_terms_say(market: Marketplace, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    wait = market.chain.wait

    async def noted(outbound: OutboundTransaction, *, final: bool = False, timeout_s: float) -> OutboundTransaction:
        waited.append(timeout_s)
        return await wait(outbound, final=final, timeout_s=1)

    monkeypatch.setattr(market.chain, "wait", noted)
    for number, max_timeout_s in enumerate((0, 45, 86_400)):
        await Edge(market).settle(payment(transfer_of(ALICE, number), None), max_timeout_s=max_timeout_s)
    for most, one in zip((0.2, 45, 600), waited, strict=True):
        assert 0 <= one <= most, "a turn takes of the time"
    assert waited[1] > 40
    assert waited[2] > 595


# Callers without a token.


async def test_a_stranger_pays_anybody_by_a_scheme_that_is_open_and_by_no_other(market: Marketplace) -> None:
    edge = Edge(market, None)
    assert isinstance(await edge.verify(payment(transfer_of(ALICE))), Verified)
    assert isinstance(await edge.settle(payment(transfer_of(ALICE))), Settled)
    refusal = await edge.verify(payment(transfer_of(ALICE)), scheme=TERMS.scheme)
    assert reason_of(refusal) is Reason.SCHEME_UNSUPPORTED


async def test_where_nothing_is_open_a_stranger_is_told_so(market: Marketplace) -> None:
    facilitator = Facilitator(Principals(lambda _: None), [market.exact])
    assert not facilitator.is_open
    assert await facilitator.supported_for_strangers() == []
    made = payment(transfer_of(ALICE))
    refusal = await facilitator.settle(None, EXACT_TERMS, made, Caller(), release=False)
    assert reason_of(refusal) is Reason.SCHEME_UNSUPPORTED


async def test_a_seller_still_settles_for_its_own_receivers_only(market: Marketplace) -> None:
    with pytest.raises(ForbiddenError):
        await Edge(market).settle(payment(transfer_of(ALICE, to=MUSIC)), pay_to=MUSIC)


async def test_a_stranger_gets_nothing_for_a_sellers_payment_nor_a_seller_for_a_strangers(market: Marketplace) -> None:
    seller, stranger = Edge(market), Edge(market, None)
    await seller.settle(payment(transfer_of(ALICE)))
    assert reason_of(await stranger.settle(payment(transfer_of(ALICE)))) is Reason.PAYMENT_USED
    await stranger.settle(payment(transfer_of(ALICE, 1)))
    assert reason_of(await seller.settle(payment(transfer_of(ALICE, 1), None))) is Reason.PAYMENT_USED
    assert len(market.chain.sent) == 2
