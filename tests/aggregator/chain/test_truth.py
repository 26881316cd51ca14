"""What the mirror believes when an answer is wrong: one wrong answer, once, costs nothing and is noticed.

The node is asked through `LyingNode`, as a single endpoint is: what it says twice is believed, unless the account's
events or the escrow's tokens speak against it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from faults import LyingNode
from harness import chain_side
from memory_chain.node import bloom_of

from anvil import DELAY_S, Devnet, receiver
from tallystick.reasons import Reason
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain.node import Header, Log
from tallystick_aggregator.chain.port import Block, ChainUnavailableError, Heard, Send
from tallystick_aggregator.chain.rpc.bloom import BLOOM_BYTES, may_hold
from tallystick_aggregator.chain.rpc.node import RpcNode
from tallystick_aggregator.chain.settings import ChainLimits
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.store.port import TransactionKind
from waiting import until

SELLER = receiver(1)


@pytest.fixture
async def node(devnet: Devnet) -> AsyncIterator[LyingNode]:
    rpc = RpcNode([devnet.anvil.url])
    yield LyingNode(rpc)
    await rpc.close()


def alarms(caplog: pytest.LogCaptureFixture, phrase: str) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.name == "tallystick.alarm"]
    return [line for line in lines if line.startswith(phrase)]


def nothing(_truth: Sequence[Log], *_asked: Any) -> Sequence[Log]:
    return []


def without_filter(truth: Header, *_asked: Any) -> Header:
    """A header that says that no contract had an event."""
    return truth._replace(logs_bloom=bytes(BLOOM_BYTES))


def view(change: Callable[[list[int]], None], function: str = calls.ACCOUNTS) -> Callable[..., bytes]:
    """Change the words of the first item that the escrow's view tells of, after its offset and length."""

    def changed(truth: bytes, _to: bytes, data: bytes, *_more: Any) -> bytes:
        if data[:4] != calls.selector(function) or len(truth) <= 64:
            return truth
        words = [int.from_bytes(truth[at : at + 32], "big") for at in range(64, len(truth), 32)]
        change(words)
        return truth[:64] + b"".join(word.to_bytes(32, "big") for word in words)

    return changed


def richer(by: int) -> Callable[..., bytes]:
    def change(words: list[int]) -> None:
        words[1] += by

    return view(change)


def not_withdrawing(words: list[int]) -> None:
    words[4] = words[5] = 0


# R7: events that are left out.


@pytest.mark.parametrize("confirmations", [0, 2])
async def test_r7_one_empty_answer_hides_no_withdrawal(
    devnet: Devnet, node: LyingNode, caplog: pytest.LogCaptureFixture, confirmations: int
) -> None:
    payer = devnet.payer()
    async with chain_side(devnet, node=node, confirmations=confirmations) as side:
        payer.deposit(1_000_000)
        devnet.anvil.mine(confirmations)
        await side.mirrored()
        node.lie("block_logs", nothing)
        payer.initiate_withdraw(1_000_000)
        await side.mirrored()
        assert side.account(payer).withdrawing == 1_000_000
        assert side.account(payer).withdraw_finalizes_at
    assert alarms(caplog, "contradicted answer (logs)")


async def test_r7_an_empty_answer_that_nobody_could_be_asked_about_is_told_once_the_truth_is_known(
    devnet: Devnet, node: LyingNode, caplog: pytest.LogCaptureFixture
) -> None:
    payer = devnet.payer()
    async with chain_side(devnet, node=node) as side:
        payer.deposit(1_000_000)
        await side.mirrored()
        asked = 0

        def nothing_then_silence(truth: Sequence[Log], *_asked: Any) -> Sequence[Log]:
            nonlocal asked
            asked += bool(truth)
            if not truth or asked > 3:
                return truth
            if asked > 1:
                raise ChainUnavailableError("nobody answers")
            return nothing(truth)

        node.always["block_logs"] = nothing_then_silence
        payer.initiate_withdraw(1_000_000)
        await side.mirrored()
        assert side.account(payer).withdrawing == 1_000_000
    assert asked > 3
    assert len(alarms(caplog, "contradicted answer (logs)")) == 1


