"""A tour of all refusals: each reason is reached from the outside, over a real server, by what really causes it."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import permit2_payments
import pytest
from batch_market import TERMS as BATCH_TERMS
from batch_market import BatchPayer, batch_market, message_of, settled
from chain_twin import CONTRACT_WALLET_SIGNATURE, Permit2TokenTwin
from doubles import DOMAIN, ESCROW_REF, MUSIC, NETWORK, NEWS, NOW_MS, NOW_S, OTHER_PAGE, TOKEN, Payer
from marketplace import MIN_DEPOSIT, PRICE, deposit_of, signed, transfer_of
from serving_twin import Edge, charge_of, serving
from wire import ALICE, authorization_of, config_of, exact_of, terms_of, verify_request

from tallystick import eip712
from tallystick.amounts import encode_amount
from tallystick.channels import channel_id
from tallystick.codec.facilitator import write_terms
from tallystick.hexadecimal import checksum
from tallystick.reasons import Reason
from tallystick.spend_keys import key_hash
from tallystick.v1 import account_pb2, charge_pb2, common_pb2, facilitator_pb2
from tallystick.x402 import (
    ExactAuthorization,
    PaymentPayload,
    PaymentRequirements,
    Permit2Authorization,
    permit2_payload,
    permit_extension,
)
from tallystick.x402.batch_settlement import VoucherPayload
from tallystick.x402.messages import encode_json
from tallystick_aggregator.auth.limits import GasLimits
from tallystick_aggregator.auth.transfer_limits import NO_LIMITS, TransferLimits
from tallystick_aggregator.chain.port import DepositAuthorization, RevertedError
from tallystick_aggregator.charging import UncheckedPayment
from tallystick_aggregator.charging.batcher import BatcherSettings
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.ledger.state import SpendKey
from tallystick_aggregator.schemes.exact.preconditions import TRANSFER_GAS_MAX
from tallystick_aggregator.store.port import StoreUnavailableError, TransactionStatus

DAY_MS = 86_400_000
BOB = BatchPayer("bob")
FUNDS = 10_000
Way = Callable[[Edge], Awaitable[common_pb2.Refusal]]
WAYS: dict[Reason, Way] = {}
ELSEWHERE = {Reason.UNSPECIFIED, Reason.REQUEST_MISMATCH}
"""No refusals of an aggregator: what was paid for is the seller's to compare."""
RULES: dict[Reason, Rules] = {
    Reason.EXPOSURE_LIMIT: Rules(exposure_per_account_max=PRICE - 1),
    Reason.RESERVATION_LIMIT: Rules(reservations_per_channel_max=1),
    Reason.SPEND_KEY_LIMIT: Rules(spend_keys_per_account_max=1),
    Reason.CHANNEL_LIMIT: Rules(channels_per_account_max=1),
}


TRANSFERS: dict[Reason, TransferLimits] = {
    Reason.EXACT_AMOUNT_TOO_SMALL: TransferLimits(amount_min=PRICE + 1),
}


def reaches(reason: Reason) -> Callable[[Way], Way]:
    """Mark a function as a way to this refusal."""

    def mark(way: Way) -> Way:
        WAYS[reason] = way
        return way

    return mark


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in ELSEWHERE])
async def test_every_refusal_is_reached_from_the_outside_and_says_what_it_should(
    reason: Reason, tmp_path: Path
) -> None:
    rules, transfers = RULES.get(reason), TRANSFERS.get(reason, NO_LIMITS)
    async with (
        batch_market() as batch,
        serving(tmp_path, rules=rules, transfers=transfers, with_upto=True, schemes=[batch.scheme]) as edge,
    ):
        edge.batch = batch
        refusal = await WAYS[reason](edge)
    assert Reason.from_wire(refusal.reason) is reason
    assert refusal.retry == reason.retry
    assert refusal.message


# What the ways are made of.


async def charge(edge: Edge, payment: UncheckedPayment) -> common_pb2.Refusal:
    request = charge_pb2.ChargeRequest(charge=charge_of(payment))
    return (await edge.charges.Charge(request, metadata=edge.news)).result.refusal


async def funded(edge: Edge, amount: int = FUNDS) -> None:
    await edge.market.fund(ALICE, amount, NEWS)


async def charge_funded(edge: Edge, payment: UncheckedPayment) -> common_pb2.Refusal:
    await funded(edge)
    return await charge(edge, payment)


