"""Payers and sellers that trade through a running aggregator over gRPC, and keep a book of what was accepted.

Every payment is repeated, with the id that it had first, until its outcome is known: the book holds what the seller saw
accepted, to the unit, and nothing else. Its figures are compared with the aggregator's ledger and with the chain.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, TypeVar

from anvil import NETWORK, Devnet, Payer
from tallystick import eip712
from tallystick.charges import Charge, Charged, DeferredCharge
from tallystick.errors import RefusedError
from tallystick.facilitator import Settled, Verified
from tallystick.payment_ids import new_payment_id
from tallystick.spend_keys import SpendKey, SpendProof, SpendProver
from tallystick.tokens import Token
from tallystick.x402 import ExactAuthorization, Network, PaymentTerms
from tallystick_client import Operator
from tallystick_client.payer.wallet.accounts import AccountClient, AccountState
from tallystick_client.payer.wallet.rows import Deposit
from tallystick_client.rpc import AggregatorUnavailableError
from tallystick_client.seller.client.aggregator import Aggregator
from waiting import until

HEADROOM: Final = 50_000
"""What a payer with a spend key signs at a time, beyond what it has spent, in atomic units."""
KEY_CAP: Final = 10**15
EXACT_VALID_S: Final = 3_600
CALL_TIMEOUT_S: Final = 5.0
PASSING: Final = frozenset(
    {
        "chain_stale",
        "chain_unavailable",
        "store_unavailable",
        "overloaded",
        "transaction_pending",
        "payment_pending",
        "exact_unavailable",
    }
)
"""Refusals that say nothing about the payment: the same one may be accepted a moment later."""
_PAUSE_S: Final = 0.1

Answer = TypeVar("Answer")


def operator_of(devnet: Devnet, target: str, withdraw_delay_s: int) -> Operator:
    """The devnet's operator, whose aggregator listens there, as payers know it."""
    token = devnet.token_settings
    return Operator(
        Network.parse(NETWORK, "network"),
        target,
        devnet.operator.address,
        devnet.escrow,
        withdraw_delay_s,
        (Token(token.address, token.symbol, token.decimals, token.name, token.version, token.min_deposit),),
        insecure=True,
    )


class Stall:
    """A seller: one receiver, and a token to charge, read and settle for it."""

    def __init__(self, devnet: Devnet, target: str, token: str, receiver: bytes) -> None:
        self.receiver = receiver
        self.aggregator = Aggregator(target, token=token, insecure=True, timeout_s=CALL_TIMEOUT_S)
        self._asset = devnet.token

    def terms(self, scheme: str, amount: int) -> PaymentTerms:
        """What it asks for."""
        return PaymentTerms(scheme, Network.parse(NETWORK, "network"), amount, self._asset, self.receiver)


@dataclass(slots=True)
class ExactSale:
    """One exact payment: `accepted` is None as long as its outcome is not known."""

    authorization: ExactAuthorization
    accepted: bool | None = None
    reason: str = ""

    @property
    def amount(self) -> int:
        return self.authorization.value


@dataclass(slots=True)
class Book:
    """What sellers saw accepted, by receiver, in atomic units, and how often it was refused, by reason."""

    accepted: Counter[bytes] = field(default_factory=Counter)
    exact: list[ExactSale] = field(default_factory=list)
    payments: int = 0
    sales: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    contradictions: list[str] = field(default_factory=list)


