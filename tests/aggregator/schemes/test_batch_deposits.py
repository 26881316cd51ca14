"""Deposits of `batch-settlement` into channels that the facilitator manages: landed first, then charged in step."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import astuple, replace

import pytest
from batch_market import (
    PRICE,
    TERMS,
    BatchMarket,
    BatchPayer,
    batch_market,
    pending_id,
    refused,
    settled,
    verified,
)
from batch_twin import ApprovedTokenTwin
from doubles import NOW_S

from batch_settlement_model import INITIATE_WITHDRAW
from tallystick.reasons import Reason
from tallystick.x402.batch_settlement import BatchSettlementCode as Code
from tallystick.x402.batch_settlement import DepositPayload, Permit2Deposit
from tallystick_aggregator.auth.limits import GasLimits
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.batch_settlement.reason_codes import REASON_CODES
from tallystick_aggregator.store.memory import MemoryDisk
from tallystick_aggregator.store.port import TransactionStatus

ALICE, BOB = BatchPayer("alice"), BatchPayer("bob")
DEPOSIT = 5_000
MONEY = 20_000


@pytest.fixture
async def market() -> AsyncIterator[BatchMarket]:
    """ALICE and BOB hold tokens, and have no channels."""
    async with batch_market() as opened:
        enrich(opened)
        yield opened


def enrich(market: BatchMarket) -> None:
    for payer in (ALICE, BOB):
        market.chain.balances[payer.signer.address] = MONEY


def held(payload: DepositPayload, pending: str) -> DepositPayload:
    """The payload as the server posts it to settle."""
    return replace(payload, reservation=replace(payload.reservation, pending_id=pending))


def cancelled(payload: DepositPayload, pending: str) -> DepositPayload:
    return replace(payload, reservation=replace(payload.reservation, pending_id=pending, cancel=True))


def code_of(refusal: Refusal) -> str:
    return refusal.code or REASON_CODES.get(refusal.reason, "")


def on_chain(market: BatchMarket, payer: BatchPayer = ALICE) -> int:
    """What the contract has of the payer's channel."""
    channel = market.chain.batch.channels.get(payer.channel_id)
    return channel.balance if channel else 0


async def test_a_first_deposit_is_held_landed_and_charged(market: BatchMarket) -> None:
    payload = ALICE.deposit(DEPOSIT)
    answer = verified(await market.verify(payload))
    assert answer.expires_at == NOW_S + market.rules.reservation_s
    assert answer.extra["chargedCumulativeAmount"] == answer.extra["balance"] == "0"
    assert on_chain(market) == 0
    done = settled(await market.settle(held(payload, pending_id(answer)), 70))
    assert (done.amount, done.charged, done.moves) == (DEPOSIT, 70, True)
    assert len(done.transaction) == 32
    assert done.extra["chargedAmount"] == "70"
    state = done.extra["channelState"]
    assert (state["balance"], state["chargedCumulativeAmount"]) == (str(DEPOSIT), "70")
    assert on_chain(market) == DEPOSIT
    channel = market.channel(ALICE)
    assert (channel.charged, channel.reserved, channel.ceiling) == (70, 0, PRICE)
    following = pending_id(await market.verify(ALICE.pay(70 + PRICE)))
    settled(await market.settle(ALICE.pay(70 + PRICE, pending_id=following)))


async def test_a_top_up_pays_for_what_the_channel_could_not(market: BatchMarket) -> None:
    await market.chain.fund(ALICE.config, 1_000)
    held_under = pending_id(await market.verify(ALICE.pay(PRICE)))
    settled(await market.settle(ALICE.pay(PRICE, pending_id=held_under)))
    terms = replace(TERMS, amount=4_000)
    assert refused(await market.verify(ALICE.pay(PRICE + 4_000), terms)).reason is Reason.INSUFFICIENT_FUNDS
    payload = ALICE.deposit(DEPOSIT, PRICE + 4_000)
    pending = pending_id(await market.verify(payload, terms))
    assert market.channel(ALICE).reserved == 0  # nothing of the channel's money: the request's is yet to come
    assert refused(await market.verify(ALICE.pay(2 * PRICE))).reason is Reason.CHANNEL_BUSY
    done = settled(await market.settle(held(payload, pending), 3_000, terms))
    assert (done.amount, done.charged) == (DEPOSIT, PRICE + 3_000)
    assert market.channel(ALICE).charged == PRICE + 3_000
    assert market.account(ALICE).funds == 1_000 + DEPOSIT