async def verify(edge: Edge, request: facilitator_pb2.VerifyRequest) -> common_pb2.Refusal:
    return (await edge.facilitator.Verify(request, metadata=edge.news)).refusal


async def verify_changed(edge: Edge, **changes: Any) -> common_pb2.Refusal:
    """Verify a payment by a funded payer on a channel whose configuration has these fields changed."""
    await funded(edge)
    request = verify_request(voucher_payment())
    config = replace(ALICE.config.channel(NEWS), **changes)
    request.deferred.config.CopyFrom(config_of(config))
    request.deferred.charge.channel_id = channel_id(DOMAIN, config)
    return await verify(edge, request)


async def reserve(edge: Edge, number: int = 1) -> bytes:
    request = verify_request(ALICE.payment(number, PRICE, ceiling=number * PRICE))
    return (await edge.facilitator.Verify(request, metadata=edge.news)).handle


async def settle(edge: Edge, handle: bytes, *, release: bool = False) -> common_pb2.Refusal:
    request = facilitator_pb2.SettleRequest(terms=terms_of("deferred"), handle=handle, release=release)
    return (await edge.facilitator.Settle(request, metadata=edge.news)).refusal


async def verify_exact(edge: Edge, transfer: ExactAuthorization, money: int = FUNDS) -> common_pb2.Refusal:
    edge.market.chain.balances[ALICE.signer.address] = money
    return await verify(edge, facilitator_pb2.VerifyRequest(terms=terms_of("exact"), exact=exact_of(transfer)))


async def settle_exact(edge: Edge, attempt: int = 1) -> common_pb2.Refusal:
    edge.market.chain.balances[ALICE.signer.address] = FUNDS
    request = facilitator_pb2.SettleRequest(terms=terms_of("exact"), exact=exact_of(transfer_of(ALICE)))
    request.attempt.id, request.attempt.request_hash = attempt.to_bytes(16, "big"), bytes(32)
    return (await edge.facilitator.Settle(request, metadata=edge.news)).refusal


async def deposit(edge: Edge, authorization: DepositAuthorization) -> common_pb2.Refusal:
    edge.market.chain.balances[ALICE.signer.address] = FUNDS
    request = account_pb2.DepositRequest(
        network=NETWORK,
        account=config_of(authorization.account),
        amount=encode_amount(authorization.amount),
        valid_after=authorization.valid_after,
        valid_before=authorization.valid_before,
        salt=authorization.salt,
        signature=authorization.signature,
    )
    return (await edge.accounts.Deposit(request)).refusal


async def register(edge: Edge, key: SpendKey) -> common_pb2.Refusal:
    struct = eip712.hash_register_spend_key(
        ALICE.account_id, key.key_id, key_hash(key.secret), key.cap, key.expires_at, NOW_S + 60
    )
    request = account_pb2.RegisterSpendKeyRequest(
        account_id=ALICE.account_id,
        key_id=key.key_id,
        secret=key.secret,
        cap=encode_amount(key.cap),
        expires_at=key.expires_at,
        authorization=authorization_of(signed(ALICE, struct)),
    )
    return (await edge.accounts.RegisterSpendKey(request)).refusal


async def read_account(edge: Edge, signer: Payer = ALICE, deadline: int = NOW_S + 60) -> common_pb2.Refusal:
    call = signed(signer, eip712.hash_read_account(ALICE.account_id, deadline), deadline)
    request = account_pb2.GetAccountRequest(account_id=ALICE.account_id, authorization=authorization_of(call))
    return (await edge.accounts.GetAccount(request)).refusal


async def refund(edge: Edge, amount: int, number: int = 1) -> common_pb2.Refusal:
    refund_id = number.to_bytes(32, "big")
    struct = eip712.hash_request_refund(ALICE.account_id, refund_id, amount, NOW_S + 60)
    request = account_pb2.RequestRefundRequest(
        account_id=ALICE.account_id,
        refund_id=refund_id,
        amount=encode_amount(amount),
        authorization=authorization_of(signed(ALICE, struct)),
    )
    return (await edge.accounts.RequestRefund(request)).refusal


async def approve(edge: Edge, totals: list[tuple[bytes, int]]) -> common_pb2.Refusal:
    struct = eip712.hash_totals_approval(ALICE.account_id, totals)
    request = account_pb2.ApproveTotalsRequest(
        account_id=ALICE.account_id,
        totals=[account_pb2.ReceiverTotal(receiver=receiver, total=encode_amount(total)) for receiver, total in totals],
        signature=signed(ALICE, struct).signature,
    )
    return (await edge.accounts.ApproveTotals(request)).refusal


