"""Escrow.sol a second time, in Python: what each operation does, written from design.md §4 and IEscrow's words.

It takes the same arguments as the contract, checks the same signatures over digests of its own making, and answers with
the events that the contract has to emit, or with the error that it has to revert with. Only what the token does inside
is left to a few lines. Amounts in atomic units, times in Unix seconds.

tests/contracts/test_differential.py holds it against Escrow.sol on Anvil. Whatever else in the tests needs an escrow
stands on it: the network in memory below EvmChain (aggregator/memory_chain), the twin of the chain's port
(aggregator/chain_twin.py), and the blocks that the ledger is held against (aggregator/escrow_blocks.py).
"""

from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, field, replace
from typing import Final, NamedTuple, TypeAlias

import typed_data
from tallystick import eip712
from tallystick.eip712 import Domain
from tallystick.errors import InvalidSignatureError
from tallystick.signatures import recover
from tallystick.x402 import ExactAuthorization
from tallystick_contracts.claim_batch import AccountClaim, ClaimBatch, ClaimRow
from tallystick_contracts.events import (
    AccountOpened,
    Claimed,
    Collected,
    Deposited,
    Event,
    Owed,
    Refunded,
    RowSkipped,
    SenderSet,
    SkipReason,
    WithdrawCancelled,
    WithdrawFinalized,
    WithdrawInitiated,
)

ZERO: Final = bytes(20)
AMOUNT_MAX: Final = 2**128 - 1
DELAY_MIN_S: Final = 15 * 60
DELAY_MAX_S: Final = 30 * 86_400
TOKEN_REFUSED: Final = "the token's own"


class RevertedError(Exception):
    """The call has no effect. `name` is IEscrow's error, `words` its arguments as integers."""

    def __init__(self, name: str, *arguments: int | bytes) -> None:
        super().__init__(name, *arguments)
        self.name = name
        self.words = tuple(a if isinstance(a, int) else int.from_bytes(a, "big") for a in arguments)


class TokenRevertedError(RevertedError):
    """The token refused, with a text of its own."""

    def __init__(self, text: str) -> None:
        super().__init__(TOKEN_REFUSED)
        self.text = text


Signed: TypeAlias = Callable[[bytes, bytes, bytes], bool]
"""Whether an address signed a digest with a signature."""


