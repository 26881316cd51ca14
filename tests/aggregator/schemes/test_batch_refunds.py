"""Refunds of `batch-settlement` by the facilitator that manages its vouchers: claimed and given back in one go."""

from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256

import pytest
from batch_market import (
    ASKED,
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
from batch_twin import BATCH_DOMAIN
from doubles import NEWS, TOKEN

from tallystick import eip712
from tallystick.hexadecimal import to_hex
from tallystick.reasons import Reason
from tallystick.signatures import Signer
from tallystick.x402.batch_settlement import BatchSettlementCode as Code
from tallystick.x402.batch_settlement import pack_refund_authorizer
from tallystick_aggregator.auth.limits import GasLimits
from tallystick_aggregator.chain.batch_settlement_calls import claimed_rows
from tallystick_aggregator.schemes.batch_settlement.reason_codes import REASON_CODES
from tallystick_aggregator.store.memory import MemoryDisk
from tallystick_aggregator.store.port import TransactionStatus
from tallystick_contracts.attribution import read_charge_counts, split_suffix

ALICE = BatchPayer("alice")
DEPOSIT = 10_000
SERVER = Signer(sha256(b"the server's key for refunds").digest())
BOUND = BatchPayer("bound", salt=pack_refund_authorizer(bytes(32), SERVER.address))
"""Her channel's refunds need the server's signature too."""
BOUND_TERMS = replace(TERMS, extra=replace(ASKED, refund_authorizer=SERVER.address).extra())


@pytest.fixture
async def market() -> AsyncIterator[BatchMarket]:
    """ALICE and BOUND have deposits, and have paid 70."""
    async with batch_market() as opened:
        for payer in (ALICE, BOUND):
            await opened.chain.fund(payer.config, DEPOSIT)
            await pay(opened, payer, PRICE, 70)
        yield opened


async def pay(market: BatchMarket, payer: BatchPayer, ceiling: int, amount: int = PRICE) -> None:
    held = pending_id(await market.verify(payer.pay(ceiling)))
    settled(await market.settle(payer.pay(ceiling, pending_id=held), amount))


def held_by(market: BatchMarket, payer: BatchPayer = ALICE) -> int:
    """What the contract holds of the channel and is not claimed."""
    return market.chain.batch.channels[payer.channel_id].unclaimed


async def test_a_refund_claims_what_is_charged_and_gives_the_rest_back_in_one_transaction(market: BatchMarket) -> None:
    held = verified(await market.verify(ALICE.refund(70)))
    assert held.extra["chargedCumulativeAmount"] == "70"
    assert refused(await market.verify(ALICE.pay(170))).reason is Reason.CHANNEL_BUSY
    done = settled(await market.settle(ALICE.refund(70, pending_id=pending_id(held))))
    assert (done.amount, done.moves, len(done.transaction)) == (DEPOSIT - 70, True, 32)
    assert done.extra == {
        "chargeCount": 0,
        "channelState": {
            "channelId": to_hex(ALICE.channel_id),
            "balance": "70",
            "totalClaimed": "70",
            "withdrawRequestedAt": 0,
            "refundNonce": "1",
            "chargedCumulativeAmount": "70",
        },
    }
    assert market.chain.balances[ALICE.signer.address] == DEPOSIT - 70
    assert (held_by(market), market.account(ALICE).funds, market.channel(ALICE).claimed) == (0, 70, 70)
    assert market.chain.batch.owed[NEWS, TOKEN].claimed == 70
    (sent,) = market.chain.sent
    assert [row.total for row in claimed_rows(sent.data)] == [70]
    assert read_charge_counts(split_suffix(sent.data)[1]) == (1,), "the claim in it attests its charges"
    assert sent.payer == ALICE.signer.address


async def test_those_who_pay_sellers_out_hear_of_what_a_refund_has_claimed(market: BatchMarket) -> None:
    heard: list[tuple[bytes, bytes]] = []
    market.chain.on_owed(lambda to, token: heard.append((to, token)))
    settled(await market.settle(ALICE.refund(70)))
    assert heard == [(NEWS, TOKEN)]


async def test_a_part_is_given_back_and_the_channel_goes_on(market: BatchMarket) -> None:
    settled(await market.settle(ALICE.refund(70, 2_000)))
    assert held_by(market) == DEPOSIT - 2_070
    await market.chain.look()
    await pay(market, ALICE, 170)
    done = settled(await market.settle(ALICE.refund(170)))
    assert (done.amount, done.extra["channelState"]["refundNonce"]) == (DEPOSIT - 2_170, "2")


async def test_more_than_there_is_gives_back_what_there_is(market: BatchMarket) -> None:
    assert settled(await market.settle(ALICE.refund(70, DEPOSIT))).amount == DEPOSIT - 70


async def test_where_all_is_claimed_the_refund_goes_alone(market: BatchMarket) -> None:
    settled(await market.settle(ALICE.refund(70, 2_000)))
    await market.chain.look()
    settled(await market.settle(ALICE.refund(70, 2_000)))
    first, second = market.chain.sent
    assert (len(claimed_rows(first.data)), claimed_rows(second.data)) == (1, [])


async def test_a_lost_answer_is_given_again_and_nothing_is_sent_twice(market: BatchMarket) -> None:
    held = pending_id(await market.verify(ALICE.refund(70)))
    first = settled(await market.settle(ALICE.refund(70, pending_id=held)))
    again = settled(await market.settle(ALICE.refund(70, pending_id=held)))
    assert (again.transaction, again.amount) == (first.transaction, first.amount)
    await market.chain.look()
    assert settled(await market.settle(ALICE.refund(70, pending_id=held))).transaction == first.transaction
    assert len(market.chain.sent) == 1


async def test_what_is_pending_is_told_and_found_again_also_by_another_process() -> None:
    disk = MemoryDisk()
    async with batch_market(disk) as before:
        await before.chain.fund(ALICE.config, DEPOSIT)
        await pay(before, ALICE, PRICE)
        before.chain.held = True
        held = pending_id(await before.verify(ALICE.refund(PRICE)))
        refusal = refused(await before.settle(ALICE.refund(PRICE, pending_id=held)))
        assert (refusal.reason, REASON_CODES[refusal.reason]) == (Reason.TRANSACTION_PENDING, Code.SETTLEMENT_PENDING)
        assert before.account(ALICE).available == 0  # it counts as gone since it was journaled (I2)
    async with batch_market(disk, chain=before.chain) as after:
        done = settled(await after.settle(ALICE.refund(PRICE, pending_id=held)))
        assert (done.amount, after.chain.sent) == (DEPOSIT - PRICE, [])


async def test_a_crash_before_it_was_sent_sends_it_later() -> None:
    disk = MemoryDisk()
    async with batch_market(disk) as before:
        await before.chain.fund(ALICE.config, DEPOSIT)
        await pay(before, ALICE, PRICE)
        held = pending_id(await before.verify(ALICE.refund(PRICE)))
        before.chain.batch.token.blacklist.add(ALICE.signer.address)
        refusal = refused(await before.settle(ALICE.refund(PRICE, pending_id=held)))
        assert refusal.code == Code.REFUND_SIMULATION_FAILED
        assert (before.chain.sent, before.account(ALICE).available) == ([], 0)
    async with batch_market(disk, chain=before.chain) as after:
        after.chain.batch.token.blacklist.clear()
        await after.refunds.resume()
        done = settled(await after.settle(ALICE.refund(PRICE, pending_id=held)))
        assert (done.amount, len(after.chain.sent)) == (DEPOSIT - PRICE, 1)


async def test_a_refund_that_reverted_is_told_and_sent_again_when_asked_again(market: BatchMarket) -> None:
    held = pending_id(await market.verify(ALICE.refund(70)))
    market.chain.fate = TransactionStatus.REVERTED
    assert refused(await market.settle(ALICE.refund(70, pending_id=held))).reason is Reason.TRANSACTION_FAILED
    market.chain.fate = TransactionStatus.MINED
    assert settled(await market.settle(ALICE.refund(70, pending_id=held))).amount == DEPOSIT - 70


async def test_the_channel_is_free_after_it_and_after_what_was_refused(market: BatchMarket) -> None:
    held = pending_id(await market.verify(ALICE.refund(70, 1)))
    refusal = refused(await market.settle(ALICE.refund(70, 1, pending_id=held)))
    assert refusal.code == Code.REFUND_AMOUNT_INVALID  # dust
    held = pending_id(await market.verify(ALICE.refund(70)))
    settled(await market.settle(ALICE.refund(70, pending_id=held, cancel=True), 0))
    await pay(market, ALICE, 170)
    assert market.chain.sent == []


async def test_only_the_voucher_over_what_was_charged_asks_for_a_refund(market: BatchMarket) -> None:
    for ceiling in (69, 71, 170):
        for answer in (await market.verify(ALICE.refund(ceiling)), await market.settle(ALICE.refund(ceiling))):
            refusal = refused(answer)
            assert refusal.reason is Reason.CUMULATIVE_AMOUNT_MISMATCH
            assert refusal.extra["channelState"]["chargedCumulativeAmount"] == "70"
    forged = replace(ALICE.refund(70), voucher=ALICE.voucher(70, SERVER))
    for answer in (await market.verify(forged), await market.settle(forged)):
        assert refused(answer).reason is Reason.VOUCHER_SIGNATURE
    assert market.chain.sent == []


async def test_a_pending_id_of_a_charge_is_none_of_a_refund(market: BatchMarket) -> None:
    held = pending_id(await market.verify(ALICE.pay(170)))
    assert refused(await market.settle(ALICE.refund(70, pending_id=held))).reason is Reason.PENDING_ID_MISMATCH
    assert refused(await market.settle(ALICE.refund(70))).reason is Reason.CHANNEL_BUSY
    settled(await market.settle(ALICE.pay(170, pending_id=held)))


async def test_nothing_is_not_given_back(market: BatchMarket) -> None:
    assert refused(await market.verify(ALICE.refund(70, 0))).code == Code.REFUND_AMOUNT_INVALID
    settled(await market.settle(ALICE.refund(70)))
    await market.chain.look()
    for answer in (await market.verify(ALICE.refund(70)), await market.settle(ALICE.refund(70))):
        assert refused(answer).code == Code.REFUND_NO_BALANCE


async def test_who_never_paid_withdraws_by_itself() -> None:
    async with batch_market(gas=GasLimits()) as market:
        await market.chain.fund(ALICE.config, DEPOSIT)
        assert refused(await market.settle(ALICE.refund(0))).reason is Reason.REFUND_WITHOUT_PAYMENT
        await pay(market, ALICE, PRICE)
        assert settled(await market.settle(ALICE.refund(PRICE))).amount == DEPOSIT - PRICE


# The server's key for refunds.


def authorized(amount: int | None, over: int, nonce: int = 0, signer: Signer = SERVER) -> dict[str, object]:
    """What the server adds to a refund of BOUND's: signed over that much, under that nonce."""
    digest = eip712.digest(BATCH_DOMAIN, eip712.hash_refund(BOUND.channel_id, nonce, over))
    return {"amount": amount, "refund_nonce": nonce, "refund_authorizer_signature": signer.sign(digest)}


async def test_a_server_with_a_key_for_refunds_signs_each(market: BatchMarket) -> None:
    held = pending_id(await market.verify(BOUND.refund(70, 2_000), BOUND_TERMS))
    payload = BOUND.refund(70, pending_id=held, **authorized(2_000, 2_000))
    assert settled(await market.settle(payload, terms=BOUND_TERMS)).amount == 2_000
    await market.chain.look()
    rest = BOUND.refund(70, **authorized(None, DEPOSIT - 2_000 - 70, nonce=1))
    assert settled(await market.settle(rest, terms=BOUND_TERMS)).amount == DEPOSIT - 2_070


@pytest.mark.parametrize(
    "signed",
    [
        {"amount": 2_000},
        authorized(2_000, 1_999),
        authorized(2_000, 2_000, nonce=1),
        authorized(2_000, 2_000, signer=ALICE.signer),
        authorized(2_000, 2_000) | {"refund_authorizer_signature": bytes(65)},
    ],
)
async def test_without_its_signature_nothing_is_given_back(market: BatchMarket, signed: dict[str, object]) -> None:
    held = pending_id(await market.verify(BOUND.refund(70, 2_000), BOUND_TERMS))
    refusal = refused(await market.settle(BOUND.refund(70, pending_id=held, **signed), terms=BOUND_TERMS))
    assert refusal.code == Code.REFUND_AUTHORIZER_SIGNATURE
    assert (market.chain.sent, market.account(BOUND).refund) == ([], None)


async def test_a_channel_without_the_servers_key_in_its_salt_is_refused(market: BatchMarket) -> None:
    refusal = refused(await market.verify(ALICE.refund(70), BOUND_TERMS))
    assert refusal.code == Code.REFUND_AUTHORIZER_MISMATCH


async def test_a_deposit_and_a_voucher_with_another_salt_than_the_servers_key_are_refused(market: BatchMarket) -> None:
    other = BatchPayer("bound", salt=pack_refund_authorizer(bytes(32), ALICE.signer.address))
    market.chain.balances[other.signer.address] = DEPOSIT
    for payload in (other.deposit(DEPOSIT), other.pay(PRICE), ALICE.pay(2 * PRICE)):
        for answer in (await market.verify(payload, BOUND_TERMS), await market.settle(payload, terms=BOUND_TERMS)):
            refusal = refused(answer)
            assert (refusal.code, refusal.field) == (Code.REFUND_AUTHORIZER_MISMATCH, "channelConfig.salt")
    assert (market.chain.sent, market.ledger.channel(other.channel_id)) == ([], None)
