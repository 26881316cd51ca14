"""Gasless deposits: a payer's ERC-3009 authorization, landed in the escrow by the aggregator.

A deposit is named by its token nonce: the same authorization again gets the same answer, and one that somebody else
landed first has landed. The answer comes when the ledger has credited it, so that the payer can spend at once.

A used nonce proves no deposit: its payer may have cancelled it, or paid somebody else with it. So "deposited" is said
only where the transaction that used the nonce has the escrow's own event.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tallystick import eip712
from tallystick.channels import ChannelConfig
from tallystick.hexadecimal import checksum
from tallystick.quantities import MAX_AMOUNT
from tallystick.tokens import Permit2Approval
from tallystick_aggregator.accounts.fundings import Funding, TokenFunding, Window
from tallystick_aggregator.accounts.offers import Offers, config_is_served, find_offer, for_any_server
from tallystick_aggregator.accounts.outcomes import find_sent, overloaded, unless_unavailable, wait_until_mined
from tallystick_aggregator.accounts.signed_calls import SignedCall, call_is_signed
from tallystick_aggregator.auth.limits import GasBudget, RateLimit, has_paid
from tallystick_aggregator.chain.port import Block, Chain, DepositAuthorization, OutOfGasError, RevertedError, Send
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.state import Account
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import OutboundTransaction, Outbox, TransactionKind
from tallystick_aggregator.tasks import SingleFlight

DEPOSITS_MAX: Final = 64
"""Deposits under way at once."""
DEPOSITS_PER_S: Final = 20.0
DEPOSIT_GAS_MAX: Final = 400_000
"""Gas of one deposit at most: the signature of a contract wallet is checked by its own contract at our expense.
A key's first deposit takes some 100,000, and some 330,000 where new storage costs more (EIP-8037)."""
CREDIT_TIMEOUT_S: Final = 90.0
"""How long a call waits for its deposit to be credited; after that the payer asks again."""
WINDOW_MARGIN_S: Final = 10
"""How long an authorization must still be valid to be sent."""
POLL_S: Final = 0.5
UNPROVEN_PER_S: Final = 2.0
"""Authorizations whose signature only the chain can check (contract wallets): each costs us a simulation."""
UNPROVEN_BURST: Final = 10
BALANCES_PER_S: Final = 5.0
"""Balances that are read: each asks all endpoints for their head and one of them for the balance, and a key to sign
with costs nobody anything. A wallet asks once for each deposit, and again when it is told to wait."""
BALANCES_BURST: Final = DEPOSITS_MAX
LANDINGS_PER_S: Final = 1.0
"""Deposits that others landed, or that were cancelled, are looked for in the events of many blocks."""
LANDINGS_BURST: Final = 10


@dataclass(frozen=True, slots=True)
class Deposited:
    """A deposit that is credited; `transaction` is empty where somebody else landed it.

    No totals: a deposit's authorization is public on chain, so anybody can ask with it (threat 31).
    """

    transaction: bytes