def signed(signer: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether it did, by its key. Wallets that are contracts are no part of the model."""
    try:
        return recover(digest, signature) == signer
    except InvalidSignatureError:
        return False


class Config(NamedTuple):
    """IEscrow.ChannelConfig, unchecked."""

    payer: bytes
    payer_authorizer: bytes
    receiver: bytes
    operator: bytes
    token: bytes
    withdraw_delay_s: int
    salt: bytes


@dataclass
class Account:
    """IEscrow.AccountState."""

    opened: bool = False
    balance: int = 0
    refund_nonce: int = 0
    withdraw_nonce: int = 0
    authorizer_nonce: int = 0
    withdraw_amount: int = 0
    withdrawable_at: int = 0
    withdraw_by_payer: bool = False

    def nonce_of(self, by_payer: bool) -> int:
        """The next one of the payer's or of the payerAuthorizer's signed withdrawals and cancellations."""
        return self.withdraw_nonce if by_payer else self.authorizer_nonce

    def use_nonce(self, by_payer: bool) -> int:
        """Use one up."""
        used = self.nonce_of(by_payer)
        if by_payer:
            self.withdraw_nonce += 1
        else:
            self.authorizer_nonce += 1
        return used

    def end_withdrawal(self) -> None:
        """None is pending any more."""
        self.withdraw_amount = self.withdrawable_at = 0
        self.withdraw_by_payer = False


class Transfer(NamedTuple):
    """The token's event of the same name."""

    from_: bytes
    to: bytes
    amount: int


class AuthorizationUsed(NamedTuple):
    """The token's event of the same name."""

    authorizer: bytes
    nonce: bytes


@dataclass
class TokenModel:
    """A token like USDC: balances, a blacklist, ERC-3009. `events` are what it has emitted."""

    address: bytes
    domain: Domain
    balances: dict[bytes, int] = field(default_factory=dict[bytes, int])
    blacklist: set[bytes] = field(default_factory=set[bytes])
    used: set[tuple[bytes, bytes]] = field(default_factory=set[tuple[bytes, bytes]])
    events: list[Transfer | AuthorizationUsed] = field(default_factory=list[Transfer | AuthorizationUsed])
    signed: Signed = signed

    def copy(self) -> "TokenModel":
        """An independent one in the same state, that has emitted nothing yet."""
        return replace(
            self, balances=dict(self.balances), blacklist=set(self.blacklist), used=set(self.used), events=[]
        )

    def transfer(self, from_: bytes, to: bytes, amount: int) -> None:
        if self.blacklist & {from_, to}:
            raise TokenRevertedError("Blacklistable: account is blacklisted")
        if self.balances.get(from_, 0) < amount:
            raise TokenRevertedError("ERC20: transfer amount exceeds balance")
        self.balances[from_] = self.balances.get(from_, 0) - amount
        self.balances[to] = self.balances.get(to, 0) + amount
        self.events.append(Transfer(from_, to, amount))

    def move(self, from_: bytes, to: bytes, amount: int) -> bool:
        """Whether a transfer succeeds."""
        try:
            self.transfer(from_, to, amount)
        except TokenRevertedError:
            return False
        return True

    def transfer_with_authorization(self, authorization: ExactAuthorization, now_s: int) -> None:
        self._use(authorization, eip712.hash_transfer_with_authorization, now_s)

    def receive_with_authorization(self, authorization: ExactAuthorization, now_s: int) -> None:
        """As `to` calls it."""
        self._use(authorization, eip712.hash_receive_with_authorization, now_s)

    def _use(self, authorization: ExactAuthorization, hash_struct: Callable[..., bytes], now_s: int) -> None:
        from_, to, amount, valid_after_s, valid_before_s, nonce, signature = astuple(authorization)
        struct = hash_struct(from_, to, amount, valid_after_s, valid_before_s, nonce)
        if now_s <= valid_after_s:
            raise TokenRevertedError("FiatTokenV2: authorization is not yet valid")
        if now_s >= valid_before_s:
            raise TokenRevertedError("FiatTokenV2: authorization is expired")
        if (from_, nonce) in self.used:
            raise TokenRevertedError("FiatTokenV2: authorization is used or canceled")
        if not self.signed(from_, eip712.digest(self.domain, struct), signature):
            raise TokenRevertedError("FiatTokenV2: invalid signature")
        self.transfer(from_, to, amount)
        self.used.add((from_, nonce))
        self.events.append(AuthorizationUsed(from_, nonce))


@dataclass
class EscrowModel:
    """The contract's state. Every operation takes `caller`, and `now_s` where time matters."""

    address: bytes
    domain: Domain
    tokens: dict[bytes, TokenModel]
    accounts: dict[bytes, Account] = field(default_factory=dict[bytes, Account])
    claimed: dict[bytes, int] = field(default_factory=dict[bytes, int])
    owed: dict[tuple[bytes, bytes], int] = field(default_factory=dict[tuple[bytes, bytes], int])
    senders: set[tuple[bytes, bytes]] = field(default_factory=set[tuple[bytes, bytes]])
    signed: Signed = signed

    def copy(self) -> "EscrowModel":
        """An independent one in the same state."""
        return replace(
            self,
            tokens={address: token.copy() for address, token in self.tokens.items()},
            accounts={account_id: replace(account) for account_id, account in self.accounts.items()},
            claimed=dict(self.claimed),
            owed=dict(self.owed),
            senders=set(self.senders),
        )

    # Ids and digests.

    def account_id(self, config: Config) -> bytes:
        return self.channel_id(config, ZERO)

    def channel_id(self, config: Config, receiver: bytes) -> bytes:
        return self._digest(eip712.hash_channel_config(*config._replace(receiver=receiver)))

    def voucher_digest(self, channel_id: bytes, ceiling: int) -> bytes:
        return self._digest(typed_data.hash_voucher(channel_id, ceiling))

    def approval_digest(self, account_id: bytes, totals: Iterable[tuple[bytes, int]]) -> bytes:
        return self._digest(eip712.hash_totals_approval(account_id, totals))

    def refund_digest(self, account_id: bytes, nonce: int, amount: int) -> bytes:
        return self._digest(eip712.hash_refund(account_id, nonce, amount))

    def withdraw_digest(self, account_id: bytes, amount: int, nonce: int, deadline_s: int) -> bytes:
        return self._digest(eip712.hash_withdraw(account_id, amount, nonce, deadline_s))

    def batch_digest(self, batch: ClaimBatch) -> bytes:
        entries = [
            (self.channel_id(account_of(batch, account), row.receiver), row.max_claimable_amount, row.total_claimed)
            for account in batch.accounts
            for row in account.rows
        ]
        return self._digest(eip712.hash_claim_batch(entries))

    def account(self, account_id: bytes) -> Account:
        """The account, to be changed."""
        return self.accounts.setdefault(account_id, Account())

    def liabilities(self, token: bytes, accounts: Iterable[Config]) -> int:
        """What I7 says that the escrow has to hold of a token."""
        balances = sum(self.account(self.account_id(c)).balance for c in accounts if c.token == token)
        return balances + sum(amount for (_, of), amount in self.owed.items() if of == token)

    # Deposits.

    def deposit(self, caller: bytes, config: Config, amount: int) -> list[Event]:
        token = self._valid(config, amount)
        token.transfer(caller, self.address, amount)
        return self._book(config, amount)

    def deposit_with_authorization(
        self,
        config: Config,
        amount: int,
        valid_after_s: int,
        valid_before_s: int,
        salt: bytes,
        signature: bytes,
        now_s: int,
    ) -> list[Event]:
        token = self._valid(config, amount)
        nonce = eip712.deposit_nonce(self.account_id(config), salt)
        if (config.payer, nonce) in token.used:
            return []
        authorization = ExactAuthorization(
            config.payer, self.address, amount, valid_after_s, valid_before_s, nonce, signature
        )
        token.receive_with_authorization(authorization, now_s)
        return self._book(config, amount)

    # Claims.

    def claim(self, caller: bytes, batch: ClaimBatch) -> list[Event]:
        if caller != batch.operator and (batch.operator, caller) not in self.senders:
            raise RevertedError("NotOperatorOrSender", caller, batch.operator)
        return self._claim(batch)

    def claim_with_signature(self, batch: ClaimBatch, signature: bytes) -> list[Event]:
        digest = self.batch_digest(batch)
        if not self.signed(batch.operator, digest, signature):
            raise RevertedError("BadSignature", batch.operator, digest)
        return self._claim(batch)

    def set_sender(self, caller: bytes, sender: bytes, allowed: bool) -> list[Event]:
        (self.senders.add if allowed else self.senders.discard)((caller, sender))
        return [SenderSet(caller, sender, allowed)]

    def collect(self, to: bytes, token: bytes) -> list[Event]:
        amount = self.owed.get((to, token), 0)
        if amount == 0:
            raise RevertedError("NothingOwed", to, token)
        self.tokens[token].transfer(self.address, to, amount)
        del self.owed[to, token]
        return [Collected(to, token, amount)]

    # Exits.

    def initiate_withdraw(self, caller: bytes, config: Config, amount: int, now_s: int) -> list[Event]:
        return self._initiate(config, amount, now_s, _is_payer(caller, config))

    def initiate_withdraw_with_signature(
        self, config: Config, amount: int, nonce: int, deadline_s: int, signature: bytes, now_s: int
    ) -> list[Event]:
        by_payer = self._is_signed_by_payer(config, amount, nonce, deadline_s, signature, now_s)
        return self._initiate(config, amount, now_s, by_payer)

    def cancel_withdraw(self, caller: bytes, config: Config) -> list[Event]:
        return self._cancel(config, _is_payer(caller, config))

    def cancel_withdraw_with_signature(
        self, config: Config, nonce: int, deadline_s: int, signature: bytes, now_s: int
    ) -> list[Event]:
        return self._cancel(config, self._is_signed_by_payer(config, 0, nonce, deadline_s, signature, now_s))

    def finalize_withdraw(self, config: Config, now_s: int) -> list[Event]:
        account_id = self.account_id(config)
        account = self.account(account_id)
        if not account.withdrawable_at:
            raise RevertedError("NoWithdrawPending", account_id)
        if now_s < account.withdrawable_at:
            raise RevertedError("WithdrawTooEarly", account.withdrawable_at, now_s)
        paid = min(account.withdraw_amount, account.balance)
        account.balance -= paid
        account.end_withdrawal()
        return [WithdrawFinalized(account_id, paid, account.balance), *self._pay(config.token, config.payer, paid)]

    def refund_with_signature(self, config: Config, amount: int, nonce: int, signature: bytes) -> list[Event]:
        account_id = self.account_id(config)
        digest = self.refund_digest(account_id, nonce, amount)
        if not self.signed(config.operator, digest, signature):
            raise RevertedError("BadSignature", config.operator, digest)
        account = self.account(account_id)
        if not account.opened:
            raise RevertedError("AccountUnknown", account_id)
        if nonce != account.refund_nonce:
            raise RevertedError("BadNonce", nonce, account.refund_nonce)
        account.refund_nonce += 1
        paid = min(amount, account.balance)
        account.balance -= paid
        account.withdraw_amount = max(0, account.withdraw_amount - paid)
        if account.withdraw_amount == 0:
            account.end_withdrawal()
        refunded = Refunded(account_id, paid, account.balance, nonce, account.withdraw_amount)
        return [refunded, *self._pay(config.token, config.payer, paid)]

    # Parts of the above.

    def _valid(self, config: Config, amount: int) -> TokenModel:
        if amount == 0:
            raise RevertedError("ZeroAmount")
        if config.payer in {ZERO, self.address, config.token}:
            raise RevertedError("BadAddress", b"payer".ljust(32, b"\0"), config.payer)
        for name, address in ((b"payerAuthorizer", config.payer_authorizer), (b"receiverAuthorizer", config.operator)):
            if address == ZERO:
                raise RevertedError("BadAddress", name.ljust(32, b"\0"), ZERO)
        if not DELAY_MIN_S <= config.withdraw_delay_s <= DELAY_MAX_S:
            raise RevertedError("WithdrawDelayOutOfRange", config.withdraw_delay_s, DELAY_MIN_S, DELAY_MAX_S)
        if config.token not in self.tokens:
            raise RevertedError("NotAToken", config.token)
        return self.tokens[config.token]

    def _book(self, config: Config, amount: int) -> list[Event]:
        account_id = self.account_id(config)
        account = self.account(account_id)
        if account.balance + amount > AMOUNT_MAX:
            raise RevertedError("Panic", 0x11)
        account.balance += amount
        if account.opened:
            return [Deposited(account_id, amount, account.balance)]
        account.opened = True
        return [
            AccountOpened(
                account_id,
                config.payer,
                config.operator,
                config.payer_authorizer,
                config.token,
                config.withdraw_delay_s,
                config.salt,
                amount,
            )
        ]

    def _claim(self, batch: ClaimBatch) -> list[Event]:
        payouts: dict[bytes, int] = {}
        events: list[Event] = []
        for account in batch.accounts:
            events += self._claim_account(batch, account, payouts)
        for receiver, amount in payouts.items():
            events += self._pay(batch.token, receiver, amount)
        return events

    def _claim_account(self, batch: ClaimBatch, claim: AccountClaim, payouts: dict[bytes, int]) -> list[Event]:
        config = account_of(batch, claim)
        account_id = self.account_id(config)
        account = self.account(account_id)
        approved = claim.approval is not None and self.signed(
            claim.payer_authorizer,
            self.approval_digest(account_id, [(row.receiver, row.total_claimed) for row in claim.rows]),
            claim.approval,
        )
        skipped: list[Event] = []
        rows: list[tuple[bytes, int]] = []
        for row in claim.rows:
            payouts.setdefault(row.receiver, 0)
            channel_id = self.channel_id(config, row.receiver)
            reason = self._reason_to_skip(config, account, row, channel_id, approved)
            if reason is not SkipReason.NONE:
                skipped.append(RowSkipped(account_id, row.receiver, row.total_claimed, reason))
                continue
            before = self.claimed.get(channel_id, 0)
            paid = min(row.total_claimed - before, account.balance)
            account.balance -= paid
            payouts[row.receiver] += paid
            self.claimed[channel_id] = before + paid
            rows.append((row.receiver, before + paid))
        return [*skipped, Claimed(account_id, tuple(rows))] if rows else skipped

    def _reason_to_skip(
        self, config: Config, account: Account, row: ClaimRow, channel_id: bytes, approved: bool
    ) -> SkipReason:
        if row.receiver in {ZERO, self.address, config.token}:
            return SkipReason.BAD_RECEIVER
        if row.total_claimed <= self.claimed.get(channel_id, 0):
            return SkipReason.NOTHING_NEW
        if account.balance == 0:
            return SkipReason.ACCOUNT_EMPTY
        if approved:
            return SkipReason.NONE
        if row.signature is None:
            return SkipReason.BAD_SIGNATURE
        if row.total_claimed > row.max_claimable_amount:
            return SkipReason.ABOVE_CEILING
        digest = self.voucher_digest(channel_id, row.max_claimable_amount)
        return (
            SkipReason.NONE if self.signed(config.payer_authorizer, digest, row.signature) else SkipReason.BAD_SIGNATURE
        )

    def _pay(self, token: bytes, to: bytes, amount: int) -> list[Event]:
        if amount == 0 or self.tokens[token].move(self.address, to, amount):
            return []
        self.owed[to, token] = self.owed.get((to, token), 0) + amount
        return [Owed(to, token, amount, self.owed[to, token])]

    def _initiate(self, config: Config, amount: int, now_s: int, by_payer: bool) -> list[Event]:
        account_id = self.account_id(config)
        account = self.account(account_id)
        if amount == 0:
            raise RevertedError("ZeroAmount")
        if account.withdrawable_at and not (by_payer and not account.withdraw_by_payer):
            raise RevertedError("WithdrawPending", account_id, account.withdraw_amount, account.withdrawable_at)
        if account.balance == 0:
            raise RevertedError("AccountEmpty", account_id)
        account.withdraw_amount, account.withdrawable_at = amount, now_s + config.withdraw_delay_s
        account.withdraw_by_payer = by_payer
        nonce = account.use_nonce(by_payer)
        return [WithdrawInitiated(account_id, amount, account.withdrawable_at, nonce, by_payer)]

    def _cancel(self, config: Config, by_payer: bool) -> list[Event]:
        account_id = self.account_id(config)
        account = self.account(account_id)
        if not account.withdrawable_at:
            raise RevertedError("NoWithdrawPending", account_id)
        if account.withdraw_by_payer and not by_payer:
            raise RevertedError("WithdrawOfPayer", account_id)
        account.end_withdrawal()
        return [WithdrawCancelled(account_id, account.use_nonce(by_payer), by_payer)]

    def _is_signed_by_payer(
        self, config: Config, amount: int, nonce: int, deadline_s: int, signature: bytes, now_s: int
    ) -> bool:
        account_id = self.account_id(config)
        if now_s > deadline_s:
            raise RevertedError("DeadlinePassed", deadline_s, now_s)
        digest = self.withdraw_digest(account_id, amount, nonce, deadline_s)
        by_payer = self.signed(config.payer, digest, signature)
        if not by_payer and not self.signed(config.payer_authorizer, digest, signature):
            raise RevertedError("BadSignature", config.payer, digest)
        expected = self.account(account_id).nonce_of(by_payer)
        if nonce != expected:
            raise RevertedError("BadNonce", nonce, expected)
        return by_payer

    def _digest(self, struct_hash: bytes) -> bytes:
        return eip712.digest(self.domain, struct_hash)

    def attempt(self, act: Callable[["EscrowModel"], list[Event]]) -> list[Event] | RevertedError:
        """What an operation emits, or its revert, which leaves no trace."""
        before = self.copy()
        try:
            return act(self)
        except RevertedError as reverted:
            self.tokens, self.accounts, self.claimed = before.tokens, before.accounts, before.claimed
            self.owed, self.senders = before.owed, before.senders
            return reverted


def account_of(batch: ClaimBatch, claim: AccountClaim) -> Config:
    """The configuration of an account in a batch."""
    return Config(
        claim.payer,
        claim.payer_authorizer,
        ZERO,
        batch.operator,
        batch.token,
        claim.withdraw_delay_s,
        claim.salt,
    )


def _is_payer(caller: bytes, config: Config) -> bool:
    """Whether it is the payer, rather than the payerAuthorizer."""
    if caller not in {config.payer, config.payer_authorizer}:
        raise RevertedError("NotPayer", caller, config.payer, config.payer_authorizer)
    return caller == config.payer
