"""What schemes and settlement ask of a chain. `chain.memory` is the twin for tests and simulation.

One `Chain` per `[[chain]]` of the configuration. Reads are pinned to blocks; whatever cannot be read raises
`ChainUnavailable`, which is never taken for an answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tallystick.channels import ChannelConfig
from tallystick.eip712 import Domain
from tallystick_aggregator.journal.port import Outgoing, Payout, TransactionKind


class ChainUnavailable(Exception):
    """No endpoint answered, or they lag; retryable."""


class Reverted(Exception):
    """A simulated call would revert. `reason` names the contract's error, for people."""

    def __init__(self, reason: str) -> None:
        """Keep the reason."""
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Block:
    """A block that reads are pinned to."""

    number: int
    block_hash: bytes
    timestamp: int


@dataclass(frozen=True, slots=True)
class EscrowAccount:
    """An account as the escrow holds it. `withdrawable_at` 0: no withdrawal is pending."""

    balance: int
    refund_nonce: int
    withdraw_nonce: int
    withdrawing: int
    withdrawable_at: int


@dataclass(frozen=True, slots=True)
class DepositAuthorization:
    """An ERC-3009 ReceiveWithAuthorization to the escrow for one account; see design.md §4."""

    account: ChannelConfig
    amount: int
    valid_after: int
    valid_before: int
    salt: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class TransferAuthorization:
    """An ERC-3009 TransferWithAuthorization (x402 `exact`)."""

    from_: bytes
    to: bytes
    value: int
    valid_after: int
    valid_before: int
    nonce: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """A transaction to be: its target and calldata."""

    to: bytes
    data: bytes


class EscrowBinding(Protocol):
    """One escrow contract: its domain, how things are encoded for it and read back (design.md §3)."""

    @property
    def address(self) -> bytes: ...
    @property
    def domain(self) -> Domain: ...
    @property
    def operator(self) -> bytes: ...

    def account_id(self, config: ChannelConfig) -> bytes:
        """The account that a channel draws on."""
        ...

    def channel_id(self, config: ChannelConfig) -> bytes: ...

    def deposit_call(self, deposit: DepositAuthorization) -> Call: ...

    def deposit_token_nonce(self, deposit: DepositAuthorization) -> bytes:
        """keccak256(abi.encode(accountId, salt)): the nonce that the payer's authorization must carry."""
        ...

    def refund_call(self, account: ChannelConfig, amount: int, nonce: int) -> Call:
        """The refund, signed by the operator."""
        ...

    async def accounts(self, account_ids: Sequence[bytes], block: Block) -> Sequence[EscrowAccount]: ...

    async def claimed(self, channel_ids: Sequence[bytes], block: Block) -> Sequence[int]: ...


class Token(Protocol):
    """An ERC-20 with ERC-3009."""

    @property
    def address(self) -> bytes: ...
    @property
    def domain(self) -> Domain: ...

    async def balance(self, holder: bytes, block: Block) -> int: ...

    async def authorization_used(self, authorizer: bytes, nonce: bytes, block: Block) -> bool: ...

    def transfer_call(self, authorization: TransferAuthorization) -> Call: ...


class Chain(Protocol):
    """One network, its escrow and tokens, and the one sender of transactions on it."""

    @property
    def network(self) -> str:
        """The CAIP-2 name."""
        ...

    @property
    def chain_id(self) -> int: ...

    @property
    def escrow(self) -> EscrowBinding: ...

    @property
    def tokens(self) -> Mapping[bytes, Token]: ...

    async def head(self) -> Block: ...

    async def final(self) -> Block:
        """The newest block with enough confirmations."""
        ...

    async def simulate(self, call: Call, block: Block) -> None:
        """Call as the sender would; raise Reverted if it would revert."""
        ...

    async def send(
        self,
        kind: TransactionKind,
        reference: bytes,
        call: Call,
        *,
        rows: int = 0,
        payouts: tuple[Payout, ...] = (),
        memo: bytes = b"",
    ) -> Outgoing:
        """Journal a transaction, then send it. The same (kind, reference) again returns the one that is there.

        Raises Reverted if it would revert now (then nothing was journaled) and ChainUnavailable.
        """
        ...

    async def wait(self, outgoing: Outgoing, *, final: bool = False, timeout_s: float) -> Outgoing:
        """The transaction once it is mined (or final). Raises TimeoutError; that says nothing about its fate."""
        ...

    async def mirrored(self, block_number: int, timeout_s: float) -> None:
        """Return once the ledger's mirror of this network has taken in this block. Raises TimeoutError."""
        ...
