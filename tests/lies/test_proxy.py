"""The fault proxy: it passes on what is no rule's business, makes each fault as told, and writes each of them down."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from _anvil import RpcError
from anvil import Devnet, receiver
from rpc_faults import UNCHANGED, Delay, Drop, Duplicate, Falsify, FaultProxy, NodeRefused, Question, Rule, lies, limits
from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain.port import ChainUnavailable
from tallystick_aggregator.chain.rpc import RpcNode

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


async def test_a_delay_ends_with_the_proxy(devnet: Devnet) -> None:
    async with FaultProxy(devnet.anvil.url, [Rule("never", Delay(3_600))]) as proxy:
        node = RpcNode([proxy.url], timeout_s=0.05)
        with pytest.raises(ChainUnavailable):
            await node.chain_id()
        await node.close()


async def test_chance_comes_from_the_seed(devnet: Devnet, post: Any) -> None:
    async def pattern(seed: int) -> list[int]:
        async with FaultProxy(devnet.anvil.url, [limits.rate_limited(share=0.5)], seed=seed) as proxy:
            return [(await post(proxy, call("eth_chainId")))[0] for _ in range(24)]

    first, again, other = await pattern(1), await pattern(1), await pattern(2)
    assert first == again
    assert first != other
    assert set(first) == {200, 429}


async def test_two_proxies_over_one_node_disagree(devnet: Devnet) -> None:
    async with FaultProxy(devnet.anvil.url, [lies.forked_head()]) as one, FaultProxy(devnet.anvil.url) as two:
        heads = []
        for proxy in (one, two):
            node = RpcNode([proxy.url])
            heads.append(await node.head())
            await node.close()
    assert heads[0].number == heads[1].number
    assert heads[0].block_hash != heads[1].block_hash


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


async def test_lies_about_an_account_change_that_account_only(devnet: Devnet, proxy: FaultProxy) -> None:
    payer, other = devnet.payer(), devnet.payer()
    for who in (payer, other):
        who.deposit(1_000)
    payer.initiate_withdraw(400)
    ids = [other.account_id, payer.account_id]
    query = {"to": to_hex(devnet.escrow), "data": to_hex(calls.words_query(calls.ACCOUNTS, ids))}
    proxy.add(lies.inflated_balance(devnet.escrow, ids[1:], 5), lies.hidden_withdrawal(devnet.escrow, ids[1:]))
    node = RpcNode([proxy.url])
    block = await node.head()
    answers = [
        calls.read_accounts(await node.call(devnet.escrow, bytes.fromhex(query["data"][2:]), block), 2)
        for _ in range(3)
    ]
    await node.close()
    (_, inflated), (_, hidden), (_, true) = answers
    assert {answer[0] for answer in answers} == {answers[2][0]}
    assert (inflated.balance, inflated.withdrawing, inflated.withdrawable_at) == (1_005, 400, true.withdrawable_at)
    assert (hidden.balance, hidden.withdrawing, hidden.withdrawable_at) == (1_000, 0, 0)
    assert (true.balance, true.withdrawing) == (1_000, 400)


async def test_logs_are_empty_only_where_they_are_about_the_account(devnet: Devnet, proxy: FaultProxy) -> None:
    payer, other = devnet.payer(), devnet.payer()
    proxy.add(lies.empty_logs([payer.account_id], topic=calls.ACCOUNT_OPENED_TOPIC))
    node = RpcNode([proxy.url])
    found = []
    for who in (other, payer, payer):
        first = devnet.anvil.block_number + 1
        who.deposit(1_000)
        found.append(len(await node.logs(devnet.escrow, first, await node.head())))
    assert found[0] > 0
    assert found[1] == 0
    assert found[2] > 0
    await node.close()


async def test_a_made_up_receipt_is_of_a_transaction_that_waits(devnet: Devnet, proxy: FaultProxy) -> None:
    devnet.anvil.automine(on=False)
    sent = devnet.anvil.rpc(
        "eth_sendTransaction", {"from": to_hex(devnet.operator.address), "to": to_hex(SELLER), "value": "0x1"}
    )
    proxy.add(lies.made_up_receipt())
    node = RpcNode([proxy.url])
    assert await node.receipt(b"\x01" * 32) is None, "nobody knows it"
    made_up = await node.receipt(bytes.fromhex(sent[2:]))
    assert made_up is not None
    assert made_up.succeeded
    assert made_up.block_hash == (await node.head()).block_hash
    devnet.anvil.mine()
    assert await node.receipt(bytes.fromhex(sent[2:])) is None, "the pool has lost it"
    await node.close()


async def test_a_receipt_says_that_a_success_has_failed(devnet: Devnet, proxy: FaultProxy) -> None:
    devnet.anvil.mint(devnet.token, SELLER, 5)
    block = devnet.anvil.rpc("eth_getBlockByNumber", "latest", True)
    hash_ = bytes.fromhex(block["transactions"][0]["hash"][2:])
    proxy.add(lies.failed_receipt())
    node = RpcNode([proxy.url])
    first, second = [await node.receipt(hash_) for _ in range(2)]
    assert first is not None
    assert second is not None
    assert (first.succeeded, second.succeeded) == (False, True)
    await node.close()


async def test_a_lie_for_ever_goes_on(devnet: Devnet, proxy: FaultProxy) -> None:
    proxy.add(lies.for_ever(lies.head_far_ahead(10_000)))
    node = RpcNode([proxy.url])
    heads = [await node.head() for _ in range(3)]
    assert min(head.number for head in heads) > devnet.anvil.block_number + 9_000
    assert len(proxy.journal) == 3
    await node.close()


async def test_the_nodes_own_refusals_are_told_as_such(proxy: FaultProxy) -> None:
    with pytest.raises(NodeRefused):
        await proxy.ask("eth_noSuchMethod")
