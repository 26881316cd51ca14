"""Answers of endpoints are read strictly: one that is not of its form is no answer, and never another exception."""

from typing import Any

import pytest

from tallystick_aggregator.chain.node import BlockTransaction, Log, Receipt
from tallystick_aggregator.chain.port import Block, ChainUnavailableError
from tallystick_aggregator.chain.rpc.answers import (
    read_block,
    read_header,
    read_logs,
    read_receipt,
    read_transactions,
)
from tallystick_aggregator.chain.rpc.bloom import may_hold
from tallystick_chain.answers import optional, read_base_fee, read_bytes, read_integer, read_rewards
from tallystick_chain.errors import RpcError, read_error

WORD, ADDRESS = bytes(31) + b"\1", bytes(19) + b"\2"
LOG = {"address": "0x" + ADDRESS.hex(), "topics": ["0x" + WORD.hex()], "data": "0x0a", "blockNumber": "0x10"}
BLOCK = {"number": "0x10", "hash": "0x" + WORD.hex(), "timestamp": "0x20"}
RECEIPT = {
    "transactionHash": "0x" + WORD.hex(),
    "blockNumber": "0x10",
    "blockHash": "0x" + WORD.hex(),
    "status": "0x1",
    "gasUsed": "0x30",
    "effectiveGasPrice": "0x40",
    "logs": [LOG],
}


def test_what_is_of_its_form_is_read() -> None:
    log = Log((WORD,), b"\x0a", 16)
    assert read_bytes("0x") == b""
    assert read_integer("0x0f") == 15
    assert read_block(BLOCK) == Block(16, WORD, 32)
    assert read_base_fee(BLOCK) == 0
    assert read_base_fee(BLOCK | {"baseFeePerGas": "0x7"}) == 7
    assert read_logs([LOG]) == [log]
    assert read_receipt(RECEIPT) == Receipt(WORD, 16, WORD, True, 48, 64, ((ADDRESS, log),))
    transaction = {"hash": "0x" + WORD.hex(), "from": "0x" + ADDRESS.hex(), "nonce": "0x5"}
    assert read_transactions({"transactions": [transaction]}) == [BlockTransaction(WORD, ADDRESS, 5)]
    assert optional(read_block)(None) is None


@pytest.mark.parametrize("text", [None, 5, "", "0x", "-0x5", "0x-5", " 0x5", "0x5 ", "0x1_0", "5", "0x" + "f" * 65, []])
def test_a_number_is_hex_of_at_most_256_bits_and_nothing_else(text: Any) -> None:
    with pytest.raises(ChainUnavailableError):
        read_integer(text)


@pytest.mark.parametrize("text", [None, b"", "", "0x0", "00", "0x0g", "0x00\n", {}])
def test_bytes_are_whole_and_hex(text: Any) -> None:
    with pytest.raises(ChainUnavailableError):
        read_bytes(text)


@pytest.mark.parametrize("field", ["number", "hash", "timestamp"])
@pytest.mark.parametrize("value", [None, "0x", "0x" + "00" * 33, 7])
def test_a_block_that_lacks_something_is_none(field: str, value: Any) -> None:
    with pytest.raises(ChainUnavailableError):
        read_block(BLOCK | {field: value})


@pytest.mark.parametrize(
    "answer", [None, "0x", {}, [None], [LOG | {"topics": None}], [LOG | {"topics": ["0x00"]}], [LOG | {"topics": []}]]
)
def test_events_are_a_list_of_events(answer: Any) -> None:
    with pytest.raises(ChainUnavailableError):
        read_logs(answer)


@pytest.mark.parametrize("header", [BLOCK, BLOCK | {"logsBloom": None}])
def test_r7_a_header_without_a_filter_rules_no_event_out(header: dict[str, Any]) -> None:
    assert may_hold(read_header(header).logs_bloom, WORD), "so that the events of its block are asked for twice"


@pytest.mark.parametrize("bloom", [5, "0x", "0x" + "00" * 255])
def test_a_filter_has_its_length(bloom: Any) -> None:
    with pytest.raises(ChainUnavailableError):
        read_header(BLOCK | {"logsBloom": bloom})


@pytest.mark.parametrize("rewards", [None, [[]], [None], ["0x1"], [[None]], [["1"]]])
def test_tips_that_are_missing_or_odd_are_no_answer(rewards: Any) -> None:
    with pytest.raises(ChainUnavailableError):
        read_rewards({"gasUsedRatio": [0.5], "reward": rewards})


@pytest.mark.parametrize("change", [{"status": None}, {"logs": 5}, {"logs": [LOG | {"address": "0x00"}]}])
def test_a_receipt_says_how_it_ended_and_what_was_logged(change: dict[str, Any]) -> None:
    with pytest.raises(ChainUnavailableError):
        read_receipt(RECEIPT | change)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": 3, "message": "execution reverted", "data": "0x0a"}, (3, "execution reverted", b"\x0a")),
        ({"code": 3, "message": "reverted", "data": {"data": "0x0b"}}, (3, "reverted", b"\x0b")),
        ({"code": "3", "data": "0x0"}, (0, "", b"")),
        ("out of order", (0, "out of order", b"")),
        ([], (0, "[]", b"")),
        ({"message": "x" * 1_000}, (0, "x" * 300, b"")),
    ],
)
def test_an_error_is_read_in_whatever_form(error: Any, expected: tuple[int, str, bytes]) -> None:
    read = read_error(error)
    assert isinstance(read, RpcError)
    assert (read.code, read.message, read.data) == expected
