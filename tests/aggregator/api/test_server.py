import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from chain_twin import Permit2TokenTwin
from doubles import MUSIC, NETWORK, NEWS, NOW_S, OTHER_PAGE
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from marketplace import OFFER, PRICE, deposit_of, signed, transfer_of
from serving_twin import Edge, charge_of, serving
from wire import ALICE, authorization_of, config_of, exact_of, terms_of, verify_request

from tallystick import eip712
from tallystick.amounts import decode_amount, encode_amount
from tallystick.reasons import Reason
from tallystick.settlements import LeftOut
from tallystick.spend_keys import key_hash
from tallystick.v1 import account_pb2, charge_pb2, facilitator_pb2, settlement_pb2
from tallystick_aggregator.accounts.signed_calls import SignedCall
from tallystick_aggregator.api.grpc.server import SERVICE_NAMES, GrpcServer
from tallystick_aggregator.api.grpc.settlement import SETTLE_NOW_BURST
from tallystick_aggregator.chain.port import ChainUnavailableError
from tallystick_aggregator.chain.settings import ConfigurationError
from tallystick_aggregator.runtime.health import Health
from tallystick_aggregator.schemes.exact.reason_codes import REASON_CODES
from tallystick_aggregator.store.port import (
    Attempt,
    OutboundTransaction,
    Payout,
    StoreUncertainError,
    TransactionKind,
    TransactionStatus,
)


