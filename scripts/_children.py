"""Child processes of a script: Python modules, started here, listened to, and ended by their id, the last one first.

Two kinds. One writes to a log, for people, and is waited for by the text of a line (`said`). The other one talks: it
prints JSON lines for its parent, and takes such lines on its input (`read`, `tell`; `say`, `hear` on its own side); its
errors alone go to the log. Whichever fails shows the end of its log.
"""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

STOP_TIMEOUT_S: Final = 20.0
_LINE_BYTES_MAX: Final = 64 * 1024 * 1024
_PACKAGES: Final = ("scripts", "proto", "contracts", "aggregator", "client")
"""Where a checkout has its packages."""


class ChildFailedError(Exception):
    """A child ended, or was silent, when it should not have; the message holds the end of what it wrote."""


class Child:
    """One child, running or not."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self.log = log
        self._process = process

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative, if a signal ended it."""
        return self._process.returncode

    async def said(self, text: str, timeout_s: float = 60.0) -> str:
        """Wait for a line of its log with this text; the word after it. Raises ChildFailedError if there is none."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while asyncio.get_running_loop().time() < deadline:
            for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
                if text in line and line.endswith("\n"):
                    return line.partition(text)[2].split()[0]
            if self.exit_code is not None:
                break
            await asyncio.sleep(0.02)
        raise ChildFailedError(f"{self.name} did not say {text!r}:\n{self._tail()}")

    async def read(self, timeout_s: float) -> dict[str, Any]:
        """The next line that it prints for us; raises ChildFailedError if there is none in time."""
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
        """Give it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        await self._process.stdin.drain()

    async def lines(self) -> AsyncIterator[str]:
        """What it prints, line by line, until it ends; it is told nothing. Raises ChildFailedError if it fails then."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        async for line in self._process.stdout:
            yield line.decode().rstrip("\n")
        if await self._process.wait() != 0:
            raise ChildFailedError(f"{self.name} failed with {self.exit_code}:\n{self._tail()}")

    async def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it and wait; one that does not go in time is killed. Returns its exit code."""
        if self.exit_code is None:
            self._send(how)
            try:
                await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                self._send(signal.SIGKILL)
        return await self._process.wait()

    async def kill(self) -> None:
        """End it without a word. It must be running: nobody ends but by us."""
        assert self.exit_code is None, f"{self.name} ended by itself with {self.exit_code}"
        await self.end(signal.SIGKILL)

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
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]


class Children:
    """All children of a run; leaving the context ends those that still run, the last one first."""

    def __init__(self, folder: Path, tree: Path | None = None) -> None:
        """Logs go to the folder. `tree`: another checkout of the project, whose code the children run."""
        self._folder = folder
        self._tree = tree
        self._children: list[Child] = []
        self._started: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        """Start with none."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all."""
        for child in reversed(self._children):
            await child.end()

    async def start(
        self, name: str, module: str, *arguments: str, talks: bool = False, environment: Mapping[str, str] | None = None
    ) -> Child:
        """Start `python -m <module> <arguments>`; its log is `<name>-<number>.log`."""
        self._started[name] += 1
        log = self._folder / f"{name}-{self._started[name]}.log"
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                stdin=PIPE if talks else DEVNULL,
                stdout=PIPE if talks else file,
                stderr=file,
                env=os.environ | {"PYTHONPATH": _python_path(self._tree)} | (environment or {}),
                limit=_LINE_BYTES_MAX,
            )
        child = Child(f"{name}-{self._started[name]}", process, log)
        self._children.append(child)
        return child

    async def start_with(
        self, module: str, settings: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> Child:
        """Start a module that talks, with the settings as its only argument, in JSON."""
        return await self.start(module, module, json.dumps(settings), talks=True, environment=environment)

    async def ask(self, module: str, settings: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Start a module with settings, return the one line that it prints, and end it."""
        child = await self.start_with(module, settings)
        answer = await child.read(timeout_s)
        await child.end()
        return answer

    async def run(self, name: str, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a module to its end, and return what it printed. Raises ChildFailedError if it fails."""
        child = await self.start(name, module, *arguments, talks=True, environment=environment)
        return "\n".join([line async for line in child.lines()])


def _python_path(tree: Path | None) -> str:
    """Where children find the scripts' packages, however their parent was started; in another tree, all packages."""
    if tree is not None:
        return os.pathsep.join(str(tree / name) for name in _PACKAGES)
    return os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))))


# On the child's side.


def settings_of_child() -> dict[str, Any]:
    """What `Children.start_with` was given."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    return settings


def say(message: Mapping[str, Any]) -> None:
    """Print one line for the parent."""
    print(json.dumps(message), flush=True)


def hear() -> dict[str, Any]:
    """Wait for a line of the parent; an ended parent ends the child too."""
    line = sys.stdin.readline()
    if not line:
        raise SystemExit("the parent is gone")
    message: dict[str, Any] = json.loads(line)
    return message