async def test_r7_events_that_even_the_header_denies_are_found_when_the_block_is_final(
    devnet: Devnet, node: LyingNode, caplog: pytest.LogCaptureFixture
) -> None:
    payer = devnet.payer()
    async with chain_side(devnet, node=node, confirmations=2) as side:
        payer.deposit(1_000_000)
        devnet.anvil.mine(2)
        await side.mirrored()
        node.lie("block_logs", nothing)
        node.always["header"] = without_filter
        payer.initiate_withdraw(1_000_000)
        await side.mirrored()
        assert side.account(payer).withdrawing == 0, "nobody could know"
        del node.always["header"]
        devnet.anvil.mine(2)
        await side.mirrored()
        assert side.account(payer).withdrawing == 1_000_000
    assert alarms(caplog, "contradicted answer (logs)")


ODD_EVENTS = {
    "without a name": Log((), b"", 0),
    "without topics": Log((calls.event_topic("Owed"),), b"", 0),
    "with a topic too many": Log((calls.event_topic("RowSkipped"), bytes(32), bytes(32), bytes(32)), b"", 0),
    "without data": Log((calls.event_topic("AccountOpened"), bytes(32), bytes(32), bytes(32)), b"", 0),
}


@pytest.mark.parametrize("odd", ODD_EVENTS.values(), ids=ODD_EVENTS)
@pytest.mark.parametrize("answer", [1, 2], ids=["first", "when-final"])
async def test_r7_an_event_that_the_escrow_cannot_emit_told_once_stops_no_later_look(
    devnet: Devnet, node: LyingNode, odd: Log, answer: int
) -> None:
    told = 0

    def made_up(truth: Sequence[Log], _address: bytes, block: Block, *_more: Any) -> Sequence[Log]:
        nonlocal told
        told += 1
        return [*truth, odd._replace(block_number=block.number)] if told == answer else truth

    payer = devnet.payer()
    async with chain_side(devnet, node=node, confirmations=1) as side:
        payer.deposit(1_000_000)
        devnet.anvil.mine()
        await side.mirrored()
        node.always["block_logs"] = made_up
        devnet.anvil.mine()
        await side.mirrored()
        devnet.anvil.mine()
        await side.mirrored()
        assert told > answer
        payer.initiate_withdraw(1_000_000)
        await side.mirrored()
        assert side.account(payer).withdrawing == 1_000_000


async def test_r7_an_account_with_a_channel_is_read_again_whatever_the_events_say(
    devnet: Devnet, node: LyingNode
) -> None:
    now = [1_800_000_000.0]
    payer, idle = devnet.payer(), devnet.payer()
    async with chain_side(devnet, node=node, clock=lambda: now[0]) as side:
        await side.fund(idle, 1_000_000)
        await side.fund(payer, 1_000_000, SELLER)
        node.always |= {"block_logs": nothing, "logs": nothing, "header": without_filter}
        payer.initiate_withdraw(1_000_000)
        await side.mirrored()
        assert side.account(payer).withdrawing == 0
        for _ in range(2):  # its first turn comes within the interval, the next an interval later
            now[0] += DELAY_S / 8
            await side.chain._watcher.look()
        assert side.account(payer).withdrawing == 1_000_000


async def test_r7_a_hidden_withdrawal_in_the_state_is_not_believed_after_its_event(
    devnet: Devnet, node: LyingNode, caplog: pytest.LogCaptureFixture
) -> None:
    payer = devnet.payer()
    async with chain_side(devnet, node=node) as side:
        await side.fund(payer, 1_000_000)
        node.lie("call", view(not_withdrawing))
        payer.initiate_withdraw(400_000)
        await side.mirrored()
        assert side.account(payer).withdrawing == 400_000
    assert alarms(caplog, "contradicted answer (state)")


async def test_r7_a_filter_that_is_always_wrong_stops_nothing(
    devnet: Devnet, node: LyingNode, caplog: pytest.LogCaptureFixture
) -> None:
    payer = devnet.payer()
    node.always["header"] = lambda truth, *_: truth._replace(logs_bloom=b"\xff" * BLOOM_BYTES)
    async with chain_side(devnet, node=node, confirmations=1) as side:
        payer.deposit(1_000_000)
        devnet.anvil.mine(3)
        await side.mirrored()
        assert side.account(payer).funds == 1_000_000
    assert not alarms(caplog, "contradicted answer")


