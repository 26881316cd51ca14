"""What JSON-RPC endpoints answer, read strictly: an answer that is not of its form is no answer (threat 16).

Every function takes parsed JSON and raises ChainUnavailableError, which never shows what came: it may be long.
"""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeVar, cast

from tallystick_aggregator.chain.node import BlockTransaction, Header, Log, Receipt, says_out_of_gas
from tallystick_aggregator.chain.port import Block, ChainUnavailableError
from tallystick_aggregator.chain.rpc.bloom import BLOOM_BYTES

_QUANTITY: Final = re.compile(r"0[xX][0-9a-fA-F]{1,64}")
_DATA: Final = re.compile(r"0[xX](?:[0-9a-fA-F]{2})*")
_MESSAGE_CHARS_MAX: Final = 300
_ANY_EVENT: Final = b"\xff" * BLOOM_BYTES

Answer = TypeVar("Answer")


class RpcError(Exception):
    """An endpoint's JSON-RPC error."""

    def __init__(self, code: int, message: str, data: bytes) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data


def _strict(decode: Callable[[Any], Answer]) -> Callable[[Any], Answer]:
    @wraps(decode)
    def checked(answer: Any) -> Answer:
        try:
            return decode(answer)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ChainUnavailableError(f"an endpoint's answer is malformed: {type(error).__name__}") from error

    return checked


def optional(decode: Callable[[Any], Answer]) -> Callable[[Any], Answer | None]:
    """Null is an answer: there is no such thing."""
    return lambda answer: None if answer is None else decode(answer)


@_strict
def read_bytes(text: Any) -> bytes:
    """Bytes of any number."""
    if not _DATA.fullmatch(text):
        raise ValueError("not bytes in hex")
    return bytes.fromhex(text[2:])


@_strict
def read_integer(text: Any) -> int:
    """A number below 2**256."""
    if not _QUANTITY.fullmatch(text):
        raise ValueError("not a quantity in hex")
    return int(text, 16)


@_strict
def read_block(block: Any) -> Block:
    """A block's head."""
    return Block(read_integer(block["number"]), _read_fixed(block["hash"], 32), read_integer(block["timestamp"]))


@_strict
def read_header(block: Any) -> Header:
    """A block's head with its bloom filter. Where an endpoint tells none, any event may be in the block."""
    bloom = block.get("logsBloom")
    return Header(read_block(block), _ANY_EVENT if bloom is None else _read_fixed(bloom, BLOOM_BYTES))


@_strict
def read_transaction_hashes(block: Any) -> tuple[Block, frozenset[bytes]]:
    """A block that was asked for without its transactions: it names them by their hashes."""
    return read_block(block), frozenset(_read_fixed(item, 32) for item in block["transactions"])


@_strict
def read_base_fee(block: Any) -> int:
    """What a block takes for a unit of gas, in wei; 0 before EIP-1559."""
    return read_integer(block.get("baseFeePerGas") or "0x0")


@_strict
def read_transactions(block: Any) -> list[BlockTransaction]:
    """The transactions of a block that was asked for with them."""
    return [
        BlockTransaction(_read_fixed(item["hash"], 32), _read_fixed(item["from"], 20), read_integer(item["nonce"]))
        for item in block["transactions"]
    ]


@_strict
def read_log(item: Any) -> Log:
    """An event."""
    topics = tuple(_read_fixed(topic, 32) for topic in item["topics"])
    hash_ = item.get("transactionHash")
    transaction = b"" if hash_ is None else _read_fixed(hash_, 32)
    return Log(topics, read_bytes(item["data"]), read_integer(item["blockNumber"]), transaction)


@_strict
def read_logs(items: Any) -> list[Log]:
    """The events of a range of blocks. All that are searched for have a name, which is their first topic."""
    if not isinstance(items, list):
        raise TypeError("not a list")
    found = [read_log(log) for log in items]  # pyright: ignore[reportUnknownVariableType]
    if not all(log.topics for log in found):
        raise ValueError("an event without a topic")
    return found


@_strict
def read_receipt(item: Any) -> Receipt:
    """A transaction's receipt."""
    return Receipt(
        _read_fixed(item["transactionHash"], 32),
        read_integer(item["blockNumber"]),
        _read_fixed(item["blockHash"], 32),
        read_integer(item["status"]) == 1,
        read_integer(item["gasUsed"]),
        read_integer(item.get("effectiveGasPrice") or "0x0"),
        tuple((_read_fixed(log["address"], 20), read_log(log)) for log in item["logs"]),
    )


@_strict
def read_rewards(history: Any) -> list[int]:
    """The tips of eth_feeHistory at the one percentile that was asked for, of each block that is not empty."""
    ratios, rewards = history["gasUsedRatio"], history["reward"]
    return [read_integer(tip[0]) for ratio, tip in zip(ratios, rewards, strict=False) if ratio]


def is_revert(error: RpcError) -> bool:
    """Whether a call ran and failed. Geth and those after it use code 3; others only say so. Too little gas is the
    caller's matter too.
    """
    return error.code == 3 or "revert" in error.message.lower() or says_out_of_gas(error.message)


def read_error(error: Any) -> RpcError:
    """What stands under `error`, in whatever form; nothing in it is refused."""
    if not isinstance(error, dict):
        return RpcError(0, str(error)[:_MESSAGE_CHARS_MAX], b"")
    fields = cast("dict[str, Any]", error)
    code, message, data = fields.get("code"), str(fields.get("message", ""))[:_MESSAGE_CHARS_MAX], fields.get("data")
    if isinstance(data, dict):  # some nodes wrap it
        data = cast("dict[str, Any]", data).get("data")
    payload = bytes.fromhex(data[2:]) if isinstance(data, str) and _DATA.fullmatch(data) else b""
    return RpcError(code if isinstance(code, int) else 0, message, payload)


def _read_fixed(text: Any, size: int) -> bytes:
    data = read_bytes(text)
    if len(data) != size:
        raise ValueError(f"not {size} bytes")
    return data
