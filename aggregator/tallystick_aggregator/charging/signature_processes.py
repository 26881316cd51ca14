"""Signatures checked by processes of their own: neither they nor the event loop wait for the other's interpreter.

Each is a child, this module run as a program, that reads requests on its input and writes verdicts on its output, in
order. It is given no secret and keeps no state but parsed public keys. It ends when its input does, so none outlives
its parent. If one dies, what it owed is checked in this process, and a new one takes its place.

request: 4 bytes, how many checks; then 166 bytes each: kept (1), domain separator (32), authorizer (20),
channel id (32), ceiling (16, big-endian), signature (65)
answer:  a byte for each: 1 good, 0 bad
"""

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Sequence
from typing import BinaryIO, Final

from tallystick_aggregator.charging.signatures import (
    AuthorizerKeys,
    SignatureCheck,
    SignatureThreads,
    check_signatures,
)

SIGNATURE_BYTES: Final = 65
CHECK_BYTES: Final = 166
INLINE_CHECKS_MAX: Final = 2
"""So few signatures are checked on the event loop: asking a child costs as much as they do."""
CHUNK_MIN: Final = 64
"""Signatures per request at least: two milliseconds of work, which is worth the fifty microseconds of asking."""
RESTART_AFTER_S: Final = 1.0
"""A child that died is replaced after this long: one that cannot live must not keep the machine busy."""
_INHERITED: Final = ("LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "SYSTEMROOT")
"""What a child gets of the environment: what Python needs to start, and none of what else may be in it."""

log = logging.getLogger(__name__)

Owed = tuple[Sequence[SignatureCheck], "asyncio.Future[Sequence[bool]]"]


class SignatureProcesses:
    """Checks in child processes. To be started on the event loop that uses it."""

    def __init__(self, processes: int, *, restart_after_s: float = RESTART_AFTER_S) -> None:
        self._restart_after_s = restart_after_s
        self._workers = [_Worker() for _ in range(processes)]
        self._keeping: list[asyncio.Task[None]] = []
        self._here = SignatureThreads()
        self._keys = AuthorizerKeys()

    async def start(self) -> None:
        """Start the children, and replace those that die until `close`."""
        await asyncio.gather(*(worker.start() for worker in self._workers))
        self._keeping = [asyncio.create_task(self._keep(worker), name="signatures") for worker in self._workers]

    async def check(self, checks: Sequence[SignatureCheck]) -> Sequence[bool]:
        if len(checks) <= INLINE_CHECKS_MAX:
            return check_signatures(checks, self._keys)
        workers = sorted((worker for worker in self._workers if worker.alive), key=lambda worker: worker.owed_checks)
        if not workers:
            return await self._here.check(checks)
        # A signature of another length is bad, and would shift its neighbours' bytes.
        if any(len(check.signature) != SIGNATURE_BYTES for check in checks):
            return await self._here.check(checks)
        size = max(CHUNK_MIN, -(-len(checks) // len(workers)))
        chunks = [checks[start : start + size] for start in range(0, len(checks), size)]
        answers = [worker.ask(chunk) for worker, chunk in zip(workers, chunks, strict=False)]
        return [verdict for answer in answers for verdict in await answer]

    @property
    def pids(self) -> list[int]:
        """The process ids of the children that are alive."""
        return [worker.pid for worker in self._workers if worker.alive]

    def close(self) -> None:
        for task in self._keeping:
            task.cancel()
        for worker in self._workers:
            worker.end()
        self._here.close()

    async def closed(self) -> None:
        """Wait until the children have ended."""
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await asyncio.gather(*(worker.ended() for worker in self._workers))

    async def _keep(self, worker: "_Worker") -> None:
        """Hear a child's answers; when it dies, do what it owes and start another."""
        while True:
            await worker.hear()
            log.warning("a process that checks signatures has died; another one takes its place")
            for checks, answer in worker.take_owed():
                if not answer.done():
                    answer.set_result(await self._here.check(checks))
            await self._restart(worker)

    async def _restart(self, worker: "_Worker") -> None:
        """Start a child in the dead one's place, once the machine has room for it."""
        while not worker.alive:
            await asyncio.sleep(self._restart_after_s)
            try:
                await worker.start()
            except OSError as error:
                log.warning("no process that checks signatures can be started, so threads do it: %s", error)


class _Worker:
    """One child and what it owes."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._owed: deque[Owed] = deque()
        self.owed_checks = 0
        self.alive = False

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start the child."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tallystick_aggregator.charging.signature_processes",
            stdin=PIPE,
            stdout=PIPE,
            env={name: os.environ[name] for name in _INHERITED if name in os.environ},
        )
        self.alive = True

    def ask(self, checks: Sequence[SignatureCheck]) -> "asyncio.Future[Sequence[bool]]":
        """Send checks; their verdicts come later."""
        assert self._process is not None
        assert self._process.stdin is not None
        answer: asyncio.Future[Sequence[bool]] = asyncio.get_running_loop().create_future()
        self._owed.append((checks, answer))
        self.owed_checks += len(checks)
        self._process.stdin.write(pack(checks))
        return answer

    async def hear(self) -> None:
        """Hand out verdicts until the child is gone."""
        assert self._process is not None
        assert self._process.stdout is not None
        answers = self._process.stdout
        while first := await answers.read(1):
            checks, answer = self._owed[0]
            try:
                verdicts = first + await answers.readexactly(len(checks) - 1)
            except asyncio.IncompleteReadError:
                break
            self._owed.popleft()
            self.owed_checks -= len(checks)
            if not answer.done():
                answer.set_result([verdict == 1 for verdict in verdicts])
        self.alive = False
        await self._process.wait()

    def take_owed(self) -> list[Owed]:
        """Take what was asked and never answered."""
        owed = list(self._owed)
        self._owed.clear()
        self.owed_checks = 0
        return owed

    def end(self) -> None:
        """End the child: it stops when its input ends."""
        self.alive = False
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        for _, answer in self.take_owed():
            answer.cancel()

    async def ended(self) -> None:
        """Wait until the child has ended."""
        if self._process is not None:
            await self._process.wait()


# The child.


def pack(checks: Sequence[SignatureCheck]) -> bytes:
    """A request. Signatures must have 65 bytes."""
    parts = [len(checks).to_bytes(4, "big")]
    for check in checks:
        parts += (
            b"\1" if check.kept else b"\0",
            check.domain_separator,
            check.authorizer,
            check.channel_id,
            check.ceiling.to_bytes(16, "big"),
            check.signature,
        )
    return b"".join(parts)


def unpack(body: bytes) -> list[SignatureCheck]:
    """The checks of a request, after its first 4 bytes."""
    return [
        SignatureCheck(
            position=0,
            domain_separator=body[at + 1 : at + 33],
            channel_id=body[at + 53 : at + 85],
            ceiling=int.from_bytes(body[at + 85 : at + 101], "big"),
            signature=body[at + 101 : at + CHECK_BYTES],
            authorizer=body[at + 33 : at + 53],
            kept=body[at] == 1,
        )
        for at in range(0, len(body), CHECK_BYTES)
    ]


def work(requests: BinaryIO, answers: BinaryIO) -> None:
    """Be the child: answer until there are no more requests."""
    keys = AuthorizerKeys()
    while len(head := requests.read(4)) == 4:
        body = requests.read(int.from_bytes(head, "big") * CHECK_BYTES)
        answers.write(bytes(check_signatures(unpack(body), keys)))
        answers.flush()


if __name__ == "__main__":
    # The parent decides when to stop, by closing the pipe; what a terminal or a shell sends reaches its children too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    work(sys.stdin.buffer, sys.stdout.buffer)