async def test_r7_a_look_takes_few_questions_and_a_catch_up_asks_by_ranges(devnet: Devnet, node: LyingNode) -> None:
    async with chain_side(devnet, node=node, confirmations=3, poll_s=3_600) as side:
        devnet.anvil.mine(1)
        await side.chain._watcher.look()
        node.asked.clear()
        devnet.anvil.mine(1)
        await side.chain._watcher.look()
        assert len(node.asked) <= 7, node.asked
        assert "logs" not in node.asked
        node.asked.clear()
        devnet.anvil.mine(40)
        await side.chain._watcher.look()
        assert len(node.asked) <= 30, node.asked
        assert node.asked.count("logs") == 2


async def test_r7_the_filter_of_a_real_header_is_read_as_it_was_made(devnet: Devnet) -> None:
    devnet.payer().deposit(5_000)
    rpc = RpcNode([devnet.anvil.url])
    head = await rpc.head()
    header = await rpc.header(head.number)
    logs = await rpc.block_logs(devnet.escrow, head, Heard())
    await rpc.close()
    assert [log.topics[0] for log in logs] == [calls.event_topic("AccountOpened")]
    assert may_hold(header.logs_bloom, devnet.escrow, devnet.token, *logs[0].topics)
    assert not may_hold(header.logs_bloom, calls.event_topic("Owed"))
    assert may_hold(bloom_of([devnet.escrow, b"x"]), b"x", devnet.escrow)
    assert not may_hold(bloom_of([devnet.escrow]), devnet.token)


# R8: what raises credit.


@pytest.mark.parametrize("confirmations", [0, 2])
async def test_r8_one_inflated_balance_raises_nothing(
    devnet: Devnet, node: LyingNode, caplog: pytest.LogCaptureFixture, confirmations: int
) -> None:
    payer = devnet.payer()
    async with chain_side(devnet, node=node, confirmations=confirmations) as side:
        node.lie("call", richer(999_000))
        payer.deposit(1_000)
        devnet.anvil.mine(confirmations)
        await side.mirrored()
        assert side.account(payer).funds == 1_000
        await until(lambda: bool(node.told))
        await side.mirrored()
        assert side.account(payer).funds == 1_000
    assert alarms(caplog, "contradicted answer (state)")


async def test_r8_an_inflated_balance_that_is_told_again_and_again_is_not_explained_by_deposits(
    devnet: Devnet, node: LyingNode, caplog: pytest.LogCaptureFixture
) -> None:
    payer, other = devnet.payer(), devnet.payer()
    async with chain_side(devnet, node=node, confirmations=1) as side:
        for one in (payer, other):
            one.deposit(1_000_000)  # so that the escrow has the tokens
        devnet.anvil.mine(1)
        await side.mirrored()
        node.always["call"] = richer(500)
        payer.deposit(1_000)
        devnet.anvil.mine(1)
        await side.mirrored()
        assert side.account(payer).funds == 1_000_000, (
            "neither what is not there, nor what cannot be told apart from it"
        )
        assert alarms(caplog, "contradicted answer (deposits)")
        node.always.clear()
        await until(lambda: side.account(payer).funds == 1_001_000)
        assert side.account(other).funds == 1_000_000
        await until(lambda: not side.chain.problems())


async def test_r8_accounts_hold_no_more_than_the_escrow_has(
    devnet: Devnet, node: LyingNode, caplog: pytest.LogCaptureFixture
) -> None:
    """An account that is seen for the first time has no history here: the escrow's tokens bound what it may have."""
    payer = devnet.payer()
    payer.deposit(1_000)
    node.always["call"] = richer(1)
    async with chain_side(devnet, node=node) as side:
        assert side.account(payer).funds == 0
        assert alarms(caplog, "contradicted answer (deposits)")
        node.always.clear()
        await until(lambda: side.account(payer).funds == 1_000)


