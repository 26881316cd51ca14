"""Reads of the state after one very block, whatever way an endpoint has for that.

EIP-1898 lets a read name its block by hash: an endpoint that does not have this block says so, instead of answering
from another. Some endpoints refuse hashes, and one that overlooked a hash would answer from its newest block without a
word. So an endpoint is first asked for a block that cannot exist, which none may answer. Where hashes are not obeyed,
the read names the number, and before it and after it the endpoint must show the block's hash under that number: a read
is never silently of another block. (Behind one address there may be several machines; without EIP-1898 it goes
unnoticed where these disagree within a moment.)
"""

from typing import Any, Final

from tallystick.hashing import keccak256
from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.port import Block, ChainUnavailableError
from tallystick_aggregator.chain.rpc.answers import read_block
from tallystick_aggregator.chain.rpc.endpoint import Endpoint
from tallystick_chain.answers import optional
from tallystick_chain.errors import RpcError, is_revert

_NO_BLOCK: Final = keccak256(b"Tallystick asks whether this endpoint obeys block hashes")


async def ask_at(endpoint: Endpoint, block: Block, method: str, *params: Any, overrides: tuple[Any, ...] = ()) -> Any:
    """The result of a method whose last parameter, except for `overrides`, is a block.

    Raises RpcError and ChainUnavailableError.
    """
    ability = f"{method} by block hash"
    obeys = endpoint.learned(ability)
    if obeys is None and await _answers_for_no_block(endpoint, method, params):
        obeys = False
        endpoint.learn(ability, holds=False)
    if obeys is False:
        return await _by_number(endpoint, block, method, params, overrides)
    try:
        answer = await endpoint.ask(method, *params, _by_hash(block.block_hash), *overrides)
    except RpcError as refused:
        if is_revert(refused):
            endpoint.learn(ability, holds=True)
            raise
        try:
            answer = await _by_number(endpoint, block, method, params, overrides)
        except RpcError as error:
            if not is_revert(error):
                raise refused from None  # it was not about the hash
            endpoint.learn(ability, holds=False)
            raise
        endpoint.learn(ability, holds=False)
        return answer
    endpoint.learn(ability, holds=True)
    return answer


async def _answers_for_no_block(endpoint: Endpoint, method: str, params: tuple[Any, ...]) -> bool:
    try:
        return await endpoint.ask(method, *params, _by_hash(_NO_BLOCK)) is not None
    except RpcError as error:
        return is_revert(error)  # it ran


async def call_at(endpoint: Endpoint, block: Block, transaction: dict[str, str], at_s: int) -> Any:
    """The result of `eth_call` on the state after a block; where the endpoint can, as in a later one of this time."""
    ability = "eth_call at a time"
    if not at_s or endpoint.learned(ability) is False:
        return await ask_at(endpoint, block, "eth_call", transaction)
    try:
        return await ask_at(endpoint, block, "eth_call", transaction, overrides=({}, {"time": hex(at_s)}))
    except RpcError as refused:
        if is_revert(refused):
            raise
    answer = await ask_at(endpoint, block, "eth_call", transaction)
    endpoint.learn(ability, holds=False)
    return answer


async def _by_number(
    endpoint: Endpoint, block: Block, method: str, params: tuple[Any, ...], overrides: tuple[Any, ...]
) -> Any:
    await _must_be(endpoint, block)
    reverted: RpcError | None = None
    answer: Any = None
    try:
        answer = await endpoint.ask(method, *params, hex(block.number), *overrides)
    except RpcError as error:
        if not is_revert(error):
            raise
        reverted = error
    await _must_be(endpoint, block)
    if reverted is not None:
        raise reverted
    return answer


async def _must_be(endpoint: Endpoint, block: Block) -> None:
    known = optional(read_block)(await endpoint.ask("eth_getBlockByNumber", hex(block.number), False))
    if known is None or known.block_hash != block.block_hash:
        raise ChainUnavailableError(f"{endpoint.name}: block {block.number} is not there, or another one is")


def _by_hash(block_hash: bytes) -> dict[str, Any]:
    return {"blockHash": to_hex(block_hash), "requireCanonical": True}
