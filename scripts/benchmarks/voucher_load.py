"""Buyers who pay by vouchers of `batch-settlement`, each from a channel of its own, one request under way on each.

The same load for both: the official server's pages, or a facilitator's /verify and /settle. Requests were made before
and are written to raw sockets that stay open. Every one must be paid, so nothing is counted that was not.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any, Final

import uvloop

from _children import hear, say, settings_of_child
from benchmarks.exact_load import answered
from benchmarks.measure import cpu_s, latencies
from benchmarks.official_load import offered
from benchmarks.voucher_requests import Paid, Payer, pages

OPENING_S_MAX: Final = 60.0
"""How long it may take until the facilitator knows of a deposit."""
OPENING_PAUSE_S: Final = 0.1


class Buyer:
    """One channel and its connection."""

    def __init__(self, port: int, work: list[Paid]) -> None:
        self._port = port
        self._work = iter(work)

    async def connect(self) -> None:
        """Open the connection, which stays for a round."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    def leave(self) -> None:
        """Close it: a server would, before the next round begins."""
        self._writer.close()

    async def open(self) -> None:
        """Pay once, as soon as the channel's deposit is known."""
        paid = next(self._work)
        until = time.perf_counter() + OPENING_S_MAX
        while True:
            problem = await self._pay(paid)
            if not problem:
                return
            if time.perf_counter() >= until:
                raise AssertionError(problem)
            await asyncio.sleep(OPENING_PAUSE_S)

    async def buy(self, count_from: float, stop_at: float, taken: list[float]) -> int:
        """Pay for one request after another until the time is over; how many were paid.

        Latencies of those that were answered from `count_from` on are kept.
        """
        count = 0
        while (start := time.perf_counter()) < stop_at:
            paid = next(self._work, None)
            if paid is None:
                raise AssertionError("the load ran out of signed requests before the time was over")
            problem = await self._pay(paid)
            if problem:
                raise AssertionError(problem)
            count += 1
            now = time.perf_counter()
            if now >= count_from:
                taken.append(now - start)
        return count

    async def _pay(self, paid: Paid) -> str:
        """Pay; returns what was answered if it was not taken."""
        self._writer.write(paid.first)
        status, body = await answered(self._reader)
        if b" 200" not in status:
            return f"answered {status!r}, {body}"
        if not paid.settle:
            return ""
        if not body["isValid"]:
            return f"not verified: {body}"
        before, after = paid.settle
        self._writer.write(before + body["extra"]["pendingId"].encode() + after)
        status, body = await answered(self._reader)
        if b" 200" not in status or not body["success"]:
            raise AssertionError(f"held, and then not settled: {status!r}, {body}")
        return ""


async def prepared(settings: dict[str, Any]) -> list[Buyer]:
    """Buyers with their signed requests, each of whom has paid once."""
    port, count = settings["port"], settings["requests"]
    facilitator = settings["facilitator"]
    accepted = None if facilitator else await offered(port)

    def work(number: int) -> Iterator[Paid]:
        return Payer(number, facilitator).pairs(count) if facilitator else pages(number, count, accepted or {})

    buyers = [Buyer(port, list(work(number))) for number in range(settings["channels"])]
    for buyer in buyers:
        await buyer.connect()
    await asyncio.gather(*(buyer.open() for buyer in buyers))
    for buyer in buyers:
        buyer.leave()
    return buyers


async def one_round(buyers: list[Buyer], warm_up_s: float, duration_s: float) -> dict[str, Any]:
    """What all buyers together were answered in this time."""
    taken: list[float] = []
    for buyer in buyers:
        await buyer.connect()
    cpu_before = cpu_s(os.getpid())
    count_from = time.perf_counter() + warm_up_s
    paid = await asyncio.gather(*(buyer.buy(count_from, count_from + duration_s, taken) for buyer in buyers))
    elapsed_s = time.perf_counter() - count_from
    for buyer in buyers:
        buyer.leave()
    return {
        "paid": len(taken),
        "paid_in_all": sum(paid),
        "per_s": len(taken) / elapsed_s,
        "client_cpu_s": cpu_s(os.getpid()) - cpu_before,
        **latencies(taken),
    }


async def main() -> None:
    """Prepare, then buy each time that it is told to."""
    buyers = await prepared(settings_of_child())
    say({"ready": True})
    while True:
        told = await asyncio.to_thread(hear)
        say(await one_round(buyers, told["warm_up_s"], told["duration_s"]))


if __name__ == "__main__":
    uvloop.run(main())
