"""`tallystick serve`: one process, from its configuration to the signal that ends it."""

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tallystick_aggregator.runtime import logs
from tallystick_aggregator.runtime.app import StartError, running
from tallystick_aggregator.runtime.config.file import Config

EXIT_STOPPED: Final = 0
EXIT_DIED: Final = 1
SWITCH_INTERVAL_S: Final = 0.001
"""How long the event loop and other threads may keep the interpreter from each other. A commit's thread waits for it
several times, so that Python's default, 5 ms, makes commits slow under load; with much less the event loop loses the
interpreter to gRPC's own thread at every other call."""
GRPC_EXPERIMENTS: Final = "-event_engine_listener"
"""Connections by gRPC's older listener: it takes a sixth more calls a second (grpcio 1.85)."""

__all__ = ["StartError", "run"]

log = logging.getLogger(__name__)


def run(config_path: Path, say: Callable[[str], None], *, clock: Callable[[], float] = time.time) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. Raises what StartError lists.

    `say` is told the addresses once calls are taken; `clock` is as in `app.running`.
    """
    config = Config.load(config_path)
    logs.configure(config.server.log_level, as_json=config.server.log_json)
    tune()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve(config, say, clock))


def tune() -> None:
    """Set what holds for the whole process, before the first event loop and the first gRPC object."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # Each connection is an open file. Many systems allow 1,024 unless asked: strangers' would leave none for the chain.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)


async def serve(config: Config, say: Callable[[str], None], clock: Callable[[], float] = time.time) -> int:
    """Serve until told to stop, or until the ledger's writer has died."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(config, clock=clock) as aggregator:
        # What was loaded lives as long as the process: the collector need not walk through it again and again.
        gc.collect()
        gc.freeze()
        if aggregator.http_url:
            say(f"HTTP facilitator at {aggregator.http_url}")
        say(f"listening on {aggregator.address}")
        await _first(stop, aggregator.dead)
        died = aggregator.dead.is_set()
    return EXIT_DIED if died else EXIT_STOPPED


async def _first(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, where there is one."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    return uvloop.new_event_loop