async def test_a_deposit_that_does_not_cover_the_request_is_refused(market: BatchMarket) -> None:
    terms = replace(TERMS, amount=DEPOSIT + 1)
    first = refused(await market.verify(ALICE.deposit(DEPOSIT, DEPOSIT + 1), terms))
    assert (first.reason, first.allowed) == (Reason.INSUFFICIENT_FUNDS, f"at most {DEPOSIT}")
    await market.chain.fund(ALICE.config, 1_000)
    terms = replace(TERMS, amount=DEPOSIT + 1_001)
    again = refused(await market.verify(ALICE.deposit(DEPOSIT, DEPOSIT + 1_001), terms))
    assert (again.reason, again.allowed) == (Reason.INSUFFICIENT_FUNDS, f"at most {DEPOSIT + 1_000}")


@pytest.mark.parametrize("ceiling", [PRICE - 1, PRICE + 1])
async def test_a_voucher_that_is_not_the_next_step_is_refused_before_anything_is_sent(
    market: BatchMarket, ceiling: int
) -> None:
    payload = ALICE.deposit(DEPOSIT, ceiling)
    for answer in (await market.verify(payload), await market.settle(payload)):
        refusal = refused(answer)
        assert refusal.reason is Reason.CUMULATIVE_AMOUNT_MISMATCH
        assert refusal.extra["channelState"]["chargedCumulativeAmount"] == "0"
    await market.chain.fund(ALICE.config, 1_000)
    for answer in (await market.verify(payload), await market.settle(payload)):
        assert refused(answer).reason is Reason.CUMULATIVE_AMOUNT_MISMATCH
    assert market.chain.sent == []


# The channel's lock.


async def test_an_unknown_channel_is_held_for_one_request(market: BatchMarket) -> None:
    answers = await asyncio.gather(
        *(market.verify(ALICE.deposit(DEPOSIT, salt=bytes([n]) * 32)) for n in range(4)),
        market.verify(BOB.deposit(DEPOSIT)),
    )
    busy = [one for one in answers if isinstance(one, Refusal)]
    assert [one.reason for one in busy] == [Reason.CHANNEL_BUSY] * 3
    verified(answers[-1])


async def test_a_voucher_waits_for_the_first_deposit_that_holds_its_channel(market: BatchMarket) -> None:
    pending_id(await market.verify(ALICE.deposit(DEPOSIT)))
    await market.chain.fund(ALICE.config, 1_000)  # by somebody else, meanwhile
    assert refused(await market.verify(ALICE.pay(PRICE + 1))).reason is Reason.CHANNEL_BUSY
    await market.expire()
    assert refused(await market.verify(ALICE.pay(PRICE + 1))).reason is Reason.CUMULATIVE_AMOUNT_MISMATCH
    verified(await market.verify(ALICE.pay(PRICE)))


async def test_cancel_gives_an_unknown_channel_free(market: BatchMarket) -> None:
    payload = ALICE.deposit(DEPOSIT)
    pending = pending_id(await market.verify(payload))
    done = settled(await market.settle(cancelled(payload, pending), 0))
    assert (done.amount, done.transaction) == (0, b"")
    assert refused(await market.settle(cancelled(payload, pending), 0)).reason is Reason.PENDING_ID_MISMATCH
    verified(await market.verify(ALICE.deposit(DEPOSIT, salt=b"\1" * 32)))
    assert market.chain.sent == []


async def test_cancel_under_another_pending_id_gives_nothing_free(market: BatchMarket) -> None:
    payload = ALICE.deposit(DEPOSIT)
    pending_id(await market.verify(payload))
    assert refused(await market.settle(cancelled(payload, "00" * 16), 0)).reason is Reason.PENDING_ID_MISMATCH
    assert refused(await market.verify(ALICE.deposit(DEPOSIT, salt=b"\1" * 32))).reason is Reason.CHANNEL_BUSY


