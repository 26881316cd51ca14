"""Verify, settle and give back what is paid by one transfer: for `exact`, and for `upto`.

Verify and settle ask the same `preconditions`. A transfer is named by what the token takes once, (network, token, from,
nonce), so one is sent; whose it is the module `claims` says, and everybody else is refused, whatever became of it.
Settle says what happened on chain: done, reverted, or not known yet, which is never taken for failed.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic

from tallystick.errors import Described, MalformedError
from tallystick.facilitator import Kind, Settled, Verified
from tallystick.reasons import Reason
from tallystick.x402 import ASSET_TRANSFER_PERMIT2, PaymentTerms, Permit2Authorization
from tallystick_aggregator.accounts.offers import Offers, amount_is, find_offer, find_token, receiver_is
from tallystick_aggregator.accounts.outcomes import named_otherwise, overloaded, unless_unavailable, wait_until_mined
from tallystick_aggregator.auth.limits import GasBudget
from tallystick_aggregator.auth.transfer_limits import NO_LIMITS, TransferLimits
from tallystick_aggregator.chain.bundle_port import BundleBusyError
from tallystick_aggregator.chain.port import Chain, ChainUnavailableError, PaymentIdTakenError, RevertedError, Send
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.schemes.exact.authorizations import (
    GRACE_S,
    A,
    Authorization,
    TransferToken,
    is_signed_by_key,
    transfer_digest,
    transfer_slot,
    with_canonical_v,
)
from tallystick_aggregator.schemes.exact.claims import (
    CLAIM_S,
    HOLD_S_MAX,
    Claim,
    Claims,
    claim_of,
    owner_of,
)
from tallystick_aggregator.schemes.exact.counterfactual import unwrap
from tallystick_aggregator.schemes.exact.permit2 import find_permit2_token, without_unsponsored
from tallystick_aggregator.schemes.exact.preconditions import Preconditions, Transfer
from tallystick_aggregator.schemes.exact.served import Served
from tallystick_aggregator.schemes.port import NOBODY, Caller
from tallystick_aggregator.store.port import OutboundTransaction, Outbox, Payout, TransactionKind, TransactionStatus
from tallystick_aggregator.tasks import SingleFlight

SETTLEMENTS_MAX: Final = 1_024
"""Exact payments being settled at once, those included that wait for a block."""
SENDING_AT_ONCE: Final = 16
"""Of them being checked and sent; the others have their turn, so that a verify does not wait for all of them."""
VERIFIES_MAX: Final = 128
"""Exact payments being verified at once: each asks the node four times."""
SETTLE_TIMEOUT_S: Final = 30.0
"""How long one settle waits for its transaction where the terms do not say (`maxTimeoutSeconds`); after that the seller
settles the same payment again."""
SETTLE_TIMEOUT_S_MAX: Final = 600.0
"""How long it waits at most, whatever the terms say."""


@dataclass(frozen=True, slots=True)
class Case(Transfer):
    """One call's payment, what the token takes once, and for whom."""

    slot: bytes
    mine: Claim
    payment_id: bytes


