"""Sellers: a process that charges over gRPC as fast as it is answered, or at a given rate.

Everything that can be made before the clock starts is: messages are sent as the bytes they were serialised to, answers
are parsed and every charge's result is counted. Latency is taken from the moment when a message was meant to be sent
(open loop: by the schedule; closed loop: when its turn came) to the moment when its answer was parsed.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import uvloop

from benchmarks import pool
from benchmarks.children import hear, say, settings_of_child
from benchmarks.measure import cpu_s, percentile
from tallystick.v1 import charge_pb2

_STREAM: Final = "/tallystick.v1.ChargeService/StreamCharges"
_UNARY: Final = "/tallystick.v1.ChargeService/Charge"
CALL_TIMEOUT_S: Final = 60.0


class Tally:
    """What came of it. What is answered before the warm-up's end is counted apart."""

    def __init__(self, schedule: "Schedule") -> None:
        self._schedule = schedule
        self.accepted = 0
        self.warming_up = 0
        self.refused: dict[str, int] = {}
        self.latencies_s: list[float] = []
        """One for each message after the warm-up."""
        self.last_answer_at = 0.0

    def take(self, results: Iterable[charge_pb2.ChargeResult], meant_at: float) -> None:
        """Count the results of one message."""
        accepted = 0
        for result in results:
            if result.accepted:
                accepted += 1
            else:
                reason = result.refusal.message
                self.refused[reason] = self.refused.get(reason, 0) + 1
        self.last_answer_at = now = time.perf_counter()
        if now < self._schedule.start + self._schedule.warm_up_s:
            self.warming_up += accepted
            return
        self.accepted += accepted
        self.latencies_s.append(now - meant_at)


class Schedule:
    """When messages are meant to be sent: at once (closed loop), or evenly spaced (open loop)."""

    def __init__(self, messages_per_s: float, warm_up_s: float, duration_s: float) -> None:
        """`messages_per_s` 0: as fast as it goes. The duration comes after the warm-up."""
        self._every_s = 1 / messages_per_s if messages_per_s else 0.0
        self._duration_s = warm_up_s + duration_s
        self.warm_up_s = warm_up_s
        self._number = 0
        self.start = 0.0

    def begin(self) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    async def next(self) -> float | None:
        """Wait for the next message's time and return it; None when the time is over."""
        now = time.perf_counter()
        if not self._every_s:
            return now if now < self.start + self._duration_s else None
        meant_at = self.start + self._number * self._every_s
        if meant_at >= self.start + self._duration_s:
            return None
        self._number += 1
        if meant_at > now:
            await asyncio.sleep(meant_at - now)
        return meant_at


def batches(charges: Iterator[charge_pb2.Charge], size: int) -> Iterator[bytes]:
    """Messages of a stream, serialised. Streams answer in order, so the sequence numbers may all be the same."""
    while batch := list(islice(charges, size)):
        yield charge_pb2.StreamChargesRequest(seq=1, charges=batch).SerializeToString()


def singles(charges: Iterator[charge_pb2.Charge]) -> Iterator[bytes]:
    """Messages of unary calls, serialised."""
    for charge in charges:
        yield charge_pb2.ChargeRequest(charge=charge).SerializeToString()


