"""What must hold for a transfer to settle: asked by verify and by settle alike, and told in the caller's terms.

Signatures are checked here for plain keys (I5); a contract wallet's only the chain can check, by simulation with
bounded gas: it is checked by the payer's own contract, inside a transaction that the operator pays for. It is bounded
likewise where that transaction deploys the wallet first (ERC-6492, module `counterfactual`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Final, cast

from tallystick.hexadecimal import checksum
from tallystick.x402 import Permit2Authorization
from tallystick_aggregator.accounts.outcomes import overloaded
from tallystick_aggregator.auth.limits import GasBudget, RateLimit
from tallystick_aggregator.auth.transfer_limits import TransferLimits
from tallystick_aggregator.chain.bundle_port import Bundle
from tallystick_aggregator.chain.port import Block, Call, Chain, OutOfGasError, RevertedError, Send
from tallystick_aggregator.chain.token_port import Deployment, Permit2Token, Token
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.schemes.exact.approvals import plan_bundle
from tallystick_aggregator.schemes.exact.authorizations import (
    GRACE_S,
    Authorization,
    TransferToken,
    describe_code,
    is_signed_by_key,
    not_by_the_key,
    signature_may_count,
    transfer_slot,
    window_is_open,
)
from tallystick_aggregator.schemes.exact.counterfactual import deployment_refusal
from tallystick_aggregator.schemes.exact.permit2 import approval_refusal, brings_approval
from tallystick_aggregator.store.port import OutboundTransaction, TransactionKind

TRANSFER_GAS_MAX: Final = 250_000
"""Gas of one transfer at most. USDC takes some 82,000 with a key's signature, contract wallets in use 60,000 more;
where new storage costs more (EIP-8037), a key's transfer to an empty address takes some 240,000."""
DEPLOYING_GAS_MAX: Final = 2 * TRANSFER_GAS_MAX
"""Gas of one that deploys the payer's wallet first: wallets in use take some 150,000 to 250,000 to deploy."""
PROBE_GAS_MAX: Final = 8 * TRANSFER_GAS_MAX
"""With so much gas a refused transfer is simulated once more, to learn whether gas was all that it lacked."""
FRESH_S: Final = 3.0
"""For so long it is believed what the sender can pay for."""


class GasMoney:
    """Whether one chain's sender can pay for a further transfer, as of FRESH_S ago at most."""

    def __init__(self, chain: Chain, clock: Callable[[], float] = monotonic) -> None:
        self._chain = chain
        self._clock = clock
        self._reading = asyncio.Lock()
        self._read_at: float | None = None
        self._gas = 0

    async def suffices(self, gas_max: int = TRANSFER_GAS_MAX) -> bool:
        """Return whether it can, of so much gas. Raises ChainUnavailableError."""
        async with self._reading:
            if self._read_at is None or self._clock() - self._read_at >= FRESH_S:
                self._gas = await self._chain.gas_affordable()
                self._read_at = self._clock()
        return self._gas >= gas_max


UNPROVEN_PER_S: Final = 5.0
"""Payments whose signature only the payer's contract can check, in verify and settle together."""
UNPROVEN_BURST: Final = 20
BY_CONTRACT_AT_ONCE: Final = 8
"""Transfers of one payer in no block yet, where its contract decides whether they succeed: what it can make fail before
it is barred."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A payment, on its chain and in its token, which is a `Permit2Token` where Permit2 moves it.

    `deployment`: what would deploy the payer's wallet first, if it has no code. `bundle`: what goes before the transfer
    in transactions of their own.
    """

    chain: Chain
    token: TransferToken
    payment: Authorization
    deployment: Deployment | None = field(default=None, kw_only=True)
    bundle: Bundle | None = field(default=None, kw_only=True)

    @property
    def gas_max(self) -> int:
        """What it may burn."""
        return TRANSFER_GAS_MAX if self.deployment is None else DEPLOYING_GAS_MAX

    def call(self) -> Call:
        """Return the transaction that would move it."""
        if isinstance(self.payment, Permit2Authorization):
            return cast("Permit2Token", self.token).transfer_call(self.payment)
        token = cast("Token", self.token)
        if self.deployment is None:
            return token.transfer_call(self.payment)
        return token.deploying_transfer_call(self.payment, self.deployment)

    async def send(self, send: Send) -> OutboundTransaction:
        """As `Chain.send`; raises BundleBusyError besides."""
        if self.bundle is None or self.chain.bundles is None:
            return await self.chain.send(send)
        return await self.chain.bundles.send(send, self.bundle, self.payment.valid_before)