class TransferPayments(ABC, Generic[A]):
    """What schemes share that move tokens by one transfer a payment; A is what their payers sign.

    What is signed becomes public on chain: only who is paid may settle it.
    """

    name: str
    reason_codes: Mapping[Reason, str]
    is_settled_by_bearer = False
    verify_forms: Mapping[str, Callable[[Any], A]]

    @property
    def settle_forms(self) -> Mapping[str, Callable[[Any], A]]:
        """The same as to verify."""
        return self.verify_forms

    def __init__(
        self,
        chains: Mapping[EscrowRef, Chain],
        offers: Offers,
        outbox: Outbox,
        clock_s: Callable[[], int],
        *,
        settle_timeout_s: float = SETTLE_TIMEOUT_S,
        budget: GasBudget | None = None,
        limits: TransferLimits = NO_LIMITS,
        claims: Claims | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`budget` bounds what transfers cost in gas; without one there is no bound.

        `claims`: shared with what moves tokens by the same nonces, another scheme or the same over the strangers' own
        sender: all know whose a payment is. `pause` waits for a second to pass, `monotonic` tells how long a
        settlement has waited.
        """
        # Transfers involve no escrow: whichever is the network's first, its tokens and its sender are the network's.
        self._chains = {chain.network: chain for chain in reversed([*chains.values()])}
        self._offers = offers
        self._outbox = outbox
        self._clock_s = clock_s
        self._settle_timeout_s = settle_timeout_s
        self._claims = claims or Claims(clock_s)
        self._served = Served()
        self._limits = limits
        self._monotonic = monotonic
        self._waiting = 0
        self._pause = pause
        self._sending = SingleFlight[bytes, OutboundTransaction | Refusal]()
        self._turns = asyncio.Semaphore(SENDING_AT_ONCE)
        self._verifying = 0
        self._budget = budget or GasBudget()
        self._preconditions = Preconditions(self._chains, clock_s, self._budget, limits, pause)

    async def kinds(self) -> Sequence[Kind]:
        """Return the networks on which transfers can be sent: by ERC-3009, then by Permit2."""
        offered = [chain for network, chain in self._chains.items() if await self.is_offered(network)]
        least = self._limits.amount_min
        extra = {"minAmount": str(least)} if least else {}
        kinds = [kind for chain in offered for kind in self._kinds_on(chain)]
        return [replace(kind, extra={**kind.extra, **extra}) for kind in kinds]

    @abstractmethod
    def _kinds_on(self, chain: Chain) -> Sequence[Kind]:
        """Return what can be moved on this chain."""

    def payer_of(self, payment: A) -> bytes:
        """Return whose tokens are transferred."""
        return payment.from_

    async def is_offered(self, network: str) -> bool:
        """Return whether transfers can be sent on a network now, as far as is known, and within the gas budget."""
        if not self._limits.enabled:
            return False
        chain = self._chains[network]
        try:
            return await self._preconditions.can_be_paid_for(chain, b"") is None
        except ChainUnavailableError:
            return self._budget.refusal(chain, TransactionKind.EXACT, b"", has_paid=True) is None

    async def verify(self, terms: PaymentTerms, payment: A, caller: Caller = NOBODY) -> Verified | Refusal:
        """Check that the payment would settle now, and hold it for the caller's attempt. Callers that name none are
        told by `replayed` that they have verified or settled it before.
        """
        case = self._case(terms, payment, caller)
        return case if isinstance(case, Refusal) else await unless_unavailable(self._verify(case))

    async def settle(self, terms: PaymentTerms, payment: A, caller: Caller = NOBODY) -> Settled | Refusal:
        """Send the transfer for the caller's attempt, and wait until it is in a block, as long as the terms say.

        Whoever goes away before has it sent all the same, and learns by the same payment what became of it.
        """
        case = self._case(terms, payment, caller)
        if isinstance(case, Refusal):
            return case
        return await unless_unavailable(self._settle(case, self._timeout_s(terms)))

    async def release(self, terms: PaymentTerms, payment: A, caller: Caller) -> Settled | Refusal:
        """Let go of what the caller's attempt holds. What was sent goes on, for other attempts of the same request; the
        answer is `replayed` then.

        Raises MalformedError where the caller names no attempt.
        """
        if not caller.attempt:
            raise MalformedError(
                "release", Described("true"), "false: an exact payment without an attempt holds nothing to give back"
            )
        case = self._case(terms, payment, caller)
        return case if isinstance(case, Refusal) else await unless_unavailable(self._release(case))

    # Inside.

    async def _verify(self, case: Case) -> Verified | Refusal:
        sent = await self._sent(case)
        owner = self._owner(case, sent)
        refusal = await self._named_otherwise(case)
        refusal = refusal or self._claims.conflict(case.slot, case.mine, sent, owner)
        if refusal is not None:
            return refusal
        if sent is None or sent.status is TransactionStatus.SUPERSEDED:
            if self._verifying >= VERIFIES_MAX:
                return overloaded("exact payments being verified", VERIFIES_MAX)
            self._verifying += 1
            try:
                # Whoever settles asks anew: here a block as of a moment ago will do.
                found = await self._preconditions.would_settle(case, fresh=False)
            finally:
                self._verifying -= 1
            if isinstance(found, Refusal):
                return found
            until_s = self._hold_until(case)
        else:
            until_s = self._clock_s() + CLAIM_S
        if not case.mine.attempt:
            is_first = self._served.begin(case.mine)
            return Verified(case.payment.from_, replayed=_is_sent(sent) or not is_first)
        # What was in nobody's hands above may be in somebody's by now.
        refusal = self._claims.take(case.slot, case.mine, sent, owner, until_s)
        return refusal or Verified(case.payment.from_, expires_at=until_s)

    async def _settle(self, case: Case, timeout_s: float) -> Settled | Refusal:
        until = self._monotonic() + timeout_s
        sent = await self._sent(case)
        refusal = await self._named_otherwise(case)
        if refusal is not None:
            return refusal
        # From here until the claim is taken nothing is awaited.
        is_running = case.slot in self._sending
        if not is_running and self._waiting >= SETTLEMENTS_MAX:
            return overloaded("exact payments being settled", SETTLEMENTS_MAX)
        until_s = self._clock_s() + CLAIM_S
        refusal = self._claims.take(case.slot, case.mine, sent, self._owner(case, sent), until_s)
        if refusal is not None:
            return refusal
        self._served.begin(case.mine)
        self._waiting += 1
        try:
            outcome = await self._land(case, until)
        finally:
            self._waiting -= 1
        if isinstance(outcome, Refusal):
            return outcome
        landed = await self._sent(case)
        owner = self._owner(case, landed)
        if self._claims.is_owner(case.slot, case.mine):
            if owner == case.mine:
                self._claims.drop(case.slot, case.mine)  # the outbox tells whose it is from now on
            elif owner is None or not case.mine.may_follow(owner):
                # It was sent for another caller while this one was looking for it.
                self._claims.drop(case.slot, case.mine)
                return self._claims.conflict(case.slot, case.mine, landed, owner) or refuse(Why.PAYMENT_PENDING)
        elif self._claims.holds(case.slot) or owner != case.mine:
            # It was given back meanwhile, and another attempt may deliver what it pays for.
            return self._claims.conflict(case.slot, case.mine, landed, None) or refuse(Why.PAYMENT_PENDING)
        replayed = not case.mine.attempt and (is_running or _is_sent(sent))
        moved = self._moved(case, outcome)
        return Settled(case.payment.from_, moved, transaction=outcome.transaction_hash, replayed=replayed)

    async def _land(self, case: Case, until: float) -> OutboundTransaction | Refusal:
        """Send it once for all who ask, then wait as long as this caller does."""
        outcome = await self._sending.run(case.slot, lambda: unless_unavailable(self._send_once(case)))
        if isinstance(outcome, Refusal):
            return outcome
        return await wait_until_mined(case.chain, outcome, "transfer", max(0.0, until - self._monotonic()))

    async def _send_once(self, case: Case) -> OutboundTransaction | Refusal:
        sent = await self._sent(case)
        if sent is not None and _is_sent(sent):
            return sent
        if is_signed_by_key(case.token, case.payment):  # what nobody signed is refused without a wait
            await self._preconditions.wait_for_window(case.payment)  # for nobody else to wait for it
        async with self._turns:
            with self._preconditions.sending(case):
                outcome = await self._send(case)
        if isinstance(outcome, Refusal):
            if case.mine.attempt and outcome.reason.retry:
                self._claims.keep_until(case.slot, case.mine, self._hold_until(case))
            else:
                self._claims.drop(case.slot, case.mine)
        return outcome

    def _timeout_s(self, terms: PaymentTerms) -> float:
        """How long a settlement may wait for its block."""
        return min(terms.max_timeout_s or self._settle_timeout_s, SETTLE_TIMEOUT_S_MAX)

    def _moved(self, case: Case, sent: OutboundTransaction) -> int:
        """Return what a transaction moved, in atomic units."""
        del sent
        return case.payment.value

    async def _send(self, case: Case) -> OutboundTransaction | Refusal:
        found = await self._preconditions.would_settle(case)
        if isinstance(found, Refusal):
            return found
        payment = case.payment
        send = Send(
            TransactionKind.EXACT,
            case.slot,
            found.call(),
            payouts=(Payout(payment.to, case.token.address, payment.value),),
            memo=case.mine.encode(),
            payer=payment.from_,
            payment_id=case.payment_id,
            gas_max=found.gas_max,
        )
        with self._budget.hold(case.chain, TransactionKind.EXACT, payment.from_, has_paid=True) as spent:
            if spent is not None:
                return spent
            for left in range(GRACE_S, -1, -1):
                try:
                    return await found.send(send)
                except BundleBusyError:
                    return overloaded("payments whose approval is paid for", 1)
                except PaymentIdTakenError:
                    return refuse(Why.PAYMENT_IDENTIFIER_TAKEN)
                except RevertedError as error:
                    if not left or not await self._preconditions.is_before_its_block(case):
                        return await self._preconditions.why_it_reverts(case, error)
        return refuse(Why.PAYMENT_PENDING)

    async def _release(self, case: Case) -> Settled | Refusal:
        sent = await self._sent(case)
        owner = self._owner(case, sent)
        refusal = self._claims.conflict(case.slot, case.mine, sent, owner)
        if refusal is not None:
            return refusal
        if sent is None and case.slot not in self._sending:
            self._claims.drop(case.slot, case.mine)
        elif self._claims.is_owner(case.slot, case.mine) or owner == case.mine:
            self._claims.give_back(case.slot, case.mine)
        return Settled(case.payment.from_, 0, replayed=_is_sent(sent))

    def _hold_until(self, case: Case) -> int:
        return min(case.payment.valid_before, self._clock_s() + HOLD_S_MAX)

    async def _named_otherwise(self, case: Case) -> Refusal | None:
        refusal = self._claims.named_otherwise(case.payment_id, case.slot)
        return refusal or await named_otherwise(self._outbox, case.payment_id, case.slot)

    async def _sent(self, case: Case) -> OutboundTransaction | None:
        return await self._outbox.by_reference(TransactionKind.EXACT, case.slot)

    @staticmethod
    def _owner(case: Case, sent: OutboundTransaction | None) -> Claim | None:
        if sent is None:
            return None
        return owner_of(sent, case.mine, lambda: case.call().data)

    @staticmethod
    def _find_token(chain: Chain, terms: PaymentTerms, payment: Authorization) -> TransferToken | Refusal:
        """Return the token in the way in which the payment moves it."""
        if isinstance(payment, Permit2Authorization):
            return find_permit2_token(chain, terms, payment)
        token = chain.tokens[terms.asset]
        return token if token.by_eip3009 else refuse(Why.EIP3009_OFF, "eip3009", ASSET_TRANSFER_PERMIT2)

    def _case(self, terms: PaymentTerms, payment: Authorization, caller: Caller) -> Case | Refusal:
        """Check what needs no chain and no clock: where, in what, to whom, how much."""
        offer = find_offer(self._offers, str(terms.network))
        if isinstance(offer, Refusal):
            return offer
        known = find_token(offer, terms.asset)
        if isinstance(known, Refusal):
            return known
        refusal = receiver_is(terms, payment.to) or amount_is(terms, payment.value)
        if refusal is not None:
            return refusal
        chain = self._chains[offer.network]
        token = self._find_token(chain, terms, payment)
        if isinstance(token, Refusal):
            return token
        deployment = None
        if isinstance(payment, Permit2Authorization):
            payment = without_unsponsored(chain.permit2_tokens[terms.asset], payment)
        elif self._limits.erc6492_factories:
            unwrapped = unwrap(token, payment)
            if isinstance(unwrapped, Refusal):
                return unwrapped
            payment, deployment = unwrapped.payment, unwrapped.deployment
        payment = with_canonical_v(token, payment)
        claim = claim_of(transfer_digest(token, payment), payment, caller)
        slot = transfer_slot(chain.network, terms.asset, payment)
        return Case(chain, token, payment, slot, claim, caller.payment_id, deployment=deployment)


def _is_sent(outbound: OutboundTransaction | None) -> bool:
    """Whether it is in the world: one whose nonce another transaction used never happened, and is sent anew."""
    return outbound is not None and outbound.status is not TransactionStatus.SUPERSEDED