async def test_r8_what_was_told_too_low_once_takes_nothing(
    devnet: Devnet, node: LyingNode, caplog: pytest.LogCaptureFixture
) -> None:
    payer = devnet.payer()
    async with chain_side(devnet, node=node) as side:
        await side.fund(payer, 1_000_000, SELLER)
        await side.must_charge(payer, SELLER, 900_000)
        node.lie("call", richer(-500_000))
        payer.deposit(1)
        await side.mirrored()
        assert side.account(payer).funds == 1_000_001
        await side.must_charge(payer, SELLER, 100_000)
    assert alarms(caplog, "contradicted answer (state)")
    assert not alarms(caplog, "account short")


async def test_r8_one_inflated_total_marks_nothing_as_paid(
    devnet: Devnet, node: LyingNode, caplog: pytest.LogCaptureFixture
) -> None:
    """`claimed` only grows: what is believed to be paid is never claimed again."""
    payer = devnet.payer()

    def paid(words: list[int]) -> None:
        words[0] += 700

    async with chain_side(devnet, node=node) as side:
        await side.fund(payer, 1_000_000, SELLER)
        await side.must_charge(payer, SELLER, 900_000)
        node.lie("call", view(paid, calls.CLAIMED))
        payer.deposit(1_000)
        await side.mirrored()
        assert "call" in node.told
        assert side.channel(payer, SELLER).claimed == 0
    assert alarms(caplog, "contradicted answer (state)")


async def test_r8_one_inflated_refund_nonce_ends_no_refund(devnet: Devnet, node: LyingNode) -> None:
    payer = devnet.payer()

    def later(words: list[int]) -> None:
        words[2] += 1

    def start(draft: Draft, _ledger: Ledger, moment: DecisionContext) -> object:
        return accounts.start_refund(draft, payer.account_id, b"\x01" * 32, 0, 2_000, moment)

    async with chain_side(devnet, node=node) as side:
        await side.fund(payer, 1_000_000)
        assert isinstance(await side.writer.run(start), ev.RefundStarted)
        node.lie("call", view(later))
        payer.deposit(1_000)
        await side.mirrored()
        assert "call" in node.told
        assert side.account(payer).refunding == 2_000
        call = side.chain.escrow.refund_call(payer.config, 2_000, 0)
        await side.chain.wait(await side.chain.send(Send(TransactionKind.REFUND, b"r", call)), timeout_s=10)
        await side.mirrored()
        await until(lambda: side.account(payer).refunding == 0)


async def test_r8_a_deposit_whose_events_were_left_out_is_traced(
    devnet: Devnet, node: LyingNode, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1_800_000_000.0]
    payer = devnet.payer()
    async with chain_side(devnet, node=node, clock=lambda: now[0]) as side:
        await side.fund(payer, 1_000_000, SELLER)
        node.always |= {"block_logs": nothing, "header": without_filter}
        payer.deposit(5_000)
        await side.mirrored()
        node.always.clear()
        for _ in range(2):
            now[0] += DELAY_S / 8
            await side.chain._watcher.look()
        await until(lambda: side.account(payer).funds == 1_005_000)
    assert alarms(caplog, "contradicted answer (deposits)")
    assert alarms(caplog, "contradicted answer (logs)")