async def test_a_first_deposit_on_its_way_keeps_its_channel_and_is_not_cancelled(market: BatchMarket) -> None:
    market.chain.held = True
    terms, payload = replace(TERMS, max_timeout_s=1), ALICE.deposit(DEPOSIT)
    pending = pending_id(await market.verify(payload, terms))
    settling = asyncio.create_task(market.settle(held(payload, pending), terms=terms))
    async with asyncio.timeout(5):
        while not market.chain.sent:  # noqa: ASYNC110 - the twin has no event for it
            await asyncio.sleep(0)
    assert refused(await market.settle(cancelled(payload, pending), 0)).reason is Reason.PENDING_ID_MISMATCH
    other, asked = ALICE.deposit(DEPOSIT, PRICE + 1, salt=b"\1" * 32), replace(TERMS, amount=PRICE + 1)
    await market.expire()
    assert refused(await market.verify(other, asked)).reason is Reason.CHANNEL_BUSY
    assert refused(await settling).reason is Reason.TRANSACTION_PENDING
    await market.expire()
    assert refused(await market.verify(other, asked)).reason is Reason.CHANNEL_BUSY
    market.chain.held = False
    assert settled(await market.settle(held(payload, pending), terms=terms)).charged == PRICE


async def test_a_top_up_that_verified_by_itself_keeps_its_channel_while_it_is_pending(market: BatchMarket) -> None:
    await market.chain.fund(ALICE.config, 1_000)
    market.chain.held = True
    terms, payload = replace(TERMS, max_timeout_s=1), ALICE.deposit(DEPOSIT)
    assert refused(await market.settle(payload, terms=terms)).reason is Reason.TRANSACTION_PENDING
    assert refused(await market.verify(ALICE.pay(PRICE))).reason is Reason.CHANNEL_BUSY
    market.chain.held = False
    assert settled(await market.settle(payload, terms=terms)).charged == PRICE
    verified(await market.verify(ALICE.pay(2 * PRICE)))


async def test_cancel_gives_a_known_channel_free(market: BatchMarket) -> None:
    await market.chain.fund(ALICE.config, 1_000)
    payload = ALICE.deposit(DEPOSIT)
    pending = pending_id(await market.verify(payload))
    settled(await market.settle(cancelled(payload, pending), 0))
    verified(await market.verify(ALICE.pay(PRICE)))
    assert market.chain.sent == []


async def test_a_hold_that_ended_is_taken_again_unless_another_has_the_channel(market: BatchMarket) -> None:
    payload = ALICE.deposit(DEPOSIT)
    first = pending_id(await market.verify(payload))
    await market.expire()
    second = ALICE.deposit(DEPOSIT, PRICE, salt=b"\2" * 32)
    terms = replace(TERMS, amount=PRICE)
    pending_id(await market.verify(BOB.deposit(DEPOSIT)))
    settled(await market.settle(held(payload, first), PRICE, terms))
    # On a known channel, the same: the ledger's hold lapses, and a second request takes it.
    top_up = replace(second, voucher=ALICE.voucher(2 * PRICE))
    late = pending_id(await market.verify(top_up))
    await market.expire()
    voucher = pending_id(await market.verify(ALICE.pay(2 * PRICE)))
    assert refused(await market.settle(held(top_up, late))).reason is Reason.PENDING_ID_MISMATCH
    settled(await market.settle(ALICE.pay(2 * PRICE, pending_id=voucher)))
    assert on_chain(market) == DEPOSIT


async def test_another_request_holds_the_channel_when_an_old_one_is_settled(market: BatchMarket) -> None:
    payload = ALICE.deposit(DEPOSIT)
    first = pending_id(await market.verify(payload))
    await market.expire()
    other = replace(TERMS, amount=PRICE + 1)
    pending_id(await market.verify(ALICE.deposit(DEPOSIT, PRICE + 1, salt=b"\1" * 32), other))
    assert refused(await market.settle(held(payload, first))).reason is Reason.PENDING_ID_MISMATCH
    assert market.chain.sent == []


