"""Child processes of a run: each prints JSON lines, takes lines on its input, and is ended by us.

A child says `{"ready": true, ...}` when it has prepared itself, waits for a line, and works. Its errors go to a file,
of which the end is shown if it fails.
"""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

STOP_TIMEOUT_S: Final = 20.0
_LINE_BYTES_MAX: Final = 64 * 1024 * 1024


class ChildFailedError(Exception):
    """A child ended, or was silent, when it should not have; the message holds the end of what it wrote."""


class Child:
    """One running child."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._log = log

    async def read(self, timeout_s: float) -> dict[str, Any]:
        """The next line that the child prints; raises ChildFailedError if there is none in time."""
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
        except TimeoutError:
            raise ChildFailedError(f"{self.name} said nothing for {timeout_s:.0f} s:\n{self._tail()}") from None
        if not line:
            raise ChildFailedError(f"{self.name} ended with {await self._process.wait()}:\n{self._tail()}")
        message: dict[str, Any] = json.loads(line)
        return message

    async def tell(self, message: Mapping[str, Any]) -> None:
        """Give the child a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        await self._process.stdin.drain()

    async def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it and wait; a child that does not go in time is killed. Returns its exit code."""
        if self._process.returncode is None:
            self._send(how)
            try:
                await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                self._send(signal.SIGKILL)
        return await self._process.wait()

    def _send(self, how: signal.Signals) -> None:
        # Not `Process.send_signal`, which may take the exit code from under the loop that waits for it.
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            signal.pidfd_send_signal(handle, how)
        finally:
            os.close(handle)

    def _tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-3000:]


class Children:
    """All children of a run; leaving the context ends those that still run, the last one first."""

    def __init__(self, folder: Path, tree: Path | None = None) -> None:
        """Logs go to the folder. `tree`: another checkout of the project, whose code the children run."""
        self._folder = folder
        self._tree = tree
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        """Start with none."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all."""
        for child in reversed(self._children):
            await child.end()

    async def start(
        self, module: str, settings: Mapping[str, Any], environment: Mapping[str, str] | None = None, number: int = 0
    ) -> Child:
        """Start `python -m <module>` with the settings as its only argument, in JSON."""
        name = f"{module}-{number}"
        log = self._folder / f"{name}.log"
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                json.dumps(settings),
                stdin=PIPE,
                stdout=PIPE,
                stderr=errors,
                env=os.environ | {"PYTHONPATH": _python_path(self._tree)} | (environment or {}),
                limit=_LINE_BYTES_MAX,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    async def run(self, module: str, settings: Mapping[str, Any], timeout_s: float, number: int = 0) -> dict[str, Any]:
        """Start a child and return the one line that it prints."""
        child = await self.start(module, settings, number=number)
        answer = await child.read(timeout_s)
        await child.end()
        return answer


def _python_path(tree: Path | None) -> str:
    """Where children find this package, however their parent was started; of another tree all packages are found."""
    if tree is not None:
        return os.pathsep.join(str(tree / name) for name in ("scripts", "proto", "contracts", "aggregator", "client"))
    known = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), known)))


def settings_of_child() -> dict[str, Any]:
    """What `Children.start` was given, on the child's side."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    return settings


def say(message: Mapping[str, Any]) -> None:
    """Print one line for the parent."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def hear() -> dict[str, Any]:
    """Wait for a line of the parent; an ended parent ends the child too."""
    line = sys.stdin.readline()
    if not line:
        raise SystemExit("the parent is gone")
    message: dict[str, Any] = json.loads(line)
    return message
