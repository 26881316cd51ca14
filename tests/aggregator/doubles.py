"""In-memory doubles for the aggregator's tests: payers with real keys, a ledger that is driven directly, a journal that
does what a test tells it.

Times start at NOW_MS; all keys and ids follow from names and numbers, so that a failing test fails again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final, TypeVar

from tallystick.channels import ChannelConfig, account_id, channel_id
from tallystick.eip712 import Domain, escrow_domain
from tallystick.payment_ids import new_payment_id, payment_id_ms
from tallystick.quantities import ZERO_ADDRESS
from tallystick.signatures import Signer
from tallystick.spend_keys import SpendProver
from tallystick.vouchers import Voucher, sign_voucher
from tallystick_aggregator.charging import UncheckedPayment, UncheckedSpendProof
from tallystick_aggregator.charging.port import Decision
from tallystick_aggregator.ledger import accounts, decide
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Done, Held, Refusal
from tallystick_aggregator.ledger.commands import (
    DecisionContext,
    ProvenPayment,
    Rules,
    SpendProof,
    VoucherProof,
    WatermarkProof,
)
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.invariants import check_invariants
from tallystick_aggregator.ledger.payments import PackedPayment, PaymentKey
from tallystick_aggregator.ledger.state import (
    Account,
    Channel,
    Ledger,
    SpendKey,
    payment_key,
    reservation_handle,
)
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import StoreUnavailableError

Answer = TypeVar("Answer")

NOW_MS: Final = 1_800_000_000_000
NOW_S: Final = NOW_MS // 1000
NETWORK: Final = "eip155:31337"
ESCROW: Final = bytes.fromhex("e5" * 20)
TOKEN: Final = bytes.fromhex("70" * 20)
OPERATOR: Final = bytes.fromhex("09" * 20)
DOMAIN: Final = escrow_domain(31337, ESCROW)
ESCROW_REF: Final = EscrowRef(NETWORK, ESCROW)
SEPARATORS: Final = {ESCROW_REF: DOMAIN.separator}

NEWS: Final = bytes.fromhex("aa" * 20)
"""A seller."""
MUSIC: Final = bytes.fromhex("bb" * 20)
"""Another one."""

PAGE: Final = sha256(b"GET /page").digest()
"""The hash of the request that most payments of the tests pay for."""
OTHER_PAGE: Final = sha256(b"GET /another").digest()


def payment_id_of(number: int, ms: int = NOW_MS) -> bytes:
    """The payment id with this number, made at this time."""
    return new_payment_id(ms, number.to_bytes(10, "big"))


class Payer:
    """Somebody who signs: an account, its channels, vouchers and spend proofs."""

    def __init__(self, name: str, domain: Domain = DOMAIN, withdraw_delay_s: int = 86_400) -> None:
        self.name = name
        self.domain = domain
        self.signer = Signer(sha256(b"payer " + name.encode()).digest())
        self.config = ChannelConfig(
            payer=self.signer.address,
            payer_authorizer=self.signer.address,
            receiver=ZERO_ADDRESS,
            receiver_authorizer=OPERATOR,
            token=TOKEN,
            withdraw_delay_s=withdraw_delay_s,
            salt=sha256(b"salt " + name.encode()).digest(),
        )
        self.account_id = account_id(domain, self.config)

    def channel_id(self, receiver: bytes = NEWS) -> bytes:
        """The id of this payer's channel to the receiver."""
        return channel_id(self.domain, self.config.channel(receiver))

    def voucher(self, ceiling: int, receiver: bytes = NEWS) -> Voucher:
        """A voucher that the chain would take."""
        return sign_voucher(self.signer, self.domain, self.channel_id(receiver), ceiling)

    def spend_key(self, number: int = 0, *, cap: int = 10**30, expires_at: int = NOW_S + 3_600) -> SpendKey:
        """The payer's spend key with this number, as it would be registered."""
        key_id = sha256(f"{self.name} key {number}".encode()).digest()
        return SpendKey(self.account_id, key_id, sha256(b"secret" + key_id).digest(), cap, expires_at)

    def payment(
        self,
        number: int,
        amount: int,
        *,
        ceiling: int = 0,
        key: SpendKey | None = None,
        max_amount: int | None = None,
        receiver: bytes = NEWS,
        request: bytes = PAGE,
        ms: int = NOW_MS,
    ) -> UncheckedPayment:
        """A payment as an edge hands it in: with a voucher over `ceiling` if one is given, with a proof under `key`
        if one is given (over `amount` unless `max_amount` says otherwise)."""
        channel, payment = self.channel_id(receiver), payment_id_of(number, ms)
        signature = self.voucher(ceiling, receiver).signature if ceiling else b""
        spend = None
        if key is not None:
            most = amount if max_amount is None else max_amount
            spend = UncheckedSpendProof(key.key_id, most, SpendProver(key.secret).mac(channel, payment, most, request))
        return UncheckedPayment(channel, payment, amount, request, ceiling, signature, spend)