async def test_settle_without_a_pending_id_verifies_by_itself(market: BatchMarket) -> None:
    assert settled(await market.settle(ALICE.deposit(DEPOSIT))).amount == DEPOSIT
    pending_id(await market.verify(ALICE.pay(2 * PRICE)))
    busy = ALICE.deposit(DEPOSIT, 2 * PRICE, salt=b"\1" * 32)
    assert refused(await market.settle(busy)).reason is Reason.CHANNEL_BUSY
    assert on_chain(market) == DEPOSIT


async def test_a_restart_between_verify_and_settle_verifies_anew() -> None:
    disk, payload = MemoryDisk(), ALICE.deposit(DEPOSIT)
    async with batch_market(disk) as before:
        enrich(before)
        pending = pending_id(await before.verify(payload))
    async with batch_market(disk, chain=before.chain) as after:
        assert settled(await after.settle(held(payload, pending))).charged == PRICE


# What is sent once.


async def test_a_lost_answer_and_the_same_again_deposit_and_charge_once(market: BatchMarket) -> None:
    payload = ALICE.deposit(DEPOSIT)
    pending = pending_id(await market.verify(payload))
    settled(await market.settle(held(payload, pending)))
    for again in (held(payload, pending), payload):
        refusal = refused(await market.settle(again))
        assert refusal.reason in {Reason.PENDING_ID_MISMATCH, Reason.CUMULATIVE_AMOUNT_MISMATCH}
    assert refusal.extra["channelState"]["chargedCumulativeAmount"] == str(PRICE)
    assert len(market.chain.sent) == 1
    assert (on_chain(market), market.channel(ALICE).charged) == (DEPOSIT, PRICE)


async def test_what_is_pending_keeps_its_channel_and_ends_when_it_is_asked_for_again(market: BatchMarket) -> None:
    market.chain.held = True
    terms = replace(TERMS, max_timeout_s=1)
    payload = ALICE.deposit(DEPOSIT)
    pending = pending_id(await market.verify(payload, terms))
    refusal = refused(await market.settle(held(payload, pending), terms=terms))
    assert (refusal.reason, code_of(refusal)) == (Reason.TRANSACTION_PENDING, Code.SETTLEMENT_PENDING)
    other = ALICE.deposit(DEPOSIT, salt=b"\1" * 32)
    assert (
        refused(
            await market.verify(replace(other, voucher=ALICE.voucher(PRICE + 1)), replace(TERMS, amount=PRICE + 1))
        ).reason
        is Reason.CHANNEL_BUSY
    )
    market.chain.held = False
    done = settled(await market.settle(held(payload, pending), terms=terms))
    assert (done.amount, done.charged) == (DEPOSIT, PRICE)
    assert len(market.chain.sent) == 1


async def test_a_restart_after_it_was_sent_finds_it_again() -> None:
    disk, payload = MemoryDisk(), ALICE.deposit(DEPOSIT)
    terms = replace(TERMS, max_timeout_s=1)
    async with batch_market(disk) as before:
        enrich(before)
        before.chain.held = True
        pending = pending_id(await before.verify(payload, terms))
        assert refused(await before.settle(held(payload, pending), terms=terms)).reason is Reason.TRANSACTION_PENDING
    async with batch_market(disk, chain=before.chain) as after:
        done = settled(await after.settle(held(payload, pending), terms=terms))
        assert (done.charged, on_chain(after), after.chain.sent) == (PRICE, DEPOSIT, [])


async def test_a_deposit_is_charged_when_it_is_final(market: BatchMarket) -> None:
    market.chain.confirmations = 3
    terms = replace(TERMS, max_timeout_s=1)
    payload = ALICE.deposit(DEPOSIT)
    pending = pending_id(await market.verify(payload, terms))
    settling = asyncio.create_task(market.settle(held(payload, pending), terms=terms))
    await asyncio.wait([settling], timeout=1.5)
    assert refused(settling.result()).reason is Reason.TRANSACTION_PENDING
    market.chain.number += 3
    assert settled(await market.settle(held(payload, pending), terms=terms)).charged == PRICE


