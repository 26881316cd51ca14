"""X3, X8, X9: contracts that tell a simulation from a transaction, clocks that differ, payments that are too small."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from chain_twin import CONTRACT_WALLET_SIGNATURE, Permit2TokenTwin
from doubles import ESCROW_REF, MUSIC, NEWS, NOW_S, Payer
from marketplace import EXACT_TERMS, OFFERS, PRICE, Marketplace, marketplace, transfer_of
from permit2_payments import exact_of

from tallystick.facilitator import Settled, Verified
from tallystick.reasons import Reason
from tallystick_aggregator.auth.limits import GasBudget, GasLimits
from tallystick_aggregator.auth.transfer_limits import TransferLimits
from tallystick_aggregator.chain.port import Send
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.exact import ExactPayments
from tallystick_aggregator.schemes.exact.authorizations import GRACE_S
from tallystick_aggregator.schemes.exact.preconditions import BY_CONTRACT_AT_ONCE
from tallystick_aggregator.store.port import OutboundTransaction, TransactionStatus

ALICE, BOB, WALLET = Payer("alice"), Payer("bob"), Payer("wallet")


@pytest.fixture(autouse=True)
def _money(market: Marketplace) -> None:
    market.chain.balances.update({payer.signer.address: 10_000 for payer in (ALICE, BOB, WALLET)})


def refused(answer: object) -> Refusal:
    assert isinstance(answer, Refusal), answer
    return answer


class Clock:
    """Seconds that pass only in pauses; blocks come `behind` seconds late."""

    def __init__(self, market: Marketplace, behind: int = 0) -> None:
        self.now_s = NOW_S
        self._market, self._behind = market, behind
        market.chain.block_s = NOW_S - behind

    async def pause(self, pause_s: float) -> None:
        self.now_s += round(pause_s)
        self._market.chain.block_s = self.now_s - self._behind

    def exact(self) -> ExactPayments:
        market = self._market
        return ExactPayments(
            {ESCROW_REF: market.chain}, OFFERS, market.outbox, lambda: self.now_s, settle_timeout_s=1, pause=self.pause
        )


# X3.


async def test_x3_a_payer_whose_transfer_reverted_is_refused_for_a_while_and_nobody_else(market: Marketplace) -> None:
    market.chain.fate = TransactionStatus.REVERTED
    failed = refused(await market.exact.settle(EXACT_TERMS, transfer_of(ALICE)))
    assert failed.reason is Reason.TRANSACTION_FAILED
    assert failed.transaction == market.chain.sent[0].attempts[-1].transaction_hash
    assert failed.got == "0x" + failed.transaction.hex()
    market.chain.fate = TransactionStatus.MINED
    for ask in (market.exact.verify, market.exact.settle):
        refusal = refused(await ask(EXACT_TERMS, transfer_of(ALICE, 1)))
        assert refusal.reason is Reason.EXACT_PAYER_BARRED
        assert 0 < refusal.retry_after_s <= 3_601
    assert isinstance(await market.exact.settle(EXACT_TERMS, transfer_of(BOB)), Settled)
    assert len(market.chain.sent) == 2
    market.chain.now_s += 3_601
    assert isinstance(await market.exact.settle(EXACT_TERMS, transfer_of(ALICE, 1)), Settled)


async def test_x3_a_revert_is_remembered_over_a_restart(market: Marketplace) -> None:
    market.chain.fate = TransactionStatus.REVERTED
    await market.exact.settle(EXACT_TERMS, transfer_of(ALICE))
    async with marketplace(market.disk) as restarted:
        restarted.chain.balances[ALICE.signer.address] = 1_000
        refusal = refused(await restarted.exact.verify(EXACT_TERMS, transfer_of(ALICE, 1)))
        assert refusal.reason is Reason.EXACT_PAYER_BARRED


async def test_x3_a_revert_counts_before_it_is_final(market: Marketplace) -> None:
    market.chain.held = True
    await market.exact.settle(replace(EXACT_TERMS, max_timeout_s=1), transfer_of(ALICE))
    market.chain.gas.note_revert(market.chain.sent[0])
    refusal = refused(await market.exact.verify(EXACT_TERMS, transfer_of(ALICE, 1)))
    assert refusal.reason is Reason.EXACT_PAYER_BARRED


async def test_x3_a_contract_has_few_transfers_under_way_and_a_key_any_number(market: Marketplace) -> None:
    market.chain.contract_wallets.add(WALLET.signer.address)
    market.chain.held = True

    async def settle(payer: Payer, number: int) -> Refusal:
        transfer = transfer_of(payer, number)
        if payer is WALLET:
            transfer = replace(transfer, signature=CONTRACT_WALLET_SIGNATURE)
        return refused(await market.exact.settle(EXACT_TERMS, transfer))

    for payer in (WALLET, ALICE):
        answers = await asyncio.gather(*(settle(payer, number) for number in range(BY_CONTRACT_AT_ONCE)))
        assert {answer.reason for answer in answers} == {Reason.TRANSACTION_PENDING}
    assert (await settle(WALLET, 99)).reason is Reason.PAYMENT_PENDING
    assert (await settle(ALICE, 99)).reason is Reason.TRANSACTION_PENDING


# X8.


async def test_x8_an_authorization_that_is_valid_from_now_on_is_tried_in_the_next_block(market: Marketplace) -> None:
    clock = Clock(market)
    verified = await clock.exact().verify(EXACT_TERMS, transfer_of(ALICE, valid_after=NOW_S))
    assert isinstance(verified, Verified)
    assert clock.now_s == NOW_S, "nobody waited"


@pytest.mark.parametrize("behind", [0, 2])
@pytest.mark.parametrize("looks_ahead", [True, False])
async def test_x8_it_settles_as_soon_as_a_block_takes_it(market: Marketplace, behind: int, looks_ahead: bool) -> None:
    clock = Clock(market, behind)
    market.chain.looks_ahead = looks_ahead
    settled = await clock.exact().settle(EXACT_TERMS, transfer_of(ALICE, valid_after=NOW_S))
    assert isinstance(settled, Settled), settled
    assert clock.now_s <= NOW_S + behind + 2


async def test_x8_a_few_seconds_are_waited_for_and_no_more(market: Marketplace) -> None:
    clock = Clock(market)
    verified = await clock.exact().verify(EXACT_TERMS, transfer_of(ALICE, valid_after=NOW_S + GRACE_S))
    assert isinstance(verified, Verified)
    clock = Clock(market)
    refusal = refused(await clock.exact().verify(EXACT_TERMS, transfer_of(ALICE, valid_after=NOW_S + GRACE_S + 1)))
    assert refusal.reason is Reason.EXACT_NOT_YET_VALID
    assert clock.now_s == NOW_S, "it is told at once"


async def test_x8_nothing_is_waited_for_that_would_be_refused_anyway(market: Marketplace) -> None:
    """Who waits holds a place of all sellers' payments; junk that is valid in a moment must not."""
    clock = Clock(market)
    junk = replace(transfer_of(ALICE, valid_after=NOW_S + GRACE_S), signature=transfer_of(ALICE).signature)
    assert refused(await clock.exact().verify(EXACT_TERMS, junk)).reason is Reason.EXACT_SIGNATURE
    poor = transfer_of(Payer("nobody"), valid_after=NOW_S + GRACE_S)
    assert refused(await clock.exact().verify(EXACT_TERMS, poor)).reason is Reason.INSUFFICIENT_BALANCE
    assert clock.now_s == NOW_S, "nobody waited"


