"""A chain that does what a test tells it: the port with an escrow, a token, a sender with an outbox, and a mirror.

The escrow and the token are those of the network in memory; calldata is a label under which the twin remembers what to
do to them. It mines at once unless told to hold, and a block is final at once unless `confirmations` says otherwise.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from hashlib import sha256
from typing import Final

from doubles import ESCROW, NETWORK, NOW_S, OPERATOR, TOKEN
from memory_chain.contracts import Contracts

import escrow_model
from escrow_model import Account, Config, EscrowModel, TokenModel
from tallystick import eip712
from tallystick.channels import ChannelConfig, account_id, channel_id
from tallystick.eip712 import PERMIT2_ADDRESS, Domain, escrow_domain, permit2_domain
from tallystick.x402 import ExactAuthorization, Permit2Authorization
from tallystick_aggregator.chain.bundle_port import Bundles
from tallystick_aggregator.chain.multicall import MULTICALL3_ADDRESS
from tallystick_aggregator.chain.port import (
    GAS_LIMIT_MAX,
    Block,
    Call,
    ChainUnavailableError,
    DepositAuthorization,
    EscrowAccount,
    Heard,
    Landing,
    PaymentIdTakenError,
    RevertedError,
    Send,
)
from tallystick_aggregator.chain.sending.gas_meter import GasMeter, MeteredOutbox
from tallystick_aggregator.chain.token_port import Deployment
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import (
    Attempt,
    OutboundTransaction,
    Outbox,
    Payout,
    TransactionKind,
    TransactionStatus,
)
from tallystick_contracts.events import Refunded

TOKEN_DOMAIN: Final = Domain("USD Coin", "2", 31337, TOKEN)
SENDER: Final = bytes.fromhex("5e" * 20)
CONTRACT_WALLET_SIGNATURE: Final = b"the contract says yes"
"""What `ChainTwin.contract_wallets` sign with."""

_BANK: Final = bytes.fromhex("ba" * 20)
_ENDED: Final = (TransactionStatus.FINAL, TransactionStatus.REVERTED, TransactionStatus.SUPERSEDED)


class ChainTwin:
    """See `chain.port.Chain`; it is its own escrow binding and token."""

    network = NETWORK
    chain_id = 31337
    operator = OPERATOR
    sender = b"\x5e" * 20

    def __init__(self, writer: Writer, outbox: Outbox, escrow: bytes = ESCROW) -> None:
        self.address = escrow
        self.domain = escrow_domain(31337, escrow)
        self.ref = EscrowRef(NETWORK, escrow)
        self.writer = writer
        self.now_s = 1_800_000_000
        self.block_s = NOW_S
        """The time of the newest block, and of the one that a transaction is estimated for."""
        self.looks_ahead = True
        """Whether it can simulate at a time to come."""
        self._sending = asyncio.Lock()
        self.gas = GasMeter(lambda: self.now_s)
        self.gas_each = 90_000
        """What a transaction takes."""
        self.outbox = MeteredOutbox(outbox, self.gas)
        self.confirmations = 0
        self.number = 100
        self.down = False
        self.held = False
        self.fate = TransactionStatus.MINED
        """What becomes of the next transactions that are mined."""
        self.world = Contracts(self.chain_id, escrow, TOKEN, self._signed).genesis()
        self.contract_wallets: set[bytes] = set()
        self.wallet_gas: dict[bytes, int] = {}
        """What the contract of a wallet burns to check a signature."""
        self.gas_money = 10**9
        """The gas that the sender can pay for."""
        self._gas_left = GAS_LIMIT_MAX
        self.is_trial = False
        """Whether a call is only tried, and changes nothing."""
        self._configs: dict[bytes, ChannelConfig] = {}
        self.landed: dict[tuple[bytes, bytes], int] = {}
        """By payer and token nonce: what was deposited by it."""
        self.refunded: dict[tuple[bytes, int], int] = {}
        """By account and refund nonce: what was paid."""
        self.looked_back = 0
        self.tracked: list[ChannelConfig] = []
        self.sent: list[OutboundTransaction] = []
        self.simulated = 0
        self.claimed_reads = 0
        self.mirroring = True
        self.confirming = True
        """Whether a second answer confirms what the mirror reads."""
        self.finds_accounts = True
        """Whether the watcher opens accounts by itself; those that were tracked it always does."""
        self.token = TokenTwin(self)
        self.bundles: Bundles | None = None
        self.permit2_token: Permit2TokenTwin | None = None
        """Where it is set, payments may move the token by Permit2."""
        self._effects: dict[bytes, Callable[[], int]] = {}

    # The port.

    @property
    def escrow(self) -> "ChainTwin":
        return self

    @property
    def tokens(self) -> Mapping[bytes, "TokenTwin"]:
        return {TOKEN: self.token}

    @property
    def permit2_tokens(self) -> Mapping[bytes, "Permit2TokenTwin"]:
        return {TOKEN: self.permit2_token} if self.permit2_token else {}

    async def head(self, *, fresh: bool = True) -> Block:
        del fresh
        self._answer()
        return Block(self.number, sha256(b"block %d" % self.number).digest(), self.block_s)

    async def final(self) -> Block:
        head = await self.head()
        return replace(head, number=head.number - self.confirmations)

    async def code(self, address: bytes, block: Block) -> bytes:
        del block
        self._answer()
        return b"\x60" if address in self.contract_wallets else b""

    async def gas_affordable(self) -> int:
        self._answer()
        return self.gas_money

    async def simulate(self, call: Call, block: Block, *, gas_max: int, at_s: int = 0) -> None:
        del block
        self._answer()
        self.simulated += 1
        now_s = self.block_s
        self.block_s = at_s if at_s and self.looks_ahead else now_s
        try:
            self._try(call, gas_max)
        finally:
            self.block_s = now_s

    async def send(self, send: Send) -> OutboundTransaction:
        async with self._sending:  # as the real sender: a reference is sent once
            return await self._send(send)

    async def _send(self, send: Send) -> OutboundTransaction:
        known = await self.outbox.by_reference(send.kind, send.reference)
        if known is not None and known.status is not TransactionStatus.SUPERSEDED:
            return known
        self._answer()
        named = await self.outbox.by_payment_id(send.payment_id) if send.payment_id else None
        if named is not None and named.reference != send.reference:
            raise PaymentIdTakenError
        self._try(send.call, send.gas_max)
        nonce = len(self.sent)
        attempt = Attempt(sha256(b"transaction %d" % nonce).digest(), b"raw", 1, 1, 1_800_000_000)
        draft = OutboundTransaction(
            id=0 if known is None else known.id,
            network=NETWORK,
            kind=send.kind,
            reference=send.reference,
            sender=SENDER,
            nonce=nonce,
            to=send.call.to,
            data=send.call.data,
            gas_limit=min(100_000, send.gas_max),
            attempts=(attempt,),
            status=TransactionStatus.PENDING,
            created_at=self.now_s,
            rows=send.rows,
            payouts=send.payouts,
            memo=send.memo,
            payer=send.payer,
            payment_id=send.payment_id,
        )
        if known is None:
            outbound = await self.outbox.add(draft)
        else:
            outbound = draft
            await self.outbox.update(outbound)
        self.sent.append(outbound)
        return outbound

    async def wait(
        self, outbound: OutboundTransaction, *, final: bool = False, timeout_s: float
    ) -> OutboundTransaction:
        async with asyncio.timeout(timeout_s):
            while True:
                current = await self.outbox.by_reference(outbound.kind, outbound.reference)
                assert current is not None
                current = await self._step(current)
                if current.status in _ENDED or (current.status is TransactionStatus.MINED and not final):
                    return current
                await asyncio.sleep(0.001)

    async def deposit_landing(self, deposit: DepositAuthorization) -> Landing | None:
        self._answer()
        self.looked_back += 1
        key = deposit.account.payer, self.deposit_token_nonce(deposit)
        return Landing(sha256(b"another's").digest(), 99, self.landed.get(key, 0)) if key in self.used else None

    async def refund_landing(self, account_id: bytes, nonce: int) -> Landing | None:
        self._answer()
        self.looked_back += 1
        paid = self.refunded.get((account_id, nonce))
        return None if paid is None else Landing(sha256(b"another's").digest(), 99, paid)

    async def mirrored(self, block_number: int, timeout_s: float) -> None:
        if not self.mirroring or block_number > self.number:
            await asyncio.sleep(timeout_s)
            raise TimeoutError
        await self.look()

    def is_held_back(self, account_id: bytes) -> bool:
        return account_id in self.escrowed and not self.confirming

    def track(self, account: ChannelConfig) -> None:
        self.tracked.append(account)

    # The escrow binding.

    def account_id(self, config: ChannelConfig) -> bytes:
        return account_id(self.domain, config)

    def channel_id(self, config: ChannelConfig) -> bytes:
        return channel_id(self.domain, config)

    def account_config(self, config: ChannelConfig) -> ChannelConfig:
        return config.account()

    @property
    def deposit_recipient(self) -> bytes:
        return self.address

    def deposit_token_nonce(self, deposit: DepositAuthorization) -> bytes:
        return eip712.deposit_nonce(self.account_id(deposit.account), deposit.salt)

    def deposit_call(self, deposit: DepositAuthorization) -> Call:
        payer, nonce = deposit.account.payer, self.deposit_token_nonce(deposit)
        terms = (deposit.amount, deposit.valid_after, deposit.valid_before, deposit.salt, deposit.signature)

        def effect() -> int:
            config = self._config(deposit.account)
            if not self.model.deposit_with_authorization(config, *terms, now_s=NOW_S):
                return 0  # landed or cancelled before: no error, and no credit
            self.landed[payer, nonce] = deposit.amount
            return deposit.amount

        return self._call(self.address, effect, payer)

    def refund_call(self, account: ChannelConfig, amount: int, nonce: int) -> Call:
        def effect() -> int:
            refunded, *_ = self.model.refund_with_signature(self._config(account), amount, nonce, b"")
            assert isinstance(refunded, Refunded)
            self.refunded[refunded.account_id, nonce] = refunded.amount
            return refunded.amount

        return self._call(self.address, effect, account.payer)

    async def accounts(
        self, account_ids: Sequence[bytes], block: Block, heard: Heard | None = None
    ) -> Sequence[EscrowAccount]:
        del block, heard
        self._answer()
        found = [self.escrowed.get(one, Account()) for one in account_ids]
        return [
            EscrowAccount(a.balance, a.refund_nonce, a.withdraw_nonce, a.withdraw_amount, a.withdrawable_at)
            for a in found
        ]

    async def claimed(self, channel_ids: Sequence[bytes], block: Block, heard: Heard | None = None) -> Sequence[int]:
        del block, heard
        self._answer()
        self.claimed_reads += 1
        await asyncio.sleep(0)
        return [self.paid.get(one, 0) for one in channel_ids]

    # What tests do.

    async def look(self) -> None:
        """Mirror all accounts, as the watcher does; what is in the escrow is final."""

        def decision(draft: Draft, ledger: Ledger, _: DecisionContext) -> None:
            for account, held in self.escrowed.items():
                if not held.opened:
                    continue
                if not self.finds_accounts and account not in map(self.account_id, self.tracked):
                    continue
                accounts.open_account(draft, account, self.ref, self._configs[account])
                at = accounts.AccountAtBlock(held.balance, dict(self.paid))
                accounts.mirror(draft, ledger, accounts.AccountOnChain(account, at, at, 0, 0, 0, self.confirming))

        await self.writer.run(decision)

    async def fund(self, config: ChannelConfig, amount: int) -> None:
        """Deposit by some other way, in whatever token, and mirror it. An account that gets 0 is open and empty."""
        token = self.model.tokens.setdefault(config.token, TokenModel(config.token, TOKEN_DOMAIN))
        token.balances[_BANK] = amount or 1
        self.model.deposit(_BANK, self._config(config), amount or 1)
        if amount == 0:
            self.escrowed[self.account_id(config)].balance = 0
        await self.look()

    def land(self, deposit: DepositAuthorization) -> None:
        """Have somebody else land a deposit."""
        payer, nonce = deposit.account.payer, self.deposit_token_nonce(deposit)
        self.model.deposit(payer, self._config(deposit.account), deposit.amount)
        self.used.add((payer, nonce))
        self.landed[payer, nonce] = deposit.amount

    def continue_from(self, other: "ChainTwin") -> None:
        """Be the same chain as another twin, whose aggregator has ended."""
        self.world, self.number, self._configs = other.world, other.number, other._configs

    @property
    def model(self) -> EscrowModel:
        """The escrow and its token."""
        return self.world.escrow

    @property
    def balances(self) -> dict[bytes, int]:
        """Of the token."""
        return self.world.balances

    @property
    def used(self) -> set[tuple[bytes, bytes]]:
        """The token's authorizations that were used, by signer and nonce."""
        return self.model.tokens[TOKEN].used

    @property
    def escrowed(self) -> dict[bytes, Account]:
        """The escrow's accounts."""
        return self.model.accounts

    @property
    def paid(self) -> dict[bytes, int]:
        """What the escrow says was claimed, by channel."""
        return self.model.claimed

    def _config(self, account: ChannelConfig) -> Config:
        """As the escrow takes it; the mirror remembers it."""
        self._configs[self.account_id(account)] = account.account()
        return Config(*astuple(account))

    def _call(self, to: bytes, effect: Callable[[], int], payer: bytes) -> Call:
        data = b"call" + payer.rjust(32, b"\0") + b"%d" % len(self._effects)
        self._effects[data] = _as_node(effect)
        return Call(to, data)

    def _try(self, call: Call, gas_max: int) -> None:
        """Run a call and take it back: raises RevertedError if it would revert."""
        self._gas_left = gas_max
        self.is_trial = True
        before = self.world, self.landed, self.refunded
        self.world, self.landed, self.refunded = self.world.copy(), dict(self.landed), dict(self.refunded)
        try:
            self._effects[call.data]()
        finally:
            self.is_trial = False
            self.world, self.landed, self.refunded = before

    async def _step(self, outbound: OutboundTransaction) -> OutboundTransaction:
        if outbound.status is TransactionStatus.PENDING and not self.held:
            self.number += 1
            status, payouts = self.fate, outbound.payouts
            if status is TransactionStatus.MINED:
                try:
                    payouts = self._land(outbound)
                except RevertedError:
                    status = TransactionStatus.REVERTED
            outbound = replace(
                outbound,
                status=status,
                block_number=self.number,
                transaction_hash=outbound.attempts[-1].transaction_hash,
                gas_used=self.gas_each,
                payouts=payouts,
            )
            await self.outbox.update(outbound)
        elif outbound.status is TransactionStatus.MINED and outbound.block_number <= self.number - self.confirmations:
            outbound = replace(outbound, status=TransactionStatus.FINAL)
            await self.outbox.update(outbound)
        return outbound

    def _land(self, outbound: OutboundTransaction) -> tuple[Payout, ...]:
        """Do what a transaction says; what it moved. Raises RevertedError."""
        moved = self._effects[outbound.data]()
        return outbound.payouts if outbound.kind is TransactionKind.EXACT else (Payout(self.address, TOKEN, moved),)

    def _signed(self, signer: bytes, digest: bytes, signature: bytes) -> bool:
        if signer == OPERATOR:
            return True  # the twin is its binding, too: it makes no signatures of the operator's
        if signer in self.contract_wallets:
            # A token takes a wallet that runs out of gas for one that says no.
            return self.wallet_gas.get(signer, 0) <= self._gas_left and signature == CONTRACT_WALLET_SIGNATURE
        return escrow_model.signed(signer, digest, signature)

    def _answer(self) -> None:
        if self.down:
            raise ChainUnavailableError("no endpoint answers")


