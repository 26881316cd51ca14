"""Sellers of a facilitator: requests that were made before, written to raw sockets, one at a time on each.

Every answer must be a success. What is not answered when the time is over does not count.
"""

import asyncio
import json
import os
import time
from typing import Any, NamedTuple

import uvloop

from _children import hear, say, settings_of_child
from benchmarks.exact_requests import requests
from benchmarks.measure import cpu_s, latencies


async def answered(reader: asyncio.StreamReader) -> tuple[bytes, dict[str, Any]]:
    """The next answer: its status line, and its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
    return lines[0], json.loads(await reader.readexactly(length))


class Taken(NamedTuple):
    """One answered request: when it was sent, by this machine's monotonic clock, and how long its answer took."""

    sent_at_s: float
    took_s: float


async def ask(port: int, pool: list[bytes], taken: list[Taken], pause_s: float, *, once: bool) -> None:
    """Send requests of the pool, one after another, until it is cancelled; the pool must not run out. `once`: one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while pool:
            start = time.perf_counter()
            writer.write(pool.pop())
            status, body = await answered(reader)
            if b" 200" not in status or not (body.get("isValid") or body.get("success")):
                raise AssertionError(f"the facilitator answered {status!r}, {body}")
            taken.append(Taken(start, time.perf_counter() - start))
            if once:
                return
            if pause_s:
                await asyncio.sleep(pause_s)
        raise AssertionError("the load ran out of requests before the time was over")
    finally:
        writer.close()


async def measure(
    port: int, connections: int, pool: list[bytes], duration_s: float, pause_s: float, *, once: bool = False
) -> list[Taken]:
    """What was answered in this time; each connection pauses after an answer. `once`: and all of it must be."""
    taken: list[Taken] = []
    tasks = [asyncio.create_task(ask(port, pool, taken, pause_s, once=once)) for _ in range(connections)]
    done, pending = await asyncio.wait(tasks, timeout=duration_s, return_when=asyncio.FIRST_EXCEPTION)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()
    if once and len(taken) < connections:
        raise AssertionError(f"{len(taken)} of {connections} requests were answered in {duration_s:g} s")
    return taken


async def main() -> None:
    """Prepare, warm up, wait, ask, report."""
    settings = settings_of_child()
    port, connections, count = settings["port"], settings["connections"], settings["requests"]
    pool = list(requests(settings["path"], settings["token"], settings["bearer"], settings["label"], count))
    if settings["warm_up_s"]:
        await measure(port, connections, pool, settings["warm_up_s"], settings["pause_s"])
    say({"ready": True})
    hear()
    start, cpu_before = time.perf_counter(), cpu_s(os.getpid())
    once = settings["once"]
    taken = await measure(port, connections, pool, settings["duration_s"], settings["pause_s"], once=once)
    elapsed_s = time.perf_counter() - start
    say(
        {
            "answered": len(taken),
            "per_s": len(taken) / elapsed_s,
            "elapsed_s": elapsed_s,
            "client_cpu_s": cpu_s(os.getpid()) - cpu_before,
            **latencies([one.took_s for one in taken]),
            "taken": taken,
        }
    )


if __name__ == "__main__":
    uvloop.run(main())
