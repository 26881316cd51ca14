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
from tallystick.errors import InvalidSignatureError
from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum
from tallystick.quantities import MAX_AMOUNT
from tallystick.signatures import recover
from tallystick.tokens import Permit2Approval
from tallystick_aggregator.accounts.offers import EscrowOffer, Offers, config_is_served, find_offer, find_token
from tallystick_aggregator.accounts.outcomes import find_sent, overloaded, unless_unavailable, wait_until_mined
from tallystick_aggregator.accounts.signed_calls import SignedCall, call_is_signed
from tallystick_aggregator.auth.limits import GasBudget, RateLimit, has_paid
from tallystick_aggregator.chain.port import Block, Chain, DepositAuthorization, OutOfGasError, RevertedError, Send
from tallystick_aggregator.chain.token_port import Token
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
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
    ) -> None:
        """`budget` bounds what deposits cost in gas; without one there is no bound."""
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
        chain = self._chains[offer.ref]
        refusal = config_is_served(offer, deposit.account) or deposit_is_large_enough(offer, deposit)
        if refusal is not None:
            return refusal
        reference = deposit_reference(chain, deposit)
        if reference not in self._under_way:
            refusal = self._is_worth_a_try(chain, deposit)
            if refusal is not None:
                return refusal
        return await self._under_way.run(reference, lambda: unless_unavailable(self._land(chain, deposit, reference)))

    async def _land(self, chain: Chain, deposit: DepositAuthorization, reference: bytes) -> Deposited | Refusal:
        sent = await find_sent(self._outbox, TransactionKind.DEPOSIT, reference)
        if sent is None:
            token, nonce = chain.tokens[deposit.account.token], chain.escrow.deposit_token_nonce(deposit)
            head = await chain.head()
            if await token.authorization_used(deposit.account.payer, nonce, head):
                return await self._landed_otherwise(chain, token, deposit, nonce)
            refusal = window_is_open(deposit, self._clock_s())
            if refusal is not None:
                return refusal
            balance = await token.balance(deposit.account.payer, head)
            if balance < deposit.amount:
                return refuse(Why.DEPOSIT_ABOVE_BALANCE, deposit.amount, f"at most {balance}")
            outcome = await self._send(chain, deposit, reference, head)
            if isinstance(outcome, Refusal):
                return outcome
            sent = outcome
        mined = await wait_until_mined(chain, sent, "deposit", self._credit_timeout_s, final=True)
        if isinstance(mined, Refusal):
            return mined
        if not any(payout.amount for payout in mined.payouts):  # its nonce was used before: it did nothing
            token, nonce = chain.tokens[deposit.account.token], chain.escrow.deposit_token_nonce(deposit)
            return await self._landed_otherwise(chain, token, deposit, nonce)
        return await self._credited(chain, deposit, mined.transaction_hash)

    async def _send(
        self, chain: Chain, deposit: DepositAuthorization, reference: bytes, head: Block
    ) -> OutboundTransaction | Refusal:
        """Send the deposit, if the operator still pays for it in this hour."""
        payer = deposit.account.payer
        account = self._writer.ledger.account(chain.escrow.account_id(deposit.account))
        with self._budget.hold(chain, TransactionKind.DEPOSIT, payer, has_paid=has_paid(account)) as refusal:
            if refusal is not None:
                return refusal
            try:
                call = chain.escrow.deposit_call(deposit)
                return await chain.send(Send(TransactionKind.DEPOSIT, reference, call, gas_max=DEPOSIT_GAS_MAX))
            except OutOfGasError:
                return await _too_much_gas(chain, deposit, head)
            except RevertedError as error:
                return refuse(Why.DEPOSIT_WOULD_FAIL, error=error.reason)

    async def _landed_otherwise(
        self, chain: Chain, token: Token, deposit: DepositAuthorization, nonce: bytes
    ) -> Deposited | Refusal:
        """Wait until the nonce is used for good, not by a transaction of ours, and tell what that one did."""
        deadline = asyncio.get_running_loop().time() + self._credit_timeout_s
        while not await token.authorization_used(deposit.account.payer, nonce, await chain.final()):
            if asyncio.get_running_loop().time() >= deadline:
                return refuse(Why.TRANSACTION_PENDING, what="deposit")
            await asyncio.sleep(POLL_S)
        if not self._landings.take():
            return overloaded("deposits being looked for", LANDINGS_BURST)
        landing = await chain.deposit_landing(deposit)
        if landing is None:
            return refuse(Why.DEPOSIT_NOT_FOUND)
        if not landing.amount:
            return refuse(Why.DEPOSIT_USED_OTHERWISE, used_by=landing.transaction_hash.hex())
        return await self._credited(chain, deposit, b"")

    async def _credited(self, chain: Chain, deposit: DepositAuthorization, transaction: bytes) -> Deposited | Refusal:
        head = await chain.head()
        try:
            await chain.mirrored(head.number, self._credit_timeout_s)
        except TimeoutError:
            return refuse(Why.TRANSACTION_PENDING, what="deposit")
        account_id = chain.escrow.account_id(deposit.account)
        if self._writer.ledger.account(account_id) is None:
            (held,) = await chain.escrow.accounts([account_id], head)
            if held.balance:
                # The watcher once found it too small to keep; its owner names it now, and its money stays in sight.
                chain.track(deposit.account)
                return refuse(Why.TRANSACTION_PENDING, what="deposit")
            return refuse(Why.DEPOSIT_LEFT_AGAIN)
        if chain.is_held_back(account_id):
            return refuse(Why.DEPOSIT_UNCONFIRMED)
        return Deposited(transaction)

    def _is_worth_a_try(self, chain: Chain, deposit: DepositAuthorization) -> Refusal | None:
        """Bound what deposits may cost, before any of it is spent: the signature is the cheapest to check.

        What the payer's own key did not sign only the chain can check (contract wallets). Such a deposit takes nothing
        from those that are proven.
        """
        if len(self._under_way) >= DEPOSITS_MAX:
            return overloaded("deposits", DEPOSITS_MAX)
        problem = _why_unproven(chain, deposit)
        if problem is None:
            return None if self._rate.take() else overloaded("deposits", DEPOSITS_MAX)
        if self._unproven.take():
            return None
        return refuse(Why.DEPOSIT_UNPROVEN, problem=problem)


