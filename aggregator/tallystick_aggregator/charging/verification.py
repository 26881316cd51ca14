"""From unchecked payments to proven ones: the cheap checks, spend keys' HMACs, vouchers' signatures.

`Screening` is made on the event loop: it refuses what is hopeless, answers what was answered before, checks HMACs
inline (about a microsecond) and lists the signatures that remain, which module `signatures` checks.

Of a burst on one channel only the highest voucher can become its ceiling, and only that one is checked as the chain
would. If it fails, all the others have their turn at once, and the highest good one counts: one poisoned voucher cannot
sink its neighbours, and many cost one round. Of those below it is enough that the payer signed them; and where spend
keys prove the charges, they are not looked at at all.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tallystick.charges import Charge as UncheckedPayment
from tallystick.payment_ids import payment_ids_from
from tallystick.quantities import ZERO_ADDRESS, ChannelId
from tallystick.spend_keys import SpendProver
from tallystick.vouchers import Voucher
from tallystick_aggregator.charging.signatures import SignatureCheck
from tallystick_aggregator.ledger.answers import Accepted, Held, Refusal
from tallystick_aggregator.ledger.commands import DecisionContext, ProvenPayment, SpendProof, VoucherProof
from tallystick_aggregator.ledger.payments import Payment, PaymentKey, unpack_payment
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.rules import (
    ceiling_allows,
    key_is_live,
    voucher_may_prove,
)
from tallystick_aggregator.ledger.state import Account, Channel, Ledger, spend_key_name
from tallystick_aggregator.ledger.values import EscrowRef

PROVERS_MAX: Final = 65_536

Replay = Callable[[Payment, int, bytes], Accepted | Held | Refusal]
"""How a known payment id is answered: `decide.replay_of_charge` or `decide.replay_of_reservation`."""


class Provers:
    """Keyed HMAC states by secret, on which alone they depend; bounded, the oldest go first."""

    def __init__(self, most: int = PROVERS_MAX) -> None:
        self._most = most
        self._provers: dict[bytes, SpendProver] = {}

    def of(self, secret: bytes) -> SpendProver:
        """The HMAC state of a spend key's secret, made at its first use."""
        prover = self._provers.get(secret)
        if prover is None:
            prover = self._provers[secret] = SpendProver(secret)
            if len(self._provers) > self._most:
                del self._provers[next(iter(self._provers))]
        return prover


