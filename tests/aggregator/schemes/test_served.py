"""Payments of callers without an attempt: new once, as long as they are remembered."""

import asyncio

import pytest
from doubles import Payer
from marketplace import EXACT_TERMS, Marketplace, transfer_of

from tallystick.facilitator import Settled, Verified
from tallystick.reasons import Reason
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.exact.claims import Claim
from tallystick_aggregator.schemes.exact.served import Served
from tallystick_aggregator.schemes.port import Caller
from tallystick_aggregator.store.port import OutboundTransaction, TransactionKind

ALICE = Payer("alice")


def claim(number: int) -> Claim:
    return Claim(bytes([number]), b"", b"", b"")


def test_the_oldest_is_forgotten_first() -> None:
    served = Served(served_max=2)
    assert [served.begin(claim(number)) for number in (1, 1, 2, 3)] == [True, False, True, True]
    assert [served.begin(claim(number)) for number in (3, 2, 1)] == [False, False, True]


async def test_what_one_seller_serves_is_new_to_another(market: Marketplace) -> None:
    market.chain.balances[ALICE.signer.address] = 1_000
    answers = [
        await market.exact.verify(EXACT_TERMS, transfer_of(ALICE), Caller(principal))
        for principal in ("news", "news", "others")
    ]
    assert [isinstance(answer, Verified) and answer.replayed for answer in answers] == [False, True, False]


async def test_x1_what_another_caller_sent_during_a_slow_look_up_is_not_this_ones(
    market: Marketplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outbox is asked for the payment, and its answer arrives when another caller's settlement is over."""
    market.chain.balances[ALICE.signer.address] = 1_000
    by_reference, is_asked, may_answer = market.outbox.by_reference, asyncio.Event(), asyncio.Event()

    async def slowly(kind: TransactionKind, reference: bytes) -> OutboundTransaction | None:
        monkeypatch.setattr(market.outbox, "by_reference", by_reference)
        found = await by_reference(kind, reference)
        is_asked.set()
        await may_answer.wait()
        return found

    monkeypatch.setattr(market.outbox, "by_reference", slowly)
    late = asyncio.create_task(market.exact.settle(EXACT_TERMS, transfer_of(ALICE), Caller("others")))
    await is_asked.wait()
    assert isinstance(await market.exact.settle(EXACT_TERMS, transfer_of(ALICE), Caller("news")), Settled)
    may_answer.set()
    answer = await late
    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.PAYMENT_USED
    assert len(market.chain.sent) == 1