class Deposits:
    """Lands deposits."""

    def __init__(
        self,
        chains: Mapping[EscrowRef, Chain],
        offers: Offers,
        writer: Writer,
        outbox: Outbox,
        clock_s: Callable[[], int],
        *,
        credit_timeout_s: float = CREDIT_TIMEOUT_S,
        budget: GasBudget | None = None,
        is_credited: bool = True,
    ) -> None:
        """`budget` bounds what deposits cost in gas; without one there is no bound.

        `is_credited` False: the ledger need not count them, so that channels of any receiverAuthorizer and delay are
        served, and a deposit has landed once it is final.
        """
        self._is_credited = is_credited
        self._chains = chains
        self._offers = offers
        self._writer = writer
        self._outbox = outbox
        self._clock_s = clock_s
        self._credit_timeout_s = credit_timeout_s
        self._under_way = SingleFlight[bytes, Deposited | Refusal]()
        self._rate = RateLimit(DEPOSITS_PER_S, DEPOSITS_MAX)
        self._unproven = RateLimit(UNPROVEN_PER_S, UNPROVEN_BURST)
        self._balances = RateLimit(BALANCES_PER_S, BALANCES_BURST)
        self._landings = RateLimit(LANDINGS_PER_S, LANDINGS_BURST)
        self._budget = budget or GasBudget()

    async def balance(
        self, network: str, account: ChannelConfig, call: SignedCall, escrow: bytes = b""
    ) -> int | Refusal:
        """Return what the account's payer holds of its token at the head, in atomic units; at most MAX_AMOUNT.

        The call is signed by the account's payerAuthorizer; the account need not be known yet.
        `escrow` empty: the network's first.
        """
        offer = find_offer(self._offers, network, escrow)
        if isinstance(offer, Refusal):
            return offer
        chain = self._chains[offer.ref]
        struct_hash = eip712.hash_read_account(chain.escrow.account_id(account), call.deadline)
        refusal = config_is_served(offer, account) or call_is_signed(
            chain.escrow.domain, struct_hash, call, account.payer_authorizer, self._clock_s()
        )
        if refusal is not None:
            return refusal
        if not self._balances.take():
            return overloaded("balances being read", BALANCES_BURST)
        return await unless_unavailable(self._balance(chain, account))

    async def nonces_used(
        self, network: str, account: ChannelConfig, nonces: Sequence[bytes], escrow: bytes = b""
    ) -> tuple[list[bool], int] | Refusal:
        """Return which of these nonces the account's payer has used or cancelled in the account's token, and when that
        was so: at the newest final block, whose time is in seconds since the epoch.

        That one is unused is asked for twice: its payer takes the money for free again. The caller has passed
        `balance`, which checks its signature.
        """
        offer = find_offer(self._offers, network, escrow)
        if isinstance(offer, Refusal):
            return offer
        chain = self._chains[offer.ref]

        async def read() -> tuple[list[bool], int]:
            block, token = await chain.final(), chain.tokens[account.token]
            used = [
                await token.authorization_used(account.payer, nonce, block)
                or await token.authorization_used(account.payer, nonce, block)
                for nonce in nonces
            ]
            return used, block.timestamp

        return await unless_unavailable(read())

    async def permit2_approval(
        self, network: str, account: ChannelConfig, escrow: bytes = b""
    ) -> Permit2Approval | Refusal | None:
        """Return how far Permit2 may move the account's token for its payer, None where no payments here do.

        The caller has passed `balance`, which checks its signature.
        """
        offer = find_offer(self._offers, network, escrow)
        if isinstance(offer, Refusal):
            return offer
        chain = self._chains[offer.ref]
        token = chain.permit2_tokens.get(account.token)
        if token is None:
            return None

        async def read() -> Permit2Approval:
            block = await chain.head()
            allowance = min(MAX_AMOUNT, await token.allowance(account.payer, block))
            nonce = await token.permit_nonce(account.payer, block) if token.sponsors_permits else None
            return Permit2Approval(allowance, nonce)

        return await unless_unavailable(read())

    async def _balance(self, chain: Chain, account: ChannelConfig) -> int:
        return min(MAX_AMOUNT, await chain.tokens[account.token].balance(account.payer, await chain.head()))

    async def deposit(self, network: str, deposit: DepositAuthorization, escrow: bytes = b"") -> Deposited | Refusal:
        """Land a deposit and wait until it is credited. `escrow` empty: the network's first."""
        offer = find_offer(self._offers, network, escrow)
        if isinstance(offer, Refusal):
            return offer
        return await self.land(TokenFunding(self._chains[offer.ref], deposit))

    async def land(self, funding: Funding, timeout_s: float | None = None) -> Deposited | Refusal:
        """The same for what a payer has signed in any way; `timeout_s`: for how long the caller waits."""
        refusal = self._is_taken(funding)
        if refusal is None and funding.reference not in self._under_way:
            refusal = self._is_worth_a_try(funding)
        if refusal is not None:
            return refusal
        wait_s = self._credit_timeout_s if timeout_s is None else timeout_s
        return await self._under_way.run(funding.reference, lambda: unless_unavailable(self._land(funding, wait_s)))

    async def check(self, funding: Funding) -> Refusal | None:
        """Check that a deposit would land now. One that was sent before needs none: `land` tells what became of it."""
        refusal = self._is_taken(funding) or self._is_worth_a_try(funding)
        return refusal or await unless_unavailable(self._check(funding))

    async def _check(self, funding: Funding) -> Refusal | None:
        if await find_sent(self._outbox, TransactionKind.DEPOSIT, funding.reference) is not None:
            return None
        chain, head = funding.chain, await funding.chain.head()
        if await funding.is_used(head):
            return refuse(Why.DEPOSIT_NOT_FOUND)
        refusal = await self._would_be_taken(funding, head)
        if refusal is not None:
            return refusal
        payer, is_known = funding.account.payer, has_paid(self._account_of(funding))
        refusal = self._budget.refusal(chain, TransactionKind.DEPOSIT, payer, has_paid=is_known)
        if refusal is not None:
            return refusal
        try:
            await chain.simulate(funding.call(), head, gas_max=DEPOSIT_GAS_MAX)
        except RevertedError as error:
            return await _why_it_fails(funding, head, error)
        return None

    async def _land(self, funding: Funding, timeout_s: float) -> Deposited | Refusal:
        sent = await find_sent(self._outbox, TransactionKind.DEPOSIT, funding.reference)
        if sent is None:
            head = await funding.chain.head()
            if await funding.is_used(head):
                return await self._landed_otherwise(funding, timeout_s)
            outcome = await self._would_be_taken(funding, head) or await self._send(funding, head)
            if isinstance(outcome, Refusal):
                return outcome
            sent = outcome
        mined = await wait_until_mined(funding.chain, sent, "deposit", timeout_s, final=True)
        if isinstance(mined, Refusal):
            return mined
        if not any(payout.amount for payout in mined.payouts):  # its nonce was used before: it did nothing
            return await self._landed_otherwise(funding, timeout_s)
        return await self._credited(funding, mined.transaction_hash, timeout_s)

    async def _would_be_taken(self, funding: Funding, head: Block) -> Refusal | None:
        """Check its time, its payer's balance, and what else its way of moving tokens asks for."""
        refusal = window_is_open(funding.window, self._clock_s())
        if refusal is not None:
            return refusal
        balance = await funding.balance(head)
        if balance < funding.amount:
            return refuse(Why.DEPOSIT_ABOVE_BALANCE, funding.amount, f"at most {balance}")
        return await funding.unmet(head, self._clock_s())

    async def _send(self, funding: Funding, head: Block) -> OutboundTransaction | Refusal:
        """Send the deposit, if the operator still pays for it in this hour."""
        chain, payer, is_known = funding.chain, funding.account.payer, has_paid(self._account_of(funding))
        with self._budget.hold(chain, TransactionKind.DEPOSIT, payer, has_paid=is_known) as refusal:
            if refusal is not None:
                return refusal
            send = Send(TransactionKind.DEPOSIT, funding.reference, funding.call(), gas_max=DEPOSIT_GAS_MAX)
            try:
                return await chain.send(send)
            except RevertedError as error:
                return await _why_it_fails(funding, head, error)

    async def _landed_otherwise(self, funding: Funding, timeout_s: float) -> Deposited | Refusal:
        """Wait until the nonce is used for good, not by a transaction of ours, and tell what that one did."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not await funding.is_used(await funding.chain.final()):
            if asyncio.get_running_loop().time() >= deadline:
                return refuse(Why.TRANSACTION_PENDING, what="deposit")
            await asyncio.sleep(POLL_S)
        if not self._landings.take():
            return overloaded("deposits being looked for", LANDINGS_BURST)
        landing = await funding.landing()
        if landing is None:
            return refuse(Why.DEPOSIT_NOT_FOUND)
        if not landing.amount:
            return refuse(Why.DEPOSIT_USED_OTHERWISE, used_by=landing.transaction_hash.hex())
        return await self._credited(funding, b"", timeout_s)

    async def _credited(self, funding: Funding, transaction: bytes, timeout_s: float) -> Deposited | Refusal:
        chain = funding.chain
        if not self._is_credited:
            return Deposited(transaction)
        head = await chain.head()
        try:
            await chain.mirrored(head.number, timeout_s)
        except TimeoutError:
            return refuse(Why.TRANSACTION_PENDING, what="deposit")
        account_id = chain.escrow.account_id(funding.account)
        if self._writer.ledger.account(account_id) is None:
            (held,) = await chain.escrow.accounts([account_id], head)
            if held.balance:
                # The watcher once found it too small to keep; its owner names it now, and its money stays in sight.
                chain.track(funding.account)
                return refuse(Why.TRANSACTION_PENDING, what="deposit")
            return refuse(Why.DEPOSIT_LEFT_AGAIN)
        if chain.is_held_back(account_id):
            return refuse(Why.DEPOSIT_UNCONFIRMED)
        return Deposited(transaction)

    def _account_of(self, funding: Funding) -> Account | None:
        return self._writer.ledger.account(funding.chain.escrow.account_id(funding.account))

    def _is_taken(self, funding: Funding) -> Refusal | None:
        """Check that the account is one that is served, and that the deposit is no dust (threat 18)."""
        offer = find_offer(self._offers, *funding.chain.escrow.ref)
        if isinstance(offer, Refusal):
            return offer
        if not self._is_credited:
            offer = for_any_server(offer, funding.account)
        refusal = config_is_served(offer, funding.account)
        if refusal is not None:
            return refusal
        least = max(1, offer.tokens[funding.account.token].min_deposit)
        return None if funding.amount >= least else refuse(Why.DEPOSIT_TOO_SMALL, funding.amount, f"at least {least}")

    def _is_worth_a_try(self, funding: Funding) -> Refusal | None:
        """Bound what deposits may cost, before any of it is spent: the signature is the cheapest to check.

        What the payer's own key did not sign only the chain can check (contract wallets). Such a deposit takes nothing
        from those that are proven.
        """
        if len(self._under_way) >= DEPOSITS_MAX:
            return overloaded("deposits", DEPOSITS_MAX)
        problem = funding.why_unproven()
        if problem is None:
            return None if self._rate.take() else overloaded("deposits", DEPOSITS_MAX)
        if self._unproven.take():
            return None
        return refuse(Why.DEPOSIT_UNPROVEN, problem=problem)


async def _why_it_fails(funding: Funding, head: Block, error: RevertedError) -> Refusal:
    if not isinstance(error, OutOfGasError):
        return refuse(Why.DEPOSIT_WOULD_FAIL, error=error.reason)
    payer = funding.account.payer
    whose = f"the contract at {checksum(payer)}" if await funding.chain.code(payer, head) else "the token"
    return refuse(Why.DEPOSIT_GAS, f"more than {DEPOSIT_GAS_MAX}", f"at most {DEPOSIT_GAS_MAX}", whose=whose)


def window_is_open(window: Window, now_s: int) -> Refusal | None:
    """Refuse an authorization that is not valid yet, or would hardly be when its transaction is mined."""
    if window.valid_after >= now_s:
        return refuse(Why.DEPOSIT_TOO_EARLY, window.valid_after, f"before {now_s}")
    if window.valid_before <= now_s + WINDOW_MARGIN_S:
        return refuse(Why.DEPOSIT_TOO_LATE, window.valid_before, f"after {now_s + WINDOW_MARGIN_S}")
    return None
