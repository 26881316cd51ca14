"""The scheme `exact`: one ERC-3009 transfer a payment, for payers without a deposit (x402's own scheme on EVM chains).

Verify and settle ask the same preconditions. A payment is named by what the token takes once, (network, token, from,
nonce): settled twice it is sent once and answered alike, and whoever settles it again is told that it is a replay.
Settle says what happened on chain: done, reverted, or not known yet, which is never taken for failed.

Amounts must be equal, as the official SDKs demand. Signatures are checked here for plain keys (I5); a contract wallet's
only the chain can check, by simulation. Wallets that are not deployed yet (ERC-6492) are not accepted (threat 21).
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from tallystick import eip712
from tallystick.errors import InvalidSignature
from tallystick.hashing import keccak256
from tallystick.reasons import Reason
from tallystick.signatures import recover
from tallystick.x402 import PaymentTerms
from tallystick_aggregator.chain.port import Block, Chain, Reverted, Token, TransferAuthorization
from tallystick_aggregator.journal.port import Outbox, TransactionKind, TransactionStatus
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.deferred.payments import Settled, Verified
from tallystick_aggregator.schemes.deferred.terms import amount_is, receiver_is
from tallystick_aggregator.schemes.failures import overloaded, transaction_failed, unless_unavailable
from tallystick_aggregator.schemes.offers import Offers, find_network, find_token
from tallystick_aggregator.schemes.rates import RateLimit
from tallystick_aggregator.schemes.sending import find_sent, wait_until_mined

SETTLEMENTS_MAX: Final = 256
"""Exact payments being settled at once."""
VERIFIES_MAX: Final = 128
"""Exact payments being verified at once: each asks the node four times."""
UNPROVEN_PER_S: Final = 5.0
"""Payments whose signature only the chain can check (contract wallets), in verify and settle together."""
UNPROVEN_BURST: Final = 20
SETTLE_TIMEOUT_S: Final = 30.0
"""How long a settle waits for its transaction; after that the seller settles the same payment again."""
WINDOW_MARGIN_S: Final = 6
"""How long an authorization must still be valid to be sent, in seconds: as the official facilitator has it."""
ERC6492_SUFFIX: Final = bytes.fromhex("6492" * 16)


class ExactPayments:
    """Verify and settle. The caller has checked that the principal may charge for `terms.pay_to`."""

    def __init__(
        self,
        chains: Mapping[str, Chain],
        offers: Offers,
        outbox: Outbox,
        clock_s: Callable[[], int],
        *,
        settle_timeout_s: float = SETTLE_TIMEOUT_S,
    ) -> None:
        self._chains = chains
        self._offers = offers
        self._outbox = outbox
        self._clock_s = clock_s
        self._settle_timeout_s = settle_timeout_s
        self._settling: dict[bytes, asyncio.Task[Settled | Refusal]] = {}
        self._verifying = 0
        self._unproven = RateLimit(UNPROVEN_PER_S, UNPROVEN_BURST)

    async def verify(self, terms: PaymentTerms, payment: TransferAuthorization) -> Verified | Refusal:
        """Check that the payment would settle now."""
        return await unless_unavailable(self._verify(terms, payment))

    async def settle(self, terms: PaymentTerms, payment: TransferAuthorization) -> Settled | Refusal:
        """Send the transfer and wait until it is in a block."""
        refusal = self._meets(terms, payment)
        if refusal is not None:
            return refusal
        chain = self._chains[str(terms.network)]
        reference = transfer_reference(chain.network, terms.asset, payment)
        task = self._settling.get(reference)
        replayed = task is not None
        if task is None:
            if len(self._settling) >= SETTLEMENTS_MAX:
                return overloaded("exact payments being settled", SETTLEMENTS_MAX)
            task = asyncio.create_task(unless_unavailable(self._settle(terms, payment, reference)))
            self._settling[reference] = task
            task.add_done_callback(lambda _: self._settling.pop(reference))
        answer = await asyncio.shield(task)
        if replayed and isinstance(answer, Settled):
            return Settled(answer.payer, answer.amount, transaction=answer.transaction, replayed=True)
        return answer

    async def _verify(self, terms: PaymentTerms, payment: TransferAuthorization) -> Verified | Refusal:
        refusal = self._meets(terms, payment)
        if refusal is not None:
            return refusal
        chain = self._chains[str(terms.network)]
        reference = transfer_reference(chain.network, terms.asset, payment)
        sent = await find_sent(self._outbox, TransactionKind.EXACT, reference)
        if sent is None:
            if self._verifying >= VERIFIES_MAX:
                return overloaded("exact payments being verified", VERIFIES_MAX)
            self._verifying += 1
            try:
                return await self._would_settle(chain, terms, payment) or Verified(payment.from_)
            finally:
                self._verifying -= 1
        if sent.status is TransactionStatus.REVERTED:
            return transaction_failed("transfer", sent.transaction_hash)
        return Verified(payment.from_, replayed=True)

    async def _settle(self, terms: PaymentTerms, payment: TransferAuthorization, reference: bytes) -> Settled | Refusal:
        chain = self._chains[str(terms.network)]
        sent = await find_sent(self._outbox, TransactionKind.EXACT, reference)
        replayed = sent is not None
        if sent is None:
            refusal = await self._would_settle(chain, terms, payment)
            if refusal is not None:
                return refusal
            call = chain.tokens[terms.asset].transfer_call(payment)
            try:
                sent = await chain.send(TransactionKind.EXACT, reference, call)
            except Reverted as error:
                return await self._why_it_reverts(chain, terms, payment, error)
        mined = await wait_until_mined(chain, sent, "transfer", self._settle_timeout_s)
        if isinstance(mined, Refusal):
            return mined
        return Settled(payment.from_, payment.value, transaction=mined.transaction_hash, replayed=replayed)

    # The preconditions, the same for verify and settle.

    def _meets(self, terms: PaymentTerms, payment: TransferAuthorization) -> Refusal | None:
        """Check what needs no chain and no clock: where, in what, to whom, how much."""
        offer = find_network(self._offers, str(terms.network))
        if isinstance(offer, Refusal):
            return offer
        token = find_token(offer, terms.asset)
        if isinstance(token, Refusal):
            return token
        return receiver_is(terms, payment.to) or amount_is(terms, payment.value)

    async def _would_settle(self, chain: Chain, terms: PaymentTerms, payment: TransferAuthorization) -> Refusal | None:
        """Check time and signature, then at one block: nonce, balance, simulation.

        Any visitor of a seller can bring this about, so what is cheap comes first and the rest is bounded.
        """
        token = chain.tokens[terms.asset]
        signed_by_key = _is_signed_by_key(token, payment)
        refusal = window_is_open(payment, self._clock_s()) or _signature_may_count(payment)
        if refusal is not None:
            return refusal
        if not signed_by_key and not self._unproven.take():
            return overloaded("payments that the payer's own key did not sign", UNPROVEN_BURST)
        block = await chain.head()
        refusal = await self._chain_state_allows(token, payment, block)
        if refusal is not None:
            return refusal
        try:
            await chain.simulate(token.transfer_call(payment), block)
        except Reverted as error:
            if signed_by_key:
                return _simulation_failed(error)
            return Refusal(
                Reason.EXACT_SIGNATURE,
                f"Neither the payer's key nor its contract signed this transfer: {error.reason}.",
                "signature",
            )
        return None

    async def _chain_state_allows(self, token: Token, payment: TransferAuthorization, block: Block) -> Refusal | None:
        used, balance = await asyncio.gather(
            token.authorization_used(payment.from_, payment.nonce, block), token.balance(payment.from_, block)
        )
        if used:
            return _nonce_used()
        if balance < payment.value:
            return Refusal(
                Reason.INSUFFICIENT_BALANCE,
                "The payer holds less than the payment.",
                "value",
                str(payment.value),
                f"at most {balance}",
            )
        return None

    async def _why_it_reverts(
        self, chain: Chain, terms: PaymentTerms, payment: TransferAuthorization, error: Reverted
    ) -> Refusal:
        """Tell an authorization that was spent elsewhere in the meantime from other failures."""
        refusal = await self._chain_state_allows(chain.tokens[terms.asset], payment, await chain.head())
        return refusal or _simulation_failed(error)


def window_is_open(payment: TransferAuthorization, now_s: int) -> Refusal | None:
    """Check that the authorization is valid now and for long enough to be mined."""
    if payment.valid_after > now_s:
        return Refusal(
            Reason.EXACT_NOT_YET_VALID,
            "The authorization is not valid yet.",
            "valid_after",
            str(payment.valid_after),
            f"at most {now_s}",
        )
    if payment.valid_before < now_s + WINDOW_MARGIN_S:
        return Refusal(
            Reason.EXACT_EXPIRED,
            "The authorization has expired, or is about to.",
            "valid_before",
            str(payment.valid_before),
            f"at least {now_s + WINDOW_MARGIN_S}",
        )
    return None


def transfer_digest(token: Token, payment: TransferAuthorization) -> bytes:
    """Return what the payer signs: the token's TransferWithAuthorization."""
    struct_hash = eip712.hash_transfer_with_authorization(
        payment.from_, payment.to, payment.value, payment.valid_after, payment.valid_before, payment.nonce
    )
    return eip712.digest(token.domain, struct_hash)