# X9.


async def test_x9_what_is_below_the_minimum_is_refused_with_the_minimum_and_advertised() -> None:
    async with marketplace(limits=TransferLimits(amount_min=PRICE + 1)) as market:
        market.chain.balances[ALICE.signer.address] = 1_000
        for ask in (market.exact.verify, market.exact.settle):
            refusal = refused(await ask(EXACT_TERMS, transfer_of(ALICE)))
            assert (refusal.reason, refusal.allowed) == (Reason.EXACT_AMOUNT_TOO_SMALL, f"at least {PRICE + 1}")
        assert not market.chain.sent
        (kind,) = await market.exact.kinds()
        assert kind.extra == {"minAmount": str(PRICE + 1)}


async def test_x9_exact_that_is_switched_off_is_neither_offered_nor_sent_but_still_answered(
    market: Marketplace,
) -> None:
    settled = await market.exact.settle(EXACT_TERMS, transfer_of(ALICE))
    assert isinstance(settled, Settled)
    off = ExactPayments(
        {ESCROW_REF: market.chain}, OFFERS, market.outbox, lambda: NOW_S, limits=TransferLimits(enabled=False)
    )
    assert await off.kinds() == []
    assert refused(await off.verify(EXACT_TERMS, transfer_of(ALICE, 1))).reason is Reason.EXACT_UNAVAILABLE
    assert await off.settle(EXACT_TERMS, transfer_of(ALICE)) == replace(settled, replayed=True)


async def test_x9_the_budget_of_an_hour_ends_the_offer() -> None:
    async with marketplace(gas=GasLimits(0, 0, 2 * 120_000, 0, 0)) as market:
        market.chain.balances[ALICE.signer.address] = 1_000
        market.chain.gas_each = 120_000
        for number in range(2):
            assert isinstance(await market.exact.settle(EXACT_TERMS, transfer_of(ALICE, number)), Settled)
        refusal = refused(await market.exact.settle(EXACT_TERMS, transfer_of(ALICE, 3)))
        assert (refusal.reason, refusal.field) == (Reason.GAS_BUDGET_SPENT, "exact_gas")
        assert await market.exact.kinds() == []