class Screening:
    """One batch on its way from unchecked to proven.

    `outcomes` holds for each payment, in order, an answer that needs no commit, or None: its proof is good as far as it
    was checked. Call `next_checks` and `take` in turn until there is nothing left to check, then `proven`.
    """

    def __init__(
        self,
        ledger: Ledger,
        payments: Sequence[UncheckedPayment],
        provers: Provers,
        domain_separators: Mapping[EscrowRef, bytes],
        replay: Replay,
    ) -> None:
        self._ledger = ledger
        self._provers = provers
        self._separators = domain_separators
        self._replay = replay
        self._payments = payments
        self._checks: list[SignatureCheck] = []
        self._highest: dict[bytes, int] = {}
        """By channel: which of the checks is of the voucher that would become the ceiling."""
        self._fallen: set[bytes] = set()
        """Channels whose highest voucher was bad."""
        self._raisers: dict[bytes, list[SignatureCheck]] = {}
        """By channel: vouchers beside spend proofs that were not tried yet."""
        self._raisers_tried = False
        """Whether the highest of each was: of those channels that are left it was bad."""
        self._raised: dict[bytes, Voucher] = {}
        self._bad_raisers: set[int] = set()
        self._recent = payment_ids_from(max(ledger.payments_since_ms, ledger.payments_forgotten_ms))
        """From this payment id on, memory knows all that were paid."""
        self.outcomes = self._screen()

    def next_checks(self) -> list[SignatureCheck]:
        """The signatures to check now; empty when none is left."""
        checks, self._checks = self._checks, []
        if self._fallen:
            checks += self._others_of_the_fallen()
        if self._raisers:
            checks += self._next_raisers()
        return checks

    def take(self, checks: Sequence[SignatureCheck], verdicts: Sequence[bool]) -> None:
        """Take in whether the signatures of `next_checks()` are good.

        Those of a channel that may be kept come in descending order: once one is good, those below are not needed.
        """
        for check, good in zip(checks, verdicts, strict=True):
            if check.kept and check.channel_id in self._raised:
                continue
            if good:
                if check.kept:
                    self._raised[check.channel_id] = Voucher(check.channel_id, check.ceiling, check.signature)
                    self._raisers.pop(check.channel_id, None)
            elif self._payments[check.position].spend is not None:
                self._bad_raisers.add(check.position)
            else:
                self.outcomes[check.position] = refuse(Why.VOUCHER_SIGNATURE)
                if check.kept:
                    self._fallen.add(check.channel_id)

    def proven(self) -> list[ProvenPayment | Accepted | Held | Refusal]:
        """The outcomes, after the last verdict is in: proofs get the ceiling that their channel was raised to."""
        for position in self._bad_raisers:
            self.outcomes[position] = self._refused_for_ceiling(self._payments[position])
        raised = self._raised.get
        outcomes: list[ProvenPayment | Accepted | Held | Refusal] = []
        run, shared = (b"", b"", 0), None  # the spend proofs of a run say the same, so one does for all
        for payment, outcome in zip(self._payments, self.outcomes, strict=True):
            if outcome is not None:
                outcomes.append(outcome)
                continue
            channel_id, spend = payment.channel_id, payment.spend
            proof: VoucherProof | SpendProof
            if spend is None:
                proof = VoucherProof(payment.ceiling, raised(channel_id))
            else:
                same = channel_id, spend.key_id, spend.max_amount
                if shared is None or same != run:
                    run, shared = same, SpendProof(spend.key_id, spend.max_amount, raised(channel_id))
                proof = shared
            outcomes.append(ProvenPayment(channel_id, payment.payment_id, payment.amount, payment.request_hash, proof))
        return outcomes

    def _refused_for_ceiling(self, payment: UncheckedPayment) -> Refusal | None:
        """Refuse a spend proof whose bad voucher was needed; let it pass where the ceiling suffices without.

        Of an older payment the journal may know the answer.
        """
        if payment.payment_id < self._recent:
            return None
        channel, raised = self._ledger.channels[payment.channel_id], self._raised.get(payment.channel_id)
        ceiling = max(channel.ceiling, raised.max_claimable_amount if raised else 0)
        return refuse(Why.VOUCHER_SIGNATURE) if ceiling_allows(channel, ceiling, payment.amount) else None

    def _screen(self) -> list[Accepted | Held | Refusal | None]:
        """Answer what needs no proof, check HMACs, note signatures to check.

        Charges of a channel come in runs: what is the same for them is looked up once.
        """
        ledger, known = self._ledger, self._known()
        outcomes: list[Accepted | Held | Refusal | None] = []
        channel_id, channel, account, key_id, prover = b"", None, None, b"", None
        for position, payment in enumerate(self._payments):
            if payment.channel_id != channel_id:
                channel_id = payment.channel_id
                channel = ledger.channels.get(channel_id)
                account = ledger.accounts[channel.account_id] if channel is not None else None
                key_id = b""
            if channel is None or account is None:
                outcomes.append(refuse(Why.CHANNEL_UNKNOWN))
            elif known and (first := known.get(payment.payment_id + channel_id)) is not None:
                outcomes.append(self._replay(first, payment.amount, payment.request_hash))
            elif (spend := payment.spend) is not None:
                if spend.key_id != key_id:
                    key_id = spend.key_id
                    prover = self._prover_of(account, key_id)
                # Here and not in a function of its own: of all that a charge costs this is the most frequent part.
                refusal = None
                if prover is None:
                    refusal = refuse(Why.SPEND_KEY_UNKNOWN)
                elif not prover.check(
                    channel_id, payment.payment_id, spend.max_amount, payment.request_hash, spend.mac
                ):
                    refusal = refuse(Why.SPEND_PROOF)
                elif payment.ceiling > channel.ceiling:
                    raiser = self._check_of(position, payment, account, kept=True)
                    self._raisers.setdefault(channel_id, []).append(raiser)
                outcomes.append(refusal)
            else:
                outcomes.append(self._screen_voucher(position, payment, account, channel))
        return outcomes

    def _known(self) -> Mapping[PaymentKey, Payment]:
        """Those that were paid before, by key: as a rule none of all."""
        payments = self._ledger.payments
        keys = [payment.payment_id + payment.channel_id for payment in self._payments]
        if payments.keys().isdisjoint(keys):
            return {}
        return {key: unpack_payment(key, payments[key]) for key in keys if key in payments}

    def _screen_voucher(
        self, position: int, payment: UncheckedPayment, account: Account, channel: Channel
    ) -> Refusal | None:
        # Of an older one the journal may know the answer, or it was forgotten and that is the answer.
        if payment.payment_id >= self._recent:
            refusal = _voucher_is_hopeless(payment, account, channel)
            if refusal is not None:
                return refusal
        kept = payment.ceiling > channel.ceiling and self._is_highest(payment)
        self._checks.append(self._check_of(position, payment, account, kept=kept))
        return None

    def _is_highest(self, payment: UncheckedPayment) -> bool:
        """Whether this voucher would become the ceiling; the one that would have been before is demoted."""
        index = self._highest.get(payment.channel_id)
        if index is not None:
            if self._checks[index].ceiling >= payment.ceiling:
                return False
            self._checks[index].kept = False
        self._highest[payment.channel_id] = len(self._checks)
        return True

    def _others_of_the_fallen(self) -> list[SignatureCheck]:
        """Of each channel whose highest voucher was bad, all others that its payer has signed, the highest first."""
        fallen, self._fallen = self._fallen, set()
        channels = self._ledger.channels
        others = [
            self._check_of(position, payment, self._account_of(payment.channel_id), kept=True)
            for position, payment in enumerate(self._payments)
            if payment.channel_id in fallen
            and self.outcomes[position] is None
            and payment.spend is None
            and payment.ceiling > channels[payment.channel_id].ceiling
        ]
        return sorted(others, key=_ceiling_of, reverse=True)

    def _next_raisers(self) -> list[SignatureCheck]:
        """Of the vouchers beside spend proofs the highest of each channel; where that was bad, all others."""
        raisers: list[SignatureCheck] = []
        for waiting in self._raisers.values():
            waiting.sort(key=_ceiling_of, reverse=True)
            count = len(waiting) if self._raisers_tried else 1
            raisers += waiting[:count]
            del waiting[:count]
        self._raisers_tried = True
        return raisers

    def _prover_of(self, account: Account, key_id: bytes) -> SpendProver | None:
        key = self._ledger.spend_keys.get(spend_key_name(account.id, key_id))
        return None if key is None else self._provers.of(key.secret)

    def _account_of(self, channel_id: bytes) -> Account:
        return self._ledger.accounts[self._ledger.channels[channel_id].account_id]

    def _check_of(self, position: int, payment: UncheckedPayment, account: Account, *, kept: bool) -> SignatureCheck:
        return SignatureCheck(
            position,
            self._separators[account.escrow],
            payment.channel_id,
            payment.ceiling,
            payment.signature,
            account.config.payer_authorizer,
            kept,
        )