class PureLedger:
    """A ledger that is driven directly: every decision is adopted at once, its events are kept, its sums checked."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.ledger = Ledger()
        self.events: list[ev.Event] = []
        self.now_ms = NOW_MS
        self.stale_escrows: frozenset[EscrowRef] = frozenset()

    @property
    def moment(self) -> DecisionContext:
        """The present."""
        return DecisionContext(self.now_ms, self.stale_escrows)

    def run(self, decision: Decision[Answer]) -> Answer:
        """Take a decision, adopt it, check the invariants."""
        draft = Draft(self.ledger)
        answer = decision(draft, self.ledger, self.moment)
        self.events += draft.events
        draft.adopt()
        check_invariants(self.ledger)
        return answer

    def replayed(self) -> Ledger:
        """A ledger made from the events alone."""
        return replay(self.events)

    # Accounts and channels.

    def fund(self, payer: Payer, funds: int, *receivers: bytes) -> None:
        """Give the payer an account with these funds, and channels to the receivers (the news, if none is named)."""
        self.run(
            lambda draft, _ledger, _moment: accounts.open_account(draft, payer.account_id, ESCROW_REF, payer.config)
        )
        for receiver in receivers or (NEWS,):
            assert self.open_channel(payer, receiver) is None
        self.mirror(payer, balance=funds)

    def open_channel(self, payer: Payer, receiver: bytes = NEWS, *, claimed: int = 0) -> Refusal | None:
        """Open a channel with this baseline."""
        return self.run(
            lambda draft, _ledger, _moment: accounts.open_channel(
                draft, payer.account_id, payer.channel_id(receiver), receiver, claimed, self.rules
            )
        )

    def mirror(
        self,
        payer: Payer,
        *,
        balance: int,
        final_balance: int | None = None,
        claimed: Mapping[bytes, int] | None = None,
        final_claimed: Mapping[bytes, int] | None = None,
        withdrawing: int = 0,
        finalizes_at: int = 0,
        left_since_final: int = 0,
    ) -> list[accounts.Overclaim]:
        """Tell the ledger what the chain says; the final block says what the head does, unless given."""
        head = accounts.AccountAtBlock(balance, claimed or {})
        final = accounts.AccountAtBlock(
            balance if final_balance is None else final_balance,
            (claimed or {}) if final_claimed is None else final_claimed,
        )
        seen = accounts.AccountOnChain(payer.account_id, final, head, withdrawing, finalizes_at, left_since_final)
        return self.run(lambda draft, ledger, _moment: accounts.mirror(draft, ledger, seen))

    def account(self, payer: Payer) -> Account:
        """The payer's account."""
        return self.ledger.accounts[payer.account_id]

    def channel(self, payer: Payer, receiver: bytes = NEWS) -> Channel:
        """The payer's channel."""
        return self.ledger.channels[payer.channel_id(receiver)]

    def register(self, payer: Payer, key: SpendKey) -> SpendKey | Refusal:
        """Register a spend key."""
        return self.run(
            lambda draft, _ledger, moment: accounts.register_spend_key(draft, payer.account_id, key, moment, self.rules)
        )

    def revoke(self, payer: Payer, key: SpendKey) -> SpendKey | Refusal:
        """Revoke a spend key."""
        return self.run(lambda draft, _ledger, _moment: accounts.revoke_spend_key(draft, payer.account_id, key.key_id))

    def start_refund(self, payer: Payer, amount: int, number: int = 0) -> ev.RefundStarted | Refusal:
        """Start the refund with this number."""
        return self.run(
            lambda draft, _ledger, moment: accounts.start_refund(
                draft, payer.account_id, refund_id_of(number), number, amount, moment
            )
        )

    def end_refund(self, payer: Payer, number: int = 0) -> None:
        """End the refund with this number."""
        self.run(lambda draft, _ledger, _moment: accounts.end_refund(draft, payer.account_id, refund_id_of(number)))

    # Payments. The pure ledger is given proofs that were checked, so their signatures need not be real here.

    def charge(self, payment: ProvenPayment) -> Accepted | Refusal:
        """Charge."""
        return self.run(lambda draft, _ledger, moment: decide.charge(draft, payment, moment, self.rules))

    def reserve(self, payment: ProvenPayment) -> Held | Accepted | Refusal:
        """Reserve under `handle_of(payment)`."""
        return self.run(
            lambda draft, _ledger, moment: decide.reserve(draft, payment, handle_of(payment), moment, self.rules)
        )

    def capture(self, handle: bytes, amount: int) -> Accepted | Refusal:
        """Capture."""
        return self.run(lambda draft, _ledger, moment: decide.capture(draft, handle, amount, moment, self.rules))

    def release(self, handle: bytes) -> Done | Refusal:
        """Release."""
        return self.run(lambda draft, _ledger, _moment: decide.release(draft, handle))

    def expire(self, handle: bytes) -> None:
        """Let a reservation's time run out."""
        reservation = self.ledger.reservations[handle]
        self.run(lambda draft, _ledger, _moment: decide.expire(draft, reservation))

    def forget_payments(self, before_ms: int) -> None:
        """Prune payment ids, as the retention timer does."""
        self.run(lambda draft, _ledger, _moment: draft.record(ev.PaymentsForgotten(before_ms)))