async def refused(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call  # type: ignore[misc]
    return error.value


# Charging.


async def test_a_charge_is_accepted_once_and_repeated_alike(edge: Edge) -> None:
    await edge.market.fund(ALICE, 10_000, NEWS)
    request = charge_pb2.ChargeRequest(charge=charge_of(ALICE.payment(1, PRICE, ceiling=PRICE)))
    answers = await asyncio.gather(*(edge.charges.Charge(request, metadata=edge.news) for _ in range(50)))
    assert [answer.result.accepted for answer in answers] == [True] * 50
    assert [answer.result.replayed for answer in answers].count(False) == 1
    assert {decode_amount(answer.result.charged, "charged") for answer in answers} == {PRICE}
    assert edge.market.channel(ALICE).charged == PRICE


async def test_a_charge_is_on_disk_before_it_is_answered(edge: Edge, tmp_path: Path) -> None:
    await edge.market.fund(ALICE, 10_000, NEWS)
    request = charge_pb2.ChargeRequest(charge=charge_of(ALICE.payment(1, PRICE, ceiling=PRICE)))
    assert (await edge.charges.Charge(request, metadata=edge.news)).result.accepted
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in ("store.db", "store.db-wal"):
        (copy / file).write_bytes((tmp_path / file).read_bytes())
    async with serving(copy) as restarted:
        assert restarted.market.channel(ALICE).charged == PRICE


async def test_a_refusal_of_money_is_an_answer_with_what_was_got_and_is_allowed(edge: Edge) -> None:
    await edge.market.fund(ALICE, 10_000, NEWS)
    payment = ALICE.payment(1, PRICE, ceiling=PRICE - 1)
    answer = await edge.charges.Charge(charge_pb2.ChargeRequest(charge=charge_of(payment)), metadata=edge.news)
    refusal = answer.result.refusal
    assert not answer.result.accepted
    assert refusal.reason == Reason.INSUFFICIENT_CEILING
    assert (refusal.retry, refusal.field, refusal.got, refusal.allowed) == (True, "ceiling", "99", "at least 100")
    assert refusal.totals.channel_id == ALICE.channel_id()


# x402's verbs.


async def test_supported_tells_what_is_served_and_the_limits(edge: Edge) -> None:
    answer = await edge.facilitator.Supported(facilitator_pb2.SupportedRequest(), metadata=edge.news)
    deferred, exact = answer.kinds
    assert (deferred.scheme, exact.scheme) == ("deferred", "exact")
    assert (deferred.escrow, deferred.operator) == (OFFER.escrow, OFFER.operator)
    assert deferred.withdraw_delay_s == 86_400
    assert (deferred.assets[0].symbol, decode_amount(deferred.assets[0].min_deposit, "")) == ("USDC", 1_000)
    assert (answer.limits.charges_per_batch_max, answer.limits.unanswered_batches_max) == (256, 8)
    assert answer.limits.reservation_s == edge.market.rules.reservation_s
    assert (list(answer.receivers), list(answer.scopes)) == ([NEWS], ["charge", "read", "settle"])


async def test_verify_then_settle_a_deferred_payment(edge: Edge) -> None:
    await edge.market.fund(ALICE, 10_000)
    request = verify_request(ALICE.payment(1, PRICE, ceiling=PRICE))
    verified = await edge.facilitator.Verify(request, metadata=edge.news)
    assert (verified.valid, verified.payer, len(verified.handle)) == (True, ALICE.config.payer, 64)
    again = await edge.facilitator.Verify(request, metadata=edge.news)
    assert (again.valid, again.replayed, again.handle) == (True, True, b"")
    settle = facilitator_pb2.SettleRequest(terms=terms_of("deferred", PRICE - 10), handle=verified.handle)
    # Whoever holds the handle may settle it, another of the seller's workers for example.
    settled = await edge.facilitator.Settle(settle, metadata=edge.music)
    assert (settled.success, decode_amount(settled.amount, ""), decode_amount(settled.charged, "")) == (True, 90, 90)
    settled = await edge.facilitator.Settle(settle, metadata=edge.news)
    assert (settled.success, settled.replayed) == (True, True)
    other = verify_request(ALICE.payment(1, PRICE, ceiling=PRICE, request=OTHER_PAGE))
    refusal = (await edge.facilitator.Verify(other, metadata=edge.news)).refusal
    assert refusal.reason == Reason.PAYMENT_ID_REUSED


async def test_verify_then_release_a_deferred_payment(edge: Edge) -> None:
    await edge.market.fund(ALICE, 10_000)
    request = verify_request(ALICE.payment(1, PRICE, ceiling=PRICE))
    verified = await edge.facilitator.Verify(request, metadata=edge.news)
    settle = facilitator_pb2.SettleRequest(terms=terms_of("deferred"), handle=verified.handle, release=True)
    settled = await edge.facilitator.Settle(settle, metadata=edge.news)
    assert (settled.success, settled.amount) == (True, b"")
    refusal = (await edge.facilitator.Verify(request, metadata=edge.news)).refusal
    assert refusal.reason == Reason.RESERVATION_RELEASED


async def test_x1_an_exact_payment_is_its_attempts_on_the_wire_too(edge: Edge) -> None:
    edge.market.chain.balances[ALICE.signer.address] = 1_000
    payment, terms = exact_of(transfer_of(ALICE)), terms_of("exact")
    first = facilitator_pb2.Attempt(id=bytes([1]) * 16, request_hash=bytes(32))
    other = facilitator_pb2.Attempt(id=bytes([2]) * 16, request_hash=bytes(32))

    async def verify(attempt: facilitator_pb2.Attempt) -> facilitator_pb2.VerifyResponse:
        request = facilitator_pb2.VerifyRequest(terms=terms, exact=payment, attempt=attempt)
        return await edge.facilitator.Verify(request, metadata=edge.news)

    async def settle(attempt: facilitator_pb2.Attempt, *, release: bool = False) -> facilitator_pb2.SettleResponse:
        request = facilitator_pb2.SettleRequest(terms=terms, exact=payment, attempt=attempt, release=release)
        return await edge.facilitator.Settle(request, metadata=edge.news)

    verified = await verify(first)
    assert (verified.valid, verified.reservation_expires_at) == (True, payment.valid_before)
    assert (await verify(other)).refusal.reason == Reason.PAYMENT_PENDING
    assert (await settle(first)).success
    assert (await settle(first)).success
    assert (await settle(other)).refusal.reason == Reason.PAYMENT_USED
    assert (await settle(first, release=True)).success
    assert (await verify(other)).valid
    assert (await settle(other)).success
    assert (await settle(first)).refusal.reason == Reason.PAYMENT_USED


async def test_x5_exact_is_not_among_what_is_supported_while_the_sender_is_poor(edge: Edge) -> None:
    edge.market.chain.gas_money = 0
    answer = await edge.facilitator.Supported(facilitator_pb2.SupportedRequest(), metadata=edge.news)
    assert [kind.scheme for kind in answer.kinds] == ["deferred"]


async def test_verify_then_settle_an_exact_payment(edge: Edge) -> None:
    edge.market.chain.balances[ALICE.signer.address] = 1_000
    payment = exact_of(transfer_of(ALICE))
    terms = terms_of("exact")
    verified = await edge.facilitator.Verify(
        facilitator_pb2.VerifyRequest(terms=terms, exact=payment), metadata=edge.news
    )
    assert (verified.valid, verified.payer, verified.handle) == (True, ALICE.signer.address, b"")
    settle = facilitator_pb2.SettleRequest(terms=terms, exact=payment)
    settled = [await edge.facilitator.Settle(settle, metadata=edge.news) for _ in range(2)]
    assert [answer.success for answer in settled] == [True, True]
    assert [answer.replayed for answer in settled] == [False, True]
    assert settled[0].transaction == settled[1].transaction != b""
    foreign = await refused(edge.facilitator.Settle(settle, metadata=edge.music))
    assert foreign.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_refusal_has_the_code_that_its_scheme_has_for_it(edge: Edge) -> None:
    payment = exact_of(transfer_of(ALICE))
    request = facilitator_pb2.VerifyRequest(terms=terms_of("exact", amount=9_999), exact=payment)
    refusal = (await edge.facilitator.Verify(request, metadata=edge.news)).refusal
    assert (refusal.reason, refusal.code) == (Reason.AMOUNT_MISMATCH, REASON_CODES[Reason.AMOUNT_MISMATCH])
    settle = facilitator_pb2.SettleRequest(terms=request.terms, exact=payment)
    assert (await edge.facilitator.Settle(settle, metadata=edge.news)).refusal.code == refusal.code
    unknown = facilitator_pb2.VerifyRequest(terms=terms_of("upto"))
    assert not (await edge.facilitator.Verify(unknown, metadata=edge.news)).refusal.code


async def test_an_unknown_scheme_is_refused_by_name(edge: Edge) -> None:
    request = facilitator_pb2.VerifyRequest(terms=terms_of("upto"))
    refusal = (await edge.facilitator.Verify(request, metadata=edge.news)).refusal
    assert (refusal.reason, refusal.allowed) == (Reason.SCHEME_UNSUPPORTED, "deferred or exact")
    settle = facilitator_pb2.SettleRequest(terms=terms_of("upto"))
    refusal = (await edge.facilitator.Settle(settle, metadata=edge.news)).refusal
    assert refusal.reason == Reason.SCHEME_UNSUPPORTED


# Accounts.


async def test_x10_a_payer_hears_which_of_its_authorizations_were_used(edge: Edge) -> None:
    edge.market.chain.balances[ALICE.signer.address] = 1_000
    transfer = transfer_of(ALICE)
    settled = await edge.facilitator.Settle(
        facilitator_pb2.SettleRequest(terms=terms_of("exact"), exact=exact_of(transfer)), metadata=edge.news
    )
    assert settled.success
    request = account_pb2.GetBalanceRequest(
        network=NETWORK,
        account=config_of(ALICE.config),
        authorization=authorization_of(signed(ALICE, eip712.hash_read_account(ALICE.account_id, NOW_S + 60))),
        nonces=[transfer.nonce, bytes(32)],
    )
    told = await edge.accounts.GetBalance(request)
    assert list(told.nonces_used) == [True, False]
    assert told.nonces_at > 0
    request.nonces.extend([bytes(32)] * 15)
    error = await refused(edge.accounts.GetBalance(request))
    assert (error.code(), "at most 16" in (error.details() or "")) == (grpc.StatusCode.INVALID_ARGUMENT, True)


@pytest.mark.parametrize(("sponsors", "allowed", "nonce"), [(True, 700, 3), (False, 2**128, 0)])
async def test_a_payer_hears_what_permit2_may_move_where_it_asks(
    edge: Edge, sponsors: bool, allowed: int, nonce: int
) -> None:
    read = authorization_of(signed(ALICE, eip712.hash_read_account(ALICE.account_id, NOW_S + 60)))
    request = account_pb2.GetBalanceRequest(
        network=NETWORK, account=config_of(ALICE.config), authorization=read, permit2=True
    )
    chain = edge.market.chain
    assert not (await edge.accounts.GetBalance(request)).HasField("permit2"), "the token is not moved by Permit2"
    chain.permit2_token = Permit2TokenTwin(chain, sponsors_permits=sponsors)
    chain.permit2_token.allowances[ALICE.signer.address] = allowed
    chain.permit2_token.permits[ALICE.signer.address] = 3
    told = (await edge.accounts.GetBalance(request)).permit2
    assert decode_amount(told.allowance, "") == min(allowed, 2**128 - 1)
    assert (told.sponsors_permits, told.permit_nonce) == (sponsors, nonce)
    request.permit2 = False
    assert not (await edge.accounts.GetBalance(request)).HasField("permit2")
    request.permit2, request.authorization.signature = True, bytes(65)
    assert (await edge.accounts.GetBalance(request)).refusal.reason == Reason.CALL_SIGNATURE


async def test_a_payers_whole_life_over_the_wire(edge: Edge) -> None:
    edge.market.chain.balances[ALICE.signer.address] = 10_000
    read = authorization_of(signed(ALICE, eip712.hash_read_account(ALICE.account_id, NOW_S + 60)))
    held = await edge.accounts.GetBalance(
        account_pb2.GetBalanceRequest(network=NETWORK, account=config_of(ALICE.config), authorization=read)
    )
    assert (decode_amount(held.balance, ""), list(held.nonces_used)) == (10_000, [])

    deposit = deposit_of(ALICE, 5_000)
    request = account_pb2.DepositRequest(
        network=NETWORK,
        account=config_of(ALICE.config),
        amount=encode_amount(deposit.amount),
        valid_after=deposit.valid_after,
        valid_before=deposit.valid_before,
        salt=deposit.salt,
        signature=deposit.signature,
    )
    deposited = await edge.accounts.Deposit(request)
    assert len(deposited.transaction) == 32
    # Everybody can read this request in the deposit's transaction: its answer tells nothing that is not there too.
    assert await edge.accounts.Deposit(request) == account_pb2.DepositResponse(transaction=deposited.transaction)

    channel_id, deadline = ALICE.channel_id(), NOW_S + 60
    call = signed(ALICE, eip712.hash_open_channel(channel_id, deadline))
    opened = await edge.accounts.OpenChannel(
        account_pb2.OpenChannelRequest(
            network=NETWORK, config=config_of(ALICE.config.channel(NEWS)), authorization=authorization_of(call)
        )
    )
    assert opened.channel.channel_id == channel_id

    key = ALICE.spend_key(cap=1_000)
    call = signed(
        ALICE,
        eip712.hash_register_spend_key(
            ALICE.account_id, key.key_id, key_hash(key.secret), key.cap, key.expires_at, deadline
        ),
    )
    registered = await edge.accounts.RegisterSpendKey(
        account_pb2.RegisterSpendKeyRequest(
            account_id=ALICE.account_id,
            key_id=key.key_id,
            secret=key.secret,
            cap=encode_amount(key.cap),
            expires_at=key.expires_at,
            authorization=authorization_of(call),
        )
    )
    assert registered.spend_key.key_id == key.key_id

    charge = charge_pb2.ChargeRequest(charge=charge_of(ALICE.payment(1, PRICE, ceiling=1_000, key=key)))
    assert (await edge.charges.Charge(charge, metadata=edge.news)).result.accepted

    account = await edge.accounts.GetAccount(
        account_pb2.GetAccountRequest(account_id=ALICE.account_id, authorization=read)
    )
    assert (account.network, account.config) == (NETWORK, config_of(ALICE.config))
    assert account.payment_id_retention_s == edge.market.rules.payment_id_retention_s
    assert decode_amount(account.account.committed, "") == PRICE
    assert decode_amount(account.spend_keys[0].spent, "") == PRICE
    assert decode_amount(account.channels[0].ceiling, "") == 1_000

    offered = await edge.accounts.GetTotalsToApprove(
        account_pb2.GetTotalsToApproveRequest(account_id=ALICE.account_id, authorization=read)
    )
    totals = [(total.receiver, decode_amount(total.total, "")) for total in offered.totals]
    assert totals == [(NEWS, PRICE)]
    digest = eip712.digest(edge.market.chain.domain, eip712.hash_totals_approval(ALICE.account_id, totals))
    approved = await edge.accounts.ApproveTotals(
        account_pb2.ApproveTotalsRequest(
            account_id=ALICE.account_id, totals=offered.totals, signature=ALICE.signer.sign(digest)
        )
    )
    assert not approved.HasField("refusal")

    call = signed(ALICE, eip712.hash_revoke_spend_key(ALICE.account_id, key.key_id, deadline))
    revoked = await edge.accounts.RevokeSpendKey(
        account_pb2.RevokeSpendKeyRequest(
            account_id=ALICE.account_id, key_id=key.key_id, authorization=authorization_of(call)
        )
    )
    assert revoked.spend_key.revoked

    call = signed(ALICE, eip712.hash_request_refund(ALICE.account_id, bytes(32), 0, deadline))
    refunded = await edge.accounts.RequestRefund(
        account_pb2.RequestRefundRequest(
            account_id=ALICE.account_id, refund_id=bytes(32), authorization=authorization_of(call)
        )
    )
    assert decode_amount(refunded.amount, "") == 5_000 - PRICE
    assert decode_amount(refunded.account.funds, "") == PRICE


async def test_payers_refusals_are_answers_too(edge: Edge) -> None:
    call = authorization_of(SignedCall(NOW_S + 60, bytes(65)))
    account = {"account_id": ALICE.account_id, "authorization": call}
    answers = [
        await edge.accounts.GetAccount(account_pb2.GetAccountRequest(**account)),
        await edge.accounts.RegisterSpendKey(
            account_pb2.RegisterSpendKeyRequest(**account, key_id=bytes(32), secret=bytes(32))
        ),
        await edge.accounts.RevokeSpendKey(account_pb2.RevokeSpendKeyRequest(**account, key_id=bytes(32))),
        await edge.accounts.RequestRefund(account_pb2.RequestRefundRequest(**account, refund_id=bytes(32))),
        await edge.accounts.GetTotalsToApprove(account_pb2.GetTotalsToApproveRequest(**account)),
        await edge.accounts.ApproveTotals(
            account_pb2.ApproveTotalsRequest(account_id=ALICE.account_id, signature=bytes(65))
        ),
    ]
    assert {answer.refusal.reason for answer in answers} == {int(Reason.ACCOUNT_UNKNOWN)}


# Settlements.


def claim(number: int, status: TransactionStatus = TransactionStatus.FINAL) -> OutboundTransaction:
    return OutboundTransaction(
        id=number,
        network=NETWORK,
        kind=TransactionKind.CLAIM,
        reference=number.to_bytes(32, "big"),
        sender=bytes(20),
        nonce=number,
        to=bytes(20),
        data=b"",
        gas_limit=1,
        attempts=(Attempt(number.to_bytes(32, "big"), b"raw", 1, 1, NOW_S),),
        status=status,
        created_at=NOW_S,
        rows=2,
        payouts=(Payout(NEWS, ALICE.config.token, 70), Payout(MUSIC, ALICE.config.token, 30)),
    )


async def test_a_seller_sees_its_own_part_of_settlements(edge: Edge) -> None:
    for number in (1, 2, 3):
        await edge.market.outbox.add(replace(claim(number), id=0))
    request = settlement_pb2.ListSettlementsRequest(limit=2)
    first = (await edge.settlements.ListSettlements(request, metadata=edge.news)).settlements
    assert [settlement.id for settlement in first] == [3, 2]
    assert [payout.receiver for payout in first[0].payouts] == [NEWS]
    assert first[0].transaction == (3).to_bytes(32, "big")
    request = settlement_pb2.ListSettlementsRequest(before_id=first[-1].id)
    rest = (await edge.settlements.ListSettlements(request, metadata=edge.news)).settlements
    assert [settlement.id for settlement in rest] == [1]
    error = await refused(
        edge.settlements.ListSettlements(settlement_pb2.ListSettlementsRequest(limit=1_001), metadata=edge.news)
    )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_settle_now_is_for_the_callers_receivers_only(edge: Edge) -> None:
    edge.settlement.answer = [claim(1, TransactionStatus.MINED)]
    answer = await edge.settlements.SettleNow(settlement_pb2.SettleNowRequest(), metadata=edge.music)
    assert edge.settlement.asked == [frozenset({MUSIC})]
    assert answer.settlements[0].status == settlement_pb2.SETTLEMENT_STATUS_MINED
    assert [payout.receiver for payout in answer.settlements[0].payouts] == [MUSIC]
    edge.settlement.answer = ChainUnavailableError("no endpoint answers")
    answer = await edge.settlements.SettleNow(settlement_pb2.SettleNowRequest(), metadata=edge.music)
    assert answer.refusal.reason == Reason.CHAIN_UNAVAILABLE


async def test_r12_settle_now_tells_what_was_left_out_and_why(edge: Edge) -> None:
    edge.settlement.left_out = [
        LeftOut(NETWORK, b"\x01" * 32, MUSIC, b"\x70" * 20, 5, "ZeroAmount()"),
        LeftOut(NETWORK, b"\x02" * 32, NEWS, b"\x70" * 20, 6, "of somebody else"),
    ]
    answer = await edge.settlements.SettleNow(settlement_pb2.SettleNowRequest(), metadata=edge.music)
    (left_out,) = answer.left_out
    assert (left_out.network, left_out.token) == (NETWORK, b"\x70" * 20)
    assert (left_out.channel_id, left_out.receiver) == (b"\x01" * 32, MUSIC)
    assert (decode_amount(left_out.amount, "amount"), left_out.reason) == (5, "ZeroAmount()")


async def test_a_token_settles_a_few_times_at_once_and_then_has_to_wait(edge: Edge) -> None:
    request = settlement_pb2.SettleNowRequest()
    for _ in range(SETTLE_NOW_BURST):
        assert not (await edge.settlements.SettleNow(request, metadata=edge.music)).HasField("refusal")
    refusal = (await edge.settlements.SettleNow(request, metadata=edge.music)).refusal
    assert (refusal.reason, refusal.retry) == (Reason.OVERLOADED, True)
    assert len(edge.settlement.asked) == SETTLE_NOW_BURST
    assert not (await edge.settlements.SettleNow(request, metadata=edge.news)).HasField("refusal")


async def test_r13_the_health_of_settlement_is_told_by_itself(edge: Edge) -> None:
    trouble, stopped = list[str](), list[str]()
    health = Health(
        [lambda: stopped],
        edge.server.tell_health,
        settlement=[lambda: trouble],
        tell_settling=edge.server.tell_settling,
    )
    stub = health_pb2_grpc.HealthStub(edge.channel)

    async def serving_() -> list[bool]:
        await health.look()
        answers = [await stub.Check(health_pb2.HealthCheckRequest(service=name)) for name in ("", *SERVICE_NAMES)]
        return [answer.status == health_pb2.HealthCheckResponse.SERVING for answer in answers]

    assert await serving_() == [True] * 5
    trouble.append("1 withdrawing accounts are not claimed in full")
    assert await serving_() == [True] * 4 + [False]
    stopped.append("the store cannot be written")
    assert await serving_() == [False] * 5
    stopped.clear()
    assert await serving_() == [True] * 4 + [False]
    trouble.clear()
    assert await serving_() == [True] * 5


# What is malformed, what is unexpected.


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("charges.Charge", charge_pb2.ChargeRequest(), "charge"),
        ("charges.Charge", charge_pb2.ChargeRequest(charge=charge_pb2.Charge()), "channel_id"),
        ("facilitator.Verify", facilitator_pb2.VerifyRequest(), "terms"),
        (
            "facilitator.Verify",
            facilitator_pb2.VerifyRequest(terms=terms_of("deferred"), exact=facilitator_pb2.ExactPayment()),
            "payment",
        ),
        (
            "facilitator.Verify",
            facilitator_pb2.VerifyRequest(terms=terms_of("deferred"), deferred=facilitator_pb2.DeferredPayment()),
            "deferred.charge",
        ),
        (
            "facilitator.Settle",
            facilitator_pb2.SettleRequest(terms=terms_of("deferred"), handle=bytes(63)),
            "handle",
        ),
        (
            "facilitator.Settle",
            facilitator_pb2.SettleRequest(terms=terms_of("exact"), exact=exact_of(transfer_of(ALICE)), release=True),
            "release",
        ),
        (
            "facilitator.Verify",
            facilitator_pb2.VerifyRequest(
                terms=terms_of("exact"),
                exact=exact_of(transfer_of(ALICE)),
                attempt=facilitator_pb2.Attempt(id=bytes(15), request_hash=bytes(32)),
            ),
            "attempt.id",
        ),
        (
            "facilitator.Settle",
            facilitator_pb2.SettleRequest(
                terms=terms_of("exact"),
                exact=exact_of(transfer_of(ALICE)),
                attempt=facilitator_pb2.Attempt(id=bytes(16)),
            ),
            "attempt.request_hash",
        ),
        ("accounts.Deposit", account_pb2.DepositRequest(), "network"),
        ("accounts.Deposit", account_pb2.DepositRequest(network=NETWORK), "signature"),
        ("accounts.GetBalance", account_pb2.GetBalanceRequest(), "network"),
        ("accounts.GetBalance", account_pb2.GetBalanceRequest(network=NETWORK), "account.payer"),
        (
            "accounts.GetBalance",
            account_pb2.GetBalanceRequest(network=NETWORK, account=config_of(ALICE.config)),
            "authorization",
        ),
        ("accounts.GetAccount", account_pb2.GetAccountRequest(), "account_id"),
        ("accounts.GetAccount", account_pb2.GetAccountRequest(account_id=bytes(32)), "authorization"),
        (
            "accounts.GetAccount",
            account_pb2.GetAccountRequest(account_id=bytes(32), after_channel_id=b"x"),
            "after_channel_id",
        ),
        ("accounts.OpenChannel", account_pb2.OpenChannelRequest(network="solana:1"), "network"),
        ("accounts.RegisterSpendKey", account_pb2.RegisterSpendKeyRequest(account_id=bytes(32)), "key_id"),
        ("accounts.RevokeSpendKey", account_pb2.RevokeSpendKeyRequest(account_id=bytes(32)), "key_id"),
        ("accounts.RequestRefund", account_pb2.RequestRefundRequest(account_id=bytes(32)), "refund_id"),
        ("accounts.GetTotalsToApprove", account_pb2.GetTotalsToApproveRequest(), "account_id"),
        (
            "accounts.ApproveTotals",
            account_pb2.ApproveTotalsRequest(account_id=bytes(32), totals=[account_pb2.ReceiverTotal()]),
            "totals[0].receiver",
        ),
    ],
)
async def test_what_is_malformed_is_invalid_and_named(edge: Edge, method: str, request_: Message, field: str) -> None:
    service, _, name = method.partition(".")
    error = await refused(getattr(getattr(edge, service), name)(request_, metadata=edge.news))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(error.details()).startswith(f"{field}: got ")


