"""What JSON-RPC endpoints answer, read strictly: an answer that is not of its form is no answer (threat 16).

Every function takes parsed JSON and raises ChainUnavailableError, which never shows what came: it may be long.
"""

from typing import Any, Final

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.node import BlockTransaction, CallOutcome, Header, Log, OrderedCall, Receipt
from tallystick_aggregator.chain.port import Block
from tallystick_aggregator.chain.rpc.bloom import BLOOM_BYTES
from tallystick_chain.answers import parse_fixed, parse_hex, read_integer, strict

_ANY_EVENT: Final = b"\xff" * BLOOM_BYTES


@strict
def read_block(block: Any) -> Block:
    """A block's head."""
    return Block(read_integer(block["number"]), parse_fixed(block["hash"], 32), read_integer(block["timestamp"]))


@strict
def read_header(block: Any) -> Header:
    """A block's head with its bloom filter. Where an endpoint tells none, any event may be in the block."""
    bloom = block.get("logsBloom")
    return Header(read_block(block), _ANY_EVENT if bloom is None else parse_fixed(bloom, BLOOM_BYTES))


@strict
def read_transaction_hashes(block: Any) -> tuple[Block, frozenset[bytes]]:
    """A block that was asked for without its transactions: it names them by their hashes."""
    return read_block(block), frozenset(parse_fixed(item, 32) for item in block["transactions"])


@strict
def read_transactions(block: Any) -> list[BlockTransaction]:
    """The transactions of a block that was asked for with them."""
    return [
        BlockTransaction(parse_fixed(item["hash"], 32), parse_fixed(item["from"], 20), read_integer(item["nonce"]))
        for item in block["transactions"]
    ]


@strict
def read_log(item: Any) -> Log:
    """An event."""
    topics = tuple(parse_fixed(topic, 32) for topic in item["topics"])
    hash_ = item.get("transactionHash")
    transaction = b"" if hash_ is None else parse_fixed(hash_, 32)
    return Log(topics, parse_hex(item["data"]), read_integer(item["blockNumber"]), transaction)


@strict
def read_logs(items: Any) -> list[Log]:
    """The events of a range of blocks. All that are searched for have a name, which is their first topic."""
    if not isinstance(items, list):
        raise TypeError("not a list")
    found = [read_log(log) for log in items]  # pyright: ignore[reportUnknownVariableType]
    if not all(log.topics for log in found):
        raise ValueError("an event without a topic")
    return found


@strict
def read_receipt(item: Any) -> Receipt:
    """A transaction's receipt."""
    return Receipt(
        parse_fixed(item["transactionHash"], 32),
        read_integer(item["blockNumber"]),
        parse_fixed(item["blockHash"], 32),
        read_integer(item["status"]) == 1,
        read_integer(item["gasUsed"]),
        read_integer(item.get("effectiveGasPrice") or "0x0"),
        tuple((parse_fixed(log["address"], 20), read_log(log)) for log in item["logs"]),
    )


def ordered_call(call: OrderedCall) -> dict[str, str]:
    """A call as eth_simulateV1 takes it."""
    return {
        "from": to_hex(call.from_),
        "to": to_hex(call.to),
        "input": to_hex(call.data),
        "value": hex(call.value),
        "gas": hex(call.gas),
    }


@strict
def read_outcomes(blocks: Any) -> list[CallOutcome]:
    """What became of the calls in the one block that eth_simulateV1 was asked for."""
    (block,) = blocks
    return [
        CallOutcome(
            read_integer(call["status"]) == 1,
            read_integer(call["gasUsed"]),
            "" if not call.get("error") else str(call["error"]["message"])[:200],
        )
        for call in block["calls"]
    ]
