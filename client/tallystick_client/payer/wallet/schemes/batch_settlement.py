"""`batch-settlement`, the standard scheme: payments by vouchers, from a channel with a deposit for this seller alone.

The contract is the standard's, at one address on every chain: a 402 cannot name another. Whom the seller lets claim may
be anybody, who can only take what vouchers allow, or give it back; but each other one is another channel, with another
deposit. So it is the operator of the allow-list, unless the scheme is made with `any_authorizer`.

What answers mean is in `wallet.channel_steps`; sections that are named here are of scheme_batch_settlement_evm.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from tallystick import eip712
from tallystick.amounts import parse_amount
from tallystick.channels import WITHDRAW_DELAY_S_MIN
from tallystick.errors import InvalidSignatureError, MalformedError
from tallystick.hexadecimal import checksum, to_hex
from tallystick.quantities import ZERO_ADDRESS
from tallystick.reasons import Reason
from tallystick.tokens import Token
from tallystick.vouchers import UncheckedVoucher, check_voucher
from tallystick.x402 import PaymentRequirements, SettleResponse
from tallystick.x402.batch_settlement import (
    BatchSettlementCode,
    ChannelState,
    VoucherState,
    batch_settlement_payload,
    read_correction,
)
from tallystick.x402.messages import as_object
from tallystick.x402.terms import (
    ASSET_TRANSFER_EIP3009,
    SCHEME_BATCH_SETTLEMENT,
    BatchSettlementTerms,
    read_batch_settlement_terms,
)
from tallystick_client.payer.errors import ChannelDisputedError, WalletError
from tallystick_client.payer.policy.answers import Answer, is_refused, is_unfinished, read_receipt, refused_offers
from tallystick_client.payer.policy.offers import Means, Offer, Offered, allowed_offers, first_difference
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.wallet.channel_steps import Step
from tallystick_client.payer.wallet.rows import SellerChannel
from tallystick_client.payer.wallet.schemes.port import KEPT_S, Order, Outcome, OutgoingPayment, Payer, payment_header

BUSY_PAUSE_S: Final = 1.0
"""Before a payment is tried again whose channel is busy."""
_CORRECTIVE: Final = frozenset(
    {BatchSettlementCode.CUMULATIVE_AMOUNT_MISMATCH, BatchSettlementCode.CUMULATIVE_BELOW_CLAIMED}
)
_TOO_LITTLE: Final = frozenset(
    {
        BatchSettlementCode.CUMULATIVE_EXCEEDS_BALANCE,
        BatchSettlementCode.CHANNEL_NOT_FOUND,
        BatchSettlementCode.MISSING_CHANNEL,
    }
)

Sleep = Callable[[float], Awaitable[None]]


class BatchSettlementScheme:
    """See the module. `any_authorizer`: channels with sellers that claim by themselves, or by others, too."""

    name = SCHEME_BATCH_SETTLEMENT
    is_paid_ahead = True
    charges_once = True
    takes_deposits = True
    advantage = "the contract is the standard's, and no operator is trusted with the deposit"

    def __init__(self, *, any_authorizer: bool = False, sleep: Sleep = asyncio.sleep) -> None:
        self._any_authorizer = any_authorizer
        self._sleep = sleep

    def problem(self, requirements: PaymentRequirements, field: str, operator: Operator, token: Token) -> str:
        """Why this is not the token of the allow-list, or a channel that the wallet opens."""
        added = read_batch_settlement_terms(requirements.extra, f"{field}.extra")
        different = first_difference(
            ("receiverAuthorizer", checksum(added.receiver_authorizer), checksum(self._authorizer(added, operator))),
            ("name", added.name, token.name),
            ("version", added.version, token.version),
            ("assetTransferMethod", added.asset_transfer_method, ASSET_TRANSFER_EIP3009),
        )
        if different:
            return different
        if not WITHDRAW_DELAY_S_MIN <= added.withdraw_delay_s <= operator.withdraw_delay_s:
            allowed = f"{WITHDRAW_DELAY_S_MIN} to {operator.withdraw_delay_s}"
            return f"extra.withdrawDelay: got {added.withdraw_delay_s}, allowed {allowed} seconds"
        if added.receiver_authorizer == ZERO_ADDRESS:
            return "extra.receiverAuthorizer: got zero, allowed whoever claims for the seller"
        if requirements.pay_to.lower() == to_hex(eip712.BATCH_SETTLEMENT_ADDRESS):
            return "payTo: got the contract of the scheme, allowed a seller"
        return ""

    def lack(self, means: Means, offer: Offer) -> str:
        """A channel with enough in it, or a policy to make a deposit."""
        return means.channel_lack(offer)

    async def pay(self, payer: Payer, offer: Offer, order: Order) -> OutgoingPayment:
        """The next step of the channel with this seller; waits until no other payment is under way on it."""
        if payer.channels is None:
            raise WalletError(f"scheme {self.name}: a wallet that another process serves has no channels")
        step = await payer.channels.pay(offer, order.host, order.url, order.request_hash, order.payment_id)
        with _until_handed_over(step):
            header = payment_header(offer, batch_settlement_payload(step.payload), step.payment_id)
            kept_until = order.clock() + KEPT_S
            return _FromChannel(offer, header, step.amount, step.payment_id, kept_until, step, self._sleep)

    async def ask_back(
        self, payer: Payer, asked: Offered, channel: SellerChannel, clock: Callable[[], float]
    ) -> OutgoingPayment | None:
        """A request for a refund of all that is left ("Cooperative refund flow")."""
        assert payer.channels is not None, "only a wallet's own process has channels"
        for offer in allowed_offers(asked, self, payer.operators):
            step = await payer.channels.ask_back(channel, offer)
            if step is None:
                continue
            with _until_handed_over(step):
                header = payment_header(offer, batch_settlement_payload(step.payload), step.payment_id)
                return _Refund(offer, header, 0, step.payment_id, clock() + KEPT_S, step, self._sleep)
        return None

    def _authorizer(self, added: BatchSettlementTerms, operator: Operator) -> bytes:
        return added.receiver_authorizer if self._any_authorizer else operator.operator


@contextmanager
def _until_handed_over(step: Step) -> Generator[None]:
    """End a step whose payment cannot be made after all: nobody else would let its channel's turn go."""
    try:
        yield
    except BaseException:
        step.refuse()
        raise


