"""Vouchers of `batch-settlement` that the facilitator manages, through the facilitator object that every edge asks."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from batch_market import (
    ASKED,
    MUSIC,
    PRICE,
    REF,
    SELLER,
    TERMS,
    BatchMarket,
    BatchPayer,
    batch_market,
    message_of,
    pending_id,
    refused,
    settled,
    verified,
)
from batch_twin import BATCH_DOMAIN, BATCH_OPERATOR
from doubles import NOW_S, Payer, payment_id_of

from batch_settlement_model import INITIATE_WITHDRAW
from tallystick import eip712
from tallystick.charges import Charge
from tallystick.errors import MalformedError
from tallystick.hexadecimal import to_hex
from tallystick.reasons import Reason
from tallystick.spend_keys import key_hash
from tallystick.x402.batch_settlement import ClaimPayload, SettlePayload, VoucherClaim
from tallystick_aggregator.accounts.accounts import Accounts
from tallystick_aggregator.accounts.channels import Channels
from tallystick_aggregator.accounts.signed_calls import SignedCall
from tallystick_aggregator.auth.credentials import ForbiddenError, Principal, Scope
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.port import PAYLOAD, Caller, EncodedPayment
from tallystick_aggregator.store.memory import MemoryDisk

ALICE = BatchPayer("alice")
DEPOSIT = 10_000


@pytest.fixture
async def market() -> AsyncIterator[BatchMarket]:
    """ALICE has a deposit; her channel is not known yet."""
    async with batch_market() as opened:
        await opened.chain.fund(ALICE.config, DEPOSIT)
        yield opened


async def pay(market: BatchMarket, ceiling: int, amount: int = PRICE) -> None:
    """Verify and settle."""
    held = pending_id(await market.verify(ALICE.pay(ceiling)))
    settled(await market.settle(ALICE.pay(ceiling, pending_id=held), amount))


def state(charged: int, *, claimed: int = 0, balance: int = DEPOSIT) -> dict[str, object]:
    return {
        "channelId": to_hex(ALICE.channel_id),
        "balance": str(balance),
        "totalClaimed": str(claimed),
        "withdrawRequestedAt": 0,
        "refundNonce": "0",
        "chargedCumulativeAmount": str(charged),
    }


async def test_a_voucher_is_held_and_charged_with_what_the_standard_says_in_extra(market: BatchMarket) -> None:
    held = verified(await market.verify(ALICE.pay(PRICE)))
    assert held.payer == ALICE.signer.address
    assert held.expires_at == NOW_S + market.rules.reservation_s
    pending = held.extra["pendingId"]
    assert held.extra == state(0) | {"pendingId": pending}
    charged = settled(await market.settle(ALICE.pay(PRICE, pending_id=pending), 70))
    assert (charged.amount, charged.transaction, charged.moves, charged.charged) == (70, b"", False, 70)
    assert charged.extra == {"chargedAmount": "70", "chargeCount": 1, "channelState": state(70)}
    channel = market.channel(ALICE)
    assert (channel.charged, channel.reserved, channel.ceiling) == (70, 0, PRICE)


async def test_the_next_voucher_is_over_what_was_charged_and_the_price(market: BatchMarket) -> None:
    await pay(market, PRICE, 70)
    await pay(market, 70 + PRICE)
    assert market.channel(ALICE).charged == 170


@pytest.mark.parametrize("ceiling", [0, 99, 101, 200])
async def test_another_voucher_is_refused_with_what_its_payer_needs_to_sign_again(
    market: BatchMarket, ceiling: int
) -> None:
    await pay(market, PRICE, 70)
    refusal = refused(await market.verify(ALICE.pay(ceiling)))
    assert refusal.reason is Reason.CUMULATIVE_AMOUNT_MISMATCH
    assert refusal.extra == {
        "channelState": state(70),
        "voucherState": {"signedMaxClaimable": str(PRICE), "signature": to_hex(ALICE.voucher(PRICE).signature)},
    }


async def test_a_channel_that_never_saw_a_voucher_corrects_without_one(market: BatchMarket) -> None:
    market.chain.do(ALICE.config.receiver, claim_by_itself(300))
    assert refused(await market.verify(ALICE.pay(PRICE))).extra == {"channelState": state(300, claimed=300)}
    await pay(market, 300 + PRICE)


def claim_by_itself(total: int) -> bytes:
    """What the receiver claims without us."""
    from tallystick_aggregator.chain.batch_settlement_calls import CLAIM, _row  # noqa: PLC0415

    return CLAIM.call([_row(VoucherClaim(ALICE.config, total, ALICE.voucher(total).signature, total))])


async def test_one_request_at_a_time_and_the_next_one_after_it(market: BatchMarket) -> None:
    answers = await asyncio.gather(*(market.verify(ALICE.pay(PRICE)) for _ in range(5)))
    (first,) = (one for one in answers if not isinstance(one, Refusal))
    busy = [one for one in answers if isinstance(one, Refusal)]
    assert [one.reason for one in busy] == [Reason.CHANNEL_BUSY] * 4
    assert Reason.CHANNEL_BUSY.retry
    settled(await market.settle(ALICE.pay(PRICE, pending_id=pending_id(first))))
    await pay(market, 2 * PRICE)


async def test_a_repeated_settle_charges_nothing_more_and_says_what_was_charged(market: BatchMarket) -> None:
    held = pending_id(await market.verify(ALICE.pay(PRICE)))
    settled(await market.settle(ALICE.pay(PRICE, pending_id=held)))
    again = refused(await market.settle(ALICE.pay(PRICE, pending_id=held)))
    assert (again.reason, again.extra["channelState"]) == (Reason.CUMULATIVE_AMOUNT_MISMATCH, state(PRICE))
    assert market.channel(ALICE).charged == PRICE


async def test_a_lost_answer_and_the_same_request_again_charge_once(market: BatchMarket) -> None:
    await pay(market, PRICE)
    assert refused(await market.verify(ALICE.pay(PRICE))).reason is Reason.CUMULATIVE_AMOUNT_MISMATCH
    assert market.channel(ALICE).charged == PRICE


async def test_cancel_lets_the_same_voucher_come_again(market: BatchMarket) -> None:
    held = pending_id(await market.verify(ALICE.pay(PRICE)))
    for release in (False, True):  # by `cancel` in the payload, and as gRPC asks for it
        freed = settled(await market.settle(ALICE.pay(PRICE, pending_id=held, cancel=True), 0, release=release))
        assert (freed.amount, freed.extra["chargedAmount"], freed.moves) == (0, "0", False)
    assert refused(await market.settle(ALICE.pay(PRICE, pending_id=held))).reason is Reason.PENDING_ID_MISMATCH
    await pay(market, PRICE)
    assert market.channel(ALICE).charged == PRICE


async def test_what_was_charged_is_not_cancelled(market: BatchMarket) -> None:
    held = pending_id(await market.verify(ALICE.pay(PRICE)))
    settled(await market.settle(ALICE.pay(PRICE, pending_id=held)))
    answer = refused(await market.settle(ALICE.pay(PRICE, pending_id=held, cancel=True), 0))
    assert answer.reason is Reason.PENDING_ID_MISMATCH
    assert market.channel(ALICE).charged == PRICE


async def test_without_a_pending_id_settle_verifies_by_itself(market: BatchMarket) -> None:
    charged = settled(await market.settle(ALICE.pay(PRICE), 60))
    assert charged.extra == {"chargedAmount": "60", "chargeCount": 1, "channelState": state(60)}
    forged = replace(ALICE.pay(60 + PRICE), voucher=ALICE.voucher(60 + PRICE, BATCH_OPERATOR))
    assert refused(await market.settle(forged)).reason is Reason.VOUCHER_SIGNATURE
    assert refused(await market.settle(ALICE.pay(PRICE))).reason is Reason.CUMULATIVE_AMOUNT_MISMATCH
    assert refused(await market.settle(ALICE.pay(60 + PRICE), PRICE + 1)).reason is Reason.AMOUNT_ABOVE_AGREED
    channel = market.channel(ALICE)
    assert (channel.charged, channel.reserved) == (60, 0)


async def test_without_a_pending_id_what_another_holds_is_not_charged(market: BatchMarket) -> None:
    held = pending_id(await market.verify(ALICE.pay(PRICE)))
    assert refused(await market.settle(ALICE.pay(PRICE))).reason is Reason.CHANNEL_BUSY
    settled(await market.settle(ALICE.pay(PRICE, pending_id=held)))


@pytest.mark.parametrize("other", ["0x" + "00" * 16, "01890a5d-ac96-774b-bcce-b302099a8057", "nonsense", "é" * 100])
async def test_a_pending_id_that_was_never_given_is_refused(market: BatchMarket, other: str) -> None:
    await market.verify(ALICE.pay(PRICE))
    for payload, amount in (
        (ALICE.pay(PRICE, pending_id=other), PRICE),
        (ALICE.pay(PRICE, pending_id=other, cancel=True), 0),
    ):
        assert refused(await market.settle(payload, amount)).reason is Reason.PENDING_ID_MISMATCH
    assert refused(await market.settle(ALICE.pay(PRICE, cancel=True), 0)).reason is Reason.PENDING_ID_MISMATCH
    assert market.channel(ALICE).charged == 0


async def test_a_pending_id_admits_no_other_voucher_and_no_other_price(market: BatchMarket) -> None:
    held = pending_id(await market.verify(ALICE.pay(PRICE)))
    cheaper = replace(TERMS, amount=PRICE - 1)
    for payload, accepted in (
        (ALICE.pay(PRICE - 1, pending_id=held), cheaper),
        (ALICE.pay(PRICE, pending_id=held), cheaper),
    ):
        answer = refused(await market.settle(payload, 1, accepted=accepted))
        assert answer.reason in {Reason.PENDING_ID_MISMATCH, Reason.CUMULATIVE_AMOUNT_MISMATCH}
    assert market.channel(ALICE).charged == 0
    assert (
        refused(await market.settle(ALICE.pay(PRICE, pending_id=held), PRICE + 1)).reason is Reason.AMOUNT_ABOVE_AGREED
    )
    settled(await market.settle(ALICE.pay(PRICE, pending_id=held), 1))


async def test_payers_do_not_write_what_is_the_servers(market: BatchMarket) -> None:
    for payload, code in (
        (ALICE.pay(PRICE, pending_id="00" * 16), "invalid_batch_settlement_evm_unexpected_pending_id"),
        (ALICE.pay(PRICE, cancel=True), "invalid_batch_settlement_evm_unexpected_cancel"),
    ):
        assert refused(await market.verify(payload)).code == code


async def test_the_payer_must_have_accepted_the_price_of_now(market: BatchMarket) -> None:
    refusal = refused(await market.verify(ALICE.pay(PRICE), accepted=replace(TERMS, amount=PRICE - 1)))
    assert (refusal.reason, refusal.got, refusal.allowed) == (Reason.AMOUNT_MISMATCH, "99", "100")


@pytest.mark.parametrize(
    ("payer", "code"),
    [
        (BatchPayer("alice", receiver=MUSIC), "receiver_mismatch"),
        (BatchPayer("alice", token=MUSIC), "token_mismatch"),
        (BatchPayer("alice", receiver_authorizer=MUSIC), "receiver_authorizer_mismatch"),
        (BatchPayer("alice", withdraw_delay_s=90_000), "withdraw_delay_mismatch"),
        (BatchPayer("bob"), "channel_not_found"),
    ],
)
async def test_a_channel_that_does_not_fit_is_refused_by_name(
    market: BatchMarket, payer: BatchPayer, code: str
) -> None:
    for answer in (await market.verify(payer.pay(PRICE)), await market.settle(payer.pay(PRICE))):
        assert market.facilitator.reason_code(TERMS.scheme, refused(answer)) == f"invalid_batch_settlement_evm_{code}"


async def test_a_channel_id_that_is_not_its_configurations_is_refused(market: BatchMarket) -> None:
    other = replace(ALICE.pay(PRICE), config=BatchPayer("bob").config)
    assert refused(await market.verify(other)).reason is Reason.CHANNEL_ID_MISMATCH


async def test_only_the_payers_key_opens_and_holds_a_channel(market: BatchMarket) -> None:
    forged = replace(ALICE.pay(PRICE), voucher=ALICE.voucher(PRICE, BATCH_OPERATOR))
    assert refused(await market.verify(forged)).reason is Reason.VOUCHER_SIGNATURE
    assert ALICE.channel_id not in market.ledger.channels
    await pay(market, PRICE)
    forged = replace(ALICE.pay(2 * PRICE), voucher=ALICE.voucher(2 * PRICE, BATCH_OPERATOR))
    assert refused(await market.verify(forged)).reason is Reason.VOUCHER_SIGNATURE
    await pay(market, 2 * PRICE)


async def test_the_deposit_is_the_most_that_is_charged(market: BatchMarket) -> None:
    whole = replace(TERMS, amount=DEPOSIT + 1)
    assert refused(await market.verify(ALICE.pay(DEPOSIT + 1), whole)).reason is Reason.INSUFFICIENT_FUNDS
    whole = replace(TERMS, amount=DEPOSIT)
    held = pending_id(await market.verify(ALICE.pay(DEPOSIT), whole))
    settled(await market.settle(ALICE.pay(DEPOSIT, pending_id=held), DEPOSIT, whole))


async def test_a_free_request_needs_a_voucher_above_what_is_claimed(market: BatchMarket) -> None:
    """Rule 10: else a voucher that is spent would open every free page for ever."""
    free = replace(TERMS, amount=0)
    answer = refused(await market.verify(ALICE.pay(0), free))
    assert (
        market.facilitator.reason_code(TERMS.scheme, answer) == "invalid_batch_settlement_evm_cumulative_below_claimed"
    )
    assert refused(await market.settle(ALICE.pay(0), 0, free)).code == answer.code
    await pay(market, PRICE)
    held = pending_id(await market.verify(ALICE.pay(PRICE), free))
    settled(await market.settle(ALICE.pay(PRICE, pending_id=held), 0, free))
    assert refused(await market.settle(ALICE.pay(PRICE, pending_id=held), 0, free)).reason is Reason.PENDING_ID_MISMATCH


async def test_a_withdrawal_is_told_and_no_charge_is_taken_near_its_end(market: BatchMarket) -> None:
    market.chain.do(ALICE.signer.address, INITIATE_WITHDRAW.call(tuple_of(ALICE), DEPOSIT - PRICE))
    await market.chain.look()
    held = verified(await market.verify(ALICE.pay(PRICE)))
    assert held.extra["withdrawRequestedAt"] == NOW_S
    settled(await market.settle(ALICE.pay(PRICE, pending_id=held.extra["pendingId"])))
    assert refused(await market.verify(ALICE.pay(2 * PRICE))).reason is Reason.INSUFFICIENT_FUNDS


def tuple_of(payer: BatchPayer) -> tuple[object, ...]:
    from dataclasses import astuple  # noqa: PLC0415

    return astuple(payer.config)


async def test_a_hold_ends_by_itself_and_is_charged_late_if_nothing_came_between(market: BatchMarket) -> None:
    late = pending_id(await market.verify(ALICE.pay(PRICE)))
    await market.expire()
    settled(await market.settle(ALICE.pay(PRICE, pending_id=late)))
    late = pending_id(await market.verify(ALICE.pay(2 * PRICE)))
    await market.expire()
    await pay(market, 2 * PRICE)
    assert (
        refused(await market.settle(ALICE.pay(2 * PRICE, pending_id=late))).reason is Reason.CUMULATIVE_AMOUNT_MISMATCH
    )
    assert market.channel(ALICE).charged == 2 * PRICE


async def test_a_hold_outlives_a_restart() -> None:
    disk = MemoryDisk()
    async with batch_market(disk) as before:
        await before.chain.fund(ALICE.config, DEPOSIT)
        held = pending_id(await before.verify(ALICE.pay(PRICE)))
    async with batch_market(disk, chain=before.chain) as after:
        assert refused(await after.verify(ALICE.pay(PRICE))).reason is Reason.CHANNEL_BUSY
        settled(await after.settle(ALICE.pay(PRICE, pending_id=held)))
        assert after.channel(ALICE).charged == PRICE


async def test_a_receiver_that_claims_by_itself_moves_the_next_step(market: BatchMarket) -> None:
    await pay(market, PRICE, 10)
    market.chain.do(ALICE.config.receiver, claim_by_itself(PRICE))
    await market.chain.look()
    assert refused(await market.verify(ALICE.pay(10 + PRICE))).extra["channelState"] == state(PRICE, claimed=PRICE)
    await pay(market, 2 * PRICE)


async def test_only_the_receivers_server_verifies_and_settles(market: BatchMarket) -> None:
    stranger = Principal("music", frozenset({MUSIC}), frozenset({Scope.CHARGE}))
    payment = EncodedPayment(PAYLOAD, message_of(ALICE.pay(PRICE)))
    for release in (False, True):
        with pytest.raises(ForbiddenError):
            await market.facilitator.settle(stranger, TERMS, payment, Caller("music"), release=release)
    with pytest.raises(ForbiddenError):
        await market.facilitator.verify(stranger, TERMS, payment, Caller("music"))


async def test_what_servers_post_is_not_verified(market: BatchMarket) -> None:
    claim = VoucherClaim(ALICE.config, PRICE, ALICE.voucher(PRICE).signature, PRICE)
    for payload in (ClaimPayload((claim,)), SettlePayload(SELLER_ADDRESS, TERMS.asset)):
        assert refused(await market.verify(payload)).code == "invalid_batch_settlement_evm_payload_type"


SELLER_ADDRESS = next(iter(SELLER.receivers))


async def test_a_voucher_of_a_server_that_manages_its_own_is_not_settled(market: BatchMarket) -> None:
    own = replace(TERMS, extra=replace(ASKED, voucher_manager="server").extra())
    assert refused(await market.settle(ALICE.pay(PRICE), terms=own)).code == "invalid_batch_settlement_evm_payload_type"


async def test_terms_that_say_nothing_of_the_channel_are_malformed(market: BatchMarket) -> None:
    with pytest.raises(MalformedError, match=r"paymentRequirements\.extra\.receiverAuthorizer"):
        await market.verify(ALICE.pay(PRICE), replace(TERMS, extra={}))


async def test_what_is_offered_names_the_contract_and_who_signs_for_receivers(market: BatchMarket) -> None:
    (kind,) = await market.scheme.kinds()
    assert (kind.scheme, kind.escrow_name, kind.signers) == (
        "batch-settlement",
        "x402 Batch Settlement",
        (b"\x5e" * 20,),
    )
    assert kind.extra["voucherManager"] == ["server", "facilitator"]
    assert (kind.extra["withdrawDelay"], kind.extra["delegatedRefund"]) == (86_400, True)


async def test_a_channel_goes_by_steps_only_whoever_charges_it(market: BatchMarket) -> None:
    """Or a seller that charges by batches would move a channel on while one of its other servers holds it."""
    await pay(market, PRICE)
    voucher = ALICE.voucher(2 * PRICE)
    charge = Charge(ALICE.channel_id, payment_id_of(1), PRICE, bytes(32), 2 * PRICE, voucher.signature)
    for answer in [await market.batcher.reserve(charge), *await market.batcher.charge([charge, charge])]:
        assert "batch-settlement" in refused(answer).message
    assert market.channel(ALICE).charged == PRICE


async def test_a_payer_reads_its_channel_and_has_nothing_else_done_to_it(market: BatchMarket) -> None:
    await pay(market, PRICE)
    chains = {REF: market.chain}
    channels = Channels(chains, {}, market.writer, market.rules)
    accounts = Accounts(chains, {}, channels, market.writer, market.rules, lambda: NOW_S)
    deadline = NOW_S + 60

    def call(struct_hash: bytes) -> SignedCall:
        return SignedCall(deadline, ALICE.signer.sign(eip712.digest(BATCH_DOMAIN, struct_hash)))

    page = accounts.read(ALICE.channel_id, call(eip712.hash_read_account(ALICE.channel_id, deadline)))
    assert not isinstance(page, Refusal)
    assert [(one.charged, one.ceiling) for one in page.channels] == [(PRICE, PRICE)]
    key = Payer("alice").spend_key()
    registering = eip712.hash_register_spend_key(
        ALICE.channel_id, key.key_id, key_hash(key.secret), key.cap, key.expires_at, deadline
    )
    registered = await accounts.register_spend_key(
        ALICE.channel_id, key.key_id, key.secret, key.cap, key.expires_at, call(registering)
    )
    assert refused(registered).reason is Reason.ACCOUNT_UNKNOWN
    totals = ((ALICE.config.receiver, PRICE),)
    digest = eip712.digest(BATCH_DOMAIN, eip712.hash_totals_approval(ALICE.channel_id, totals))
    approved = await accounts.approve_totals(ALICE.channel_id, totals, ALICE.signer.sign(digest))
    assert refused(approved).reason is Reason.ACCOUNT_UNKNOWN