class Customer:
    """A payer with a deposit, or about to have one. One payment at a time.

    `by_key`: it registers a spend key first; else it pays by a voucher each. `clock` is the aggregator's.
    """

    def __init__(
        self,
        payer: Payer,
        operator: Operator,
        *,
        by_key: bool = False,
        clock: Callable[[], float] = time.time,
        chance: random.Random | None = None,
    ) -> None:
        self.payer = payer
        self.by_key = by_key
        self.account = AccountClient(operator, payer.signer, clock)
        self.book = Book()
        self._clock = clock
        self._chance = chance or random.Random(0)
        self._signed: Counter[bytes] = Counter()
        self._met: set[bytes] = set()
        self._key: SpendKey | None = None
        self._prover: SpendProver | None = None

    async def close(self) -> None:
        await self.account.close()

    async def state(self) -> AccountState | None:
        """The account as the aggregator tells it."""
        return await self.account.read(self.payer.account_id)

    async def deposit(self, amount: int) -> None:
        """Deposit by an authorization that the aggregator lands; returns when it is credited."""
        signed = self.payer.authorization(amount)
        await self.account.deposit(
            self.payer.config,
            Deposit(
                signed.salt,
                self.payer.account_id,
                amount,
                signed.valid_after,
                signed.valid_before,
                signed.signature,
            ),
        )

    async def funded(self, amount: int, timeout_s: float = 30) -> AccountState:
        """Wait until the aggregator has credited so much in all."""

        async def state() -> AccountState | None:
            known = await self.state()
            return known if known is not None and known.funds >= amount else None

        found = await until(state, timeout_s)
        assert found is not None
        return found

    async def register_key(self) -> None:
        """From now on the account takes spend proofs only."""
        key = SpendKey(self._random_bytes(32), self._random_bytes(32))
        await self.account.register_spend_key(self.payer.account_id, key, KEY_CAP, int(self._clock()) + 30 * 86_400)
        self._key, self._prover = key, SpendProver(key.secret)

    async def refund(self, amount: int = 0) -> int:
        """Ask for so much back, or for all that is available; what came, in atomic units. Raises RefusedError."""
        refunded = await self.account.refund(self.payer.account_id, self._random_bytes(32), amount)
        return refunded.amount

    # Payments.

    async def pay(self, stall: Stall, amount: int, *, patience_s: float = 0.0) -> Charged | RefusedError:
        """Pay in one step, or by a reservation where the seller has not met this account yet."""
        if stall.receiver not in self._met:
            return await self.pay_in_two_steps(stall, amount, patience_s=patience_s)
        charge = await self._charge(stall, amount)
        outcome = await self._outcome(lambda: stall.aggregator.charge(charge), patience_s)
        if isinstance(outcome, Charged):
            self._accept(stall, amount)
        return outcome

    async def pay_in_two_steps(
        self, stall: Stall, amount: int, *, captured: int | None = None, patience_s: float = 0.0
    ) -> Charged | RefusedError:
        """Have the amount reserved, then captured, in full or less."""
        charge = await self._charge(stall, amount)
        captured = amount if captured is None else captured
        verified = await self._reserve(stall, charge, patience_s)
        if isinstance(verified, RefusedError):
            self.book.refusals[verified.reason.code] += 1
            return verified
        self._met.add(stall.receiver)
        terms = stall.terms("deferred", captured)
        outcome = await self._outcome(lambda: stall.aggregator.settle(terms, verified.handle), patience_s)
        if isinstance(outcome, Settled):
            self._accept(stall, captured)
            return Charged(outcome.charged, outcome.replayed)
        return outcome

    async def pay_exact(self, stall: Stall, amount: int, *, patience_s: float = 30.0) -> ExactSale:
        """Pay by a transfer of its own, without a deposit."""
        sale = ExactSale(self._exact(stall, amount))
        self.book.exact.append(sale)
        self.book.payments += 1
        await self.settle_exact(stall, sale, patience_s=patience_s)
        return sale

    async def settle_exact(self, stall: Stall, sale: ExactSale, *, patience_s: float = 30.0) -> None:
        """Settle it until its outcome is known; it stays open if that takes longer than the patience."""
        terms = stall.terms("exact", sale.amount)
        deadline = time.monotonic() + patience_s
        while sale.accepted is None:
            try:
                await stall.aggregator.settle(terms, sale.authorization)
            except AggregatorUnavailableError:
                sale.reason = "unanswered"
            except RefusedError as refused:
                sale.reason = refused.reason.code
                if refused.reason.code not in PASSING:
                    sale.accepted = False
            else:
                sale.accepted = True
                self.book.sales += 1
            if time.monotonic() >= deadline:
                return
            await asyncio.sleep(_PAUSE_S)

    # Parts.

    async def _reserve(self, stall: Stall, charge: Charge, patience_s: float) -> Verified | RefusedError:
        """Have the charge's amount held. What was refused for a passing reason holds nothing, and is asked again."""
        payment = DeferredCharge(self.payer.config.channel(stall.receiver), charge)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return await stall.aggregator.verify(stall.terms("deferred", charge.amount), payment)
            except AggregatorUnavailableError as error:  # something may be held; it expires, and nobody can capture it
                self.book.refusals["unanswered"] += 1
                raise UnansweredError from error
            except RefusedError as refused:
                if refused.reason.code not in PASSING or time.monotonic() >= deadline:
                    return refused
            await asyncio.sleep(_PAUSE_S)

    def _accept(self, stall: Stall, amount: int) -> None:
        self.book.accepted[stall.receiver] += amount
        self.book.sales += 1

    async def _outcome(self, call: Callable[[], Awaitable[Answer]], patience_s: float) -> Answer | RefusedError:
        """Repeat until there is an answer that stands: a refusal that may pass stands only where nothing is open."""
        self.book.payments += 1
        open_ = False
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return await call()
            except AggregatorUnavailableError:
                open_ = True
            except RefusedError as refused:
                passing = refused.reason.code in PASSING
                if not passing or (not open_ and time.monotonic() >= deadline):
                    self.book.refusals[refused.reason.code] += 1
                    return refused
            await asyncio.sleep(_PAUSE_S)

    async def _charge(self, stall: Stall, amount: int) -> Charge:
        if self.by_key and self._key is None:
            await self.register_key()
        channel_id = self.payer.channel_id(stall.receiver)
        payment_id = bytes(new_payment_id(int(self._clock() * 1_000), self._random_bytes(10)))
        request_hash = sha256(payment_id).digest()
        spent = self.book.accepted[stall.receiver]
        if self._key is None or self._prover is None:
            self._signed[stall.receiver] += amount
            ceiling = self._signed[stall.receiver]
            return Charge(channel_id, payment_id, amount, request_hash, ceiling, self._sign(stall, ceiling))
        spend = SpendProof(self._key.key_id, amount, self._prover.mac(channel_id, payment_id, amount, request_hash))
        ceiling, signature = 0, b""
        if spent + amount > self._signed[stall.receiver] or stall.receiver not in self._met:
            ceiling = self._signed[stall.receiver] = spent + amount + HEADROOM
            signature = self._sign(stall, ceiling)
        return Charge(channel_id, payment_id, amount, request_hash, ceiling, signature, spend)

    def _sign(self, stall: Stall, ceiling: int) -> bytes:
        return bytes(self.payer.voucher(stall.receiver, ceiling).signature)

    def _exact(self, stall: Stall, amount: int) -> ExactAuthorization:
        payer, devnet = self.payer.signer, self.payer.devnet
        now_s, nonce = int(self._clock()), self._random_bytes(32)
        window = (now_s - 600, now_s + EXACT_VALID_S)
        struct_hash = eip712.hash_transfer_with_authorization(payer.address, stall.receiver, amount, *window, nonce)
        signature = payer.sign(eip712.digest(devnet.token_domain, struct_hash))
        return ExactAuthorization(payer.address, stall.receiver, amount, *window, nonce, signature)

    def _random_bytes(self, count: int) -> bytes:
        return self._chance.randbytes(count)


class UnansweredError(Exception):
    """A call that must not be repeated was not answered; nothing was charged by it."""