async def test_a_charge_that_cannot_be_taken_says_that_the_deposit_is_there(market: BatchMarket) -> None:
    """The payer starts a withdrawal of all while its deposit is on the way: it lands, and pays for nothing."""
    await market.chain.fund(ALICE.config, 1_000)
    payload = ALICE.deposit(DEPOSIT)
    pending = pending_id(await market.verify(payload))
    landed = market.chain.mirrored

    async def mirrored(block_number: int, timeout_s: float) -> None:
        market.chain.do(ALICE.signer.address, INITIATE_WITHDRAW.call(astuple(ALICE.config), 1_000 + DEPOSIT))
        await landed(block_number, timeout_s)

    market.chain.mirrored = mirrored  # type: ignore[method-assign]
    refusal = refused(await market.settle(held(payload, pending)))
    assert refusal.message.startswith("The deposit has landed in its channel, but nothing was charged: ")
    assert len(refusal.transaction) == 32
    assert (on_chain(market), market.channel(ALICE).charged, market.channel(ALICE).reserved) == (1_000 + DEPOSIT, 0, 0)


# What is refused before anything is sent.


async def test_another_amount_than_was_accepted_is_not_charged(market: BatchMarket) -> None:
    payload = ALICE.deposit(DEPOSIT)
    pending = pending_id(await market.verify(payload))
    refusal = refused(await market.settle(held(payload, pending), PRICE + 1))
    assert refusal.reason is Reason.AMOUNT_ABOVE_AGREED
    assert market.chain.sent == []
    settled(await market.settle(held(payload, pending), 0))


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (ALICE.deposit(999), "deposit_below_minimum"),
        (ALICE.deposit(MONEY + 1), Code.INSUFFICIENT_BALANCE),
        (ALICE.deposit(DEPOSIT, window=(NOW_S + 60, NOW_S + 120)), Code.PAYLOAD_AUTHORIZATION_VALID_AFTER),
        (ALICE.deposit(DEPOSIT, window=(0, NOW_S)), Code.PAYLOAD_AUTHORIZATION_VALID_BEFORE),
        (replace(ALICE.deposit(DEPOSIT), voucher=ALICE.voucher(PRICE, BOB.signer)), Code.VOUCHER_SIGNATURE),
    ],
)
async def test_a_deposit_that_would_not_do_is_refused_by_name(
    market: BatchMarket, payload: DepositPayload, code: str
) -> None:
    for answer in (await market.verify(payload), await market.settle(payload)):
        refusal = refused(answer)
        assert (code_of(refusal) or refusal.reason.name.lower()) == code
    assert market.chain.sent == []


async def test_a_deposit_that_its_payer_did_not_sign_is_refused(market: BatchMarket) -> None:
    payload = replace(ALICE.deposit(DEPOSIT), authorization=BOB.deposit(DEPOSIT).authorization)
    for answer in (await market.verify(payload), await market.settle(payload)):
        assert code_of(refused(answer)) == Code.RECEIVE_AUTHORIZATION_SIGNATURE
    assert market.chain.sent == []


async def test_a_deposit_that_the_token_refuses_is_told(market: BatchMarket) -> None:
    market.chain.batch.token.blacklist.add(ALICE.signer.address)
    refusal = refused(await market.verify(ALICE.deposit(DEPOSIT)))
    assert code_of(refusal) == Code.DEPOSIT_SIMULATION_FAILED


async def test_a_deposit_that_reverts_on_the_way_gives_the_channel_free(market: BatchMarket) -> None:
    payload = ALICE.deposit(DEPOSIT)
    pending = pending_id(await market.verify(payload))
    market.chain.fate = TransactionStatus.REVERTED
    refusal = refused(await market.settle(held(payload, pending)))
    assert (refusal.reason, code_of(refusal)) == (Reason.TRANSACTION_FAILED, Code.TRANSACTION_REVERTED)
    verified(await market.verify(ALICE.deposit(DEPOSIT, salt=b"\1" * 32)))


async def test_the_budget_for_the_operators_gas_holds_for_these_deposits_too() -> None:
    limits = GasLimits(deposits_per_payer_hour_max=1)
    async with batch_market(gas=limits) as market:
        enrich(market)
        settled(await market.settle(ALICE.deposit(DEPOSIT)))
        more = ALICE.deposit(DEPOSIT, 2 * PRICE, salt=b"\1" * 32)
        for answer in (await market.verify(more), await market.settle(more)):
            assert refused(answer).retry_after_s > 0
        verified(await market.verify(ALICE.pay(2 * PRICE)))


