"""`batch-settlement` where the server manages its vouchers: verified against the chain, and sent when it asks."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256

import pytest
from batch_market import (
    ASKED,
    MUSIC,
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
from tallystick.facilitator import Settled, Verified
from tallystick.reasons import Reason
from tallystick.signatures import Signer
from tallystick.x402 import PaymentTerms
from tallystick.x402.batch_settlement import BatchSettlementCode as Code
from tallystick.x402.batch_settlement import ClaimPayload, RefundPayload, SettlePayload, VoucherClaim
from tallystick_aggregator.accounts.outcomes import ATTEMPTS_MAX
from tallystick_aggregator.auth.credentials import DeniedError
from tallystick_aggregator.chain.batch_settlement_calls import claimed_rows
from tallystick_aggregator.schemes.batch_settlement.requests import WAIT_S_MAX, wait_s
from tallystick_aggregator.store.memory import MemoryDisk
from tallystick_aggregator.store.port import TransactionStatus

DEPOSIT = 10_000
SERVER = Signer(sha256(b"the server's receiverAuthorizer").digest())
ALICE, BOB = BatchPayer("alice"), BatchPayer("bob")
OWN = BatchPayer("own", receiver_authorizer=SERVER.address)
"""A channel whose authorizer is the server's own key."""


def asks(authorizer: bytes = ASKED.receiver_authorizer, amount: int = PRICE) -> PaymentTerms:
    extra = replace(ASKED, receiver_authorizer=authorizer, voucher_manager="server").extra()
    return replace(TERMS, amount=amount, extra=extra)


ASKS = asks()
JOB = replace(TERMS, amount=0, max_timeout_s=0, extra={})
"""What the official channel manager sends along: neither an amount nor a time nor anything of its offer."""


def row(payer: BatchPayer, total: int, ceiling: int | None = None) -> VoucherClaim:
    most = total if ceiling is None else ceiling
    return VoucherClaim(payer.config, most, payer.voucher(most).signature, total)


def refund(payer: BatchPayer, amount: int, *rows: VoucherClaim, nonce: int = 0, **signed: bytes) -> RefundPayload:
    return RefundPayload(payer.config, payer.voucher(0), amount, nonce, rows, **signed)


@pytest.fixture
async def market() -> AsyncIterator[BatchMarket]:
    async with batch_market() as market:
        for payer in (ALICE, BOB, OWN):
            await market.chain.fund(payer.config, DEPOSIT)
        yield market


async def test_a_voucher_is_verified_against_the_chain_and_nothing_is_held(market: BatchMarket) -> None:
    for _ in range(2):
        held = verified(await market.verify(ALICE.pay(PRICE), ASKS))
        assert (held.extra["balance"], held.extra["totalClaimed"]) == (str(DEPOSIT), "0")
        assert not {"pendingId", "chargedCumulativeAmount"} & set(held.extra)
    assert verified(await market.verify(OWN.pay(PRICE), asks(SERVER.address))).payer == OWN.signer.address
    assert market.ledger.channel(ALICE.channel_id) is None


@pytest.mark.parametrize(
    ("payer", "ceiling", "code"),
    [
        (ALICE, PRICE - 1, Code.CUMULATIVE_BELOW_CLAIMED),
        (ALICE, DEPOSIT + 1, Code.CUMULATIVE_EXCEEDS_BALANCE),
        (BatchPayer("nobody"), PRICE, Code.CHANNEL_NOT_FOUND),
        (OWN, PRICE, Code.RECEIVER_AUTHORIZER_MISMATCH),
    ],
)
async def test_the_standards_rules_hold(market: BatchMarket, payer: BatchPayer, ceiling: int, code: Code) -> None:
    refusal = refused(await market.verify(payer.pay(ceiling), ASKS))
    assert (refusal.code or market.scheme.reason_codes[refusal.reason]) == code


async def test_a_free_page_asks_for_more_than_was_claimed(market: BatchMarket) -> None:
    free = asks(amount=0)
    assert refused(await market.verify(ALICE.pay(0), free)).code == Code.CUMULATIVE_BELOW_CLAIMED
    verified(await market.verify(ALICE.refund(0), free))


