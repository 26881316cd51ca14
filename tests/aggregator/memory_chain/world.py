"""The state of a chain in memory, and what a call of the modelled contracts does to it step by step."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

from eth_abi.abi import encode

from tallystick import channels, eip712
from tallystick.channels import ChannelConfig
from tallystick.eip712 import Domain
from tallystick.errors import InvalidSignatureError
from tallystick.hashing import keccak256
from tallystick.signatures import recover
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain import token as token_calls
from tallystick_aggregator.chain.escrow_calls import topic
from tallystick_aggregator.chain.node import CallRevertedError, Log

Logs = list[tuple[bytes, Log]]


@dataclass(slots=True)
class HeldAccount:
    """An account as the escrow stores it."""

    opened: bool = False
    balance: int = 0
    refund_nonce: int = 0
    withdraw_nonce: int = 0
    authorizer_nonce: int = 0
    withdraw_amount: int = 0
    withdrawable_at: int = 0
    withdraw_by_payer: bool = False

    def use_withdraw_nonce(self, *, by_payer: bool) -> int:
        """Use up the payer's nonce for withdrawals, or the payerAuthorizer's."""
        used = self.withdraw_nonce if by_payer else self.authorizer_nonce
        if by_payer:
            self.withdraw_nonce += 1
        else:
            self.authorizer_nonce += 1
        return used

    def end_withdrawal(self) -> None:
        """No withdrawal is pending any more."""
        self.withdraw_amount, self.withdrawable_at, self.withdraw_by_payer = 0, 0, False


@dataclass(slots=True)
class World:
    """All state of the chain after one block."""

    nonces: dict[bytes, int] = field(default_factory=dict[bytes, int])
    accounts: dict[bytes, HeldAccount] = field(default_factory=dict[bytes, HeldAccount])
    claimed: dict[bytes, int] = field(default_factory=dict[bytes, int])
    senders: set[tuple[bytes, bytes]] = field(default_factory=set[tuple[bytes, bytes]])
    owed: dict[bytes, int] = field(default_factory=dict[bytes, int])
    balances: dict[bytes, int] = field(default_factory=dict[bytes, int])
    used: set[tuple[bytes, bytes]] = field(default_factory=set[tuple[bytes, bytes]])
    blacklist: set[bytes] = field(default_factory=set[bytes])

    def copy(self) -> "World":
        """An independent copy."""
        return deepcopy(self)


class Place(Protocol):
    """Where the contracts are."""

    @property
    def escrow(self) -> bytes: ...
    @property
    def token(self) -> bytes: ...
    @property
    def escrow_domain(self) -> Domain: ...
    @property
    def token_domain(self) -> Domain: ...


@dataclass(slots=True)
class Frame:
    """One call while it runs."""

    contracts: Place
    world: World
    sender: bytes
    timestamp: int
    logs: Logs = field(default_factory=Logs)

    def emit(self, signature: str, indexed: Sequence[bytes], types: Sequence[str], values: Sequence[Any]) -> None:
        """An event of the escrow."""
        topics = (topic(signature), *(item.rjust(32, b"\0") for item in indexed))
        self.logs.append((self.contracts.escrow, Log(topics, encode(types, values), 0)))

    def move(self, from_: bytes, to: bytes, amount: int) -> None:
        """Move tokens; raises CallRevertedError where the token would."""
        require({from_, to}.isdisjoint(self.world.blacklist), "Blacklistable: account is blacklisted")
        balances = self.world.balances
        require(balances.get(from_, 0) >= amount, "ERC20: transfer amount exceeds balance")
        balances[from_] -= amount
        balances[to] = balances.get(to, 0) + amount
        topics = (token_calls.TRANSFER_TOPIC, from_.rjust(32, b"\0"), to.rjust(32, b"\0"))
        self.logs.append((self.contracts.token, Log(topics, word(amount), 0)))

    def pay(self, to: bytes, amount: int) -> None:
        """Pay out of the escrow, or keep it for `to`."""
        try:
            self.move(self.contracts.escrow, to, amount)
        except CallRevertedError:
            self.world.owed[to] = self.world.owed.get(to, 0) + amount
            self.emit(calls.OWED, [to, self.contracts.token], ["uint256", "uint256"], [amount, self.world.owed[to]])

    def account(self, config: ChannelConfig) -> tuple[bytes, HeldAccount]:
        """The account that a configuration names."""
        account_id = channels.account_id(self.contracts.escrow_domain, config)
        return account_id, self.world.accounts.setdefault(account_id, HeldAccount())

    def use_authorization(self, typed: bytes, holder: bytes, nonce: bytes, window: tuple[int, int], sig: bytes) -> None:
        """Check and use up an ERC-3009 authorization."""
        require(window[0] < self.timestamp, "FiatTokenV2: authorization is not yet valid")
        require(self.timestamp < window[1], "FiatTokenV2: authorization is expired")
        require((holder, nonce) not in self.world.used, "FiatTokenV2: authorization is used or canceled")
        digest = eip712.digest(self.contracts.token_domain, typed)
        require(signer_of(digest, sig) == holder, "FiatTokenV2: invalid signature")
        self.world.used.add((holder, nonce))
        topics = (token_calls.AUTHORIZATION_USED_TOPIC, holder.rjust(32, b"\0"), nonce)
        self.logs.append((self.contracts.token, Log(topics, b"", 0)))


def signer_of(digest: bytes, signature: bytes) -> bytes:
    """Who signed; empty if nobody can have."""
    try:
        return recover(digest, signature)
    except InvalidSignatureError:
        return b""


def require(holds: bool, error: str, *words: bytes | int) -> None:
    """Revert unless it holds: with a custom error and its one-word arguments, or with a text."""
    if holds:
        return
    if error.endswith(")"):
        arguments = b"".join(word(item) if isinstance(item, int) else item.rjust(32, b"\0") for item in words)
        raise CallRevertedError(keccak256(error.encode())[:4] + arguments, "execution reverted: custom error")
    raise CallRevertedError(
        keccak256(b"Error(string)")[:4] + encode(["string"], [error]), f"execution reverted: {error}"
    )


def word(value: int) -> bytes:
    """A number as a word of the ABI."""
    return value.to_bytes(32, "big")