def _as_node(effect: Callable[[], int]) -> Callable[[], int]:
    """The same, with the port's error for what reverts."""

    def told() -> int:
        try:
            return effect()
        except escrow_model.TokenRevertedError as reverted:
            raise RevertedError(reverted.text) from reverted
        except escrow_model.RevertedError as reverted:
            raise RevertedError(reverted.name) from reverted

    return told


class TokenTwin:
    """See `chain.port.Token`."""

    address = TOKEN
    domain = TOKEN_DOMAIN
    by_eip3009 = True

    def __init__(self, chain: ChainTwin) -> None:
        self._chain = chain

    async def balance(self, holder: bytes, block: Block) -> int:
        del block
        self._chain._answer()
        return self._chain.balances.get(holder, 0)

    async def authorization_used(self, authorizer: bytes, nonce: bytes, block: Block) -> bool:
        del block
        self._chain._answer()
        return (authorizer, nonce) in self._chain.used

    def transfer_call(self, authorization: ExactAuthorization) -> Call:
        chain = self._chain

        def effect() -> int:
            chain.model.tokens[TOKEN].transfer_with_authorization(authorization, chain.block_s)
            return authorization.value

        return chain._call(TOKEN, effect, authorization.from_)

    def deploying_transfer_call(self, authorization: ExactAuthorization, deployment: Deployment) -> Call:
        """The factory is the wallet's, and its call names the wallet; one that is there is not deployed twice."""
        chain, transfer = self._chain, self.transfer_call(authorization)

        def effect() -> int:
            before = set(chain.contract_wallets)
            chain.contract_wallets.add(deployment.data)
            try:
                moved = chain._effects[transfer.data]()
            except RevertedError:
                chain.contract_wallets = before
                raise
            if chain.is_trial:
                chain.contract_wallets = before
            return moved

        return chain._call(MULTICALL3_ADDRESS, effect, authorization.from_)