@pytest.mark.parametrize("of", ["payer", "receiver"])
async def test_x9_payments_of_a_payer_and_to_a_receiver_are_limited(market: Marketplace, of: str) -> None:
    gas = GasLimits(0, 0, 0, 0, 0, 2 if of == "payer" else 0)
    limits = TransferLimits(per_receiver_hour_max=0 if of == "payer" else 2)
    exact = ExactPayments(
        {ESCROW_REF: market.chain}, OFFERS, market.outbox, lambda: NOW_S, budget=GasBudget(gas), limits=limits
    )
    for number in range(2):
        assert isinstance(await exact.settle(EXACT_TERMS, transfer_of(ALICE, number)), Settled)
    assert refused(await exact.settle(EXACT_TERMS, transfer_of(ALICE, 2))).reason is Reason.GAS_BUDGET_SPENT
    by_another = await exact.settle(EXACT_TERMS, transfer_of(BOB, 3))
    to_another = await exact.settle(replace(EXACT_TERMS, pay_to=MUSIC), transfer_of(ALICE, 4, to=MUSIC))
    assert isinstance(by_another, Settled if of == "payer" else Refusal)
    assert isinstance(to_another, Settled if of == "receiver" else Refusal)
    assert market.chain.balances[NEWS] >= 2 * PRICE


# One purse, many payments.


async def test_x3_payments_over_the_same_money_are_not_sent_together(market: Marketplace) -> None:
    """Each alone would pass the simulation; together all but one would revert, and the operator paid for it."""
    market.chain.balances[ALICE.signer.address] = 2 * PRICE + 1
    market.chain.held = True
    answers = await asyncio.gather(*(market.exact.settle(EXACT_TERMS, transfer_of(ALICE, n)) for n in range(20)))
    assert len(market.chain.sent) == 2
    assert Counter(refused(answer).reason for answer in answers) == {
        Reason.TRANSACTION_PENDING: 2,
        Reason.PAYMENT_PENDING: 18,
    }
    refusal = refused(await market.exact.verify(EXACT_TERMS, transfer_of(ALICE, 20)))
    assert (refusal.reason, refusal.field, refusal.got, refusal.allowed) == (
        Reason.PAYMENT_PENDING,
        "amount",
        str(PRICE),
        "at most 1",
    )


async def test_x3_what_was_refused_or_has_landed_takes_up_no_money(market: Marketplace) -> None:
    market.chain.balances[ALICE.signer.address] = 2 * PRICE
    market.chain.down = True
    refused(await market.exact.settle(EXACT_TERMS, transfer_of(ALICE)))
    market.chain.down = False
    for number in range(2):
        assert isinstance(await market.exact.settle(EXACT_TERMS, transfer_of(ALICE, number)), Settled)
    refusal = refused(await market.exact.settle(EXACT_TERMS, transfer_of(ALICE, 3)))
    assert refusal.reason is Reason.INSUFFICIENT_BALANCE


async def test_x3_a_transfer_that_is_being_handed_to_the_node_counts_once(
    market: Marketplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender writes it down first, and then waits for the node: both know of it meanwhile."""
    market.chain.balances[ALICE.signer.address] = 2 * PRICE
    market.chain.held = True
    send, is_written, node_has_it = market.chain.send, asyncio.Event(), asyncio.Event()

    async def sent_slowly(what: Send) -> OutboundTransaction:
        sent = await send(what)
        is_written.set()
        await node_has_it.wait()
        return sent

    monkeypatch.setattr(market.chain, "send", sent_slowly)
    first = asyncio.create_task(market.exact.settle(EXACT_TERMS, transfer_of(ALICE)))
    async with asyncio.timeout(10):
        await is_written.wait()
    try:
        assert isinstance(await market.exact.verify(EXACT_TERMS, transfer_of(ALICE, 1)), Verified)
    finally:
        node_has_it.set()
        await first


async def test_x3_the_same_nonce_of_the_token_and_of_permit2_are_two_transfers(market: Marketplace) -> None:
    permit2 = market.chain.permit2_token = Permit2TokenTwin(market.chain)
    permit2.allowances[ALICE.signer.address] = 10_000
    own = transfer_of(ALICE)
    by_permit2 = exact_of(ALICE, nonce=own.nonce)
    answers = await asyncio.gather(*(market.exact.settle(EXACT_TERMS, one) for one in (own, by_permit2)))
    assert all(isinstance(answer, Settled) for answer in answers), answers
    assert market.chain.balances[NEWS] == 2 * PRICE