def voucher_payment(number: int = 1) -> UncheckedPayment:
    return ALICE.payment(number, PRICE, ceiling=number * PRICE)


async def charge_with_key(edge: Edge, key: SpendKey, **payment: Any) -> common_pb2.Refusal:
    await funded(edge)
    assert not (await register(edge, key)).reason
    return await charge(edge, ALICE.payment(1, PRICE, ceiling=FUNDS, key=key, **payment))


# The charge itself.


@reaches(Reason.PAYMENT_ID_REUSED)
async def _(edge: Edge) -> common_pb2.Refusal:
    assert not (await charge_funded(edge, voucher_payment())).reason
    return await charge(edge, ALICE.payment(1, PRICE - 1, ceiling=2 * PRICE))


@reaches(Reason.PAYMENT_ID_EXPIRED)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await charge_funded(edge, ALICE.payment(1, PRICE, ceiling=PRICE, ms=NOW_MS - 3 * DAY_MS))


@reaches(Reason.PAYMENT_ID_INVALID)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await charge_funded(edge, ALICE.payment(1, PRICE, ceiling=PRICE, ms=NOW_MS + DAY_MS))


@reaches(Reason.VOUCHER_SIGNATURE)
async def _(edge: Edge) -> common_pb2.Refusal:
    stranger = Payer("stranger").voucher(PRICE)
    return await charge_funded(edge, voucher_payment()._replace(signature=stranger.signature))


@reaches(Reason.VOUCHER_USED)
async def _(edge: Edge) -> common_pb2.Refusal:
    assert not (await charge_funded(edge, voucher_payment(2))).reason
    return await charge(edge, ALICE.payment(3, PRICE, ceiling=2 * PRICE))


@reaches(Reason.SPEND_KEY_REQUIRED)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    assert not (await register(edge, ALICE.spend_key())).reason
    return await charge(edge, voucher_payment())


@reaches(Reason.SPEND_KEY_UNKNOWN)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await charge_funded(edge, ALICE.payment(1, PRICE, ceiling=PRICE, key=ALICE.spend_key(7)))


@reaches(Reason.SPEND_KEY_PROOF)
async def _(edge: Edge) -> common_pb2.Refusal:
    key = ALICE.spend_key()
    await funded(edge)
    assert not (await register(edge, key)).reason
    return await charge(edge, ALICE.payment(1, PRICE, ceiling=PRICE, key=key)._replace(request_hash=OTHER_PAGE))


@reaches(Reason.SPEND_KEY_EXPIRED)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    return await register(edge, ALICE.spend_key(expires_at=NOW_S - 1))


@reaches(Reason.SPEND_KEY_REVOKED)
async def _(edge: Edge) -> common_pb2.Refusal:
    key = ALICE.spend_key()
    await funded(edge)
    assert not (await register(edge, key)).reason
    struct = eip712.hash_revoke_spend_key(ALICE.account_id, key.key_id, NOW_S + 60)
    request = account_pb2.RevokeSpendKeyRequest(
        account_id=ALICE.account_id, key_id=key.key_id, authorization=authorization_of(signed(ALICE, struct))
    )
    assert not (await edge.accounts.RevokeSpendKey(request)).refusal.reason
    return await charge(edge, ALICE.payment(1, PRICE, ceiling=PRICE, key=key))


@reaches(Reason.SPEND_KEY_EXHAUSTED)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await charge_with_key(edge, ALICE.spend_key(cap=PRICE - 1))


@reaches(Reason.AMOUNT_ABOVE_AGREED)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await charge_with_key(edge, ALICE.spend_key(), max_amount=PRICE - 1)


@reaches(Reason.INSUFFICIENT_CEILING)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await charge_funded(edge, ALICE.payment(1, PRICE, ceiling=PRICE - 1))


@reaches(Reason.INSUFFICIENT_FUNDS)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge, PRICE - 1)
    return await charge(edge, voucher_payment())


@reaches(Reason.ACCOUNT_SHORT)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge, PRICE)
    assert not (await charge(edge, voucher_payment())).reason
    short = ev.AccountMirrored(ALICE.account_id, PRICE - 1, 0, 0)
    await edge.market.writer.run(lambda draft, _ledger, _moment: draft.record(short))
    return await charge(edge, voucher_payment(2))