@dataclass(slots=True, eq=False)
class _FromChannel(OutgoingPayment):
    step: Step
    sleep: Sleep
    may_pay_again: bool = False
    is_busy: bool = False
    has_too_little: bool = False
    dispute: ChannelDisputedError | None = None

    @property
    def is_spent(self) -> bool:
        return self.step.is_charged

    def patience_s(self, now_s: float) -> float:
        del now_s
        return self.offer.accepted.max_timeout_seconds if self.step.deposit is not None else 0

    def not_taken(self, *, was_sent: bool) -> bool:
        del was_sent
        self.step.refuse()
        return False

    def lost(self) -> None:
        self.step.lose(is_sent_again=True)

    def answered(self, answer: Answer) -> Outcome:
        self.may_pay_again = self.is_busy = self.has_too_little = False
        receipt = read_receipt(answer)
        if receipt is not None and receipt.success:
            return self._taken(receipt)
        if receipt is not None or is_refused(answer):
            return self._refused(answer)
        is_open = is_unfinished(answer)
        self.step.lose(is_sent_again=is_open)
        return Outcome(None, is_open)

    async def recover(self, payer: Payer, reason: Reason, host: str) -> bool:
        del reason, host
        if self.dispute is not None:
            raise self.dispute
        if self.is_busy:
            await self.sleep(BUSY_PAUSE_S)
            return True
        if self.has_too_little and payer.channels is not None:
            return await payer.channels.look(self.step.lane.channel)
        return self.may_pay_again

    def recovers_again(self, reason: Reason) -> bool:
        # Each further voucher allows one step more than what earlier ones explain, so that no answer makes it two.
        del reason
        return self.is_busy or self.may_pay_again

    def _taken(self, receipt: SettleResponse) -> Outcome:
        """What a receipt says ("Steady State"): believed where it agrees with itself and with this wallet's total."""
        extra = receipt.extra or {}
        state = as_object(extra.get("channelState"))
        step = self.step
        charged = total = None
        try:
            charged = parse_amount(extra.get("chargedAmount", "0"), "chargedAmount")
            total = parse_amount(state.get("chargedCumulativeAmount", str(step.base + charged)), "total")
        except MalformedError:
            pass
        if charged is None or charged > step.amount or total != step.base + charged:
            step.lose(is_sent_again=False)
            return Outcome(None, is_open=False, transaction=receipt.transaction)
        step.settle(charged, has_landed=bool(receipt.transaction) or charged > 0)
        return Outcome(charged, is_open=False, transaction=receipt.transaction)

    def _refused(self, answer: Answer) -> Outcome:
        error, extras = refused_offers(answer, self.offer.terms.scheme)
        corrections = (self._correction(extra) for extra in extras) if error in _CORRECTIVE else ()
        correction = next((found for found in corrections if found is not None), None)
        if correction is None or correction[0].charged is None:
            self.is_busy = error == BatchSettlementCode.CHANNEL_BUSY
            self.has_too_little = error in _TOO_LITTLE
            self.step.refuse()
            return Outcome(0, is_open=False)
        told, newest = correction[0].charged, correction[1]
        try:
            self.may_pay_again = self.step.correct(told, self._proven(newest))
        except ChannelDisputedError as dispute:
            self.dispute = dispute
        return Outcome(min(self.amount, told - self.step.base) if self.is_spent else 0, is_open=False)

    def _correction(self, extra: dict[str, object]) -> tuple[ChannelState, VoucherState | None] | None:
        """What a corrective 402 says of this payment's channel; None where it says nothing of it."""
        try:
            correction = read_correction(extra)
        except MalformedError:
            return None
        is_ours = correction is not None and correction[0].channel_id == self.step.lane.channel.id
        return correction if is_ours else None

    def _proven(self, newest: VoucherState | None) -> int:
        """The ceiling of a voucher that came with the answer, if this wallet has signed it."""
        if newest is None:
            return 0
        channel = self.step.lane.channel
        voucher = UncheckedVoucher(channel.id, newest.signed_max_claimable, newest.signature)
        domain = eip712.batch_settlement_domain(self.offer.operator.network.chain_id)
        try:
            return check_voucher(domain, voucher, channel.config.payer_authorizer).max_claimable_amount
        except InvalidSignatureError:
            return 0


@dataclass(slots=True, eq=False)
class _Refund(_FromChannel):
    """What it brings back is the `amount` of its receipt."""

    def patience_s(self, now_s: float) -> float:
        del now_s
        return self.offer.accepted.max_timeout_seconds

    def _taken(self, receipt: SettleResponse) -> Outcome:
        told = 0
        with suppress(MalformedError):
            told = int(parse_amount(receipt.amount or "0", "amount"))
        returned = self.step.give_back(told)
        return Outcome(0, is_open=False, transaction=receipt.transaction, returned=returned)