class Preconditions:
    """Asks them; what costs reads of the chain is bounded for all payments together."""

    def __init__(
        self,
        chains: Mapping[str, Chain],
        clock_s: Callable[[], int],
        budget: GasBudget,
        limits: TransferLimits,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._clock_s = clock_s
        self._budget = budget
        self._limits = limits
        self._pause = pause
        self._unproven = RateLimit(UNPROVEN_PER_S, UNPROVEN_BURST)
        self._gas_money = {network: GasMoney(chain) for network, chain in chains.items()}
        self._spending: dict[tuple[str, bytes, bytes], dict[bytes, int]] = {}
        """By network, payer and token: what is being sent right now, by slot; the outbox may not have it yet."""

    async def can_be_paid_for(self, chain: Chain, payer: bytes, gas_max: int = TRANSFER_GAS_MAX) -> Refusal | None:
        """Check that the sender has the gas for one more transfer, and that the budget allows it."""
        if not await self._gas_money[chain.network].suffices(gas_max):
            return refuse(Why.EXACT_UNAVAILABLE, network=chain.network)
        return self._budget.refusal(chain, TransactionKind.EXACT, payer, has_paid=True)

    @contextmanager
    def sending(self, transfer: Transfer) -> Generator[None]:
        """While a transfer is checked and sent, count it as spent: a key signs any number of payments over the same
        money, and of those that are sent together all but one would revert, at the operator's expense.

        It counts from the moment in which its balance has been read; afterwards the outbox tells.
        """
        purse, slot = _purse(transfer), _slot(transfer)
        spending = self._spending.setdefault(purse, {})
        spending[slot] = 0
        try:
            yield
        finally:
            del spending[slot]
            if not spending:
                del self._spending[purse]

    async def would_settle(self, transfer: Transfer, *, fresh: bool = True) -> Transfer | Refusal:
        """Check time, the sender's money and the signature's form, then at one block: nonce, balance, simulation.
        Returns the transfer as it is to be sent: a wallet that has code already is not deployed.

        Any visitor of a seller can bring this about, so what is cheap comes first and the rest is bounded. Without
        `fresh` the block may be as of a moment ago, see `Chain.head`.
        """
        payment = transfer.payment
        refusal = (
            self._is_taken(transfer)
            or window_is_open(payment, self._clock_s(), grace_s=GRACE_S)
            or signature_may_count(payment)
        )
        if refusal is not None:
            return refusal
        refusal = await self.can_be_paid_for(transfer.chain, payment.from_, transfer.gas_max)
        if refusal is not None:
            return refusal
        block = await transfer.chain.head(fresh=fresh)
        signed_by_key = is_signed_by_key(transfer.token, payment)
        checks: list[Awaitable[Refusal | None]] = [
            self._has_few_under_way(transfer, block),
            self._chain_state_allows(transfer, block),
        ]
        # Only what a contract must check is counted and bounded: what a key signed need not wait for the rest.
        at_once = signed_by_key and _is_complete_in(block, transfer)
        if at_once:
            checks.append(self._simulate(transfer, block, transfer.gas_max))
        try:
            refusal = await _first_of(*checks)
        except RevertedError:
            at_once = False  # why is found out below
        if refusal is not None:
            return refusal
        if at_once:
            return transfer
        found = await self._as_sent(transfer, block)
        if isinstance(found, Refusal):
            return found
        return await self._passes(found, block, signed_by_key=signed_by_key)

    async def _passes(self, transfer: Transfer, block: Block, *, signed_by_key: bool) -> Transfer | Refusal:
        """Check that the transfer's time has come, and simulate it."""
        token, payment = transfer.token, transfer.payment
        if not signed_by_key:
            if transfer.deployment is None and not await transfer.chain.code(payment.from_, block):
                return not_by_the_key(token, payment)
            if not self._unproven.take():
                return overloaded("payments that only the payer's contract can check", UNPROVEN_BURST)
        # Last: whoever waits holds a place, and what nobody signed must not.
        refusal = await self._window_opens(payment)
        if refusal is not None:
            return refusal
        for left in range(GRACE_S, -1, -1):
            try:
                await self._simulate(transfer, block, transfer.gas_max)
            except RevertedError as error:
                if not left or not await self.is_before_its_block(transfer):
                    return await self._why_simulation_fails(transfer, block, error, signed_by_key=signed_by_key)
                block = await transfer.chain.head()
            else:
                break
        return transfer

    async def _as_sent(self, transfer: Transfer, block: Block) -> Transfer | Refusal:
        """Return the transfer as it is sent: without a deployment where the wallet has code already (ERC-6492), and
        with a bundle where the payer has not approved Permit2 yet.
        """
        payment = transfer.payment
        if brings_approval(payment, transfer.chain):
            token = cast("Permit2Token", transfer.token)
            if await token.allowance(payment.from_, block) >= payment.value:
                return transfer
            bundle = await plan_bundle(transfer.chain, payment, block, self._clock_s())
            return bundle if isinstance(bundle, Refusal) else replace(transfer, bundle=bundle)
        if transfer.deployment is None:
            return transfer
        if await transfer.chain.code(transfer.payment.from_, block):
            return replace(transfer, deployment=None)
        factories = self._limits.erc6492_factories
        return await deployment_refusal(transfer.chain, transfer.deployment, factories, block) or transfer

    async def is_before_its_block(self, transfer: Transfer) -> bool:
        """Whether the newest block is from before the authorization is valid, so that a failure says nothing yet (X8).
        Some nodes can only tell what would happen in that block. If so, a second has passed when this returns.
        """
        if (await transfer.chain.head()).timestamp > transfer.payment.valid_after:
            return False
        await self._pause(1.0)
        return True

    async def _simulate(self, transfer: Transfer, block: Block, gas_max: int) -> None:
        """As the transaction would run: in the next block, which tokens compare with the authorization's window."""
        at_s = max(block.timestamp, self._clock_s()) + 1
        if transfer.bundle is not None and transfer.chain.bundles is not None:
            await transfer.chain.bundles.simulate(transfer.bundle, transfer.call(), block, gas_max=gas_max)
        else:
            await transfer.chain.simulate(transfer.call(), block, gas_max=gas_max, at_s=at_s)

    def _is_taken(self, transfer: Transfer) -> Refusal | None:
        """Check what the operator configured, and what became of the payer's earlier transfers (X3, X9)."""
        limits, payment, gas = self._limits, transfer.payment, transfer.chain.gas
        if not limits.enabled:
            return refuse(Why.EXACT_DISABLED)
        if payment.value < limits.amount_min:
            return refuse(Why.EXACT_TOO_SMALL, payment.value, f"at least {limits.amount_min}")
        if gas.reverted(TransactionKind.EXACT, payment.from_):
            wait_s = gas.wait_s(TransactionKind.EXACT, 1, payment.from_)
            return refuse(Why.EXACT_PAYER_BARRED, checksum(payment.from_), retry_after_s=wait_s, wait_s=wait_s)
        most = limits.per_receiver_hour_max
        if most and gas.count_to(payment.to) >= most:
            return refuse(Why.EXACT_RECEIVER_LIMIT, f"{gas.count_to(payment.to) + 1} in an hour", f"at most {most}")
        return None

    async def wait_for_window(self, payment: Authorization) -> None:
        """Return when a payment is valid that is to be so in a moment: clocks are never quite alike (X8)."""
        for _ in range(GRACE_S):
            if not 0 < payment.valid_after - self._clock_s() <= GRACE_S:
                break
            await self._pause(1.0)

    async def _window_opens(self, payment: Authorization) -> Refusal | None:
        await self.wait_for_window(payment)
        return window_is_open(payment, self._clock_s())

    async def _has_few_under_way(self, transfer: Transfer, block: Block) -> Refusal | None:
        """Check that a payer's contract cannot make many transfers fail before the first is seen to (X3)."""
        payer = transfer.payment.from_
        under_way = transfer.chain.gas.under_way(TransactionKind.EXACT, payer)
        if under_way < BY_CONTRACT_AT_ONCE:
            return None
        if transfer.deployment is None and not await transfer.chain.code(payer, block):
            return None
        return refuse(Why.EXACT_ONE_AT_A_TIME, under_way + 1, f"at most {BY_CONTRACT_AT_ONCE}")

    async def _chain_state_allows(self, transfer: Transfer, block: Block) -> Refusal | None:
        payment = transfer.payment
        used, balance = await asyncio.gather(
            transfer.token.authorization_used(payment.from_, payment.nonce, block),
            transfer.token.balance(payment.from_, block),
        )
        if used:
            return refuse(Why.EXACT_NONCE_USED)
        if balance < payment.value:
            return refuse(Why.EXACT_ABOVE_BALANCE, payment.value, f"at most {balance}")
        refusal = self._is_left(transfer, balance)
        if refusal is not None:
            return refusal
        if isinstance(payment, Permit2Authorization):
            token = cast("Permit2Token", transfer.token)
            return await approval_refusal(transfer.chain, token, payment, block, self._clock_s())
        return None

    def _is_left(self, transfer: Transfer, balance: int) -> Refusal | None:
        """Check that the payer's transfers on the way leave enough for this one (X3)."""
        payment, slot = transfer.payment, _slot(transfer)
        spending = self._spending.get(_purse(transfer), {})
        # One that is being sent may be in the outbox already: it counts once.
        others = {**transfer.chain.gas.leaving(payment.from_, transfer.token.address), **spending}
        left = balance - sum(value for other, value in others.items() if other != slot)
        if left < payment.value:
            return refuse(Why.EXACT_ABOVE_REST, payment.value, f"at most {max(0, left)}")
        if slot in spending:
            spending[slot] = payment.value
        return None

    async def _why_simulation_fails(
        self, transfer: Transfer, block: Block, error: RevertedError, *, signed_by_key: bool
    ) -> Refusal:
        """Tell a payer's contract that asks for too much gas, or says no, from other failures."""
        payer = transfer.payment.from_
        code = await transfer.chain.code(payer, block)
        if transfer.deployment is not None:
            contract = f"the wallet that {checksum(transfer.deployment.factory)} deploys for {checksum(payer)}"
        elif code:
            contract = describe_code(payer, code)
        else:
            return refuse(Why.EXACT_WOULD_FAIL, error=error.reason)
        # The token takes a contract that runs out of gas for one that says no.
        if isinstance(error, OutOfGasError) or await self._passes_with_more_gas(transfer, block):
            return _too_much_gas(contract, transfer.gas_max)
        if signed_by_key:
            return refuse(Why.EXACT_WOULD_FAIL, error=error.reason)
        return refuse(Why.EXACT_SIGNED_BY_NOBODY, whose=contract, error=error.reason)

    async def _passes_with_more_gas(self, transfer: Transfer, block: Block) -> bool:
        if not self._unproven.take():
            return False
        try:
            await self._simulate(transfer, block, PROBE_GAS_MAX)
        except RevertedError:
            return False
        return True

    async def why_it_reverts(self, transfer: Transfer, error: RevertedError) -> Refusal:
        """Tell an authorization that was spent elsewhere in the meantime from other failures."""
        block = await transfer.chain.head()
        refusal = await self._chain_state_allows(transfer, block)
        if refusal is None and isinstance(error, OutOfGasError):
            code = await transfer.chain.code(transfer.payment.from_, block)
            whose = describe_code(transfer.payment.from_, code) if code else "the token"
            return _too_much_gas(whose, transfer.gas_max)
        return refusal or refuse(Why.EXACT_WOULD_FAIL, error=error.reason)


def _is_complete_in(block: Block, transfer: Transfer) -> bool:
    """Whether the token alone decides about it, in a block in which it is valid: nothing goes before it, or has to."""
    payment = transfer.payment
    is_alone = transfer.deployment is None and not isinstance(payment, Permit2Authorization)
    return is_alone and payment.valid_after < block.timestamp


async def _first_of(*checks: Awaitable[Refusal | None]) -> Refusal | None:
    """Ask all at once. Whichever comes first by order and refuses, or fails, speaks for all."""
    for outcome in await asyncio.gather(*checks, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        if outcome is not None:
            return outcome
    return None


def _purse(transfer: Transfer) -> tuple[str, bytes, bytes]:
    return transfer.chain.network, transfer.payment.from_, transfer.token.address


def _slot(transfer: Transfer) -> bytes:
    return transfer_slot(transfer.chain.network, transfer.token.address, transfer.payment)


def _too_much_gas(whose: str, gas_max: int) -> Refusal:
    return refuse(Why.EXACT_GAS, f"more than {gas_max}", f"at most {gas_max}", whose=whose)
