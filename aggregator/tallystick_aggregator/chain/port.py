"""What schemes and settlement ask of a chain.

One `Chain` for each escrow of each `[[chain]]` of the configuration. Reads are pinned to blocks; whatever cannot be
read raises `ChainUnavailableError`, which is never taken for an answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tallystick.channels import ChannelConfig
from tallystick_aggregator.chain.sending.gas_meter import GasMeter
from tallystick_aggregator.store.port import OutboundTransaction, Payout, TransactionKind
from tallystick_chain import errors

if TYPE_CHECKING:
    from tallystick_aggregator.chain.bundle_port import Bundles
    from tallystick_aggregator.chain.escrow_port import EscrowBinding
    from tallystick_aggregator.chain.token_port import Permit2Token, Token

GAS_LIMIT_MAX: Final = 16_777_216
"""Gas of one transaction at most (EIP-7825)."""


ChainUnavailableError = errors.ChainUnavailableError


class RevertedError(Exception):
    """A simulated call would revert. `reason` names the contract's error, for people.

    `by_contract`: the escrow or the operator's contract refuses it with an error of its own, so it will do so again.
    What else looks like a revert (too little gas at the node, no reason given) may be gone a moment later.
    """

    def __init__(self, reason: str, *, by_contract: bool = False) -> None:
        """Keep both."""
        super().__init__(reason)
        self.reason = reason
        self.by_contract = by_contract


class PaymentIdTakenError(Exception):
    """Another transaction was sent under this payment id."""


class OutOfGasError(RevertedError):
    """A call that would take more gas than it was given."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block that reads are pinned to."""

    number: int
    block_hash: bytes
    timestamp: int


class Heard:
    """Whose answers a question has had so far, so that it can be put to somebody else.

    Passed along with a read it notes who answered. `again()` makes one that turns to others only; a node with a single
    endpoint asks that one again, in a call of its own.
    """

    def __init__(self, excluded: Mapping[int, str] | None = None) -> None:
        """`excluded`: the sources not to ask, by number, with their names."""
        self.excluded = dict(excluded or {})
        self.sources: dict[int, str] = {}

    def note(self, number: int, name: str) -> None:
        """Keep who answered."""
        self.sources[number] = name

    def again(self) -> "Heard":
        """For the same question, put to somebody else."""
        return Heard(self.sources)

    def __str__(self) -> str:
        """The names of those who answered."""
        return ", ".join(dict.fromkeys(self.sources.values())) or "the node"


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
    """An ERC-3009 ReceiveWithAuthorization to the escrow for one account; see docs/design.md §4."""

    account: ChannelConfig
    amount: int
    valid_after: int
    valid_before: int
    salt: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """A transaction to be: its target and calldata."""

    to: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """A call to send, and what the outbox journals with it. (kind, reference) names it: it is sent once.

    `rows` and `payouts`: the claims in it, and what they pay to whom. `memo`: what its service keeps with it.
    `payer`: whose signature brings it about, if anybody's. `payment_id`: what its payer named it by, so that
    nothing else is sent under that name. `urgent` bids more for the next block. `gas_max` bounds what it may burn:
    where a stranger's contract has a say in that, it must be named.
    """

    kind: TransactionKind
    reference: bytes
    call: Call
    rows: int = 0
    payouts: tuple[Payout, ...] = ()
    memo: bytes = b""
    payer: bytes = b""
    payment_id: bytes = b""
    urgent: bool = False
    gas_max: int = GAS_LIMIT_MAX


class Landing(NamedTuple):
    """The transaction that landed a deposit or a refund, whoever sent it, and what it moved in atomic units."""

    transaction_hash: bytes
    block_number: int
    amount: int


@dataclass(frozen=True, slots=True)
class Stake:
    """What a transaction saves by landing in time, in a token's atomic units."""

    token: bytes
    amount: int


class Chain(Protocol):
    """One escrow and its mirror, with the tokens and the one sender that all escrows of its network share."""

    @property
    def network(self) -> str:
        """The CAIP-2 name."""
        ...

    @property
    def chain_id(self) -> int: ...

    @property
    def escrow(self) -> "EscrowBinding": ...

    @property
    def tokens(self) -> "Mapping[bytes, Token]": ...

    @property
    def permit2_tokens(self) -> "Mapping[bytes, Permit2Token]":
        """Those that payments may move by Permit2."""
        ...

    @property
    def bundles(self) -> "Bundles | None":
        """What sends a payer's approval along with its payment; None where there is no builder."""
        ...

    @property
    def sender(self) -> bytes:
        """The address that sends our transactions."""
        ...

    @property
    def gas(self) -> GasMeter:
        """What our transactions took in the last hour."""
        ...

    async def head(self, *, fresh: bool = True) -> Block:
        """The newest block. Without `fresh` as of a moment ago: what somebody was just asking for will do."""
        ...

    async def final(self) -> Block:
        """The newest block with enough confirmations."""
        ...

    async def code(self, address: bytes, block: Block) -> bytes:
        """The code at an address after this block; empty for a plain key's."""
        ...

    async def gas_affordable(self) -> int:
        """The gas that the sender's balance pays for now, at what it would bid, besides all that it has sent."""
        ...

    async def simulate(self, call: Call, block: Block, *, gas_max: int, at_s: int = 0) -> None:
        """Call as the sender would in the block after this one: with so much gas, at the price that it would bid, and
        where the endpoint can do so at `at_s` (seconds since the epoch; 0: at the block's own time).

        Raises RevertedError if it would revert.
        """
        ...

    async def send(self, send: Send) -> OutboundTransaction:
        """Journal a transaction, then send it. The same (kind, reference) again returns the one that is there, except
        that one that was SUPERSEDED is sent anew.

        Raises PaymentIdTakenError, RevertedError if it would revert now, and ChainUnavailableError if nobody
        answers; then nothing was journaled. Once it is journaled it returns, whatever becomes of the sending:
        that is the outbox's business.
        """
        ...

    async def wait(
        self, outbound: OutboundTransaction, *, final: bool = False, timeout_s: float
    ) -> OutboundTransaction:
        """The transaction once it is mined (or final). Raises TimeoutError; that says nothing about its fate.

        MINED means that it is in a block and did its work. That it reverted is believed only when it is final.
        """
        ...

    async def deposit_landing(self, deposit: DepositAuthorization) -> Landing | None:
        """The final transaction that used a deposit's authorization, whoever sent it; None if it is not found.

        `amount` is what it deposited: 0 if the authorization was cancelled, or used for something else.
        """
        ...

    async def refund_landing(self, account_id: bytes, nonce: int) -> Landing | None:
        """The final transaction that used an account's refund nonce, and what it paid; None if it is not found."""
        ...

    async def mirrored(self, block_number: int, timeout_s: float) -> None:
        """Return once the ledger's mirror of this network has taken in this block. Raises TimeoutError."""
        ...

    def track(self, account: ChannelConfig) -> None:
        """Have the watcher read this account at its next look, and open it in the ledger if the chain knows it.

        It finds accounts by itself; this serves one that its owner names first, or a channel just opened on it.
        """
        ...

    def is_held_back(self, account_id: bytes) -> bool:
        """Whether the chain has something else of an account than the ledger counts, until another answer bears it
        out.
        """
        ...

    def stale(self) -> bool:
        """Whether the mirror may not be relied on (I9): not yet at the head, or too old."""
        ...

    def problems(self) -> Sequence[str]:
        """What keeps this chain from working, as sentences for health and people; none if all is well."""
        ...