class Permit2TokenTwin:
    """See `chain.port.Permit2Token`: the token and Permit2 in one."""

    address = TOKEN
    domain = permit2_domain(31337)
    permit_domain = TOKEN_DOMAIN
    facilitator = SENDER

    def __init__(self, chain: ChainTwin, *, sponsors_permits: bool = False) -> None:
        self._chain = chain
        self.sponsors_permits = sponsors_permits
        self.allowances: dict[bytes, int] = {}
        self.used: set[tuple[bytes, bytes]] = set()
        self.permits: dict[bytes, int] = {}
        """How many permits of an owner were landed."""
        self._moved: dict[bytes, int] = {}

    async def balance(self, holder: bytes, block: Block) -> int:
        return await self._chain.token.balance(holder, block)

    async def authorization_used(self, authorizer: bytes, nonce: bytes, block: Block) -> bool:
        del block
        self._chain._answer()
        return (authorizer, nonce) in self.used

    async def allowance(self, owner: bytes, block: Block) -> int:
        del block
        self._chain._answer()
        return self.allowances.get(owner, 0)

    async def permit_nonce(self, owner: bytes, block: Block) -> int:
        del block
        self._chain._answer()
        return self.permits.get(owner, 0)

    def transfer_call(self, authorization: Permit2Authorization) -> Call:
        call = self._chain._call(PERMIT2_ADDRESS, lambda: self._move(authorization), authorization.from_)
        self._moved[call.data] = authorization.value
        return call

    def moved(self, call_data: bytes) -> int:
        return self._moved[call_data]

    def _move(self, a: Permit2Authorization) -> int:
        chain, allowed = self._chain, self.allowances.get(a.from_, 0)
        digest = eip712.digest(self.domain, a.struct_hash())
        if a.permit is not None and a.permit.nonce == self.permits.get(a.from_, 0):
            allowed = a.permit.value
        for holds, error in (
            (a.facilitator in {None, SENDER}, "UnauthorizedFacilitator"),
            (0 < a.value <= a.permitted, "InvalidAmount"),
            (a.valid_after <= NOW_S <= a.deadline, "SignatureExpired"),
            ((a.from_, a.nonce) not in self.used, "InvalidNonce"),
            (chain._signed(a.from_, digest, a.signature), "InvalidSigner"),
            (allowed >= a.value, "TRANSFER_FROM_FAILED"),
            (chain.balances.get(a.from_, 0) >= a.value, "TRANSFER_FROM_FAILED"),
        ):
            if not holds:
                raise escrow_model.RevertedError(error)
        if chain.is_trial:
            return a.value
        self.used.add((a.from_, a.nonce))
        self.allowances[a.from_] = allowed - a.value
        self.permits[a.from_] = self.permits.get(a.from_, 0) + (a.permit is not None)
        chain.balances[a.from_] -= a.value
        chain.balances[a.to] = chain.balances.get(a.to, 0) + a.value
        return a.value