async def test_what_is_unexpected_leaks_nothing_and_is_logged_under_its_number(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr(edge.market.batcher, "start", fail)
    await edge.market.fund(ALICE, 10_000, NEWS)
    request = charge_pb2.ChargeRequest(charge=charge_of(ALICE.payment(1, PRICE, ceiling=PRICE)))
    with caplog.at_level(logging.ERROR):
        error = await refused(edge.charges.Charge(request, metadata=edge.news))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "the inside" not in str(error.details())
    (record,) = [record for record in caplog.records if "unexpected failure" in record.message]
    assert record.__dict__["incident"] in str(error.details())
    assert record.exc_info is not None


async def test_an_outcome_that_is_not_known_is_no_refusal(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise StoreUncertainError("the disk failed in the middle")

    monkeypatch.setattr(edge.market.batcher, "start", fail)
    await edge.market.fund(ALICE, 10_000, NEWS)
    request = charge_pb2.ChargeRequest(charge=charge_of(ALICE.payment(1, PRICE, ceiling=PRICE)))
    error = await refused(edge.charges.Charge(request, metadata=edge.news))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "send the same call again" in str(error.details())


async def test_a_message_beyond_the_limit_is_refused_unread(edge: Edge) -> None:
    request = account_pb2.ApproveTotalsRequest(signature=bytes(1024 * 1024 + 1))
    assert (await refused(edge.accounts.ApproveTotals(request))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# Health, reflection, binding.


async def test_health_tells_every_service(edge: Edge) -> None:
    stub = health_pb2_grpc.HealthStub(edge.channel)
    for serving_, status in ((True, 1), (False, 2)):
        await edge.server.tell_health(serving=serving_)
        for name in ("", *SERVICE_NAMES):
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status == status


async def test_reflection_lists_the_services(edge: Edge) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(edge.channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    async for answer in stub.ServerReflectionInfo(requests):
        assert {service.name for service in answer.list_services_response.service} >= set(SERVICE_NAMES)


async def test_an_address_that_is_taken_is_one_sentence(edge: Edge) -> None:
    with pytest.raises(ConfigurationError, match=r"server\.listen"):
        GrpcServer(edge.services, f"127.0.0.1:{edge.server.port}", None)