def transfer_reference(network: str, token: bytes, payment: TransferAuthorization) -> bytes:
    """Return what names the payment in the outbox: what the token takes once (threat 22)."""
    return keccak256(network.encode() + token + payment.from_ + payment.nonce)


def _is_signed_by_key(token: Token, payment: TransferAuthorization) -> bool:
    try:
        return recover(transfer_digest(token, payment), payment.signature) == payment.from_
    except InvalidSignature:
        return False


def _signature_may_count(payment: TransferAuthorization) -> Refusal | None:
    if not payment.signature:
        return Refusal(Reason.EXACT_SIGNATURE, "The payment is not signed.", "signature", "nothing", "a signature")
    if payment.signature.endswith(ERC6492_SUFFIX):
        return Refusal(
            Reason.EXACT_SIGNATURE,
            "A wallet that is not deployed yet cannot pay here.",
            "signature",
            "an ERC-6492 wrapper",
            "a key's signature, or a deployed contract wallet's",
        )
    return None


def _nonce_used() -> Refusal:
    return Refusal(
        Reason.EXACT_NONCE_USED, "The authorization was used or cancelled already, not by this aggregator.", "nonce"
    )


def _simulation_failed(error: Reverted) -> Refusal:
    return Refusal(Reason.SIMULATION_FAILED, f"The transfer would fail on chain: {error.reason}.")
