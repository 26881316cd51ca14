"""The fault proxy: it passes on what is no rule's business, makes each fault as told, and writes each of them down."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from anvil import Devnet, receiver
from rpc_faults import (
    UNCHANGED,
    Delay,
    Drop,
    Duplicate,
    Falsify,
    FaultProxy,
    NodeRefusedError,
    Question,
    Rule,
    lies,
    limits,
)
from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_chain.errors import RpcError

SELLER = receiver(1)


@pytest.fixture
async def proxy(devnet: Devnet) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(devnet.anvil.url, clock=lambda: 7.0) as running:
        yield running


@pytest.fixture
async def post() -> AsyncIterator[Callable[..., Any]]:
    async with aiohttp.ClientSession() as session:

        async def send(proxy: FaultProxy, body: Any) -> tuple[int, Any]:
            async with session.post(proxy.url, json=body) as response:
                text = await response.text()
                return response.status, json.loads(text) if text.startswith(("{", "[")) else text

        yield send


@pytest.fixture
async def ask(post: Any) -> Callable[..., Any]:
    """The result of one question, as the proxy tells it."""

    async def result(proxy: FaultProxy, method: str, *params: Any) -> Any:
        _, answer = await post(proxy, call(method, *params))
        return answer["result"]

    return result


def call(method: str, *params: Any, id_: int = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": list(params)}


async def test_what_no_rule_is_about_passes_as_it_is(devnet: Devnet, proxy: FaultProxy, post: Any) -> None:
    proxy.add(limits.without("eth_blockNumber"))
    status, answer = await post(proxy, call("eth_chainId", id_=9))
    assert (status, answer) == (200, {"jsonrpc": "2.0", "id": 9, "result": "0x7a69"})
    _, answer = await post(proxy, call("eth_call", {"to": to_hex(devnet.escrow), "data": "0x12345678"}, "latest"))
    with pytest.raises(RpcError) as own:
        devnet.anvil.rpc("eth_call", {"to": to_hex(devnet.escrow), "data": "0x12345678"}, "latest")
    assert answer["error"]["message"] in str(own.value)
    assert proxy.journal == []


async def test_calls_in_a_batch_are_answered_each_by_itself(proxy: FaultProxy, post: Any) -> None:
    proxy.add(limits.without("eth_blockNumber"))
    _, answers = await post(proxy, [call("eth_chainId", id_=1), call("eth_blockNumber", id_=2)])
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[0]["result"] == "0x7a69"
    assert answers[1]["error"]["code"] == -32601


async def test_a_lie_is_told_once_and_written_down(proxy: FaultProxy, post: Any) -> None:
    async def change(_question: Question, truth: Any, _ask: Any) -> Any:
        return hex(int(truth, 16) + 5)

    proxy.add(rule := Rule("wrong number", Falsify(change), frozenset({"eth_blockNumber"}), times=1))
    first, second = [(await post(proxy, call("eth_blockNumber")))[1]["result"] for _ in range(2)]
    assert int(first, 16) == int(second, 16) + 5
    (made,) = proxy.journal
    assert (made.kind, made.truth, made.said, made.consumed, made.at) == ("wrong number", second, first, True, 7.0)
    assert json.loads(json.dumps(made.as_dict()))["method"] == "eth_blockNumber"
    assert rule.made.is_set()
    assert rule.is_spent


async def test_a_lie_that_would_be_the_truth_is_none(proxy: FaultProxy, post: Any) -> None:
    async def change(_question: Question, truth: Any, _ask: Any) -> Any:
        return truth

    async def nothing(_question: Question, _truth: Any, _ask: Any) -> Any:
        return UNCHANGED

    same, silent = Rule("same", Falsify(change), times=1), Rule("silent", Falsify(nothing), times=1)
    proxy.add(same, silent)
    await post(proxy, call("eth_blockNumber"))
    assert (proxy.journal, same.count, silent.count) == ([], 0, 0)


async def test_a_dropped_question_reaches_the_node_only_if_it_is_to(
    devnet: Devnet, proxy: FaultProxy, post: Any
) -> None:
    for reaches in (False, True):
        proxy.add(Rule("drop", Drop(reaches), frozenset({"anvil_mine"}), times=1))
        before = devnet.anvil.block_number
        with pytest.raises(aiohttp.ClientError):
            await post(proxy, call("anvil_mine", "0x1"))
        assert devnet.anvil.block_number - before == int(reaches)
    assert [made.consumed for made in proxy.journal] == [False, False]


async def test_a_duplicate_reaches_the_node_twice(devnet: Devnet, proxy: FaultProxy, post: Any) -> None:
    proxy.add(Rule("twice", Duplicate(), times=1))
    before = devnet.anvil.block_number
    await post(proxy, call("anvil_mine", "0x1"))
    assert devnet.anvil.block_number - before == 2


async def test_an_answer_to_somebody_who_has_gone_is_not_consumed(proxy: FaultProxy, post: Any) -> None:
    proxy.add(rule := Rule("late", Delay(0.3), times=1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await post(proxy, call("eth_chainId"))
    await asyncio.wait_for(rule.made.wait(), 5)
    assert [(made.kind, made.consumed) for made in proxy.journal] == [("late", False)]


async def test_a_delay_ends_with_the_proxy(devnet: Devnet, ask: Any) -> None:
    async with FaultProxy(devnet.anvil.url, [Rule("never", Delay(3_600))]) as proxy:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ask(proxy, "eth_chainId")


async def test_chance_comes_from_the_seed(devnet: Devnet, post: Any) -> None:
    async def pattern(seed: int) -> list[int]:
        async with FaultProxy(devnet.anvil.url, [limits.rate_limited(share=0.5)], seed=seed) as proxy:
            return [(await post(proxy, call("eth_chainId")))[0] for _ in range(24)]

    first, again, other = await pattern(1), await pattern(1), await pattern(2)
    assert first == again
    assert first != other
    assert set(first) == {200, 429}


async def test_two_proxies_over_one_node_disagree(devnet: Devnet, ask: Any) -> None:
    async with FaultProxy(devnet.anvil.url, [lies.forked_head()]) as one, FaultProxy(devnet.anvil.url) as two:
        false, true = [await ask(proxy, "eth_getBlockByNumber", "latest", False) for proxy in (one, two)]
    assert false["number"] == true["number"]
    assert false["hash"] != true["hash"]


@pytest.mark.parametrize("provider", sorted(limits.RANGE_WORDINGS))
async def test_wide_ranges_are_refused_in_a_providers_words(proxy: FaultProxy, post: Any, provider: str) -> None:
    proxy.add(limits.limited_ranges(10, provider))
    _, narrow = await post(proxy, call("eth_getLogs", {"fromBlock": "0x0", "toBlock": "0x9"}))
    status, wide = await post(proxy, call("eth_getLogs", {"fromBlock": "0x0", "toBlock": "0xa"}))
    assert "result" in narrow
    assert wide["error"]["code"] == limits.RANGE_WORDINGS[provider].code
    assert status == limits.RANGE_WORDINGS[provider].status
    assert "{" not in wide["error"]["message"]


async def test_blocks_by_hash_are_refused_where_numbers_are_not(devnet: Devnet, proxy: FaultProxy, post: Any) -> None:
    proxy.add(limits.without_block_hashes())
    head = devnet.anvil.rpc("eth_getBlockByNumber", "latest", False)
    for block, allowed in (({"blockHash": head["hash"]}, False), (head["number"], True)):
        _, answer = await post(proxy, call("eth_getCode", to_hex(devnet.escrow), block))
        assert ("result" in answer) is allowed
    assert proxy.journal[0].truth is None


async def test_a_gateways_words_are_no_json(proxy: FaultProxy, post: Any) -> None:
    proxy.add(limits.rate_limited(times=1, text=True))
    assert await post(proxy, call("eth_chainId")) == (429, "Too Many Requests")
    assert (await post(proxy, call("eth_chainId")))[0] == 200


async def test_lies_about_an_account_change_that_account_only(devnet: Devnet, proxy: FaultProxy, ask: Any) -> None:
    payer, other = devnet.payer(), devnet.payer()
    for who in (payer, other):
        who.deposit(1_000)
    payer.initiate_withdraw(400)
    ids = [other.account_id, payer.account_id]
    query = {"to": to_hex(devnet.escrow), "data": to_hex(calls.words_query(calls.ACCOUNTS, ids))}
    proxy.add(lies.inflated_balance(devnet.escrow, ids[1:], 5), lies.hidden_withdrawal(devnet.escrow, ids[1:]))
    answers = []
    for _ in range(3):
        answer = await ask(proxy, "eth_call", query, "latest")
        answers.append(calls.read_accounts(bytes.fromhex(answer[2:]), 2))
    (_, inflated), (_, hidden), (_, true) = answers
    assert {answer[0] for answer in answers} == {answers[2][0]}
    assert (inflated.balance, inflated.withdrawing, inflated.withdrawable_at) == (1_005, 400, true.withdrawable_at)
    assert (hidden.balance, hidden.withdrawing, hidden.withdrawable_at) == (1_000, 0, 0)
    assert (true.balance, true.withdrawing) == (1_000, 400)
    assert [made.subjects() for made in proxy.journal] == [{to_hex(payer.account_id)}] * 2


async def test_logs_are_empty_only_where_they_are_about_the_account(
    devnet: Devnet, proxy: FaultProxy, ask: Any
) -> None:
    payer, other = devnet.payer(), devnet.payer()
    proxy.add(lies.empty_logs([payer.account_id], event="AccountOpened"))
    found = []
    for who in (other, payer, payer):
        who.deposit(1_000)
        newest = hex(devnet.anvil.block_number)
        wanted = {"address": to_hex(devnet.escrow), "fromBlock": newest, "toBlock": newest}
        found.append(len(await ask(proxy, "eth_getLogs", wanted)))
    assert found == [1, 0, 1]
    assert proxy.journal[0].subjects() == {to_hex(payer.account_id)}


async def test_a_made_up_receipt_is_of_a_transaction_that_waits(devnet: Devnet, proxy: FaultProxy, ask: Any) -> None:
    devnet.anvil.automine(on=False)
    sent = devnet.anvil.rpc(
        "eth_sendTransaction", {"from": to_hex(devnet.operator.address), "to": to_hex(SELLER), "value": "0x1"}
    )
    proxy.add(lies.made_up_receipt())
    assert await ask(proxy, "eth_getTransactionReceipt", "0x" + "01" * 32) is None, "nobody knows it"
    made_up = await ask(proxy, "eth_getTransactionReceipt", sent)
    assert made_up["status"] == "0x1"
    assert made_up["blockHash"] == (await ask(proxy, "eth_getBlockByNumber", "latest", False))["hash"]
    devnet.anvil.mine()
    assert await ask(proxy, "eth_getTransactionReceipt", sent) is None, "the pool has lost it"


async def test_a_receipt_says_that_a_success_has_failed(devnet: Devnet, proxy: FaultProxy, ask: Any) -> None:
    devnet.anvil.mint(devnet.token, SELLER, 5)
    sent = devnet.anvil.rpc("eth_getBlockByNumber", "latest", True)["transactions"][0]["hash"]
    proxy.add(lies.failed_receipt())
    statuses = [(await ask(proxy, "eth_getTransactionReceipt", sent))["status"] for _ in range(2)]
    assert statuses == ["0x0", "0x1"]


async def test_a_lie_for_ever_goes_on(devnet: Devnet, proxy: FaultProxy, ask: Any) -> None:
    proxy.add(lies.for_ever(lies.head_far_ahead(10_000)))
    heads = [int((await ask(proxy, "eth_getBlockByNumber", "latest", False))["number"], 16) for _ in range(3)]
    assert min(heads) > devnet.anvil.block_number + 9_000
    assert len(proxy.journal) == 3


async def test_the_nodes_own_refusals_are_told_as_such(proxy: FaultProxy) -> None:
    with pytest.raises(NodeRefusedError):
        await proxy.ask("eth_noSuchMethod")
