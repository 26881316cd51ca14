"""What is asked of an Ethereum node. `rpc` speaks it over JSON-RPC; tests have a network in memory.

Whatever cannot be answered raises ChainUnavailableError: "not found" is an answer, silence is none.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tallystick_aggregator.chain.port import Block, ChainUnavailableError, Heard, OutOfGasError, RevertedError
from tallystick_chain import errors
from tallystick_chain.fees import Bid, MarketFees
from tallystick_chain.reverts import by_contract, describe

CallRevertedError = errors.CallRevertedError


class RejectedError(Exception):
    """Every node that answered refused to take a transaction into its pool. It may still be in a block already."""


class RefusedError(ChainUnavailableError):
    """Every endpoint was there and answered with an error; a smaller question may get an answer."""


class Log(NamedTuple):
    """One event of a contract."""

    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    transaction_hash: bytes = b""


class Header(NamedTuple):
    """A block, and the bloom filter over the addresses and topics of its events (module `bloom`)."""

    block: Block
    logs_bloom: bytes


class Receipt(NamedTuple):
    """What became of a transaction in a block."""

    transaction_hash: bytes
    block_number: int
    block_hash: bytes
    succeeded: bool
    gas_used: int
    effective_gas_price_wei: int
    logs: tuple[tuple[bytes, Log], ...]
    """With the address that each event came from."""


class BlockTransaction(NamedTuple):
    """A transaction in a block: whose it is and which nonce it used."""

    transaction_hash: bytes
    sender: bytes
    nonce: int


class OrderedCall(NamedTuple):
    """A call in a sequence; `value` in wei."""

    from_: bytes
    to: bytes
    data: bytes
    value: int
    gas: int


class CallOutcome(NamedTuple):
    """What became of it; `problem` is empty where it succeeded."""

    succeeded: bool
    gas_used: int
    problem: str


class Node(Protocol):
    """One network, through one node or several."""

    async def chain_id(self) -> int: ...

    async def head(self, *, fresh: bool = True) -> Block:
        """The newest block that the endpoints agree on; one that is the only endpoint is asked twice for it.

        Without `fresh` it may be the answer to a question that was under way already.
        """
        ...

    async def block(self, number: int) -> Block | None:
        """The canonical block with this number; None beyond the head."""
        ...

    async def code(self, address: bytes, block: Block | None = None) -> bytes:
        """The code at an address, after this very block or at the head."""
        ...

    async def balance(self, address: bytes) -> int:
        """Wei at the head."""
        ...

    async def call(
        self,
        to: bytes,
        data: bytes,
        block: Block,
        *,
        from_: bytes = b"",
        gas: int = 0,
        price: Bid | None = None,
        at_s: int = 0,
        heard: Heard | None = None,
    ) -> bytes:
        """Run a call on the state after this very block, with so much gas (0: the node's own limit), at a gas price
        (None: 0). Raises CallRevertedError.

        `at_s`: as in a block of this time, where the node can do that; else, and where it is 0, at the block's own.
        `heard` notes who answered, and keeps those from being asked again that it excludes.
        """
        ...

    async def run_in_order(self, calls: Sequence[OrderedCall], block: Block) -> Sequence[CallOutcome]:
        """Run calls one after the other on the state after this block, each on what those before it left."""
        ...

    async def estimate_gas(self, from_: bytes, to: bytes, data: bytes, *, gas_max: int) -> int:
        """Gas that the transaction would need now. Raises CallRevertedError, also when `gas_max` does not suffice."""
        ...

    async def logs(self, address: bytes, first: int, last: Block, topics: Sequence[bytes | None] = ()) -> Sequence[Log]:
        """The contract's events in the blocks from `first` to `last`, in their order."""
        ...

    async def header(self, number: int, known: Block | None = None) -> Header:
        """The canonical block with this number and its bloom filter; `known`: this very block."""
        ...

    async def block_logs(self, address: bytes, block: Block, heard: Heard) -> Sequence[Log]:
        """The contract's events in this very block, in their order."""
        ...

    async def fees(self) -> MarketFees: ...

    async def next_nonce(self, sender: bytes) -> int:
        """The sender's transaction count, those that wait in the pool included."""
        ...

    async def nonce_at(self, sender: bytes, block_number: int) -> int:
        """The sender's transaction count after this block."""
        ...

    async def send(self, raw: bytes) -> None:
        """Give signed bytes to the pool; one that has them already is content. Raises RejectedError."""
        ...

    async def receipt(self, transaction_hash: bytes) -> Receipt | None:
        """The receipt, if the transaction is in a canonical block. What only one answer says is no receipt yet."""
        ...

    async def transactions(self, block_number: int) -> Sequence[BlockTransaction]: ...

    async def close(self) -> None: ...


def as_reverted(reverted: CallRevertedError) -> RevertedError:
    """That the call would revert, or that its gas does not suffice."""
    kind = OutOfGasError if not reverted.data and errors.says_out_of_gas(reverted.message) else RevertedError
    return kind(describe(reverted), by_contract=by_contract(reverted))