@reaches(Reason.WITHDRAWING)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    withdrawing = ev.AccountMirrored(ALICE.account_id, FUNDS, 1, NOW_S + 60)
    await edge.market.writer.run(lambda draft, _ledger, _moment: draft.record(withdrawing))
    return await charge(edge, voucher_payment())


@reaches(Reason.ACCOUNT_UNKNOWN)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await read_account(edge)


@reaches(Reason.CHANNEL_UNKNOWN)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await charge(edge, voucher_payment())


@reaches(Reason.EXPOSURE_LIMIT)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await charge_funded(edge, voucher_payment())


# Reservations.


@reaches(Reason.RESERVATION_UNKNOWN)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    handle = await reserve(edge)
    return await settle(edge, handle[:-1] + bytes([handle[-1] ^ 1]))


@reaches(Reason.RESERVATION_RELEASED)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    handle = await reserve(edge)
    assert not (await settle(edge, handle, release=True)).reason
    return await settle(edge, handle)


@reaches(Reason.RESERVATION_LIMIT)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    await reserve(edge)
    return await verify(edge, verify_request(voucher_payment(2)))


# The aggregator's own state.


@reaches(Reason.CHAIN_STALE)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    edge.market.stale.add(ESCROW_REF)
    return await charge(edge, voucher_payment())


@reaches(Reason.STORE_UNAVAILABLE)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)

    async def disk_full(_draft: object) -> None:
        raise StoreUnavailableError("the disk is full")

    edge.market.writer._journal.append = disk_full  # type: ignore[method-assign]
    return await charge(edge, voucher_payment())


@reaches(Reason.OVERLOADED)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    edge.market.batcher._settings = BatcherSettings(waiting_max=0)
    return await charge(edge, voucher_payment())


@reaches(Reason.CHAIN_UNAVAILABLE)
async def _(edge: Edge) -> common_pb2.Refusal:
    edge.market.chain.down = True
    return await settle_exact(edge)


# Terms that do not fit together.


@reaches(Reason.PAYLOAD_INVALID)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    return await approve(edge, [])


@reaches(Reason.SCHEME_UNSUPPORTED)
async def _(edge: Edge) -> common_pb2.Refusal:
    request = verify_request(voucher_payment())
    request.terms.scheme = "barter"
    return await verify(edge, request)


@reaches(Reason.NETWORK_UNSUPPORTED)
async def _(edge: Edge) -> common_pb2.Refusal:
    request = verify_request(voucher_payment())
    request.terms.network = "eip155:1"
    return await verify(edge, request)


@reaches(Reason.TOKEN_UNSUPPORTED)
async def _(edge: Edge) -> common_pb2.Refusal:
    request = facilitator_pb2.VerifyRequest(terms=terms_of("exact"), exact=exact_of(transfer_of(ALICE)))
    request.terms.asset = MUSIC
    return await verify(edge, request)


@reaches(Reason.RECEIVER_MISMATCH)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await verify_changed(edge, receiver=MUSIC)


@reaches(Reason.OPERATOR_MISMATCH)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await verify_changed(edge, receiver_authorizer=MUSIC)


@reaches(Reason.TOKEN_MISMATCH)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await verify_changed(edge, token=MUSIC)


@reaches(Reason.CHANNEL_ID_MISMATCH)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    request = verify_request(voucher_payment())
    request.deferred.charge.channel_id = bytes(32)
    return await verify(edge, request)


@reaches(Reason.WITHDRAW_DELAY_OUT_OF_RANGE)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await verify_changed(edge, withdraw_delay_s=1_000)


@reaches(Reason.AMOUNT_MISMATCH)
async def _(edge: Edge) -> common_pb2.Refusal:
    request = verify_request(voucher_payment())
    request.terms.amount = encode_amount(PRICE + 1)
    return await verify(edge, request)


# Exact payments.


@reaches(Reason.EXACT_SIGNATURE)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await verify_exact(edge, replace(transfer_of(ALICE), signature=transfer_of(ALICE, 1).signature))


@reaches(Reason.EXACT_NOT_YET_VALID)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await verify_exact(edge, transfer_of(ALICE, valid_after=NOW_S + 60, valid_before=NOW_S + 600))


@reaches(Reason.EXACT_EXPIRED)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await verify_exact(edge, transfer_of(ALICE, valid_before=NOW_S - 1))