def by_voucher(
    payer: Payer,
    number: int,
    amount: int,
    ceiling: int,
    *,
    receiver: bytes = NEWS,
    request: bytes = PAGE,
    ms: int = NOW_MS,
) -> ProvenPayment:
    """A payment proven by a voucher over `ceiling`."""
    channel = payer.channel_id(receiver)
    proof = VoucherProof(ceiling, Voucher(channel, ceiling, signature_of(ceiling)))
    return ProvenPayment(channel, payment_id_of(number, ms), amount, request, proof)


def in_step(
    payer: Payer, number: int, amount: int, ceiling: int, *, receiver: bytes = NEWS, ms: int = NOW_MS
) -> ProvenPayment:
    """A payment proven by a voucher over what was charged and this amount, as `batch-settlement` has it."""
    channel = payer.channel_id(receiver)
    proof = WatermarkProof(ceiling, Voucher(channel, ceiling, signature_of(ceiling)))
    return ProvenPayment(channel, payment_id_of(number, ms), amount, PAGE, proof)


def by_key(
    payer: Payer,
    key: SpendKey,
    number: int,
    amount: int,
    *,
    max_amount: int | None = None,
    ceiling: int = 0,
    receiver: bytes = NEWS,
    request: bytes = PAGE,
    ms: int = NOW_MS,
) -> ProvenPayment:
    """A payment proven under a spend key, with a voucher that raises the channel's ceiling if one is given."""
    channel = payer.channel_id(receiver)
    raised = Voucher(channel, ceiling, signature_of(ceiling)) if ceiling else None
    proof = SpendProof(key.key_id, amount if max_amount is None else max_amount, raised)
    return ProvenPayment(channel, payment_id_of(number, ms), amount, request, proof)


