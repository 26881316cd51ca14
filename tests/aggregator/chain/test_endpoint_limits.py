"""Endpoints of ordinary plans: they limit ranges, results and rates, and lack methods. Faults R1, R2, R4."""

import re
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpc_servers import JsonRpcError, Status

from _anvil import Anvil, hexed
from anvil import Devnet
from tallystick.signatures import Signer
from tallystick_aggregator.chain.deferred_escrow import DeferredEscrow
from tallystick_aggregator.chain.node import CallRevertedError
from tallystick_aggregator.chain.port import Block, ChainUnavailableError
from tallystick_aggregator.chain.rpc.endpoint import LEARNED_S, LIMITED_S_MAX, read_retry_after
from tallystick_aggregator.chain.rpc.log_range import LogRange
from tallystick_aggregator.chain.rpc.node import RpcNode

HASH = "0x" + "05" * 32
LAST = Block(3_000, b"\x05" * 32, 16)
HEAD = {"number": hex(LAST.number), "hash": HASH, "timestamp": "0x10", "baseFeePerGas": hex(7)}

REFUSALS = [
    {"code": -32600, "message": "You can make eth_getLogs requests with up to a 10 block range"},
    {"code": -32005, "message": "query returned more than 10000 results"},
    {"code": -32602, "message": "eth_getLogs and eth_newFilter are limited to a 10,000 blocks range"},
    {"code": -32614, "message": "eth_getLogs is limited to a 500 range"},
    {"code": -32000, "message": "requested too many blocks from 0 to 2000, maximum is set to 50"},
    {"code": -32062, "message": "Block range is too large"},
    {"code": 35, "message": "ranges over 10000 blocks are not supported on freetier"},
    {"code": -32000, "message": "query timeout exceeded"},
    {"code": -32008, "message": "Response is too big"},
    {"code": -32603, "message": "Internal error"},
]  # fmt: skip