# Permit2.


def approve(market: BatchMarket, amount: int = 0, *, sponsors_permits: bool = False) -> None:
    market.chain.permit2_token = ApprovedTokenTwin(market.chain, sponsors_permits=sponsors_permits)
    market.chain.batch.allowances[ALICE.signer.address] = amount


async def test_a_deposit_by_permit2_lands_where_it_is_approved(market: BatchMarket) -> None:
    payload = ALICE.permit2(DEPOSIT)
    assert refused(await market.verify(payload)).reason is Reason.TOKEN_UNSUPPORTED
    approve(market)
    assert code_of(refused(await market.verify(payload))) == Code.PERMIT2_ALLOWANCE_REQUIRED
    approve(market, DEPOSIT)
    pending = pending_id(await market.verify(payload))
    done = settled(await market.settle(held(payload, pending)))
    assert (done.amount, done.charged, on_chain(market)) == (DEPOSIT, PRICE, DEPOSIT)


async def test_a_permit_that_comes_along_approves_it(market: BatchMarket) -> None:
    payload = ALICE.permit2(DEPOSIT, permit_nonce=0)
    approve(market)
    assert code_of(refused(await market.verify(payload))) == Code.PERMIT2_ALLOWANCE_REQUIRED
    approve(market, sponsors_permits=True)
    pending = pending_id(await market.verify(payload))
    settled(await market.settle(held(payload, pending)))
    assert market.chain.batch.permits[ALICE.signer.address] == 1
    again = refused(
        await market.verify(ALICE.permit2(DEPOSIT, 2 * PRICE, permit_nonce=0, changes={"nonce": bytes(32)}))
    )
    assert again.reason is Reason.PERMIT2_PERMIT


@pytest.mark.parametrize(
    ("changes", "field", "code"),
    [
        ({"spender": BOB.signer.address}, "spender", Code.PERMIT2_INVALID_SPENDER),
        ({"from_": BOB.signer.address}, "from", Code.PERMIT2_INVALID_SIGNATURE),
        ({"token": BOB.signer.address}, "permitted.token", Code.TOKEN_MISMATCH),
        ({"permitted": DEPOSIT - 1}, "permitted.amount", Code.PERMIT2_AMOUNT_MISMATCH),
        ({"channel_id": bytes(32)}, "witness.channelId", Code.CHANNEL_ID_MISMATCH),
        ({"deadline": NOW_S}, "valid_before", Code.PERMIT2_DEADLINE_EXPIRED),
    ],
)
async def test_a_transfer_by_permit2_for_something_else_is_refused_by_its_field(
    market: BatchMarket, changes: dict[str, object], field: str, code: str
) -> None:
    approve(market, DEPOSIT)
    payload = ALICE.permit2(DEPOSIT, changes=changes)
    for answer in (await market.verify(payload), await market.settle(payload)):
        refusal = refused(answer)
        assert (refusal.field.endswith(field), code_of(refusal)) == (True, code)
    assert market.chain.sent == []


async def test_a_transfer_by_permit2_that_its_payer_did_not_sign_is_refused(market: BatchMarket) -> None:
    approve(market, DEPOSIT)
    payload, forged = ALICE.permit2(DEPOSIT), BOB.permit2(DEPOSIT)
    assert isinstance(payload.authorization, Permit2Deposit)
    signed = replace(payload.authorization, signature=forged.authorization.signature)
    refusal = refused(await market.verify(replace(payload, authorization=signed)))
    assert code_of(refusal) == Code.PERMIT2_INVALID_SIGNATURE


async def test_a_nonce_of_permit2_that_was_used_for_something_else_is_refused(market: BatchMarket) -> None:
    approve(market, DEPOSIT)
    payload = ALICE.permit2(DEPOSIT)
    assert isinstance(payload.authorization, Permit2Deposit)
    market.chain.batch.nonces.add((ALICE.signer.address, payload.authorization.nonce))
    for answer in (await market.verify(payload), await market.settle(payload)):
        assert code_of(refused(answer)) == Code.DEPOSIT_SIMULATION_FAILED
    assert market.chain.sent == []
