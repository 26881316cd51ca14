"""Two endpoints, of which one is wrong, ahead, behind, on a fork or down; and one endpoint that is wrong once."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from harness import chain_side
from rpc_servers import JsonRpcError

from _anvil import function
from anvil import DELAY_S, Devnet, receiver
from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain.port import Call, ChainUnavailableError, Heard, Send
from tallystick_aggregator.chain.rpc.agreement import SIDELINED_S, STANDS_STILL_S
from tallystick_aggregator.chain.rpc.node import RpcNode
from tallystick_aggregator.chain.settings import ChainLimits
from tallystick_aggregator.claims.service import ClaimService, SettlementSettings
from tallystick_aggregator.store.port import TransactionKind, TransactionStatus
from tallystick_chain.errors import RpcError
from waiting import until

SELLER = receiver(1)
HOLDER = b"\x11" * 20
NOBODYS = "0x" + "ab" * 32

Change = Callable[[str, list[Any], Any], Any]


class Through:
    """An endpoint of the devnet's node. `change` makes another answer of the true one, `times` times; None: always."""

    def __init__(self, devnet: Devnet) -> None:
        self._devnet = devnet
        self._change: Change | None = None
        self._times: int | None = None
        self.down = False
        self.told = 0

    def lie(self, change: Change, times: int | None = 1) -> None:
        self._change, self._times = change, times

    def honest(self) -> None:
        self._change = None

    def __call__(self, method: str, params: list[Any]) -> Any:
        if self.down:
            raise JsonRpcError({"code": -32000, "message": "out of order"})
        try:
            truth = self._devnet.anvil.rpc(method, *params)
        except RpcError as error:
            raise JsonRpcError(error.args[0]) from error
        if self._change is None or self._times == 0:
            return truth
        answer = self._change(method, params, truth)
        if answer != truth:
            self.told += 1
            self._times = None if self._times is None else self._times - 1
        return answer


def ahead(by: int, block_hash: str = NOBODYS) -> Change:
    """The newest block is one that nobody has."""

    def change(method: str, params: list[Any], truth: Any) -> Any:
        if method == "eth_getBlockByHash" and params[0] == block_hash:
            return None
        if method == "eth_getBlockByNumber" and params[0] == "latest":
            return truth | {"number": hex(int(truth["number"], 16) + by), "hash": block_hash}
        return truth

    return change


def stands_by(by: int) -> Change:
    """The same, from an endpoint that has the block itself."""

    def change(method: str, params: list[Any], truth: Any) -> Any:
        if (method, params[0] if params else None) in (
            ("eth_getBlockByNumber", "latest"),
            ("eth_getBlockByHash", NOBODYS),
        ):
            return {"number": hex(10_000 + by), "hash": NOBODYS, "timestamp": "0x1"}
        return truth

    return change


def receipts(change: Callable[[Any], Any]) -> Change:
    return lambda method, _params, truth: change(truth) if method == "eth_getTransactionReceipt" else truth


def richer(_method: str, params: list[Any], truth: Any) -> Any:
    """The first account that is asked for has 500 more."""
    if _method != "eth_call" or not params[0]["data"].startswith(to_hex(calls.selector(calls.ACCOUNTS))):
        return truth
    data = bytearray.fromhex(truth[2:])
    if len(data) <= 64:
        return truth
    data[96:128] = (int.from_bytes(data[96:128], "big") + 500).to_bytes(32, "big")
    return "0x" + data.hex()


def alarms(caplog: pytest.LogCaptureFixture, phrase: str = "contradicted answer") -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.name == "tallystick.alarm"]
    return [line for line in lines if line.startswith(phrase)]


@pytest.fixture
def pair(devnet: Devnet) -> tuple[Through, Through]:
    return Through(devnet), Through(devnet)


# R10: heads.


