"""The escrow's views over lists, in raw JSON-RPC: `accounts(bytes32[])` and `claimed(bytes32[])`, item by item."""

from collections.abc import Sequence
from typing import Any, Final

from rpc_faults.rules import Question
from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.escrow_calls import ACCOUNTS, CLAIMED, selector

_WORD: Final = 32
_VIEWS: Final = frozenset({selector(ACCOUNTS), selector(CLAIMED)})


def called(question: Question) -> tuple[bytes, bytes]:
    """Whom an eth_call calls, and with what data."""
    call = question.params[0]
    to, data = call.get("to") or "0x", call.get("data") or call.get("input") or "0x"
    return bytes.fromhex(to[2:]), bytes.fromhex(data[2:])


def asked_items(data: bytes) -> list[bytes]:
    """The ids that a view is asked for."""
    return [data[at : at + _WORD] for at in range(4 + 2 * _WORD, len(data), _WORD)]


def told_items(data: bytes, answer: str) -> list[list[int]]:
    """The words that the view returned for each of them."""
    body = bytes.fromhex(answer[2:])
    words = [int.from_bytes(body[at : at + _WORD], "big") for at in range(2 * _WORD, len(body), _WORD)]
    each = len(words) // len(asked_items(data))
    return [words[at : at + each] for at in range(0, len(words), each)]


def view_answer(items: Sequence[Sequence[int]]) -> str:
    """What the view would return for these."""
    words = [_WORD, len(items), *(word for item in items for word in item)]
    return to_hex(b"".join(word.to_bytes(_WORD, "big") for word in words))


def subjects(question: Question, truth: Any, said: Any) -> set[str]:
    """What an answer was about, in hex: a transaction, or the accounts or channels that were told falsely."""
    if question.method == "eth_getTransactionReceipt":
        return {str(question.params[0])}
    if question.method == "eth_getLogs" and isinstance(truth, list):
        return {log["topics"][1] for log in truth if len(log["topics"]) > 1}
    if question.method != "eth_call" or not (isinstance(truth, str) and isinstance(said, str)):
        return set()
    _, data = called(question)
    if data[:4] not in _VIEWS or len(truth) != len(said):
        return set()
    triples = zip(asked_items(data), told_items(data, truth), told_items(data, said), strict=True)
    return {to_hex(item) for item, true, false in triples if true != false}