async def test_a_forged_voucher_is_refused_and_a_voucher_is_not_settled(market: BatchMarket) -> None:
    forged = replace(ALICE.pay(PRICE), voucher=ALICE.voucher(PRICE, SERVER))
    assert refused(await market.verify(forged, ASKS)).reason is Reason.VOUCHER_SIGNATURE
    assert refused(await market.settle(ALICE.pay(PRICE), terms=ASKS)).code == Code.PAYLOAD_TYPE
    given = refused(await market.verify(ALICE.pay(PRICE, pending_id="00" * 16), ASKS))
    assert given.code == Code.UNEXPECTED_PENDING_ID


@pytest.mark.parametrize("authorizer", [ASKED.receiver_authorizer, SERVER.address])
async def test_a_deposit_lands_for_any_authorizer_and_is_found_again(authorizer: bytes) -> None:
    payer, terms = BatchPayer("carol", receiver_authorizer=authorizer), asks(authorizer)
    async with batch_market() as market:
        market.chain.balances[payer.signer.address] = DEPOSIT
        verified(await market.verify(payer.deposit(DEPOSIT), terms))
        done = settled(await market.settle(payer.deposit(DEPOSIT), terms=terms))
        assert (done.amount, done.extra["channelState"]["balance"]) == (DEPOSIT, str(DEPOSIT))
        assert "chargedAmount" not in done.extra
        again = settled(await market.settle(payer.deposit(DEPOSIT), terms=terms))
        assert (again.transaction, len(market.chain.sent)) == (done.transaction, 1)


async def test_rows_are_claimed_by_our_key_and_settled_and_both_are_found_again(market: BatchMarket) -> None:
    payload = ClaimPayload((row(ALICE, 70), row(BOB, 30)))
    done = settled(await market.settle(payload, 0, JOB))
    assert (done.moves, [one.total for one in claimed_rows(market.chain.sent[0].data)]) == (False, [70, 30])
    assert settled(await market.settle(payload, 0, JOB)).transaction == done.transaction
    paid = settled(await market.settle(SettlePayload(NEWS, TOKEN), 0, JOB))
    assert (paid.amount, market.chain.balances[NEWS]) == (100, 100)
    assert settled(await market.settle(SettlePayload(NEWS, TOKEN), 0, JOB)) == paid
    assert len(market.chain.sent) == 2


async def test_a_settle_with_nothing_to_pay_is_done_and_moves_nothing(market: BatchMarket) -> None:
    done = settled(await market.settle(SettlePayload(NEWS, TOKEN), 0, JOB))
    assert (done.amount, done.moves, done.transaction, market.chain.sent) == (0, True, b"", [])


async def test_a_server_with_its_own_key_signs_by_itself(market: BatchMarket) -> None:
    rows = (row(OWN, 70),)
    assert refused(await market.settle(ClaimPayload(rows), 0, JOB)).code == Code.AUTHORIZER_ADDRESS_MISMATCH
    assert refused(await market.settle(refund(OWN, 1), 0, JOB)).code == Code.AUTHORIZER_ADDRESS_MISMATCH
    claims = SERVER.sign(eip712.digest(BATCH_DOMAIN, eip712.hash_claim_batch([(OWN.channel_id, 70, 70)])))
    settled(await market.settle(ClaimPayload(rows, claims), 0, JOB))
    nonce = SERVER.sign(eip712.digest(BATCH_DOMAIN, eip712.hash_refund(OWN.channel_id, 0, 1_000)))
    done = settled(await market.settle(refund(OWN, 1_000, refund_authorizer_signature=nonce), 0, JOB))
    assert (done.amount, market.chain.balances[OWN.signer.address]) == (1_000, 1_000)


async def test_a_signature_of_another_key_is_refused_and_nothing_is_sent(market: BatchMarket) -> None:
    signed = ClaimPayload((row(ALICE, 70),), SERVER.sign(bytes(32)))
    assert refused(await market.settle(signed, 0, JOB)).reason is Reason.SIMULATION_FAILED
    assert market.chain.sent == []