@reaches(Reason.EXACT_NONCE_USED)
async def _(edge: Edge) -> common_pb2.Refusal:
    transfer = transfer_of(ALICE)
    edge.market.chain.used.add((ALICE.signer.address, transfer.nonce))
    return await verify_exact(edge, transfer)


@reaches(Reason.INSUFFICIENT_BALANCE)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await verify_exact(edge, transfer_of(ALICE), money=PRICE - 1)


@reaches(Reason.SIMULATION_FAILED)
async def _(edge: Edge) -> common_pb2.Refusal:
    async def blacklisted(*_: object, **__: object) -> None:
        raise RevertedError("the account is blacklisted")

    edge.market.chain.simulate = blacklisted  # type: ignore[method-assign]
    return await verify_exact(edge, transfer_of(ALICE))


@reaches(Reason.TRANSACTION_FAILED)
async def _(edge: Edge) -> common_pb2.Refusal:
    edge.market.chain.fate = TransactionStatus.REVERTED
    return await settle_exact(edge)


@reaches(Reason.TRANSACTION_PENDING)
async def _(edge: Edge) -> common_pb2.Refusal:
    edge.market.chain.held = True
    return await settle_exact(edge)


@reaches(Reason.PAYMENT_PENDING)
async def _(edge: Edge) -> common_pb2.Refusal:
    edge.market.chain.held = True
    await settle_exact(edge)
    return await settle_exact(edge, attempt=2)


@reaches(Reason.PAYMENT_USED)
async def _(edge: Edge) -> common_pb2.Refusal:
    await settle_exact(edge)
    return await settle_exact(edge, attempt=2)


@reaches(Reason.EXACT_GAS)
async def _(edge: Edge) -> common_pb2.Refusal:
    payer = ALICE.signer.address
    edge.market.chain.contract_wallets.add(payer)
    edge.market.chain.wallet_gas[payer] = TRANSFER_GAS_MAX + 1
    return await verify_exact(edge, replace(transfer_of(ALICE), signature=CONTRACT_WALLET_SIGNATURE))


@reaches(Reason.EXACT_UNAVAILABLE)
async def _(edge: Edge) -> common_pb2.Refusal:
    edge.market.chain.gas_money = 0
    return await settle_exact(edge)


@reaches(Reason.EXACT_AMOUNT_TOO_SMALL)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await settle_exact(edge)


@reaches(Reason.EXACT_PAYER_BARRED)
async def _(edge: Edge) -> common_pb2.Refusal:
    edge.market.chain.fate = TransactionStatus.REVERTED
    await settle_exact(edge)
    return await verify_exact(edge, transfer_of(ALICE, 1))


# Payments by Permit2.


async def by_permit2(
    edge: Edge, payment: Permit2Authorization, scheme: str = "exact", *, allowance: int = FUNDS, amount: int = PRICE
) -> common_pb2.Refusal:
    """Settle a payment whose payer lets Permit2 take this much."""
    payer = ALICE.signer.address
    edge.market.chain.balances[payer] = FUNDS
    edge.market.chain.permit2_token = Permit2TokenTwin(edge.market.chain, sponsors_permits=True)
    edge.market.chain.permit2_token.allowances[payer] = allowance
    accepted = PaymentRequirements(
        scheme=scheme,
        network=NETWORK,
        amount=str(PRICE),
        asset=checksum(TOKEN),
        pay_to=checksum(NEWS),
        max_timeout_seconds=60,
        extra={"assetTransferMethod": "permit2"},
    )
    extensions = None if payment.permit is None else permit_extension(payment.permit)
    payload = PaymentPayload(payload=permit2_payload(payment), accepted=accepted, extensions=extensions)
    request = facilitator_pb2.SettleRequest(terms=terms_of(scheme, amount), payload=encode_json(payload))
    return (await edge.facilitator.Settle(request, metadata=edge.news)).refusal


@reaches(Reason.PERMIT2_ALLOWANCE_REQUIRED)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await by_permit2(edge, permit2_payments.exact_of(ALICE), allowance=PRICE - 1)


@reaches(Reason.PERMIT2_SPENDER)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await by_permit2(edge, permit2_payments.exact_of(ALICE, spender=NEWS))


@reaches(Reason.PERMIT2_PERMIT)
async def _(edge: Edge) -> common_pb2.Refusal:
    permit = permit2_payments.permit_of(ALICE, nonce=7)
    return await by_permit2(edge, permit2_payments.exact_of(ALICE, permit=permit), allowance=0)


