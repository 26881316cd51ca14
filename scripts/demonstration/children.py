"""The demo's child processes: started by us, watched by us, ended by us and by their id only."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

STOP_TIMEOUT_S = 10


class ChildFailedError(Exception):
    """A child ended as it should not have; the message holds the end of what it wrote."""


class Children:
    """All child processes of the demo. Leaving the context ends those that still run."""

    def __init__(self, folder: Path) -> None:
        """Each child's error output goes to a file of its name in the folder."""
        self._folder = folder
        self._running: list[tuple[str, Process]] = []

    async def __aenter__(self) -> Self:
        """Start with none."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what runs, in reverse order, so that nobody loses what it depends on."""
        for _, process in reversed(self._running):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
                except TimeoutError:
                    process.kill()
                    await process.wait()

    async def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
        """Start a child; its output goes to `<name>.log`."""
        log = self._log(name).open("ab")
        process = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL, env=os.environ | (environment or {})
        )
        log.close()
        self._running.append((name, process))
        return process

    async def wait_for_line(self, name: str, text: str, timeout_s: float = 60) -> str:
        """Wait until the child has written a line with this text; return the line."""
        process = next(process for known, process in reversed(self._running) if known == name)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while asyncio.get_running_loop().time() < deadline:
            for line in self._log(name).read_text().splitlines():
                if text in line:
                    return line
            if process.returncode is not None:
                break
            await asyncio.sleep(0.02)
        raise ChildFailedError(f"{name} did not say {text!r}:\n{self._tail(name)}")

    async def lines(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> AsyncIterator[str]:
        """Run a child to its end and yield what it prints, line by line. Raises ChildFailedError if it fails."""
        log = self._log(name).open("ab")
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            stdin=asyncio.subprocess.DEVNULL,
            env=os.environ | (environment or {}),
            limit=2**24,
        )
        log.close()
        self._running.append((name, process))
        assert process.stdout is not None
        async for line in process.stdout:
            yield line.decode().rstrip("\n")
        if await process.wait() != 0:
            raise ChildFailedError(f"{name} failed with {process.returncode}:\n{self._tail(name)}")

    async def run(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
        """Run a child to its end and return what it printed."""
        return "\n".join([line async for line in self.lines(name, command, environment)])

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _tail(self, name: str) -> str:
        log = self._log(name)
        return log.read_text()[-2000:] if log.exists() else ""


def python(*arguments: str) -> list[str]:
    """A command line for this very Python."""
    return [sys.executable, *arguments]