async def test_a_refund_claims_first_and_is_found_again_with_its_nonce(market: BatchMarket) -> None:
    payload = refund(ALICE, 2_000, row(ALICE, 70))
    done = settled(await market.settle(payload, 0, JOB))
    assert (done.amount, done.extra["channelState"]["totalClaimed"]) == (2_000, "70")
    assert done.extra["channelState"]["refundNonce"] == "1"
    assert settled(await market.settle(payload, 0, JOB)).transaction == done.transaction
    stale = refused(await market.settle(refund(ALICE, 1_000), 0, JOB))
    assert (stale.code, stale.allowed) == (Code.REFUND_SIMULATION_FAILED, "1")
    rest = settled(await market.settle(refund(ALICE, DEPOSIT, nonce=1), 0, JOB))
    assert rest.amount == DEPOSIT - 2_070
    assert refused(await market.settle(refund(ALICE, 1, nonce=2), 0, JOB)).code == Code.REFUND_NO_BALANCE
    assert len(market.chain.sent) == 2


async def test_a_refund_that_its_server_has_not_completed_names_what_is_missing(market: BatchMarket) -> None:
    for payload, field in (
        (ALICE.refund(0, 5), "payload.refundNonce"),
        (ALICE.refund(0, None, refund_nonce=0), "payload.amount"),
    ):
        refusal = refused(await market.settle(payload, 0, JOB))
        assert (refusal.code, refusal.field) == (Code.REFUND_PAYLOAD, field)


async def test_nobody_else_empties_an_escrow_whose_authorizer_is_delegated(market: BatchMarket) -> None:
    """The breakage of the official SDK: an unauthenticated refund."""
    others = BatchPayer("alice", receiver=MUSIC)
    await market.chain.fund(others.config, DEPOSIT)
    refusal = refused(await market.settle(refund(others, DEPOSIT), 0, JOB))
    assert refusal.reason is Reason.RECEIVER_MISMATCH
    with pytest.raises(DeniedError):
        await market.settle(refund(others, DEPOSIT), 0, replace(JOB, pay_to=MUSIC))
    smuggled = refused(await market.settle(refund(ALICE, 1, row(others, 70)), 0, JOB))
    assert smuggled.field == "payload.claims[0].voucher.channel.receiver"
    assert refused(await market.settle(SettlePayload(MUSIC, TOKEN), 0, JOB)).reason is Reason.RECEIVER_MISMATCH
    assert market.chain.sent == []


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (row(BOB, DEPOSIT + 1), "totalClaimed"),
        (row(BOB, 71, 70), "totalClaimed"),
        (replace(row(BOB, 70), signature=ALICE.voucher(70).signature), "signature"),
    ],
)
async def test_a_row_that_would_revert_is_refused_by_its_index(
    market: BatchMarket, bad: VoucherClaim, field: str
) -> None:
    refusal = refused(await market.settle(ClaimPayload((row(ALICE, 70), bad)), 0, JOB))
    assert (refusal.code, refusal.field) == (Code.CLAIM_SIMULATION_FAILED, f"payload.claims[1].{field}")
    assert market.chain.sent == []


async def test_a_channel_that_the_ledger_charges_or_holds_is_neither_claimed_nor_refunded(market: BatchMarket) -> None:
    held = pending_id(await market.verify(ALICE.pay(PRICE)))
    asked = ClaimPayload((row(ALICE, 70),)), refund(ALICE, 5)
    for payload in asked:
        refusal = refused(await market.settle(payload, 0, JOB))
        assert (refusal.reason, "manages" in refusal.message) == (Reason.CHANNEL_BUSY, True)
    settled(await market.settle(ALICE.pay(PRICE, pending_id=held)))
    for payload in asked:
        assert "manages" in refused(await market.settle(payload, 0, JOB)).message
    assert market.chain.sent == []


async def test_what_is_pending_is_found_again_by_another_process() -> None:
    disk = MemoryDisk()
    payload = refund(ALICE, 2_000, row(ALICE, 70))
    async with batch_market(disk) as before:
        await before.chain.fund(ALICE.config, DEPOSIT)
        before.chain.held = True
        short = replace(JOB, max_timeout_s=1)
        assert refused(await before.settle(payload, 0, short)).reason is Reason.TRANSACTION_PENDING
    async with batch_market(disk, chain=before.chain) as after:
        assert settled(await after.settle(payload, 0, JOB)).amount == 2_000
        assert after.chain.sent == []


