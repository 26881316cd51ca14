"""What the bindings of all kinds of escrows share when they read: views, portion by portion, and whose key signs."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum
from tallystick.signatures import Signer
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain.contradictions import Answer, contradicted
from tallystick_aggregator.chain.node import CallRevertedError, Log, Node, RefusedError
from tallystick_aggregator.chain.port import Block, ChainUnavailableError, Heard
from tallystick_aggregator.chain.settings import ConfigurationError
from tallystick_chain.reverts import describe

ITEMS_PER_READ_MIN: Final = 8
_ERC1271_MAGIC: Final = bytes.fromhex("1626ba7e")
_PROBE: Final = keccak256(b"Tallystick asks whether this key signs for the operator")

Item = TypeVar("Item")


class EscrowReads:
    """Reads one escrow's views at blocks."""

    def __init__(self, node: Node, address: bytes, items_per_read: int) -> None:
        """`items_per_read`: ids in one question at most; fewer once an endpoint refuses as many."""
        self._node = node
        self._address = address
        self._items_per_read = items_per_read

    async def each(
        self,
        query: Callable[[Sequence[bytes]], bytes],
        ids: Sequence[bytes],
        block: Block,
        read: Callable[[bytes, int], list[Item]],
        nothing: Item,
        heard: Heard | None,
    ) -> list[Item]:
        """What a question for many ids says of each, in portions that the endpoints take; `nothing` before the
        escrow's deployment. Raises ChainUnavailableError.
        """
        found: list[Item] = []
        items = self._items_per_read
        while len(found) < len(ids):
            portion = ids[len(found) : len(found) + items]
            try:
                answer = await self.one(query(portion), block, heard)
            except ChainUnavailableError as error:
                is_refused = isinstance(error, RefusedError) or isinstance(error.__cause__, CallRevertedError)
                if not is_refused or len(portion) <= ITEMS_PER_READ_MIN:
                    raise
                items = len(portion) // 2
                continue
            found += read(answer, len(portion)) if answer else [nothing] * len(portion)
        self._items_per_read = items
        return found

    async def one(self, data: bytes, block: Block, heard: Heard | None = None) -> bytes:
        """What a view returns; nothing for a block before the escrow's deployment. Raises ChainUnavailableError."""
        try:
            answer = await self._node.call(self._address, data, block, heard=heard)
        except CallRevertedError as reverted:
            # The views never revert: what answered is not the escrow, or it is starved of gas.
            raise ChainUnavailableError(f"the escrow cannot be read: {describe(reverted)}") from reverted
        if not answer and await self._node.code(self._address, block):
            raise ChainUnavailableError(f"an endpoint answers nothing for the escrow at block {block.number}")
        return answer

    async def hash_of(self, data: bytes, block: Block) -> bytes:
        """What a view returns that only this kind of escrow has; empty where the contract has none such."""
        try:
            return await self.one(data, block)
        except ChainUnavailableError as error:
            if isinstance(error.__cause__, CallRevertedError):
                return b""
            raise

    async def check_operator(self, operator: bytes, signer: Signer, block: Block) -> None:
        """The signer must be able to sign for the operator: refunds rest on it. Raises ConfigurationError."""
        who = f"operator_key: {checksum(signer.address)}"
        if operator == signer.address:
            return
        if not await self._node.code(operator):
            raise ConfigurationError(f"{who} is not the key of operator {checksum(operator)}")
        question = calls.is_valid_signature(_PROBE, signer.sign(_PROBE))
        try:
            # As the escrow: Operator.sol answers none but its verifiers.
            answer = await self._node.call(operator, question, block, from_=self._address)
        except CallRevertedError:
            answer = b""
        if answer[:4] != _ERC1271_MAGIC:
            raise ConfigurationError(f"{who} is not an active signer of operator contract {checksum(operator)}")


def emitted(logs: Sequence[Log], can_be_its: Callable[[Log], bool], who: str = "the node") -> Sequence[Log]:
    """Leave out what the escrow cannot have emitted: a watcher that reads such an event fails, at every look."""
    found = [log for log in logs if can_be_its(log)]
    if len(found) < len(logs):
        contradicted(Answer.LOGS, who, f"made up {len(logs) - len(found)} events that the escrow cannot emit")
    return found