def signature_of(ceiling: int) -> bytes:
    """What stands in for a voucher's checked signature in the pure ledger: told apart by ceiling."""
    return ceiling.to_bytes(65, "big")


def handle_of(payment: ProvenPayment) -> bytes:
    """The handle under which `PureLedger.reserve` holds this payment."""
    return reservation_handle(payment.channel_id, payment.payment_id, sha256(payment.payment_id).digest()[:16])


def refund_id_of(number: int) -> bytes:
    """The refund id with this number."""
    return sha256(b"refund %d" % number).digest()


def replay(events: Sequence[ev.Event]) -> Ledger:
    """A ledger made from events alone, as at start-up."""
    ledger = Ledger()
    draft = Draft(ledger)
    draft.replay(events)
    draft.adopt()
    return ledger


class ScriptedJournal:
    """A journal in memory that does what a test tells it: refuse appends, or take its time with them.

    `commits` are the appended batches; `archive` answers `recall`.
    """

    epoch = 1
    backlog = 0

    def __init__(self) -> None:
        self.commits: list[tuple[ev.Event, ...]] = []
        self.archive: dict[PaymentKey, PackedPayment] = {}
        self.recalled: list[tuple[bytes, bytes]] = []
        self.refusals = 0
        """How many of the next appends are refused."""
        self.error: Exception = StoreUnavailableError("disk full")
        self.appending = asyncio.Event()
        """Set while an append has begun."""
        self._gate = asyncio.Event()
        self._gate.set()

    def hold(self) -> None:
        """Let appends begin, but not return."""
        self._gate.clear()

    def let_go(self) -> None:
        """Let them return."""
        self._gate.set()

    @property
    def events(self) -> list[ev.Event]:
        """All that was committed, in order."""
        return [event for commit in self.commits for event in commit]

    async def load(self) -> Ledger:
        """The ledger as of the last commit."""
        return replay(self.events)

    async def append(self, events: Sequence[ev.Event]) -> None:
        """Keep the events, unless told otherwise."""
        assert events, "an empty commit would cost an fsync for nothing"
        self.appending.set()
        await asyncio.sleep(0)
        await self._gate.wait()
        self.appending.clear()
        if self.refusals:
            self.refusals -= 1
            raise self.error
        self.commits.append(tuple(events))

    async def recall(self, payments: Sequence[tuple[bytes, bytes]]) -> Mapping[PaymentKey, PackedPayment]:
        """What `archive` has."""
        self.recalled += payments
        keys = [payment_key(*pair) for pair in payments]
        return {key: self.archive[key] for key in keys if key in self.archive}

    async def checkpoint(self, now_ms: int) -> None:
        """Nothing to write down."""

    def trim(self) -> None:
        """Nothing to let go of by itself; see `archive_payments`."""

    async def close(self) -> None:
        """Nothing to release."""

    def archive_payments(self, ledger: Ledger, before_ms: int) -> None:
        """Move payments from before this time from the ledger's memory to the archive, as checkpoints and trims do."""
        held = {payment_key(known.channel_id, known.payment_id) for known in ledger.reservations.values()}
        old = [key for key in ledger.payments if payment_id_ms(key) < before_ms and key not in held]
        for key in old:
            self.archive[key] = ledger.payments.pop(key)
        ledger.payments_since_ms = before_ms

    def with_archived(self, ledger: Ledger) -> Ledger:
        """The same ledger as if nothing had been archived."""
        return replace(ledger, payments=self.archive | ledger.payments, payments_since_ms=0)
