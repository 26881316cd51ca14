"""Payments of `batch-settlement`: one at a time on a channel, each by a voucher over what was charged and its amount.

They need no batches: a channel has one of them under way, and what waits for a commit shares it anyway (`writer`).
Bounded as the batcher is (threat 28). Every method may raise StoreUncertainError.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from tallystick.charges import Charge as UncheckedPayment
from tallystick.vouchers import Voucher
from tallystick_aggregator.charging.batcher import BatcherSettings, ChargeAnswer
from tallystick_aggregator.charging.signatures import SignatureCheck, SignatureChecker
from tallystick_aggregator.charging.writer import LedgerWriter, Lookups, lookup_of
from tallystick_aggregator.ledger import decide
from tallystick_aggregator.ledger.answers import Done, Held, Refusal
from tallystick_aggregator.ledger.commands import DecisionContext, ProvenPayment, Rules, WatermarkProof
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.rules import watermark_is_met
from tallystick_aggregator.ledger.state import Account, Ledger, reservation_handle
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import StoreUnavailableError, StoreUncertainError

Answer = TypeVar("Answer")


class Steps:
    """The one way in for such payments. A hold is a reservation of the ledger, and the channel's lock."""

    def __init__(
        self,
        writer: LedgerWriter,
        domain_separators: Mapping[EscrowRef, bytes],
        rules: Rules,
        signatures: SignatureChecker,
        *,
        waiting_max: int = BatcherSettings().waiting_max,
    ) -> None:
        """`waiting_max`: payments inside at once. Whoever made `signatures` closes it."""
        self._writer = writer
        self._separators = domain_separators
        self._rules = rules
        self._signatures = signatures
        self._waiting_max = waiting_max
        self._inside = 0

    async def hold(self, payment: UncheckedPayment, below: int = 0) -> Held | Refusal:
        """Hold the payment's amount, and with it the channel, which must be known, if its voucher is the next step.

        `below`: what of the voucher is charged later, and not held: of a request whose deposit has yet to come.
        """
        return await self.hold_again(payment, None, below)

    async def hold_again(
        self, payment: UncheckedPayment, before: UncheckedPayment | None, below: int = 0
    ) -> Held | Refusal:
        """The same for what `before` may hold already: if so, that goes on, and the answer is `replayed`."""

        async def held() -> Held | Refusal:
            proven = await self._prove(payment, below)
            if isinstance(proven, Refusal):
                return proven
            handle = _new_handle(payment)

            def decision(draft: Draft, _: Ledger, moment: DecisionContext) -> Held | Refusal:
                return decide.hold_in_step(draft, proven, handle, moment, self._rules, before)

            return await _decided(self._writer.submit_payments(decision, 1, _lookups(before or payment)))

        return await self._within(held)

    async def capture(self, payment: UncheckedPayment, amount: int) -> ChargeAnswer:
        """Charge what `hold` holds for this payment, in full or less. Not answered a second time."""

        def decision(draft: Draft, _: Ledger, moment: DecisionContext) -> ChargeAnswer:
            return decide.capture_in_step(draft, payment, amount, moment, self._rules)

        return await _decided(self._writer.submit(decision, lookups=_lookups(payment)))

    async def charge(
        self, payment: UncheckedPayment, amount: int, lock: UncheckedPayment | None = None
    ) -> ChargeAnswer:
        """Hold and charge the payment at once, in full or less. `lock`: what held the channel for it until now."""

        async def charged() -> ChargeAnswer:
            proven = await self._prove(payment)
            if isinstance(proven, Refusal):
                return proven
            handle = _new_handle(payment)

            def decision(draft: Draft, _: Ledger, moment: DecisionContext) -> ChargeAnswer:
                return decide.charge_in_step(draft, proven, amount, handle, moment, self._rules, lock)

            return await _decided(self._writer.submit_payments(decision, 1, _lookups(lock or payment)))

        return await self._within(charged)

    async def release(self, payment: UncheckedPayment) -> Done | Refusal | None:
        """Give back what is held of this payment; None where nothing of it is known."""

        def decision(draft: Draft, _ledger: Ledger, _moment: DecisionContext) -> Done | Refusal | None:
            return decide.release_payment(draft, payment)

        return await _decided(self._writer.submit(decision, lookups=_lookups(payment)))

    async def is_signed(self, account: Account, payment: UncheckedPayment) -> Refusal | None:
        """Check that the account's payer signed the payment's voucher, as the chain would; None if so."""
        separator, authorizer = self._separators[account.escrow], account.config.payer_authorizer
        channel_id, ceiling, signature = payment.channel_id, payment.ceiling, payment.signature
        check = SignatureCheck(0, separator, channel_id, ceiling, signature, authorizer, kept=True)
        (good,) = await self._signatures.check([check])
        return None if good else refuse(Why.VOUCHER_SIGNATURE)

    async def _prove(self, payment: UncheckedPayment, below: int = 0) -> ProvenPayment | Refusal:
        ledger, ceiling, signature = self._writer.ledger, payment.ceiling, payment.signature
        channel = ledger.channel(payment.channel_id)
        if channel is None:
            return refuse(Why.CHANNEL_UNKNOWN)
        refusal = watermark_is_met(channel, ceiling, payment.amount + below)
        if refusal is None and (ceiling, signature) != (channel.ceiling, channel.signature):
            refusal = await self.is_signed(ledger.known_account(channel.account_id), payment)
        if refusal is not None:
            return refusal
        proof = WatermarkProof(ceiling - below, Voucher(channel.id, ceiling, signature))
        return ProvenPayment(channel.id, payment.payment_id, payment.amount, payment.request_hash, proof)

    async def _within(self, work: Callable[[], Awaitable[Answer]]) -> Answer | Refusal:
        if self._inside >= self._waiting_max:
            return refuse(
                Why.TOO_MANY_PAYMENTS, f"more than {self._waiting_max} waiting", f"at most {self._waiting_max}"
            )
        self._inside += 1
        try:
            return await work()
        finally:
            self._inside -= 1


def _new_handle(payment: UncheckedPayment) -> bytes:
    return reservation_handle(payment.channel_id, payment.payment_id, secrets.token_bytes(16))


def _lookups(payment: UncheckedPayment) -> Lookups:
    return lookup_of(payment.channel_id, payment.payment_id)


async def _decided(answer: asyncio.Future[Answer | Refusal]) -> Answer | Refusal:
    try:
        return await answer
    except StoreUncertainError:
        raise
    except StoreUnavailableError as error:
        return refuse(Why.PAYMENT_NOT_STORED, error=error)
