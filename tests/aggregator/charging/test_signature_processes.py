"""Signatures that are checked by processes of their own: the same verdicts, and no end when a process ends."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from doubles import DOMAIN, Payer
from msgspec.structs import replace

from tallystick_aggregator.charging.signature_processes import CHUNK_MIN, SignatureProcesses, pack, unpack, work
from tallystick_aggregator.charging.signatures import AuthorizerKeys, SignatureCheck, check_signatures


def checks_of(payer: Payer, count: int, *, kept: bool = True) -> list[SignatureCheck]:
    """Good ones."""
    return [
        SignatureCheck(
            number, DOMAIN.separator, payer.channel_id(), ceiling, payer.voucher(ceiling).signature,
            payer.signer.address, kept,
        )
        for number, ceiling in enumerate(range(1, count + 1))
    ]  # fmt: skip


@pytest.fixture
async def processes() -> AsyncIterator[SignatureProcesses]:
    checker = SignatureProcesses(2, restart_after_s=0.01)
    await checker.start()
    yield checker
    checker.close()
    await checker.closed()


@pytest.mark.parametrize("count", [1, 8, 9, 40, 300])
async def test_verdicts_are_in_the_order_of_the_checks(processes: SignatureProcesses, count: int) -> None:
    checks = checks_of(Payer("alice"), count)
    bad = {0, count // 2}
    checks = [replace(check, ceiling=10**9) if index in bad else check for index, check in enumerate(checks)]

    assert list(await processes.check(checks)) == [index not in bad for index in range(count)]


async def test_many_requests_at_once_get_their_own_answers(processes: SignatureProcesses) -> None:
    alice, bob = checks_of(Payer("alice"), 20), checks_of(Payer("bob"), 20)
    stolen = [replace(check, authorizer=Payer("bob").signer.address) for check in alice]

    verdicts = await asyncio.gather(*(processes.check(checks) for checks in (alice, stolen, bob) * 5))

    assert [set(answer) for answer in verdicts] == [{True}, {False}, {True}] * 5


async def test_a_signature_of_another_length_is_bad_and_shifts_nobody(processes: SignatureProcesses) -> None:
    checks = checks_of(Payer("alice"), 20)
    checks[3] = replace(checks[3], signature=checks[3].signature[:64])

    assert list(await processes.check(checks)) == [index != 3 for index in range(20)]


async def test_what_a_dead_process_owed_is_checked_and_the_process_is_replaced(processes: SignatureProcesses) -> None:
    before = processes.pids
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    asked = asyncio.create_task(processes.check(checks_of(Payer("alice"), 100)))
    while not all(worker.owed_checks for worker in processes._workers):  # noqa: ASYNC110 - until both have been asked
        await asyncio.sleep(0)
    assert not asked.done()
    for pid in before:
        os.kill(pid, signal.SIGKILL)

    assert all(await asyncio.wait_for(asked, 30))
    async with asyncio.timeout(30):
        while len(processes.pids) < 2:  # noqa: ASYNC110 - a process tells nobody that it lives
            await asyncio.sleep(0.01)
    assert not set(before) & set(processes.pids)
    assert all(await processes.check(checks_of(Payer("bob"), 100)))


async def test_a_process_that_cannot_be_replaced_at_once_is_replaced_later(
    processes: SignatureProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [BlockingIOError(11, "no room for another process"), OSError(12, "no memory")]
    start = asyncio.create_subprocess_exec

    async def starting(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return await start(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", starting)
    before = processes.pids
    os.kill(before[0], signal.SIGKILL)

    async with asyncio.timeout(20):
        while failures or len(processes.pids) < len(before):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    assert before[0] not in processes.pids


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_what_a_shell_sends_to_all_of_a_job_does_not_end_them_before_their_parent(
    processes: SignatureProcesses, number: signal.Signals
) -> None:
    before = processes.pids
    checks = checks_of(Payer("alice"), CHUNK_MIN * len(before))
    await processes.check(checks)  # so that they are up: each has answered for its chunk
    for pid in before:
        os.kill(pid, number)

    assert all(await processes.check(checks))
    assert processes.pids == before


async def test_processes_end_when_they_are_no_longer_needed() -> None:
    checker = SignatureProcesses(1)
    await checker.start()
    (pid,) = checker.pids
    checker.close()
    await asyncio.wait_for(checker.closed(), 30)

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_check_travels_whole() -> None:
    checks = [*checks_of(Payer("alice"), 2), *checks_of(Payer("bob"), 1, kept=False)]
    packed = pack(checks)

    assert int.from_bytes(packed[:4], "big") == 3
    assert unpack(packed[4:]) == [replace(check, position=0) for check in checks]


def test_a_process_answers_one_byte_for_each_check() -> None:
    checks = checks_of(Payer("alice"), 3)
    checks[1] = replace(checks[1], ceiling=7)
    answers = io.BytesIO()

    work(io.BytesIO(pack(checks) + pack(checks[:1])), answers)

    assert answers.getvalue() == b"\1\0\1" + b"\1"


@pytest.mark.parametrize("kept", [True, False])
def test_only_what_the_chain_takes_may_be_kept(*, kept: bool) -> None:
    """A wrong v says nothing about who signed, but the chain would recover somebody else."""
    (check,) = checks_of(Payer("alice"), 1, kept=kept)
    keys = AuthorizerKeys()
    assert check_signatures([check], keys) == [True]
    wrong_v = check.signature[:64] + bytes([55 - check.signature[64]])

    assert check_signatures([replace(check, signature=wrong_v)], keys) == [not kept]
    assert check_signatures([replace(check, signature=wrong_v)], AuthorizerKeys()) == [False], (
        "an unknown key is recovered"
    )