def screen_first(
    ledger: Ledger,
    account: Account,
    payment: UncheckedPayment,
    provers: Provers,
    domain_separators: Mapping[EscrowRef, bytes],
    moment: DecisionContext,
) -> Refusal | SignatureCheck | None:
    """Check whether the account's payer meant a payment on a channel that is not known yet.

    None if a live spend key proves it, a refusal if nothing can, else the voucher's signature, which is left to check.
    """
    spend = payment.spend
    if spend is None:
        unopened = Channel(ChannelId(payment.channel_id), account.id, ZERO_ADDRESS)
        return _voucher_is_hopeless(payment, account, unopened) or SignatureCheck(
            0,
            domain_separators[account.escrow],
            payment.channel_id,
            payment.ceiling,
            payment.signature,
            account.config.payer_authorizer,
            True,
        )
    key = ledger.spend_keys.get(spend_key_name(account.id, spend.key_id))
    if key is None:
        return refuse(Why.SPEND_KEY_UNKNOWN)
    prover = provers.of(key.secret)
    if not prover.check(payment.channel_id, payment.payment_id, spend.max_amount, payment.request_hash, spend.mac):
        return refuse(Why.SPEND_PROOF)
    return key_is_live(key, moment)


def _voucher_is_hopeless(payment: UncheckedPayment, account: Account, channel: Channel) -> Refusal | None:
    """What refuses a voucher without looking at its signature. The rules run again when it is decided."""
    if not payment.signature and not account.takes_spend_proofs_only:
        return refuse(Why.NO_PROOF)
    return voucher_may_prove(account, channel, payment.ceiling) or ceiling_allows(
        channel, max(channel.ceiling, payment.ceiling), payment.amount
    )


def _ceiling_of(check: SignatureCheck) -> int:
    return check.ceiling
