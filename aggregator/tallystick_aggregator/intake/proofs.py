"""From unchecked payments to proven ones: the cheap checks, spend keys' HMACs, vouchers' signatures.

`Screening` is made on the event loop: it refuses what is hopeless, answers what was answered before, checks HMACs
inline (about a microsecond) and lists the signatures that remain. `check_signatures` runs on threads, in chunks, with
the authorizers' cached keys; libsecp256k1 runs without the interpreter's lock.

Where several vouchers of a channel wait only to raise its ceiling, the highest is checked, and if it fails the next:
one poisoned voucher cannot sink its neighbours, and a burst costs one signature.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tallystick.errors import InvalidSignature
from tallystick.reasons import Reason
from tallystick.signatures import AuthorizerKey, verify_many
from tallystick.spend_keys import SpendProver
from tallystick.vouchers import Voucher, voucher_digest
from tallystick_aggregator.intake.payments import UncheckedPayment, UncheckedSpendProof
from tallystick_aggregator.ledger.answers import Accepted, Held, Refusal
from tallystick_aggregator.ledger.commands import ProvenPayment, SpendProof, VoucherProof
from tallystick_aggregator.ledger.decide import ceiling_allows, voucher_may_prove
from tallystick_aggregator.ledger.state import Account, Channel, Ledger, Payment, spend_key_name

AUTHORIZER_KEYS_MAX: Final = 65_536
PROVERS_MAX: Final = 65_536

Replay = Callable[[Payment, int, bytes], Accepted | Held | Refusal]
"""How a known payment id is answered: `decide.replay_of_charge` or `decide.replay_of_reservation`."""


class SignatureCheck(NamedTuple):
    """One voucher whose signature is to be checked: all that a thread needs. `key` None: not seen before."""

    position: int
    domain_separator: bytes
    channel_id: bytes
    ceiling: int
    signature: bytes
    authorizer: bytes
    key: AuthorizerKey | None


class ProofCaches:
    """Parsed authorizer keys and keyed HMAC states; bounded, the oldest entries go first."""

    def __init__(self) -> None:
        self.authorizers: dict[bytes, AuthorizerKey] = {}
        self._provers: dict[bytes, SpendProver] = {}

    def prover(self, name: bytes, secret: bytes) -> SpendProver:
        """The HMAC state of a spend key, made at its first use."""
        prover = self._provers.get(name)
        if prover is None:
            prover = self._provers[name] = SpendProver(secret)
            _bound(self._provers, PROVERS_MAX)
        return prover

    def remember(self, key: AuthorizerKey) -> None:
        """Keep a key that was recovered."""
        self.authorizers[key.address] = key
        _bound(self.authorizers, AUTHORIZER_KEYS_MAX)


def _bound(cache: dict[bytes, Any], most: int) -> None:
    while len(cache) > most:
        del cache[next(iter(cache))]


def check_signatures(checks: Sequence[SignatureCheck]) -> list[AuthorizerKey | None]:
    """For each check the authorizer's key if the signature is one that the chain will take (I5), else None."""
    digests = [voucher_digest(check.domain_separator, check.channel_id, check.ceiling) for check in checks]
    keys = [
        check.key or _recovered(digest, check.signature, check.authorizer)
        for check, digest in zip(checks, digests, strict=True)
    ]
    known = [
        (check.key, digest, check.signature)
        for check, digest in zip(checks, digests, strict=True)
        if check.key is not None
    ]
    verdicts = iter(verify_many(known))
    return [key if check.key is None or next(verdicts) else None for check, key in zip(checks, keys, strict=True)]


def _recovered(digest: bytes, signature: bytes, authorizer: bytes) -> AuthorizerKey | None:
    try:
        key = AuthorizerKey.recover(digest, signature)
    except InvalidSignature:
        return None
    return key if key.address == authorizer else None