async def test_while_a_refund_is_under_way_no_managed_voucher_takes_the_channel(market: BatchMarket) -> None:
    market.chain.held = True
    refunding = asyncio.create_task(market.settle(refund(ALICE, 2_000), 0, replace(JOB, max_timeout_s=1)))
    async with asyncio.timeout(5):
        while not market.chain.sent:  # noqa: ASYNC110 - the twin has no event for it
            await asyncio.sleep(0)
    assert refused(await market.verify(ALICE.pay(PRICE))).reason is Reason.CHANNEL_BUSY
    assert refused(await refunding).reason is Reason.TRANSACTION_PENDING
    # Its server waits no longer, but the transaction is on its way all the same.
    assert refused(await market.verify(ALICE.pay(PRICE))).reason is Reason.CHANNEL_BUSY


async def test_a_channel_twice_in_a_claim_is_refused_by_its_index(market: BatchMarket) -> None:
    refusal = refused(await market.settle(ClaimPayload((row(ALICE, 80), row(ALICE, 50))), 0, JOB))
    assert (refusal.code, refusal.field) == (Code.CLAIM_PAYLOAD, "payload.claims[1].voucher.channel")
    assert market.chain.sent == []


async def test_a_claim_of_what_was_claimed_before_costs_no_transaction(market: BatchMarket) -> None:
    settled(await market.settle(ClaimPayload((row(ALICE, 80),)), 0, JOB))
    refusal = refused(await market.settle(ClaimPayload((row(ALICE, 50),)), 0, JOB))
    assert (refusal.code, refusal.field) == (Code.CLAIM_SIMULATION_FAILED, "payload.claims")
    assert len(market.chain.sent) == 1


async def test_what_another_channel_claims_does_not_count_against_a_refund(market: BatchMarket) -> None:
    done = settled(await market.settle(refund(ALICE, 5, row(BOB, DEPOSIT)), 0, JOB))
    assert done.amount == 5


async def test_a_servers_refund_keeps_its_channel_however_long_it_takes(market: BatchMarket) -> None:
    market.chain.held = True
    refunding = asyncio.create_task(market.settle(refund(ALICE, 2_000), 0, replace(JOB, max_timeout_s=1)))
    async with asyncio.timeout(5):
        while not market.chain.sent:  # noqa: ASYNC110 - the twin has no event for it
            await asyncio.sleep(0)
    for payload in (ALICE.pay(PRICE), ALICE.deposit(DEPOSIT)):
        market.chain.balances[ALICE.signer.address] = DEPOSIT
        await market.expire()
        assert refused(await market.verify(payload)).reason is Reason.CHANNEL_BUSY
    assert refused(await refunding).reason is Reason.TRANSACTION_PENDING
    await market.expire()
    assert refused(await market.verify(ALICE.pay(PRICE))).reason is Reason.CHANNEL_BUSY
    market.chain.held = False
    settled(await market.settle(refund(ALICE, 2_000), 0, JOB))
    verified(await market.verify(ALICE.pay(PRICE)))
    assert market.account(ALICE).funds == DEPOSIT - 2_000


async def test_a_servers_refund_keeps_its_channels_after_a_restart() -> None:
    disk, carol = MemoryDisk(), BatchPayer("carol")
    async with batch_market(disk) as before:
        for payer in (ALICE, BOB):
            await before.chain.fund(payer.config, DEPOSIT)
        before.chain.held = True
        short = replace(JOB, max_timeout_s=1)
        payload = refund(ALICE, 2_000, row(BOB, 70))
        assert refused(await before.settle(payload, 0, short)).reason is Reason.TRANSACTION_PENDING
    async with batch_market(disk, chain=before.chain) as after:
        await after.chain.fund(carol.config, DEPOSIT)
        for payer in (BOB, ALICE):
            assert refused(await after.verify(payer.pay(PRICE))).reason is Reason.CHANNEL_BUSY
        verified(await after.verify(carol.pay(PRICE)))
        settled(await after.settle(payload, 0, JOB))
        for payer, ceiling in ((ALICE, PRICE), (BOB, 70 + PRICE)):
            verified(await after.verify(payer.pay(ceiling)))