async def test_r10_a_head_that_is_told_once_and_is_not_there_is_not_believed(
    devnet: Devnet, nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    only = Through(devnet)
    node = await nodes(only)
    truth = devnet.anvil.block_number
    for by in (10_000, 5, 0):
        only.lie(ahead(by))
        with pytest.raises(ChainUnavailableError, match="no endpoint has"):
            await node.head()
        assert (await node.head()).number == truth
    assert len(alarms(caplog, "contradicted answer (head): http://127.0.0.1")) == 3
    assert "secret-key" not in caplog.text


async def test_r10_the_other_endpoints_head_is_taken_meanwhile(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pair
    node = await nodes(first, second)
    for liar in (first, second):
        for by in (10_000, 2, 0):
            devnet.anvil.mine(1)
            liar.lie(ahead(by))
            assert (await node.head()).number == devnet.anvil.block_number
            assert liar.told == 1
            liar.told = 0
            liar.honest()
    assert len(alarms(caplog, "contradicted answer (head)")) == 6
    assert node.problems() == [], "once is no reason to do without it"


async def test_r10_an_endpoint_far_ahead_is_left_out_for_a_while_and_named(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through], caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    first, second = pair
    first.lie(stands_by(0), times=None)
    node = await nodes(first, second, clock=lambda: now[0])
    for _ in range(3):
        assert (await node.head()).number == devnet.anvil.block_number
        assert await node.block(1) is not None
    assert len(alarms(caplog, "contradicted answer (head)")) == 1
    assert "is left out" in node.problems()[0]
    first.honest()
    now[0] += SIDELINED_S + 1
    assert node.problems() == []
    assert (await node.head()).number == devnet.anvil.block_number


async def test_r10_an_endpoint_that_stands_still_does_not_hold_up_the_other(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through]
) -> None:
    now = [0.0]
    first, second = pair
    stuck = devnet.anvil.rpc("eth_getBlockByNumber", "latest", False)

    def stands(method: str, params: list[Any], truth: Any) -> Any:
        latest = method == "eth_getBlockByNumber" and params[0] == "latest"
        unknown = method == "eth_getBlockByHash" and truth and int(truth["number"], 16) > int(stuck["number"], 16)
        return stuck if latest else None if unknown else truth

    second.lie(stands, times=None)
    node = await nodes(first, second, clock=lambda: now[0])
    devnet.anvil.mine(100)
    assert (await node.head()).number == int(stuck["number"], 16), "the highest that both have"
    devnet.anvil.mine(300)
    now[0] += STANDS_STILL_S + 1
    await node.head()
    devnet.anvil.mine(1)
    assert (await node.head()).number == devnet.anvil.block_number
    assert "stands still" in node.problems()[0]


async def test_r10_endpoints_on_two_chains_are_followed_by_preference_and_told(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pair
    other = "0x" + "cd" * 32

    def fork(method: str, params: list[Any], truth: Any) -> Any:
        latest = devnet.anvil.block_number
        if method == "eth_getBlockByHash":
            number = latest if params[0] == other else None
            return None if number is None else {"number": hex(number), "hash": other, "timestamp": "0x1"}
        if method == "eth_getBlockByNumber":
            number = latest if params[0] == "latest" else int(params[0], 16)
            return {"number": hex(number), "hash": other, "timestamp": "0x1"}
        return truth

    second.lie(fork, times=None)
    node = await nodes(first, second)
    final = devnet.anvil.block_number - 2
    with pytest.raises(ChainUnavailableError, match="disagree on block"):
        await node.block(final)
    block = await node.block(final)
    assert block is not None
    assert block.block_hash != bytes.fromhex(other[2:])
    assert alarms(caplog, "contradicted answer (block)")
    assert (await node.head()).number == devnet.anvil.block_number


async def test_r10_one_wrong_block_is_asked_for_again(
    nodes: Any, pair: tuple[Through, Through], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pair
    node = await nodes(first, second)

    def wrong(method: str, params: list[Any], truth: Any) -> Any:
        return truth | {"hash": NOBODYS} if method == "eth_getBlockByNumber" and params[0] == "0x2" else truth

    first.lie(wrong)
    block = await node.block(2)
    assert block is not None
    assert to_hex(block.block_hash) != NOBODYS
    assert len(alarms(caplog, "contradicted answer (block)")) == 1
    assert node.problems() == []
    assert second.told == 0


async def test_r10_watching_and_settling_go_on_beside_an_endpoint_that_is_far_ahead(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pair
    payer = devnet.payer()
    node = await nodes(first, second)
    async with chain_side(devnet, node=node) as side:
        await side.fund(payer, 1_000_000)
        first.lie(stands_by(0), times=None)
        await until(lambda: bool(alarms(caplog, "contradicted answer (head)")))
        payer.initiate_withdraw(400_000)
        await side.mirrored()
        assert side.account(payer).withdrawing == 400_000
        call = Call(devnet.token, function("mint(address,uint256)", HOLDER, 5))
        sent = await side.chain.wait(await side.chain.send(Send(TransactionKind.EXACT, b"1", call)), timeout_s=10)
        assert sent.status in (TransactionStatus.MINED, TransactionStatus.FINAL)
        assert not side.chain.stale()
        assert any("is left out" in problem for problem in side.chain.problems())


# R9: receipts.


def made_up(devnet: Devnet) -> Callable[[Any], Any]:
    """Where there is none: it succeeded, in the newest block."""

    def change(truth: Any) -> Any:
        if truth is not None:
            return truth
        block = devnet.anvil.rpc("eth_getBlockByNumber", "latest", False)
        return {
            "transactionHash": NOBODYS,
            "blockNumber": block["number"],
            "blockHash": block["hash"],
            "status": "0x1",
            "gasUsed": "0x5208",
            "effectiveGasPrice": "0x1",
            "logs": [],
        }

    return change


@pytest.mark.parametrize("endpoints", [1, 2])
@pytest.mark.parametrize("times", [1, None])
async def test_r9_a_receipt_that_one_answer_made_up_is_none(
    devnet: Devnet, nodes: Any, caplog: pytest.LogCaptureFixture, endpoints: int, times: int | None
) -> None:
    liar, others = Through(devnet), [Through(devnet) for _ in range(endpoints - 1)]
    node = await nodes(liar, *others)
    liar.lie(receipts(made_up(devnet)), times)
    for _ in range(2):
        assert await node.receipt(bytes.fromhex(NOBODYS[2:])) is None
    assert alarms(caplog, "contradicted answer (receipt): http://127.0.0.1")


@pytest.mark.parametrize("endpoints", [1, 2])
async def test_r9_what_became_of_a_transaction_is_told_by_two_answers(
    devnet: Devnet, nodes: Any, caplog: pytest.LogCaptureFixture, endpoints: int
) -> None:
    devnet.anvil.mint(devnet.token, HOLDER, 5)
    block = devnet.anvil.rpc("eth_getBlockByNumber", "latest", False)
    transaction_hash = bytes.fromhex(block["transactions"][0][2:])
    liar, others = Through(devnet), [Through(devnet) for _ in range(endpoints - 1)]
    node = await nodes(liar, *others)
    liar.lie(receipts(lambda truth: truth | {"status": "0x0", "logs": []}))
    receipt = await node.receipt(transaction_hash)
    assert receipt is not None
    assert receipt.succeeded
    assert len(alarms(caplog, "contradicted answer (receipt)")) == 1
    liar.lie(receipts(lambda _truth: None))
    assert await node.receipt(transaction_hash) == receipt, "nor is it gone because one says so"
    liar.honest()
    asked = liar.told
    assert await node.receipt(transaction_hash) == receipt
    assert liar.told == asked


async def test_r9_a_wrong_receipt_that_nobody_could_be_asked_about_is_told_once_the_truth_is_known(
    devnet: Devnet, nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    devnet.anvil.mint(devnet.token, HOLDER, 5)
    block = devnet.anvil.rpc("eth_getBlockByNumber", "latest", False)
    transaction_hash = bytes.fromhex(block["transactions"][0][2:])
    liar = Through(devnet)
    node = await nodes(liar)

    def once_and_then_down(method: str, _params: list[Any], truth: Any) -> Any:
        if method != "eth_getTransactionReceipt":
            return truth
        liar.down = True
        return truth | {"status": "0x0", "logs": []}

    liar.lie(once_and_then_down)
    with pytest.raises(ChainUnavailableError):
        await node.receipt(transaction_hash)
    assert not alarms(caplog, "contradicted answer (receipt)")
    liar.down = False
    receipt = await node.receipt(transaction_hash)
    assert receipt is not None
    assert receipt.succeeded
    assert len(alarms(caplog, "contradicted answer (receipt)")) == 1
    assert await node.receipt(transaction_hash) == receipt
    assert len(alarms(caplog, "contradicted answer (receipt)")) == 1


async def test_r9_a_receipt_is_believed_where_the_other_endpoint_is_down(devnet: Devnet, nodes: Any) -> None:
    devnet.anvil.mint(devnet.token, HOLDER, 5)
    block = devnet.anvil.rpc("eth_getBlockByNumber", "latest", False)
    down = Through(devnet)
    down.down = True
    node = await nodes(Through(devnet), down)
    assert await node.receipt(bytes.fromhex(block["transactions"][0][2:])) is not None


@pytest.mark.parametrize("endpoints", [1, 2])
async def test_r9_a_transfer_that_is_in_no_block_is_not_told_as_done(
    devnet: Devnet, nodes: Any, caplog: pytest.LogCaptureFixture, endpoints: int
) -> None:
    liar, others = Through(devnet), [Through(devnet) for _ in range(endpoints - 1)]
    node = await nodes(liar, *others)
    devnet.anvil.automine(on=False)

    def in_the_newest_block(truth: Any, asked: list[Any]) -> Any:
        return truth or made_up(devnet)(None) | {"transactionHash": asked[0]}

    async with chain_side(devnet, node=node) as side:
        liar.lie(
            lambda method, params, truth: (
                in_the_newest_block(truth, params) if method == "eth_getTransactionReceipt" else truth
            )
        )
        call = Call(devnet.token, function("mint(address,uint256)", HOLDER, 5))
        sent = await side.chain.send(Send(TransactionKind.EXACT, b"1", call))
        with pytest.raises(TimeoutError):
            await side.chain.wait(sent, timeout_s=0.5)
        assert liar.told == 1
        assert alarms(caplog, "contradicted answer (receipt)")
        devnet.anvil.mine()
        mined = await side.chain.wait(sent, final=True, timeout_s=10)
        assert mined.status is TransactionStatus.FINAL
        assert devnet.balance(HOLDER) == 5
        devnet.anvil.automine(on=True)


# Relatives of R9: nonces and gas.


@pytest.mark.parametrize("times", [1, None])
async def test_r9_a_nonce_that_is_told_too_high_leaves_no_gap(
    devnet: Devnet, nodes: Any, caplog: pytest.LogCaptureFixture, times: int | None
) -> None:
    liar = Through(devnet)
    node = await nodes(liar, Through(devnet))

    def high(method: str, params: list[Any], truth: Any) -> Any:
        pending = method == "eth_getTransactionCount" and params[1] == "pending"
        return hex(int(truth, 16) + 1_000) if pending else truth

    async with chain_side(devnet, node=node) as side:
        liar.lie(high, times)
        call = Call(devnet.token, function("mint(address,uint256)", HOLDER, 5))
        sent = await side.chain.send(Send(TransactionKind.EXACT, b"1", call))
        assert (await side.chain.wait(sent, final=True, timeout_s=10)).status is TransactionStatus.FINAL
        assert len(side.disk.outbound) == 1
    assert alarms(caplog, "contradicted answer (nonce)")


async def test_r9_one_endpoint_that_tells_of_too_many_transactions_everywhere_skips_no_nonce(
    devnet: Devnet, nodes: Any
) -> None:
    liar = Through(devnet)
    node = await nodes(liar, Through(devnet))
    async with chain_side(devnet, node=node) as side:
        mined = await node.nonce_at(side.chain.settings.sender.address, (await node.head()).number)
        liar.lie(
            lambda method, _params, truth: hex(2**64 - 1) if method == "eth_getTransactionCount" else truth, times=None
        )
        call = Call(devnet.token, function("mint(address,uint256)", HOLDER, 5))
        sent = await side.chain.send(Send(TransactionKind.EXACT, b"1", call))
        assert sent.nonce == mined
        assert (await side.chain.wait(sent, final=True, timeout_s=10)).status is TransactionStatus.FINAL


async def test_r9_a_nonce_that_cannot_be_is_no_answer(devnet: Devnet, nodes: Any) -> None:
    liar = Through(devnet)
    async with chain_side(devnet, node=await nodes(liar)) as side:
        liar.lie(
            lambda method, _params, truth: hex(2**64 - 1) if method == "eth_getTransactionCount" else truth, times=None
        )
        call = Call(devnet.token, function("mint(address,uint256)", HOLDER, 5))
        with pytest.raises(ChainUnavailableError, match="that cannot be"):
            await side.chain.send(Send(TransactionKind.EXACT, b"1", call))
        assert not side.disk.outbound


async def test_r9_an_estimate_that_is_too_low_burns_no_gas(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pair
    node = await nodes(first, second)
    async with chain_side(devnet, node=node) as side:
        first.lie(lambda method, _params, truth: "0x5208" if method == "eth_estimateGas" else truth)
        call = Call(devnet.token, function("mint(address,uint256)", HOLDER, 5))
        sent = await side.chain.send(Send(TransactionKind.EXACT, b"1", call))
        assert (await side.chain.wait(sent, final=True, timeout_s=10)).status is TransactionStatus.FINAL
        second.down = True
        sent = await side.chain.send(Send(TransactionKind.EXACT, b"2", call))
        assert (await side.chain.wait(sent, final=True, timeout_s=10)).status is TransactionStatus.FINAL
    assert alarms(caplog, "contradicted answer (gas)")


async def test_r9_one_wrong_answer_does_not_keep_the_aggregator_from_starting(devnet: Devnet, nodes: Any) -> None:
    for method, wrong in (("eth_chainId", "0x1"), ("eth_getCode", "0x"), ("eth_getBalance", "0x0")):
        liar = Through(devnet)
        liar.lie(lambda asked, _params, truth, method=method, wrong=wrong: wrong if asked == method else truth)  # type: ignore[misc]
        async with chain_side(devnet, node=await nodes(liar)) as side:
            assert not side.chain.stale()
        assert liar.told == 1


# R8, with two endpoints.


async def test_r8_with_two_endpoints_both_must_agree_on_an_increase(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through], caplog: pytest.LogCaptureFixture
) -> None:
    payer = devnet.payer()
    node = await nodes(*pair)
    async with chain_side(devnet, node=node) as side:
        await side.fund(payer, 1_000_000)
        for liar in pair:
            funds = side.account(payer).funds
            liar.lie(richer, times=None)
            payer.deposit(1_000)
            await side.mirrored()
            assert side.account(payer).funds == funds
            assert any("wait for a second answer" in problem for problem in side.chain.problems())
            liar.honest()
            await until(lambda funds=funds: side.account(payer).funds == funds + 1_000)  # type: ignore[misc]
    assert alarms(caplog, "contradicted answer (state): http://127.0.0.1")


async def test_r8_one_lie_of_one_of_two_endpoints_delays_nothing(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through], caplog: pytest.LogCaptureFixture
) -> None:
    payer = devnet.payer()
    node = await nodes(*pair)
    async with chain_side(devnet, node=node, poll_s=3_600) as side:
        await side.fund(payer, 1_000_000)
        for number, liar in enumerate(pair, start=1):
            liar.lie(richer)
            payer.deposit(1_000)
            await side.chain._watcher.look()
            assert side.account(payer).funds == 1_000_000 + 1_000 * number
            assert liar.told == 1
    assert len(alarms(caplog, "contradicted answer (state)")) == 2


async def test_r8_while_one_of_two_endpoints_is_down_nothing_rises_and_what_falls_is_taken(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pair
    payer, other = devnet.payer(), devnet.payer()
    node = await nodes(first, second)
    async with chain_side(devnet, node=node) as side:
        for one in (payer, other):
            await side.fund(one, 1_000_000, SELLER)
        second.down = True
        payer.deposit(5_000)
        other.initiate_withdraw(600_000)
        await side.mirrored()
        assert side.account(payer).funds == 1_000_000
        assert side.account(other).withdrawing == 600_000
        devnet.anvil.advance(DELAY_S + 1)
        other.finalize_withdraw()
        await side.mirrored()
        assert side.account(other).funds == 400_000
        await side.must_charge(payer, SELLER, 7)
        await asyncio.sleep(0)
        (line,) = alarms(caplog, "unconfirmed deposit")
        assert to_hex(payer.account_id) in line
        second.down = False
        await until(lambda: side.account(payer).funds == 1_005_000)
        await until(lambda: not side.chain.problems())


async def test_r8_what_landed_while_one_of_two_endpoints_is_down_is_not_claimed_again(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through]
) -> None:
    """Nobody confirms what it paid, so the ledger does not have it; the claim itself is final and paid in full."""
    first, second = pair
    payer = devnet.payer()
    node = await nodes(first, second)
    async with chain_side(devnet, node=node) as side:
        settlement = ClaimService(side.chain, side.writer, side.outbox, SettlementSettings(interval_s=10**9))
        await side.fund(payer, 1_000_000, SELLER)
        await side.must_charge(payer, SELLER, 900)
        second.down = True
        for expected in (1, 0, 0):
            claims = await settlement.settle_now()
            assert len(claims) == expected, "the operator pays for a claim of nothing, again and again"
            for claim in claims:
                await side.chain.wait(claim, final=True, timeout_s=10)
            await side.mirrored()
            assert side.channel(payer, SELLER).claimed == 0
        await side.must_charge(payer, SELLER, 50)
        (claim,) = await settlement.settle_now()
        await side.chain.wait(claim, final=True, timeout_s=10)
        assert devnet.balance(SELLER) == 950
        second.down = False
        await until(lambda: side.channel(payer, SELLER).claimed == 950)
        assert await settlement.settle_now() == []
        await settlement.stop()


async def test_r8_what_paid_less_while_one_of_two_endpoints_is_down_is_claimed_again(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through]
) -> None:
    first, second = pair
    payer = devnet.payer()
    node = await nodes(first, second)
    async with chain_side(devnet, node=node) as side:
        settlement = ClaimService(side.chain, side.writer, side.outbox, SettlementSettings(interval_s=10**9))
        await side.fund(payer, 1_000, SELLER)
        await side.must_charge(payer, SELLER, 900)
        second.down = True
        devnet.anvil.rpc("evm_setAutomine", False)
        call = side.chain.escrow.refund_call(payer.config, 500, 0)
        await side.chain.send(Send(TransactionKind.REFUND, b"somebody else's", call))  # the ledger knows of none
        run = asyncio.create_task(settlement.settle_now())
        await until(lambda: len(side.disk.outbound) == 2)
        devnet.anvil.rpc("evm_setAutomine", True)
        devnet.anvil.mine(1)
        (claim,) = await run
        await side.chain.wait(claim, final=True, timeout_s=10)
        assert devnet.balance(SELLER) == 500
        payer.deposit(1_000)
        await side.mirrored()
        (claim,) = await settlement.settle_now()
        await side.chain.wait(claim, final=True, timeout_s=10)
        assert devnet.balance(SELLER) == 900
        await settlement.stop()


async def test_r8_one_wrong_answer_hides_no_new_account_while_one_of_two_endpoints_is_down(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through]
) -> None:
    """The lower of two answers that differ counts, but an account is not called too small because of it."""
    first, second = pair
    payer = devnet.payer()

    def poorer(method: str, params: list[Any], truth: Any) -> Any:
        if method != "eth_call" or not params[0]["data"].startswith(to_hex(calls.selector(calls.ACCOUNTS))):
            return truth
        return truth[: 2 + 192] + "0" * 64 + truth[2 + 256 :] if len(truth) > 2 + 128 else truth

    node = await nodes(first, second)
    async with chain_side(devnet, node=node) as side:
        second.down = True
        first.lie(poorer)
        payer.deposit(5_000_000)
        await side.mirrored()
        assert first.told == 1
        second.down = False
        await until(lambda: payer.account_id in side.ledger.accounts)
        await until(lambda: side.account(payer).funds == 5_000_000)
        await until(lambda: not side.chain.problems())


async def test_r8_accounts_that_wait_for_a_second_answer_are_read_a_few_at_a_time(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an hour without the second endpoint nearly every account waits; a look must not take longer by that."""
    payers = [devnet.payer() for _ in range(5)]
    node = await nodes(*pair)
    async with chain_side(devnet, node=node, poll_s=3_600, limits=ChainLimits(waiting_per_look=2)) as side:
        pair[1].down = True
        for payer in payers:
            payer.deposit(1_000_000)
        await side.chain._watcher.look()
        read: list[int] = []
        accounts = side.chain.escrow.accounts

        async def counted(ids: Sequence[bytes], *more: Any) -> Any:
            read.append(len(ids))
            return await accounts(ids, *more)

        monkeypatch.setattr(side.chain.escrow, "accounts", counted)
        for _ in range(2):
            await side.chain._watcher.look()
        assert max(read) == 2
        pair[1].down = False
        node._endpoints[1].rests_until = 0.0
        for _ in range(3):
            await side.chain._watcher.look()
        assert [side.account(payer).funds for payer in payers] == [1_000_000] * 5


async def test_r10_a_preferred_endpoint_that_is_always_a_block_behind_holds_nothing_up(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pair
    payer = devnet.payer()

    def behind(method: str, params: list[Any], truth: Any) -> Any:
        newest = devnet.anvil.rpc("eth_getBlockByNumber", "latest", False)
        names = [param.get("blockHash", "") for param in params if isinstance(param, dict)]
        if newest["hash"] in (*params[:1], *names):
            if method == "eth_getBlockByHash":
                return None
            raise JsonRpcError({"code": -32000, "message": "header not found"})
        if method == "eth_getBlockByNumber" and params[0] in ("latest", newest["number"]):
            before = devnet.anvil.rpc("eth_getBlockByNumber", hex(int(newest["number"], 16) - 1), False)
            return before if params[0] == "latest" else None
        return truth

    node = await nodes(first, second)
    async with chain_side(devnet, node=node, confirmations=2) as side:
        first.lie(behind, times=None)
        payer.deposit(1_000_000)
        devnet.anvil.mine(2)
        await side.mirrored()
        assert side.account(payer).funds == 1_000_000
        payer.initiate_withdraw(400_000)
        await side.mirrored()
        assert side.account(payer).withdrawing == 400_000
    assert not alarms(caplog)
    assert second.told == 0


async def test_a_second_answer_is_another_endpoints_where_there_is_one(
    devnet: Devnet, nodes: Any, pair: tuple[Through, Through]
) -> None:
    node: RpcNode = await nodes(*pair)
    head, heard = await node.head(), Heard()
    await node.call(devnet.token, function("decimals()"), head, heard=heard)
    again = heard.again()
    await node.call(devnet.token, function("decimals()"), head, heard=again)
    assert {*heard.sources} == {0}
    assert {*again.sources} == {1}
    alone: RpcNode = await nodes(Through(devnet))
    heard = Heard()
    await alone.call(devnet.token, function("decimals()"), head, heard=heard)
    await alone.call(devnet.token, function("decimals()"), head, heard=heard.again())
