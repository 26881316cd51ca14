"""The events of one block, by its hash; by its number where an endpoint does not take hashes (EIP-234)."""

from typing import Final

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.node import Log
from tallystick_aggregator.chain.port import Block, ChainUnavailableError
from tallystick_aggregator.chain.rpc.answers import read_block, read_logs
from tallystick_aggregator.chain.rpc.endpoint import Endpoint
from tallystick_chain.answers import optional
from tallystick_chain.errors import RpcError

_ABILITY: Final = "eth_getLogs by block hash"


async def events_of_block(endpoint: Endpoint, address: bytes, block: Block) -> list[Log]:
    """All events of a contract in this very block. Raises RpcError and ChainUnavailableError."""
    if endpoint.learned(_ABILITY) is not False:
        try:
            answer = await endpoint.ask(
                "eth_getLogs", {"address": to_hex(address), "blockHash": to_hex(block.block_hash)}
            )
        except RpcError as refused:
            found = await _by_number(endpoint, address, block, refused)
            endpoint.learn(_ABILITY, holds=False)
            return found
        endpoint.learn(_ABILITY, holds=True)
        return read_logs(answer)
    return await _by_number(endpoint, address, block, None)


async def _by_number(endpoint: Endpoint, address: bytes, block: Block, refused: RpcError | None) -> list[Log]:
    """The same by number, if the endpoint has this block under it; if not, what it `refused` was no hash."""
    number = hex(block.number)
    known = optional(read_block)(await endpoint.ask("eth_getBlockByNumber", number, False))
    if known is None or known.block_hash != block.block_hash:
        raise refused or ChainUnavailableError(f"{endpoint.name}: block {block.number} is not there, or another one is")
    wanted = {"address": to_hex(address), "fromBlock": number, "toBlock": number}
    return read_logs(await endpoint.ask("eth_getLogs", wanted))