@reaches(Reason.UPTO_FACILITATOR_MISMATCH)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await by_permit2(edge, permit2_payments.upto_of(ALICE, facilitator=NEWS), "upto")


@reaches(Reason.UPTO_AMOUNT_EXCEEDED)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await by_permit2(edge, permit2_payments.upto_of(ALICE), "upto", amount=PRICE + 1)


# Payments by batch-settlement.


async def by_voucher(edge: Edge, payload: VoucherPayload, *, settles: bool = False) -> common_pb2.Refusal:
    """Have a channel that was charged once, and then pay by this."""
    assert edge.batch is not None
    await edge.batch.chain.fund(BOB.config, FUNDS)
    settled(await edge.batch.settle(BOB.pay(PRICE)))
    terms, written = write_terms(BATCH_TERMS), encode_json(message_of(payload))
    if settles:
        settling = facilitator_pb2.SettleRequest(terms=terms, payload=written)
        return (await edge.facilitator.Settle(settling, metadata=edge.news)).refusal
    verifying = facilitator_pb2.VerifyRequest(terms=terms, payload=written)
    answers = [await edge.facilitator.Verify(verifying, metadata=edge.news) for _ in range(2)]
    return answers[-1].refusal


@reaches(Reason.CHANNEL_BUSY)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await by_voucher(edge, BOB.pay(2 * PRICE))


@reaches(Reason.CUMULATIVE_AMOUNT_MISMATCH)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await by_voucher(edge, BOB.pay(PRICE))


@reaches(Reason.PENDING_ID_MISMATCH)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await by_voucher(edge, BOB.pay(2 * PRICE, pending_id="00" * 16), settles=True)


# Accounts.


@reaches(Reason.DEPOSIT_BELOW_MINIMUM)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await deposit(edge, deposit_of(ALICE, 1))


@reaches(Reason.DEPOSIT_AUTHORIZATION)
async def _(edge: Edge) -> common_pb2.Refusal:
    return await deposit(edge, replace(deposit_of(ALICE, 2_000), amount=3_000))


@reaches(Reason.CALL_SIGNATURE)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    return await read_account(edge, signer=Payer("stranger"))


@reaches(Reason.CALL_EXPIRED)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    return await read_account(edge, deadline=NOW_S - 1)


@reaches(Reason.SPEND_KEY_LIMIT)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    assert not (await register(edge, ALICE.spend_key(1))).reason
    return await register(edge, ALICE.spend_key(2))


@reaches(Reason.SPEND_KEY_CONFLICT)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    assert not (await register(edge, ALICE.spend_key(1))).reason
    return await register(edge, ALICE.spend_key(1, cap=1))


@reaches(Reason.REFUND_EXCEEDS_AVAILABLE)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    return await refund(edge, FUNDS + 1)


@reaches(Reason.REFUND_PENDING)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    assert not (await refund(edge, MIN_DEPOSIT)).reason
    return await refund(edge, MIN_DEPOSIT, number=2)


@reaches(Reason.REFUND_WITHOUT_PAYMENT)
async def _(edge: Edge) -> common_pb2.Refusal:
    edge.market.budget.limits = GasLimits()
    await funded(edge)
    return await refund(edge, MIN_DEPOSIT)


@reaches(Reason.GAS_BUDGET_SPENT)
async def _(edge: Edge) -> common_pb2.Refusal:
    edge.market.budget.limits = GasLimits(deposits_per_payer_hour_max=1)
    edge.market.chain.balances[ALICE.signer.address] = FUNDS
    assert not (await deposit(edge, deposit_of(ALICE, 2_000))).reason
    refusal = await deposit(edge, deposit_of(ALICE, 2_000, 1))
    assert 0 < refusal.retry_after_s <= 3_601
    return refusal


@reaches(Reason.CHANNEL_LIMIT)
async def _(edge: Edge) -> common_pb2.Refusal:
    await funded(edge)
    config = ALICE.config.channel(MUSIC)
    call = signed(ALICE, eip712.hash_open_channel(ALICE.channel_id(MUSIC), NOW_S + 60))
    request = account_pb2.OpenChannelRequest(
        network=NETWORK, config=config_of(config), authorization=authorization_of(call)
    )
    return (await edge.accounts.OpenChannel(request)).refusal