class Seller:
    """One load: shared messages, many senders."""

    def __init__(self, channel: grpc.aio.Channel, token: str, messages: list[bytes], schedule: Schedule) -> None:
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._messages = iter(messages)
        self._schedule = schedule
        self.tally = Tally(schedule)
        self.exhausted = False

    def _next_message(self) -> bytes | None:
        message = next(self._messages, None)
        if message is None:
            self.exhausted = True
        return message

    async def stream(self, window: int) -> None:
        """One stream with at most `window` unanswered messages."""
        method: Any = self._channel.stream_stream(
            _STREAM, request_serializer=None, response_deserializer=charge_pb2.StreamChargesResponse.FromString
        )
        call = method(metadata=self._metadata)
        slots = asyncio.Semaphore(window)
        meant: list[float] = []

        async def receive() -> None:
            answered = 0
            while (response := await call.read()) is not grpc.aio.EOF:
                self.tally.take(response.results, meant[answered])
                answered += 1
                slots.release()

        receiver = asyncio.create_task(receive())
        # The slot first: a message that is late because all are taken is late by the schedule, and counted so.
        while await slots.acquire():
            meant_at, message = await self._schedule.next(), self._next_message()
            if meant_at is None or message is None:
                break
            meant.append(meant_at)
            await call.write(message)
        await call.done_writing()
        await receiver

    async def unary(self) -> None:
        """One caller, one call at a time."""
        method: Any = self._channel.unary_unary(
            _UNARY, request_serializer=None, response_deserializer=charge_pb2.ChargeResponse.FromString
        )
        while (meant_at := await self._schedule.next()) is not None and (message := self._next_message()) is not None:
            response = await method(message, metadata=self._metadata, timeout=CALL_TIMEOUT_S)
            self.tally.take((response.result,), meant_at)


def open_channel(settings: dict[str, Any]) -> grpc.aio.Channel:
    """The connection, in plaintext or with TLS."""
    target = f"127.0.0.1:{settings['port']}"
    if not settings.get("tls"):
        return grpc.aio.insecure_channel(target)
    root = (Path(settings["tls"]) / "ca.pem").read_bytes()
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(root))


def messages_of(settings: dict[str, Any]) -> list[bytes]:
    """All messages, ready to be sent."""
    order, start, stop = pool.Order(settings["channels"], settings["burst"]), settings["start"], settings["stop"]
    payers = Path(settings["payers"])
    if settings["proof"] == "voucher":
        charges = pool.by_voucher(Path(settings["signatures"]), payers, order, start, stop)
    else:
        charges = pool.by_spend_key(payers, order, start, stop)
    batch = settings["batch"]
    return list(batches(charges, batch) if batch else singles(charges))


async def run(settings: dict[str, Any], messages: list[bytes], wait: Callable[[], Any]) -> dict[str, Any]:
    """Connect, wait for the word, send, report."""
    batch = settings["batch"]
    schedule = Schedule(settings["charges_per_s"] / max(1, batch), settings["warm_up_s"], settings["duration_s"])
    channel = open_channel(settings)
    await channel.channel_ready()
    seller = Seller(channel, settings["token"], messages, schedule)
    await asyncio.to_thread(wait)
    cpu_before = cpu_s(os.getpid())
    schedule.begin()
    if batch:
        await asyncio.gather(*(seller.stream(settings["window"]) for _ in range(settings["streams"])))
    else:
        await asyncio.gather(*(seller.unary() for _ in range(settings["callers"])))
    client_cpu_s = cpu_s(os.getpid()) - cpu_before
    await channel.close()
    return report(seller, schedule, client_cpu_s)


def report(seller: Seller, schedule: Schedule, client_cpu_s: float) -> dict[str, Any]:
    """The figures of this process."""
    tally = seller.tally
    ordered = sorted(tally.latencies_s)
    elapsed_s = tally.last_answer_at - schedule.start - schedule.warm_up_s
    return {
        "accepted": tally.accepted,
        "accepted_in_all": tally.accepted + tally.warming_up,
        "refused": tally.refused,
        "elapsed_s": elapsed_s,
        "charges_per_s": tally.accepted / elapsed_s,
        "client_cpu_s": client_cpu_s,
        "ran_out": seller.exhausted,
        "p50_ms": percentile(ordered, 50) * 1000,
        "p95_ms": percentile(ordered, 95) * 1000,
        "p99_ms": percentile(ordered, 99) * 1000,
        "max_ms": ordered[-1] * 1000,
    }


def main() -> None:
    """Prepare, wait, charge, report."""
    settings = settings_of_child()
    messages = messages_of(settings)

    def wait() -> None:
        say({"ready": True, "messages": len(messages)})
        hear()

    say(uvloop.run(run(settings, messages, wait)))


if __name__ == "__main__":
    main()
