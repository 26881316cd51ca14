"""Whose an exact payment is: it pays one receiver, for one request, in one attempt to answer it.

An authorization can be shown to any number of sellers, requests and processes, and once it has landed it is public. So
each payment has an owner: a `Claim`. What owns it in the end is on disk, in the memo of its transaction. What precedes
and follows is in memory, and a restart forgets it to nobody's harm:

    verified, not sent     held by the attempt; forgotten: the first to settle owns it
    sent                   owned by the attempt that sent it, on disk
    given back             its holder could not deliver: it may take it again, or another attempt of the same request
                           may take it over, whichever is asked first; forgotten: it is the first attempt's again

So at most one attempt delivers; only a restart after a takeover may let the first one deliver too, to the same payer,
for the same request, as an answer that it kept may be repeated anyway.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tallystick.hashing import keccak256
from tallystick_aggregator.accounts.outcomes import overloaded, reverted
from tallystick_aggregator.chain.sending.bundle_memo import unpack_bundle
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.schemes.exact.authorizations import Authorization
from tallystick_aggregator.schemes.port import Caller
from tallystick_aggregator.store.port import OutboundTransaction, TransactionStatus

CLAIMS_MAX: Final = 16_384
"""Payments in memory at once."""
SHARE_MAX: Final = 1_024
"""Of them for one principal: a seller that never settles blocks itself alone."""
CLAIM_S: Final = 3_600
"""How long a claim is remembered after it was last used. One that is only verified ends with its authorization."""
NAMED_MAX: Final = 65_536
"""Identifiers of payments without a transaction, which no outbox has."""
HOLD_S_MAX: Final = 600
"""How long a verified payment waits for its attempt at most."""

_VERSION: Final = b"\x01"
_LANDED: Final = (TransactionStatus.MINED, TransactionStatus.FINAL)


@dataclass(frozen=True, slots=True)
class Claim:
    """One use of one authorization: four digests of 32 bytes, the last two empty where no attempt was named."""

    authorization: bytes
    principal: bytes
    request: bytes
    attempt: bytes

    def may_follow(self, other: "Claim") -> bool:
        """Whether this is another attempt of the same seller to answer the same request."""
        same = (self.authorization, self.principal, self.request)
        return bool(self.attempt and other.attempt) and same == (other.authorization, other.principal, other.request)

    def encode(self) -> bytes:
        """Return the memo of its transaction."""
        return _VERSION + self.authorization + self.principal + self.request + self.attempt


def claim_of(digest: bytes, payment: Authorization, caller: Caller) -> Claim:
    """Return the claim of a caller on a payment; `digest` is what the payer signed, and names token and chain."""
    return Claim(
        keccak256(digest + payment.from_ + keccak256(payment.signature)),
        keccak256(caller.principal.encode()),
        keccak256(caller.request_hash) if caller.attempt else b"",
        keccak256(caller.attempt) if caller.attempt else b"",
    )


def owner_of(sent: OutboundTransaction, mine: Claim, call_data: Callable[[], bytes]) -> Claim:
    """Return the claim for which a transaction was sent; `call_data` is that of the payment at hand.

    A transaction from before claims were written down has no memo. It belongs to callers that name no attempt, as all
    did then, if it is this very transfer; nobody else gets anything for it.
    """
    memo = unpack_bundle(sent.memo).memo
    if memo[:1] == _VERSION and len(memo) in {65, 129}:
        return Claim(memo[1:33], memo[33:65], memo[65:97], memo[97:129])
    return Claim(mine.authorization if sent.data == call_data() else b"", mine.principal, b"", b"")


@dataclass(slots=True)
class _Held:
    claim: Claim
    until_s: int
    is_given_back: bool = False


class Claims:
    """The claims in memory, by the slot that the token takes once. No method awaits: each is one step for everybody."""

    def __init__(self, clock_s: Callable[[], int], claims_max: int = CLAIMS_MAX, share_max: int = SHARE_MAX) -> None:
        self._clock_s = clock_s
        self._claims_max = claims_max
        self._share_max = share_max
        self._held: dict[bytes, _Held] = {}
        self._named: dict[bytes, bytes] = {}
        self._by_principal: Counter[bytes] = Counter()

    def conflict(
        self, slot: bytes, mine: Claim, sent: OutboundTransaction | None, owner: Claim | None
    ) -> Refusal | None:
        """Return why a payment is not this claim's, None if it is or may become so.

        `sent` is its transaction and `owner` what that was sent for, where there is one.
        """
        held = self._find(slot)
        if held is not None:
            owner = held.claim
        if owner is None:
            return None
        if owner.authorization != mine.authorization:
            return refuse(Why.EXACT_NONCE_OF_ANOTHER)
        if sent is not None and sent.status is TransactionStatus.REVERTED:
            return reverted(sent, "transfer")
        if owner == mine or (held is not None and held.is_given_back and mine.may_follow(owner)):
            return None
        is_used = sent is not None and sent.status in _LANDED
        return refuse(Why.PAYMENT_USED if is_used else Why.PAYMENT_PENDING)

    def take(
        self, slot: bytes, mine: Claim, sent: OutboundTransaction | None, owner: Claim | None, until_s: int
    ) -> Refusal | None:
        """Make it this claim's until then, unless there is a conflict."""
        refusal = self.conflict(slot, mine, sent, owner)
        if refusal is not None:
            return refusal
        if slot not in self._held:
            if self._is_full(mine.principal):
                self._drop_expired()
            if self._by_principal[mine.principal] >= self._share_max:
                return overloaded("exact payments of one seller being held", self._share_max)
            if len(self._held) >= self._claims_max:
                return overloaded("exact payments being held", self._claims_max)
        self._put(slot, _Held(mine, until_s))
        return None

    def holds(self, slot: bytes) -> bool:
        """Whether the payment is anybody's in memory, given back or not."""
        return self._find(slot) is not None

    def is_owner(self, slot: bytes, mine: Claim) -> bool:
        """Whether it is still this claim's, which took it."""
        held = self._held.get(slot)
        return held is not None and held.claim == mine and not held.is_given_back

    def give_back(self, slot: bytes, mine: Claim) -> None:
        """Open it to others who answer the same request. The caller has checked that it is this claim's."""
        self._put(slot, _Held(mine, self._clock_s() + CLAIM_S, is_given_back=True))

    def drop(self, slot: bytes, mine: Claim) -> None:
        """Forget that it was this claim's: nothing was sent, or the outbox tells whose it is."""
        held = self._held.get(slot)
        if held is not None and held.claim == mine:
            self._remove(slot)

    def keep_until(self, slot: bytes, mine: Claim, until_s: int) -> None:
        """Leave it to this claim until then, for another try; nothing was sent, so one given back is dropped."""
        if self.is_owner(slot, mine):
            self._held[slot].until_s = until_s
        else:
            self.drop(slot, mine)

    def name(self, payment_id: bytes, slot: bytes) -> None:
        """Remember that an identifier stands for a payment that was settled without a transaction."""
        if payment_id:
            self._named[payment_id] = slot
            if len(self._named) > NAMED_MAX:
                del self._named[next(iter(self._named))]

    def named_otherwise(self, payment_id: bytes, slot: bytes) -> Refusal | None:
        """Refuse a payment whose identifier stands for another one; None if it is new, or its own."""
        return None if self._named.get(payment_id, slot) == slot else refuse(Why.PAYMENT_IDENTIFIER_TAKEN)

    def _find(self, slot: bytes) -> _Held | None:
        held = self._held.get(slot)
        if held is not None and held.until_s <= self._clock_s():
            self._remove(slot)
            return None
        return held

    def _is_full(self, principal: bytes) -> bool:
        return self._by_principal[principal] >= self._share_max or len(self._held) >= self._claims_max

    def _put(self, slot: bytes, held: _Held) -> None:
        self._remove(slot)
        self._held[slot] = held
        self._by_principal[held.claim.principal] += 1

    def _remove(self, slot: bytes) -> None:
        held = self._held.pop(slot, None)
        if held is not None:
            self._by_principal[held.claim.principal] -= 1
            if not self._by_principal[held.claim.principal]:
                del self._by_principal[held.claim.principal]

    def _drop_expired(self) -> None:
        now_s = self._clock_s()
        for slot in [slot for slot, held in self._held.items() if held.until_s <= now_s]:
            self._remove(slot)
