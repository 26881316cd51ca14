"""Several endpoints: one that is down, slow, behind, or of another opinion. Served by small HTTP servers of our own."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from rpc_servers import Answer, JsonRpcError

from _anvil import function
from anvil import Devnet, receiver
from tallystick_aggregator.chain.node import CallRevertedError, RejectedError
from tallystick_aggregator.chain.port import Block, ChainUnavailableError
from tallystick_aggregator.chain.rpc.node import RpcNode
from tallystick_chain.reverts import describe

HEAD = {"number": "0x5", "hash": "0x" + "05" * 32, "timestamp": "0x10", "baseFeePerGas": "0x1"}


def down(_method: str, _params: list[Any]) -> Any:
    raise TimeoutError


def limited(_method: str, _params: list[Any]) -> Any:
    raise JsonRpcError({"code": -32005, "message": "rate limited"})


def at(number: int, block_hash: str = "0x" + "05" * 32) -> Answer:
    def answer(method: str, _params: list[Any]) -> Any:
        return "0x7a69" if method == "eth_chainId" else {**HEAD, "number": hex(number), "hash": block_hash}

    return answer


async def test_the_next_endpoint_answers_where_the_first_does_not(nodes: Any) -> None:
    node = await nodes(down, limited, lambda _m, _p: "0x2a")
    assert await node.balance(bytes(20)) == 42


async def test_nobody_answers(nodes: Any) -> None:
    node = await nodes(down, limited)
    with pytest.raises(ChainUnavailableError, match="rate limited"):
        await node.balance(bytes(20))


async def test_neither_errors_nor_logs_show_the_path_of_an_endpoint(
    nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    node = await nodes(lambda _m, _p: "0x2a")
    await node.balance(bytes(20))
    node = await nodes(limited)
    with pytest.raises(ChainUnavailableError) as error:
        await node.balance(bytes(20))
    assert "secret-key" not in str(error.value) + caplog.text


async def test_the_head_is_the_highest(nodes: Any) -> None:
    node = await nodes(at(5), down, at(7))
    assert (await node.head()).number == 7


async def test_endpoints_of_different_chains_are_refused(nodes: Any) -> None:
    node = await nodes(lambda _m, _p: "0x1", lambda _m, _p: "0x2")
    with pytest.raises(ChainUnavailableError, match="different chains"):
        await node.chain_id()


async def test_one_wrong_chain_id_is_asked_for_again(nodes: Any) -> None:
    told = iter(["0x1", "0x2"])
    node = await nodes(lambda _m, _p: next(told), lambda _m, _p: "0x2")
    assert await node.chain_id() == 2


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"result": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"])
async def test_an_answer_that_is_nested_too_deeply_is_no_answer(nodes: Any, body: bytes) -> None:
    node = await nodes(lambda _m, _p: body)
    with pytest.raises(ChainUnavailableError):
        await node.balance(bytes(20))


async def test_endpoints_that_disagree_on_a_block_are_not_believed(nodes: Any) -> None:
    node = await nodes(at(5), at(5, "0x" + "06" * 32))
    with pytest.raises(ChainUnavailableError, match="disagree on block 5"):
        await node.block(5)


async def test_events_are_asked_only_of_an_endpoint_that_has_the_last_block(nodes: Any) -> None:
    log = {"topics": ["0x" + "01" * 32], "data": "0x", "blockNumber": "0x5"}

    def behind(method: str, _params: list[Any]) -> Any:
        return None if method == "eth_getBlockByHash" else []

    def complete(method: str, _params: list[Any]) -> Any:
        return HEAD if method == "eth_getBlockByHash" else [log]

    node = await nodes(behind, complete)
    assert len(await node.logs(bytes(20), 0, Block(5, b"\x05" * 32, 16))) == 1


async def test_a_wide_range_of_blocks_is_asked_in_parts(nodes: Any) -> None:
    asked: list[tuple[int, int]] = []

    def answer(method: str, params: list[Any]) -> Any:
        if method == "eth_getLogs":
            asked.append((int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)))
            return []
        return HEAD

    node = await nodes(answer, logs_range_blocks_max=1_000)
    await node.logs(bytes(20), 3, Block(2_500, b"\x05" * 32, 16))
    assert asked == [(3, 1_002), (1_003, 2_002), (2_003, 2_500)]


@pytest.mark.parametrize("answer", [b"<html>", b'{"jsonrpc": "2.0", "id": 1}', "zz", None, {"number": "0x1"}, [1]])
async def test_answers_that_make_no_sense_are_no_answers(nodes: Any, answer: Any) -> None:
    node = await nodes(lambda _m, _p: answer)
    with pytest.raises(ChainUnavailableError):
        await node.balance(bytes(20))
    with pytest.raises(ChainUnavailableError):
        await node.head()


async def test_a_transaction_goes_to_all_endpoints_and_one_that_takes_it_is_enough(nodes: Any) -> None:
    taken: list[str] = []

    def takes(_method: str, params: list[Any]) -> Any:
        taken.append(params[0])
        return "0x" + "00" * 32

    def knows(_method: str, _params: list[Any]) -> Any:
        raise JsonRpcError({"code": -32000, "message": "already known"})

    await (await nodes(limited, takes, down)).send(b"\x02")
    assert taken == ["0x02"]
    await (await nodes(limited, knows)).send(b"\x02")


async def test_a_transaction_that_all_refuse_is_rejected_and_one_that_nobody_heard_of_is_not(nodes: Any) -> None:
    def refuses(_method: str, _params: list[Any]) -> Any:
        raise JsonRpcError({"code": -32000, "message": "nonce too low"})

    with pytest.raises(RejectedError, match="nonce too low"):
        await (await nodes(down, refuses)).send(b"\x02")
    with pytest.raises(ChainUnavailableError):
        await (await nodes(down)).send(b"\x02")


@pytest.fixture
async def real(devnet: Devnet) -> AsyncIterator[RpcNode]:
    node = RpcNode([devnet.anvil.url])
    yield node
    await node.close()


async def test_reverts_are_told_by_the_names_of_the_contracts_errors(devnet: Devnet, real: RpcNode) -> None:
    head, collect = await real.head(), function("collect(address,address)", receiver(1), devnet.token)
    with pytest.raises(CallRevertedError) as reverted:
        await real.call(devnet.escrow, collect, head)
    assert describe(reverted.value).startswith("NothingOwed(to=0x")
    with pytest.raises(CallRevertedError) as reverted:
        await real.estimate_gas(receiver(1), devnet.token, bytes(4), gas_max=10**6)
    assert describe(reverted.value)


async def test_a_read_that_is_pinned_to_a_lost_block_is_refused(devnet: Devnet, real: RpcNode) -> None:
    devnet.anvil.mint(devnet.token, receiver(1), 5)  # an empty block might come again, with the same hash
    lost = await real.head()
    devnet.anvil.reorg(1)
    with pytest.raises(ChainUnavailableError):
        await real.call(devnet.token, function("decimals()"), lost)