@pytest.mark.parametrize("slow", [False, True])
async def test_r8_events_that_cannot_be_had_hold_up_the_traced_account_alone(
    devnet: Devnet, node: LyingNode, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    """Nodes drop old events, and plans make searches for them slow."""
    now = [1_800_000_000.0]
    payer, other = devnet.payer(), devnet.payer()
    held_up = asyncio.Event()

    async def of_account(*_asked: Any) -> Sequence[Log]:
        held_up.set()
        if slow:
            await asyncio.Event().wait()
        raise ChainUnavailableError("the history was pruned")

    async with chain_side(devnet, node=node, clock=lambda: now[0], limits=ChainLimits(trace_s_max=0.1)) as side:
        await side.fund(payer, 1_000_000, SELLER)
        node.always |= {"block_logs": nothing, "header": without_filter}
        payer.deposit(5_000)
        await side.mirrored()
        node.always.clear()
        with monkeypatch.context() as patched:
            patched.setattr(side.chain.escrow, "of_account", of_account)
            now[0] += DELAY_S / 8
            await side.chain._watcher.look()
            other.deposit(7_000_000)
            await side.mirrored()
            assert held_up.is_set()
            assert side.account(other).funds == 7_000_000, "the mirror stood still for the sake of one account"
            assert side.account(payer).funds == 1_000_000
        await until(lambda: side.account(payer).funds == 1_005_000)


async def test_r8_a_deposit_that_was_final_before_a_restart_and_never_counted_is_traced(devnet: Devnet) -> None:
    """Nobody could confirm it then; all that the ledger has is the head that it reached."""
    payer = devnet.payer()
    async with chain_side(devnet) as side:
        await side.fund(payer, 1_000_000)
        payer.deposit(5_000)
        await side.mirrored()
        held_back = ev.AccountMirrored(payer.account_id, 1_000_000, 0, 0)
        await side.writer.run(lambda draft, _ledger, _moment: draft.record(held_back))
        disk = side.disk
    devnet.anvil.mine(3)
    async with chain_side(devnet, disk=disk, logs_range_blocks_max=2) as side:
        await until(lambda: side.account(payer).funds == 1_005_000)


async def test_r8_deposits_of_a_long_outage_are_explained_at_the_start(
    devnet: Devnet, caplog: pytest.LogCaptureFixture
) -> None:
    payer, gone = devnet.payer(), devnet.payer()
    async with chain_side(devnet, confirmations=2) as side:
        for one in (payer, gone):
            one.deposit(1_000_000)
        payer.initiate_withdraw(300_000)
        devnet.anvil.mine(2)
        await side.mirrored()
        devnet.anvil.advance(DELAY_S + 1)
        payer.finalize_withdraw()  # not final when the aggregator stops
        await side.mirrored()
        assert side.account(payer).funds == 700_000
        disk = side.disk
    payer.deposit(50_000)
    gone.deposit(7)
    devnet.anvil.mine(5)
    async with chain_side(devnet, disk=disk, confirmations=2) as side:
        assert (side.account(payer).funds, side.account(gone).funds) == (750_000, 1_000_007)
    assert not alarms(caplog, "contradicted answer")


async def test_r8_a_channels_baseline_is_read_twice(devnet: Devnet, node: LyingNode) -> None:
    from tallystick_aggregator.chain.contradictions import read_account, read_claimed  # noqa: PLC0415

    payer = devnet.payer()

    def paid(words: list[int]) -> None:
        words[0] += 700

    async with chain_side(devnet, node=node) as side:
        await side.fund(payer, 1_000_000)
        head = await side.chain.head()
        for number in range(2):  # whichever of the two answers is wrong
            node.lie("call", view(paid, calls.CLAIMED))
            if number:
                await side.chain.escrow.claimed([payer.channel_id(SELLER)], head)
                node.lie("call", view(paid, calls.CLAIMED))
            assert await read_claimed(side.chain.escrow, payer.channel_id(SELLER), head) == 0
        node.lie("call", richer(1))
        assert (await read_account(side.chain.escrow, payer.account_id, head)).balance == 1_000_000


# I11.


async def test_r8_an_account_that_is_short_is_told_with_both_figures_until_it_is_not(
    devnet: Devnet, caplog: pytest.LogCaptureFixture
) -> None:
    """A reorganisation takes back a deposit that was spent."""
    payer = devnet.payer()
    devnet.anvil.mine(5)
    async with chain_side(devnet) as side:
        await side.fund(payer, 5_000_000, SELLER)
        await side.must_charge(payer, SELLER, 4_000_000)
        devnet.anvil.reorg(1)
        await until(lambda: side.account(payer).funds == 0)
        (line,) = alarms(caplog, "account short")
        assert "4000000" in line
        assert any("account short" in problem for problem in side.chain.problems())
        refusal = await side.charge(payer, SELLER, 1)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.ACCOUNT_SHORT
        payer.deposit(6_000_000)
        await side.mirrored()
        assert isinstance(await side.charge(payer, SELLER, 1), Accepted)
        await until(lambda: bool(alarms(caplog, "account no longer short")))