class Screening:
    """One batch on its way from unchecked to proven.

    `outcomes` holds for each payment, in order, an answer that needs no commit, a proven payment, or None: not proven
    yet. Call `next_checks` and `take` in turn until there is nothing left to check, then `proven`.
    """

    def __init__(
        self,
        ledger: Ledger,
        payments: Sequence[UncheckedPayment],
        caches: ProofCaches,
        domain_separators: Mapping[str, bytes],
        replay: Replay,
    ) -> None:
        self._ledger = ledger
        self._caches = caches
        self._separators = domain_separators
        self._replay = replay
        self._payments = payments
        self._checks: list[SignatureCheck] = []
        self._raisers: dict[bytes, list[SignatureCheck]] = {}
        self._raised: dict[bytes, Voucher] = {}
        self._bad_vouchers: set[int] = set()
        self.outcomes: list[ProvenPayment | Accepted | Held | Refusal | None] = [
            self._screen(position, payment) for position, payment in enumerate(payments)
        ]

    def next_checks(self) -> list[SignatureCheck]:
        """The signatures to check now; empty when none is left."""
        checks, self._checks = self._checks, []
        for raisers in self._raisers.values():
            if raisers:
                checks.append(raisers.pop())
        return checks

    def take(self, checks: Sequence[SignatureCheck], keys: Sequence[AuthorizerKey | None]) -> None:
        """Take in the verdicts of `check_signatures` on `next_checks()`."""
        for check, key in zip(checks, keys, strict=True):
            if key is not None and check.key is None:
                self._caches.remember(key)
            raises = check.channel_id in self._raisers and self._payments[check.position].spend is not None
            if raises:
                self._take_raiser(check, good=key is not None)
            elif key is None:
                self.outcomes[check.position] = _bad_voucher()
            else:
                voucher = Voucher(check.channel_id, check.ceiling, check.signature)
                self.outcomes[check.position] = _proven(self._payments[check.position], VoucherProof(voucher))

    def proven(self) -> list[ProvenPayment | Accepted | Held | Refusal]:
        """The outcomes, after the last verdict is in: spend proofs get the ceiling that their channel was raised to."""
        return [
            self._spend_proven(position) if outcome is None else outcome
            for position, outcome in enumerate(self.outcomes)
        ]

    def _spend_proven(self, position: int) -> ProvenPayment | Refusal:
        payment = self._payments[position]
        spend = payment.spend
        assert spend is not None, "only spend proofs wait for a raised ceiling"
        raised = self._raised.get(payment.channel_id)
        if position in self._bad_vouchers:
            channel = self._ledger.channels[payment.channel_id]
            ceiling = max(channel.ceiling, raised.max_claimable_amount if raised else 0)
            if ceiling_allows(channel, ceiling, payment.amount):
                return _bad_voucher()
        return _proven(payment, SpendProof(spend.key_id, spend.max_amount, raised))

    def _take_raiser(self, check: SignatureCheck, *, good: bool) -> None:
        if good:
            self._raised[check.channel_id] = Voucher(check.channel_id, check.ceiling, check.signature)
            self._raisers[check.channel_id].clear()
        else:
            self._bad_vouchers.add(check.position)

    def _screen(self, position: int, payment: UncheckedPayment) -> ProvenPayment | Accepted | Held | Refusal | None:
        """Answer what needs no proof, check an HMAC, note a signature to check (None: wait for it)."""
        channel = self._ledger.channels.get(payment.channel_id)
        if channel is None:
            return Refusal(Reason.CHANNEL_UNKNOWN, "The channel is not known here; open it first.", "channel_id")
        known = self._ledger.payments.get(payment.payment_id + payment.channel_id)
        if known is not None:
            return self._replay(known, payment.amount, payment.request_hash)
        account = self._ledger.accounts[channel.account_id]
        if payment.spend is not None:
            return self._screen_spend_proof(position, payment, payment.spend, account, channel)
        # Of an older one the journal may know the answer, or it was forgotten and that is the answer.
        if payment.payment_ms >= max(self._ledger.payments_since_ms, self._ledger.payments_forgotten_ms):
            refusal = _voucher_is_hopeless(payment, account, channel)
            if refusal is not None:
                return refusal
        self._checks.append(self._check_of(position, payment, account))
        return None

    def _screen_spend_proof(
        self, position: int, payment: UncheckedPayment, spend: UncheckedSpendProof, account: Account, channel: Channel
    ) -> Refusal | None:
        name = spend_key_name(account.id, spend.key_id)
        key = self._ledger.spend_keys.get(name)
        if key is None:
            return Refusal(Reason.SPEND_KEY_UNKNOWN, "The account has no such spend key.", "key_id")
        if not self._caches.prover(name, key.secret).check(
            payment.channel_id, payment.payment_id, spend.max_amount, payment.request_hash, spend.mac
        ):
            return Refusal(
                Reason.SPEND_KEY_PROOF, "The spend proof is not this key's for this payment and request.", "mac"
            )
        if payment.ceiling > channel.ceiling:
            raisers = self._raisers.setdefault(payment.channel_id, [])
            raisers.append(self._check_of(position, payment, account))
            if len(raisers) > 1 and raisers[-2].ceiling > payment.ceiling:
                raisers.sort(key=_ceiling_of)  # the highest is popped first
        return None

    def _check_of(self, position: int, payment: UncheckedPayment, account: Account) -> SignatureCheck:
        authorizer = account.config.payer_authorizer
        return SignatureCheck(
            position,
            self._separators[account.network],
            payment.channel_id,
            payment.ceiling,
            payment.signature,
            authorizer,
            self._caches.authorizers.get(authorizer),
        )


def _voucher_is_hopeless(payment: UncheckedPayment, account: Account, channel: Channel) -> Refusal | None:
    """What refuses a voucher without looking at its signature. The rules run again when it is decided."""
    if not payment.signature and not account.takes_spend_proofs_only:
        return Refusal(
            Reason.VOUCHER_SIGNATURE, "The payment carries neither a voucher nor a spend proof.", "signature"
        )
    return voucher_may_prove(account, channel, payment.ceiling) or ceiling_allows(
        channel, max(channel.ceiling, payment.ceiling), payment.amount
    )


def _proven(payment: UncheckedPayment, proof: VoucherProof | SpendProof) -> ProvenPayment:
    return ProvenPayment(
        payment.channel_id, payment.payment_id, payment.payment_ms, payment.amount, payment.request_hash, proof
    )


def _bad_voucher() -> Refusal:
    return Refusal(Reason.VOUCHER_SIGNATURE, "The voucher is not signed by the channel's payerAuthorizer.", "signature")


def _ceiling_of(check: SignatureCheck) -> int:
    return check.ceiling
