"""Buyers of the official server: HTTP requests with vouchers that were signed before, written to raw sockets.

The package takes one request at a time per channel, in the order of their vouchers, so each connection pays from a
channel of its own. Nothing but the answer's status is read: the load costs next to nothing beside the server.
"""

import asyncio
import base64
import json
import os
import time
from typing import Any

import uvloop

from _children import hear, say, settings_of_child
from benchmarks import official_world as world
from benchmarks.measure import cpu_s, latencies


async def offered(port: int) -> dict[str, Any]:
    """The requirements that the server's own 402 answer offers: a buyer repeats them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /page HTTP/1.1\r\nhost: shop\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()
    header = next(line for line in head.split("\r\n") if line.lower().startswith("payment-required:"))
    required = json.loads(base64.b64decode(header.partition(":")[2].strip()))
    accepts: dict[str, Any] = required["accepts"][0]
    return accepts


def prepared(number: int, requests: int, accepted: dict[str, Any]) -> list[bytes]:
    """The requests of one connection, byte for byte."""
    channel = world.OfficialChannel(number)
    texts = []
    for ordinal in range(requests):
        payment = {"x402Version": 2, "payload": channel.payload(ordinal), "accepted": accepted}
        header = base64.b64encode(json.dumps(payment).encode()).decode()
        texts.append(f"GET /page HTTP/1.1\r\nhost: shop\r\npayment-signature: {header}\r\n\r\n".encode())
    return texts


async def answered(reader: asyncio.StreamReader) -> bytes:
    """The status line of the next answer, whose body is read and dropped."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)
    await reader.readexactly(length)
    return head[: head.index(b"\r\n")]


async def buy(port: int, requests: list[bytes], count_from: float, stop_at: float, tally: list[float]) -> int:
    """Send one request after another until the time is over; every one must be paid.

    Adds to the tally the latencies of those answered after `count_from`; returns the number of the others.
    """
    warming_up = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in requests:
        start = time.perf_counter()
        if start >= stop_at:
            break
        writer.write(request)
        status = await answered(reader)
        if b" 200" not in status:
            raise AssertionError(f"the official server answered {status!r}")
        now = time.perf_counter()
        if now < count_from:
            warming_up += 1
        else:
            tally.append(now - start)
    else:
        raise AssertionError("the load ran out of signed requests before the time was over")
    writer.close()
    return warming_up


async def main() -> None:
    """Prepare, wait, buy, report."""
    settings = settings_of_child()
    port, connections = settings["port"], settings["connections"]
    accepted = await offered(port)
    work = [prepared(number, settings["requests_per_connection"], accepted) for number in range(connections)]
    say({"ready": True})
    hear()
    taken: list[float] = []
    start, cpu_before = time.perf_counter(), cpu_s(os.getpid())
    count_from = start + settings["warm_up_s"]
    stop_at = count_from + settings["duration_s"]
    before = await asyncio.gather(*(buy(port, requests, count_from, stop_at, taken) for requests in work))
    elapsed_s = time.perf_counter() - count_from
    say(
        {
            "accepted": len(taken),
            "accepted_in_all": len(taken) + sum(before),
            "charges_per_s": len(taken) / elapsed_s,
            "client_cpu_s": cpu_s(os.getpid()) - cpu_before,
            **latencies(taken),
        }
    )


if __name__ == "__main__":
    uvloop.run(main())