class Clock:
    """Time that passes only when somebody pauses."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    @property
    def keywords(self) -> dict[str, Any]:
        return {"clock": self, "pause": self.pause}


class Plan:
    """An endpoint that holds one event a block, and searches no more than `most` blocks at once."""

    def __init__(self, most: int, refusal: Any = REFUSALS[0]) -> None:
        self.most = most
        self.refusal = refusal
        self.served: list[tuple[int, int]] = []
        self.refused = 0

    def __call__(self, method: str, params: list[Any]) -> Any:
        if method != "eth_getLogs":
            return HEAD
        first, last = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
        if last - first >= self.most:
            self.refused += 1
            if isinstance(self.refusal, dict):
                raise JsonRpcError(self.refusal)
            return self.refusal
        self.served.append((first, last))
        return [event(number) for number in range(first, last + 1)]


def event(number: int) -> dict[str, Any]:
    return {"topics": [HASH], "data": "0x", "blockNumber": hex(number)}


async def numbers(node: RpcNode, first: int = 0, last: Block = LAST) -> list[int]:
    return [log.block_number for log in await node.logs(bytes(20), first, last)]


@pytest.mark.parametrize("most", [500, 50, 10, 1])
async def test_r1_a_search_goes_on_within_an_endpoints_range(nodes: Any, most: int) -> None:
    plan = Plan(most)
    node = await nodes(plan)
    assert await numbers(node, 2_500) == list(range(2_500, 3_001))
    assert all(last - first < most for first, last in plan.served)
    assert plan.refused < 25
    before = plan.refused
    assert await numbers(node, 2_900) == list(range(2_900, 3_001))
    assert plan.refused <= before + 1, "what works is remembered"


@pytest.mark.parametrize("refusal", [*REFUSALS, Status(413), Status(400, "", b"no"), Status(504), b"<html>"])
async def test_r1_whatever_words_refuse_a_range_a_narrower_one_is_tried(nodes: Any, refusal: Any) -> None:
    node = await nodes(Plan(50, refusal))
    assert await numbers(node, 2_700) == list(range(2_700, 3_001))


async def test_r1_each_endpoint_keeps_a_range_of_its_own(nodes: Any) -> None:
    narrow, wide = Plan(10), Plan(10_000)
    node = await nodes(narrow, wide)
    assert await numbers(node, 2_990) == list(range(2_990, 3_001))
    assert [endpoint.logs.blocks for endpoint in node._endpoints] == [5, 2_000]


async def test_r1_an_answer_that_may_have_been_cut_is_asked_for_in_parts(nodes: Any) -> None:
    def cuts(method: str, params: list[Any]) -> Any:
        if method != "eth_getLogs":
            return HEAD
        first, last = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
        return [event(number) for number in range(first, last + 1)][:1_000]

    assert await numbers(await nodes(cuts)) == list(range(3_001))


async def test_r1_a_refusal_that_is_about_no_range_teaches_nothing(nodes: Any) -> None:
    clock = Clock()
    plan = Plan(0, {"code": -32000, "message": "missing trie node"})
    node = await nodes(plan, logs_range_blocks_max=1_999, **clock.keywords)
    with pytest.raises(ChainUnavailableError, match="missing trie node"):
        await numbers(node)
    plan.most = 10_000
    assert await numbers(node) == list(range(3_001))
    assert len(plan.served) == 2


async def test_r1_a_search_that_was_interrupted_goes_on_where_it_was(nodes: Any) -> None:
    clock, plan = Clock(), Plan(10)
    failing = [False]

    def answer(method: str, params: list[Any]) -> Any:
        if failing[0] or (method == "eth_getLogs" and int(params[0]["fromBlock"], 16) >= 2_500 and not plan.most):
            raise JsonRpcError({"code": -32000, "message": "down"})
        if method == "eth_getLogs" and int(params[0]["fromBlock"], 16) >= 2_000 and plan.most == 10:
            failing[0] = True
        return plan(method, params)

    node = await nodes(answer, **clock.keywords)
    with pytest.raises(ChainUnavailableError):
        await numbers(node)
    assert sum(clock.pauses) > 10, "it waits a while for a passing trouble"
    failing[0], plan.most = False, 20
    plan.served.clear()
    assert await numbers(node) == list(range(3_001))
    assert plan.served[0][0] > 1_700


async def test_r1_a_long_search_tells_how_far_it_is(nodes: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock, plan = Clock(), Plan(500)

    def slow(method: str, params: list[Any]) -> Any:
        clock.now += 6
        return plan(method, params)

    await numbers(await nodes(slow, **clock.keywords))
    assert re.search(r"reading events: block \d+ of 3000, \d+ to go", caplog.text)


@given(st.integers(1, 3_000), st.integers(1, 3_000))
def test_r1_a_range_finds_the_limit_and_rarely_tries_more(limit: int, blocks_max: int) -> None:
    known = LogRange(blocks_max)
    widths: list[int] = []
    refusals = 0
    for _ in range(2_000):
        blocks = known.blocks
        assert 1 <= blocks <= blocks_max
        if blocks <= limit:
            known.worked(blocks)
            widths.append(blocks)
        else:
            assert known.refused(blocks)
            refusals += 1
    assert max(widths) >= min(limit, blocks_max) * 3 // 4
    assert refusals < 60


async def test_r1_a_limit_on_rates_is_waited_for_as_long_as_it_says(nodes: Any) -> None:
    clock = Clock()
    answers: list[Any] = [Status(429, "retry-after: 1\r\n"), Status(429, "retry-after: 3\r\n"), "0x2a"]
    node = await nodes(lambda _m, _p: answers.pop(0), **clock.keywords)
    node._timeout_s = 10
    assert await node.balance(bytes(20)) == 42
    assert clock.pauses == [1, 3]


@pytest.mark.parametrize(
    "answer",
    [
        Status(429),
        Status(503, "retry-after: 1\r\n"),
        {"code": -32005, "message": "project ID request rate exceeded"},
        {"code": 429, "message": "Your app has exceeded its compute units per second capacity"},
        {"code": -32005, "message": "limit exceeded"},
        {"code": -32029, "message": "Too Many Requests"},
    ],
)
async def test_r1_an_endpoint_that_is_asked_too_often_is_left_alone(nodes: Any, answer: Any) -> None:
    clock = Clock()
    asked = [0]

    def limited(_method: str, _params: list[Any]) -> Any:
        asked[0] += 1
        if isinstance(answer, dict):
            raise JsonRpcError(answer)
        return answer

    node = await nodes(limited, lambda _m, _p: "0x2a", **clock.keywords)
    for _ in range(5):
        assert await node.balance(bytes(20)) == 42
    assert asked == [1]
    assert clock.pauses == []
    clock.now += LIMITED_S_MAX
    assert await node.balance(bytes(20)) == 42
    assert asked == [2]


async def test_an_estimate_names_the_newest_block_and_not_all_that_waits_in_a_pool(nodes: Any) -> None:
    asked: list[tuple[str, Any]] = []

    def answer(method: str, params: list[Any]) -> Any:
        asked.append((method, params[1:]))
        return "0x5208"

    node = await nodes(answer)
    assert await node.estimate_gas(bytes(20), bytes(20), b"", gas_max=100_000) == 21_000
    assert asked == [("eth_estimateGas", ["latest"])] * 2


async def test_x8_what_reverts_after_the_newest_block_is_estimated_as_the_node_would(nodes: Any) -> None:
    def answer(_method: str, params: list[Any]) -> Any:
        if params[1:]:
            raise JsonRpcError({"code": 3, "message": "execution reverted: authorization is not yet valid"})
        return "0x5208"

    node = await nodes(answer)
    assert await node.estimate_gas(bytes(20), bytes(20), b"", gas_max=100_000) == 21_000


async def test_r1_what_a_contract_says_when_it_reverts_is_no_rate_limit(nodes: Any) -> None:
    """Anybody can deploy a contract, and silence the endpoints by its words."""
    clock = Clock()

    def reverted(method: str, _params: list[Any]) -> Any:
        if method == "eth_estimateGas":
            raise JsonRpcError(
                {"code": 3, "message": "execution reverted: too many requests per second, quota exceeded"}
            )
        return "0x2a"

    node = await nodes(reverted, **clock.keywords)
    with pytest.raises(CallRevertedError, match="quota"):
        await node.estimate_gas(bytes(20), bytes(20), b"", gas_max=100_000)
    assert await node.balance(bytes(20)) == 42
    assert clock.pauses == [], "a contract's words kept the endpoint from being asked"


async def test_r1_a_limit_that_outlasts_the_patience_is_an_unavailable_chain(nodes: Any) -> None:
    clock = Clock()
    node = await nodes(lambda _m, _p: Status(429, "retry-after: 3600\r\n"), **clock.keywords)
    with pytest.raises(ChainUnavailableError, match="429"):
        await node.balance(bytes(20))
    clock.now += LIMITED_S_MAX - 1
    with pytest.raises(ChainUnavailableError, match="rate limited for another 1 s"):
        await node.balance(bytes(20))


def test_r1_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    now = 1_800_000_000.0
    assert read_retry_after("120", now) == 120
    assert read_retry_after(formatdate(now + 30, usegmt=True), now) == 30
    assert read_retry_after(formatdate(now - 30, usegmt=True), now) == 0
    assert [read_retry_after(text, now) for text in ("", "soon", "-1", "٣")] == [None] * 4


@pytest.mark.parametrize(
    "refusal",
    [
        {"code": -32000, "message": "out of gas: gas required exceeds: 50000000"},
        {"code": -32008, "message": "Response is too big"},
        Status(413),
    ],
)
async def test_r1_accounts_are_read_in_portions_that_the_endpoint_takes(nodes: Any, refusal: Any) -> None:
    sizes: list[int] = []

    def answer(method: str, params: list[Any]) -> Any:
        if method == "eth_getBlockByNumber":
            return HEAD
        count = (len(params[0]["data"]) - 10) // 64 - 2
        if params[-1] == hex(LAST.number) or params[-1].get("blockHash") == HASH:
            sizes.append(count)
        if count > 100:
            if isinstance(refusal, dict):
                raise JsonRpcError(refusal)
            return refusal
        return hexed(b"".join(number.to_bytes(32, "big") for number in (32, count, *range(count))))

    signer = Signer(b"\x05" * 32)
    escrow = DeferredEscrow(await nodes(answer), 31337, b"\x01" * 20, signer.address, signer)
    ids = [number.to_bytes(32, "big") for number in range(1_000)]
    claimed = await escrow.claimed(ids, LAST)
    assert claimed[:62] == list(range(62))
    assert len(claimed) == 1_000
    sizes.clear()
    await escrow.claimed(ids, LAST)
    assert max(sizes) == 62, "what works is remembered"


# Optional methods.


def lacking(*methods: str, message: str = "the method {} does not exist/is not available") -> Callable[..., Any]:
    """An endpoint without these methods."""

    def answer(method: str, _params: list[Any]) -> Any:
        if method in methods:
            raise JsonRpcError({"code": -32601, "message": message.format(method)})
        return {
            "eth_getBlockByNumber": HEAD,
            "eth_maxPriorityFeePerGas": hex(11),
            "eth_feeHistory": {"gasUsedRatio": [0.5, 0, 0.2, 0.9], "reward": [["0x9"], ["0x0"], ["0x5"], ["0x7"]]},
            "eth_gasPrice": hex(20),
        }[method]

    return answer


TIP, HISTORY, PRICE = "eth_maxPriorityFeePerGas", "eth_feeHistory", "eth_gasPrice"


@pytest.mark.parametrize(
    ("methods", "tip"), [((), 11), ((TIP,), 7), ((TIP, HISTORY), 13), ((TIP, HISTORY, PRICE), 7), ((HISTORY,), 11)]
)
async def test_r2_a_tip_is_found_whatever_methods_there_are(nodes: Any, methods: tuple[str, ...], tip: int) -> None:
    fees = await (await nodes(lacking(*methods))).fees()
    assert (fees.base_fee_per_gas_wei, fees.priority_fee_per_gas_wei) == (7, tip)


async def test_r2_what_is_lacking_is_remembered_and_tried_again_after_a_while(nodes: Any) -> None:
    clock, asked = Clock(), list[str]()
    endpoint = lacking(TIP)

    def answer(method: str, params: list[Any]) -> Any:
        asked.append(method)
        return endpoint(method, params)

    node = await nodes(answer, **clock.keywords)
    for _ in range(3):
        await node.fees()
    assert asked.count(TIP) == 1
    clock.now += LEARNED_S
    await node.fees()
    assert asked.count(TIP) == 2


async def test_r2_a_passing_error_or_an_empty_history_is_not_taken_for_a_lack(nodes: Any) -> None:
    trouble = [True]

    def answer(method: str, params: list[Any]) -> Any:
        if method == TIP and trouble[0]:
            raise JsonRpcError({"code": -32603, "message": "Internal error"})
        if method == HISTORY:
            return {"gasUsedRatio": [0, 0], "reward": [["0x0"], ["0x0"]]}
        return lacking()(method, params)

    node = await nodes(answer)
    assert (await node.fees()).priority_fee_per_gas_wei == 13
    trouble[0] = False
    assert (await node.fees()).priority_fee_per_gas_wei == 11


async def test_r2_a_pool_that_cannot_be_asked_leaves_the_newest_block(nodes: Any) -> None:
    def answer(_method: str, params: list[Any]) -> Any:
        if params[1] == "pending":
            raise JsonRpcError({"code": -32602, "message": "invalid block tag"})
        return "0x5"

    assert await (await nodes(answer)).next_nonce(bytes(20)) == 5


# Reads of one very block.

BLOCK = Block(5, b"\x05" * 32, 16)


class State:
    """An endpoint whose state says at which block it was read. `hashes`: "obeyed", "refused" or "ignored"."""

    def __init__(self, hashes: str, known: bytes = BLOCK.block_hash) -> None:
        self.hashes = hashes
        self.known = [known]
        self.revert = False
        self.asked: list[Any] = []

    def __call__(self, method: str, params: list[Any]) -> Any:
        if method == "eth_getBlockByNumber":
            block_hash = self.known.pop(0) if len(self.known) > 1 else self.known[0]
            return {"number": params[0], "hash": hexed(block_hash), "timestamp": "0x10"}
        at = params[-1]
        self.asked.append(at)
        if isinstance(at, dict):
            if self.hashes == "refused":
                raise JsonRpcError({"code": -32602, "message": "invalid argument 1: hex string expected"})
            if self.hashes == "obeyed" and at["blockHash"] != hexed(self.known[0]):
                raise JsonRpcError({"code": -32000, "message": "header for hash not found"})
        if self.revert:
            raise JsonRpcError({"code": 3, "message": "execution reverted", "data": "0x0102"})
        return "0x99" if isinstance(at, dict) and self.hashes == "ignored" else "0x05"


@pytest.mark.parametrize("hashes", ["obeyed", "refused", "ignored"])
async def test_r4_a_read_is_of_its_block_whether_or_not_hashes_are_understood(nodes: Any, hashes: str) -> None:
    state = State(hashes)
    node = await nodes(state)
    for _ in range(3):
        assert await node.call(bytes(20), b"", BLOCK) == b"\x05"
        assert await node.code(bytes(20), BLOCK) == b"\x05"
    state.revert = True
    with pytest.raises(CallRevertedError) as reverted:
        await node.call(bytes(20), b"", BLOCK)
    assert reverted.value.data == b"\x01\x02"
    by_hash = [at for at in state.asked if isinstance(at, dict)]
    assert len(by_hash) == {"obeyed": 9, "refused": 4, "ignored": 2}[hashes], "what it does is remembered"


@pytest.mark.parametrize("hashes", ["obeyed", "refused", "ignored"])
async def test_r4_a_block_that_is_not_there_is_never_read_by_another(nodes: Any, hashes: str) -> None:
    node = await nodes(State(hashes, b"\x06" * 32))
    with pytest.raises(ChainUnavailableError):
        await node.call(bytes(20), b"", BLOCK)
    with pytest.raises(ChainUnavailableError):
        await node.code(bytes(20), BLOCK)


@pytest.mark.parametrize("revert", [False, True])
async def test_r4_a_block_that_is_reorganised_during_the_read_is_no_answer(nodes: Any, revert: bool) -> None:
    state = State("refused")
    state.known = [BLOCK.block_hash, b"\x06" * 32]
    state.revert = revert
    node = await nodes(state)
    with pytest.raises(ChainUnavailableError):
        await node.call(bytes(20), b"", BLOCK)


async def test_r4_the_chain_itself_is_asked_by_hash(devnet: Devnet) -> None:
    anvil: Anvil = devnet.anvil
    node = RpcNode([anvil.url])
    try:
        assert await node.code(devnet.token, await node.head())
        assert [endpoint.learned("eth_getCode by block hash") for endpoint in node._endpoints] == [True]
    finally:
        await node.close()


async def test_r1_a_question_to_all_endpoints_waits_for_a_rate_limit_too(nodes: Any) -> None:
    calls = [0]

    def answer(_method: str, _params: list[Any]) -> Any:
        calls[0] += 1
        return Status(429, "retry-after: 0\r\n") if calls[0] == 1 else HEAD

    assert await (await nodes(answer)).head() == LAST