async def _too_much_gas(chain: Chain, deposit: DepositAuthorization, head: Block) -> Refusal:
    payer = deposit.account.payer
    whose = f"the contract at {checksum(payer)}" if await chain.code(payer, head) else "the token"
    return refuse(Why.DEPOSIT_GAS, f"more than {DEPOSIT_GAS_MAX}", f"at most {DEPOSIT_GAS_MAX}", whose=whose)


def _why_unproven(chain: Chain, deposit: DepositAuthorization) -> str | None:
    """Say why the signature is not one of the payer's own key; None if it is."""
    try:
        if recover(deposit_digest(chain, deposit), deposit.signature) == deposit.account.payer:
            return None
    except InvalidSignatureError as error:
        return f"The deposit's signature is not one that counts: {error.problem}"
    return "The payer did not sign this deposit"


def deposit_is_large_enough(offer: EscrowOffer, deposit: DepositAuthorization) -> Refusal | None:
    """Refuse dust (threat 18)."""
    token = find_token(offer, deposit.account.token)
    if isinstance(token, Refusal):
        return token
    if deposit.amount >= max(1, token.min_deposit):
        return None
    return refuse(Why.DEPOSIT_TOO_SMALL, deposit.amount, f"at least {max(1, token.min_deposit)}")


def window_is_open(deposit: DepositAuthorization, now_s: int) -> Refusal | None:
    """Refuse an authorization that is not valid yet, or would hardly be when its transaction is mined."""
    if deposit.valid_after >= now_s:
        return refuse(Why.DEPOSIT_TOO_EARLY, deposit.valid_after, f"before {now_s}")
    if deposit.valid_before <= now_s + WINDOW_MARGIN_S:
        return refuse(Why.DEPOSIT_TOO_LATE, deposit.valid_before, f"after {now_s + WINDOW_MARGIN_S}")
    return None


def deposit_digest(chain: Chain, deposit: DepositAuthorization) -> bytes:
    """Return what the payer signs: the token's ReceiveWithAuthorization to the escrow, or to who collects for it."""
    struct_hash = eip712.hash_receive_with_authorization(
        deposit.account.payer,
        chain.escrow.deposit_recipient,
        deposit.amount,
        deposit.valid_after,
        deposit.valid_before,
        chain.escrow.deposit_token_nonce(deposit),
    )
    return eip712.digest(chain.tokens[deposit.account.token].domain, struct_hash)


def deposit_reference(chain: Chain, deposit: DepositAuthorization) -> bytes:
    """Return what names the deposit in the outbox: what the token takes once."""
    account = deposit.account
    nonce = chain.escrow.deposit_token_nonce(deposit)
    return keccak256(chain.network.encode() + account.token + account.payer + nonce)