async def test_a_channel_is_held_after_a_servers_refund_once_the_ledger_has_read_it(market: BatchMarket) -> None:
    market.chain.mirroring = False
    settled(await market.settle(refund(ALICE, DEPOSIT), 0, JOB))
    assert market.account(ALICE).funds == DEPOSIT
    assert refused(await market.verify(ALICE.pay(PRICE))).reason is Reason.CHANNEL_BUSY
    assert refused(await market.settle(ALICE.pay(PRICE))).reason is Reason.CHANNEL_BUSY
    market.chain.mirroring = True
    refusal = refused(await market.verify(ALICE.pay(PRICE)))
    assert (refusal.reason, market.account(ALICE).funds) == (Reason.INSUFFICIENT_FUNDS, 0)


async def test_another_refund_waits_for_the_one_that_is_sent(market: BatchMarket) -> None:
    market.chain.held = True
    short = replace(JOB, max_timeout_s=1)
    assert refused(await market.settle(refund(ALICE, 2_000), 0, short)).reason is Reason.TRANSACTION_PENDING
    assert refused(await market.settle(refund(ALICE, 1_000), 0, short)).reason is Reason.CHANNEL_BUSY
    assert len(market.chain.sent) == 1


@pytest.mark.parametrize("later", range(12))
async def test_a_charge_without_a_pending_id_and_a_servers_refund_never_have_the_channel_both(
    market: BatchMarket, later: int
) -> None:
    market.chain.held = True

    async def refunded() -> None:
        for _ in range(later):
            await asyncio.sleep(0)
        refused(await market.settle(refund(ALICE, DEPOSIT), 0, replace(JOB, max_timeout_s=1)))

    charged, _ = await asyncio.gather(market.settle(ALICE.pay(PRICE)), refunded())
    assert not (isinstance(charged, Settled) and market.chain.sent)


async def test_a_call_that_reverted_as_often_as_it_may_be_sent_is_refused(market: BatchMarket) -> None:
    payload = ClaimPayload((row(ALICE, 70),))
    market.chain.fate = TransactionStatus.REVERTED
    for _ in range(ATTEMPTS_MAX):
        assert refused(await market.settle(payload, 0, JOB)).reason is Reason.TRANSACTION_FAILED
    market.chain.fate = TransactionStatus.MINED
    refusal = refused(await market.settle(payload, 0, JOB))
    assert (refusal.reason, refusal.allowed) == (Reason.OVERLOADED, f"at most {ATTEMPTS_MAX}")
    assert len(market.chain.sent) == ATTEMPTS_MAX


def test_no_seller_keeps_a_settle_open_for_as_long_as_it_likes() -> None:
    assert wait_s(replace(ASKS, max_timeout_s=10**9)) == WAIT_S_MAX
    assert (wait_s(replace(ASKS, max_timeout_s=5)), wait_s(replace(ASKS, max_timeout_s=0))) == (5, None)


@pytest.mark.parametrize("later", range(8))
async def test_a_voucher_and_a_servers_refund_never_have_the_channel_both(market: BatchMarket, later: int) -> None:
    market.chain.held = True

    async def refunded() -> None:
        for _ in range(later):
            await asyncio.sleep(0)
        refused(await market.settle(refund(ALICE, 2_000), 0, replace(JOB, max_timeout_s=1)))

    held, _ = await asyncio.gather(market.verify(ALICE.pay(PRICE)), refunded())
    assert not (isinstance(held, Verified) and market.chain.sent)


async def test_what_reverted_is_sent_again_when_it_is_asked_for_again(market: BatchMarket) -> None:
    payload = ClaimPayload((row(ALICE, 70),))
    market.chain.fate = TransactionStatus.REVERTED
    assert refused(await market.settle(payload, 0, JOB)).reason is Reason.TRANSACTION_FAILED
    market.chain.fate = TransactionStatus.MINED
    settled(await market.settle(payload, 0, JOB))
    assert market.chain.batch.owed[NEWS, TOKEN].claimed == 70


async def test_supported_tells_both_managers(market: BatchMarket) -> None:
    (kind,) = await market.scheme.kinds()
    assert kind.extra["voucherManager"] == ["server", "facilitator"]
