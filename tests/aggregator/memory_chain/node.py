"""A chain in memory: the twin of `rpc.RpcNode`, for tests and for seeded simulation. Deterministic; knows no real time.

Everything above the node is the real thing: `EvmChain(settings, outbox, writer, node=MemoryNode(...))` has the same
sender, watcher and bindings as in production, on blocks that a test mines, reorganises and withholds. What can go wrong
between an aggregator and a node goes wrong when `faults` says so.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, cast

import rlp  # type: ignore[import-untyped]  # it has none

from escrow_model import EscrowModel
from memory_chain.contracts import Contracts, World
from tallystick.hashing import keccak256
from tallystick.signatures import recover
from tallystick_aggregator.chain.node import (
    BlockTransaction,
    CallOutcome,
    CallRevertedError,
    Header,
    Log,
    OrderedCall,
    Receipt,
    RefusedError,
    RejectedError,
)
from tallystick_aggregator.chain.port import Block, ChainUnavailableError, Heard
from tallystick_aggregator.chain.rpc.bloom import BLOOM_BYTES, mask
from tallystick_chain.fees import Bid, MarketFees
from tallystick_contracts.events import Event

GWEI: Final = 10**9
BLOCK_S: Final = 12
_GAS_FIXED: Final = 60_000
_GAS_PER_BYTE: Final = 120


@dataclass(frozen=True, slots=True)
class Transaction:
    """A signed transaction, taken apart."""

    hash: bytes
    raw: bytes
    sender: bytes
    nonce: int
    max_fee: int
    priority_fee: int
    to: bytes
    data: bytes


@dataclass(slots=True)
class _Mined:
    block: Block
    world: World
    transactions: list[Transaction]
    receipts: dict[bytes, Receipt]
    logs: list[tuple[bytes, Log]]


@dataclass(slots=True)
class Faults:
    """What goes wrong at the node. Each is a state of the world that a test switches on and off."""

    down: bool = False
    """Nobody answers."""
    losing_sends: bool = False
    """Transactions do not arrive; the caller hears an error."""
    losing_replies: bool = False
    """Transactions arrive; the caller hears an error."""
    blind: bool = False
    """Receipts are not found."""


@dataclass(slots=True)
class MemoryNode:
    """Implements `node.Node`. `mine` makes blocks; nothing else does."""

    contracts: Contracts
    chain_id_: int = 31337
    base_fee: int = GWEI
    timestamp: int = 1_800_000_000
    faults: Faults = field(default_factory=Faults)
    pool: dict[tuple[bytes, int], Transaction] = field(default_factory=dict[tuple[bytes, int], Transaction])
    _blocks: list[_Mined] = field(default_factory=list[_Mined])
    _forks: int = 0

    def __post_init__(self) -> None:
        self._append(self.contracts.genesis(), [], {}, [])

    # What a test does.

    @property
    def world(self) -> World:
        """The state after the newest block. To be read; `change` writes."""
        return self._blocks[-1].world

    @property
    def height(self) -> int:
        """The number of the newest block."""
        return len(self._blocks) - 1

    def world_at(self, number: int) -> World:
        """The state after this block."""
        return self._blocks[number].world

    def mine(self, blocks: int = 1, *, seconds: int = BLOCK_S) -> None:
        """Make blocks of what waits in the pool and pays the base fee, `seconds` apart."""
        for _ in range(blocks):
            self.timestamp += seconds
            self._mine()

    def reorg(self, depth: int, *, forget: bool = False) -> None:
        """Replace the newest blocks by as many empty ones. What they held waits again, unless it is forgotten."""
        depth = min(depth, len(self._blocks) - 1)
        gone = self._blocks[len(self._blocks) - depth :]
        del self._blocks[len(self._blocks) - depth :]
        self._forks += 1
        for mined in gone:
            self._append(self.world.copy(), [], {}, [])
            if not forget:
                for transaction in mined.transactions:
                    self.pool.setdefault((transaction.sender, transaction.nonce), transaction)

    def execute(self, sender: bytes, to: bytes, data: bytes) -> None:
        """Mine a block with this call alone, from anyone, for free. Raises CallRevertedError."""
        self.timestamp += BLOCK_S
        world = self.world.copy()
        _, logs = self.contracts.run(world, sender, to, data, self.timestamp)
        hash_ = keccak256(len(self._blocks).to_bytes(8, "big") + sender + data)
        self._append(world, [], {}, _of_transaction(logs, hash_))

    def take(self, raw: bytes) -> None:
        """Put a signed transaction into the pool. Raises RejectedError."""
        transaction = _parse(raw)
        if transaction.nonce < self.world.nonces.get(transaction.sender, 0):
            raise RejectedError("nonce too low")
        key = (transaction.sender, transaction.nonce)
        known = self.pool.get(key)
        if known is not None and known.hash != transaction.hash:
            enough = transaction.max_fee * 10 >= known.max_fee * 11
            if not enough or transaction.priority_fee * 10 < known.priority_fee * 11:
                raise RejectedError("replacement transaction underpriced")
        self.pool[key] = transaction

    def act(self, act: Callable[[EscrowModel, int], list[Event]]) -> list[Event]:
        """Mine a block in which this was done to the escrow (it, and the time). Raises escrow_model.RevertedError."""
        world = self.world.copy()
        events = act(world.escrow, self.timestamp + BLOCK_S)
        self.timestamp += BLOCK_S
        self._append(world, [], {}, [])
        return events

    # What node.Node asks for.

    async def chain_id(self) -> int:
        self._answer()
        return self.chain_id_

    async def head(self, *, fresh: bool = True) -> Block:
        del fresh
        self._answer()
        return self._blocks[-1].block

    async def block(self, number: int) -> Block | None:
        self._answer()
        return self._blocks[number].block if number < len(self._blocks) else None

    async def code(self, address: bytes, block: Block | None = None) -> bytes:
        del block
        self._answer()
        return b"\x60" if address in {self.contracts.escrow, self.contracts.token} else b""

    async def balance(self, address: bytes) -> int:
        del address
        self._answer()
        return 10**18

    async def header(self, number: int, known: Block | None = None) -> Header:
        block = await self.block(number)
        if block is None or known not in (None, block):
            raise ChainUnavailableError(f"block {number} is not there")
        items = (item for source, log in self._blocks[number].logs for item in (source, *log.topics))
        return Header(block, bloom_of(items))

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
        del heard, price
        if gas and _GAS_FIXED + _GAS_PER_BYTE * len(data) > gas:
            raise CallRevertedError(b"", "out of gas")
        world = self._at(block).world.copy()
        return self.contracts.run(world, from_ or bytes(20), to, data, at_s or block.timestamp)[0]

    async def run_in_order(self, calls: Sequence[OrderedCall], block: Block) -> Sequence[CallOutcome]:
        raise RefusedError(f"this network does not run {len(calls)} calls in order after block {block.number}")

    async def estimate_gas(self, from_: bytes, to: bytes, data: bytes, *, gas_max: int) -> int:
        self._answer()
        gas = _GAS_FIXED + _GAS_PER_BYTE * len(data)
        if gas > gas_max:
            raise CallRevertedError(b"", f"gas required exceeds allowance ({gas_max})")
        self.contracts.run(self.world.copy(), from_, to, data, self.timestamp + BLOCK_S)
        return gas

    async def logs(self, address: bytes, first: int, last: Block, topics: Sequence[bytes | None] = ()) -> Sequence[Log]:
        self._at(last)
        return [
            log
            for mined in self._blocks[first : last.number + 1]
            for source, log in mined.logs
            if source == address and all(want in {None, got} for want, got in zip(topics, log.topics, strict=False))
        ]

    async def block_logs(self, address: bytes, block: Block, heard: Heard) -> Sequence[Log]:
        del heard
        return await self.logs(address, block.number, block)

    async def fees(self) -> MarketFees:
        self._answer()
        return MarketFees(self.base_fee, GWEI)

    async def next_nonce(self, sender: bytes) -> int:
        self._answer()
        nonce = self.world.nonces.get(sender, 0)
        while (sender, nonce) in self.pool:
            nonce += 1
        return nonce

    async def nonce_at(self, sender: bytes, block_number: int) -> int:
        self._answer()
        return self._blocks[block_number].world.nonces.get(sender, 0)

    async def send(self, raw: bytes) -> None:
        self._answer()
        if self.faults.losing_sends:
            raise ChainUnavailableError("the transaction was lost")
        self.take(raw)
        if self.faults.losing_replies:
            raise ChainUnavailableError("the reply was lost")

    async def receipt(self, transaction_hash: bytes) -> Receipt | None:
        self._answer()
        if self.faults.blind:
            return None
        found = (mined.receipts.get(transaction_hash) for mined in reversed(self._blocks))
        return next((receipt for receipt in found if receipt is not None), None)

    async def transactions(self, block_number: int) -> Sequence[BlockTransaction]:
        self._answer()
        return [BlockTransaction(t.hash, t.sender, t.nonce) for t in self._blocks[block_number].transactions]

    async def close(self) -> None:
        """Nothing to let go of."""

    # Inside.

    def _answer(self) -> None:
        if self.faults.down:
            raise ChainUnavailableError("no endpoint answers")

    def _at(self, block: Block) -> _Mined:
        self._answer()
        mined = self._blocks[block.number] if block.number < len(self._blocks) else None
        if mined is None or mined.block != block:
            raise ChainUnavailableError(f"block {block.number} is not there")
        return mined

    def _mine(self) -> None:
        world, logs = self.world.copy(), list[tuple[bytes, Log]]()
        mined: list[Transaction] = []
        receipts: dict[bytes, Receipt] = {}
        while (transaction := self._next(world)) is not None:
            del self.pool[transaction.sender, transaction.nonce]
            world.nonces[transaction.sender] = transaction.nonce + 1
            after = world.copy()
            try:
                _, emitted = self.contracts.run(
                    after, transaction.sender, transaction.to, transaction.data, self.timestamp
                )
                emitted = _of_transaction(emitted, transaction.hash)
                world, succeeded = after, True
            except CallRevertedError:
                emitted, succeeded = [], False
            mined.append(transaction)
            logs += emitted
            price = min(transaction.max_fee, self.base_fee + transaction.priority_fee)
            gas = _GAS_FIXED + _GAS_PER_BYTE * len(transaction.data)
            receipts[transaction.hash] = Receipt(
                transaction.hash, len(self._blocks), b"", succeeded, gas, price, tuple(emitted)
            )
        self._append(world, mined, receipts, logs)

    def _next(self, world: World) -> Transaction | None:
        """The next one that may be mined: of the right nonce, and paying the base fee."""
        for (sender, nonce), transaction in sorted(self.pool.items()):
            if nonce < world.nonces.get(sender, 0):
                del self.pool[sender, nonce]
            elif nonce == world.nonces.get(sender, 0) and transaction.max_fee >= self.base_fee:
                return transaction
        return None

    def _append(
        self,
        world: World,
        transactions: list[Transaction],
        receipts: dict[bytes, Receipt],
        logs: list[tuple[bytes, Log]],
    ) -> None:
        number = len(self._blocks)
        block = Block(number, sha256(f"{self._forks} {number}".encode()).digest(), self.timestamp)
        placed = {hash_: receipt._replace(block_hash=block.block_hash) for hash_, receipt in receipts.items()}
        numbered = [(source, log._replace(block_number=number)) for source, log in logs]
        self._blocks.append(_Mined(block, world, transactions, placed, numbered))


def bloom_of(items: Iterable[bytes]) -> bytes:
    """The filter of a block whose events have these addresses and topics."""
    number = 0
    for item in items:
        number |= mask(item)
    return number.to_bytes(BLOOM_BYTES, "big")


def _of_transaction(logs: list[tuple[bytes, Log]], transaction_hash: bytes) -> list[tuple[bytes, Log]]:
    return [(source, log._replace(transaction_hash=transaction_hash)) for source, log in logs]


def _parse(raw: bytes) -> Transaction:
    if raw[:1] != b"\x02":
        raise RejectedError("only transactions of type 2 are taken")
    fields = cast("list[Any]", cast("Any", rlp).decode(raw[1:]))
    _, nonce, priority_fee, max_fee, _, to, _, data, _, parity, r, s = fields
    unsigned = keccak256(b"\x02" + cast("bytes", cast("Any", rlp).encode(fields[:9])))
    signature = r.rjust(32, b"\0") + s.rjust(32, b"\0") + bytes([27 + _integer(parity)])
    sender = recover(unsigned, signature)
    return Transaction(
        keccak256(raw), raw, sender, _integer(nonce), _integer(max_fee), _integer(priority_fee), to, data
    )


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "big")
