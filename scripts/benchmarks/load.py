"""Sellers: a process that charges over gRPC as fast as it is answered, or at a given rate.

Everything that can be made before the clock starts is: messages are sent as the bytes they were serialised to, answers
are parsed and every charge's result is counted. Latency is taken from the moment when a message was meant to be sent
(open loop: by the schedule; closed loop: when its turn came) to the moment when its answer was parsed.
"""

import asyncio
import os
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import uvloop

from _children import hear, say, settings_of_child
from benchmarks import http2, pool
from benchmarks.measure import cpu_s, latencies
from tallystick.v1 import charge_pb2

_STREAM: Final = "/tallystick.v1.ChargeService/StreamCharges"
_UNARY: Final = "/tallystick.v1.ChargeService/Charge"
CONNECTIONS: Final = 4
"""Of unary calls: sellers with a few servers each."""


def batches(charges: Iterator[charge_pb2.Charge], size: int) -> Iterator[bytes]:
    """Messages of a stream, serialised. Streams answer in order, so the sequence numbers may all be the same."""
    while batch := list(islice(charges, size)):
        yield charge_pb2.StreamChargesRequest(seq=1, charges=batch).SerializeToString()


def singles(charges: Iterator[charge_pb2.Charge]) -> Iterator[bytes]:
    """Messages of unary calls, serialised."""
    for charge in charges:
        yield charge_pb2.ChargeRequest(charge=charge).SerializeToString()


class Load:
    """What is sent, when, and what came of it; shared by all senders.

    Messages are due at once (closed loop), or evenly spaced (open loop). What is answered before the warm-up's end is
    counted apart.
    """

    def __init__(self, messages: list[bytes], messages_per_s: float, warm_up_s: float, duration_s: float) -> None:
        """`messages_per_s` 0: as fast as it goes. The duration comes after the warm-up."""
        self._messages = iter(messages)
        self._every_s = 1 / messages_per_s if messages_per_s else 0.0
        self._warm_up_s = warm_up_s
        self._ends_after_s = warm_up_s + duration_s
        self._number = 0
        self._start = self._last_answer_at = 0.0
        self._exhausted = False
        self._accepted = 0
        self._warming_up = 0
        self._refused: Counter[str] = Counter()
        self._latencies_s: list[float] = []
        """One for each message after the warm-up."""

    def begin(self) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    async def next(self) -> tuple[float, bytes] | None:
        """Wait until the next message is due; None when time or messages are over."""
        now = time.perf_counter()
        meant_at = self._start + self._number * self._every_s if self._every_s else now
        if meant_at >= self._start + self._ends_after_s:
            return None
        self._number += 1
        if meant_at > now:
            await asyncio.sleep(meant_at - now)
        message = next(self._messages, None)
        self._exhausted = message is None
        return None if message is None else (meant_at, message)

    def take(self, results: Iterable[charge_pb2.ChargeResult], meant_at: float) -> None:
        """Count the results of one message."""
        accepted = 0
        for result in results:
            if result.accepted:
                accepted += 1
            else:
                self._refused[result.refusal.message] += 1
        self._last_answer_at = now = time.perf_counter()
        if now < self._start + self._warm_up_s:
            self._warming_up += accepted
            return
        self._accepted += accepted
        self._latencies_s.append(now - meant_at)

    def report(self, client_cpu_s: float) -> dict[str, Any]:
        """The figures of this process."""
        elapsed_s = self._last_answer_at - self._start - self._warm_up_s
        return {
            "accepted": self._accepted,
            "accepted_in_all": self._accepted + self._warming_up,
            "refused": self._refused,
            "elapsed_s": elapsed_s,
            "charges_per_s": self._accepted / elapsed_s,
            "client_cpu_s": client_cpu_s,
            "ran_out": self._exhausted,
            **latencies(self._latencies_s),
        }


class Streams:
    """Streams of batches, by gRPC's own client: a batch costs it a microsecond or two per charge."""

    def __init__(self, load: Load, settings: dict[str, Any]) -> None:
        self._load = load
        self._settings = settings

    async def connect(self) -> None:
        """Open the connection."""
        target = f"127.0.0.1:{self._settings['port']}"
        if self._settings["tls"]:
            root = (Path(self._settings["tls"]) / "ca.pem").read_bytes()
            self._channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(root))
        else:
            self._channel = grpc.aio.insecure_channel(target)
        await self._channel.channel_ready()

    async def send(self) -> None:
        """Send until the load is over."""
        await asyncio.gather(*(self._stream() for _ in range(self._settings["streams"])))

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close()

    async def _stream(self) -> None:
        """One stream with at most `window` unanswered messages."""
        load = self._load
        method: Any = self._channel.stream_stream(
            _STREAM, request_serializer=None, response_deserializer=charge_pb2.StreamChargesResponse.FromString
        )
        call = method(metadata=(("authorization", f"Bearer {self._settings['token']}"),))
        slots = asyncio.Semaphore(self._settings["window"])
        meant: list[float] = []

        async def receive() -> None:
            answered = 0
            while (response := await call.read()) is not grpc.aio.EOF:
                load.take(response.results, meant[answered])
                answered += 1
                slots.release()

        receiver = asyncio.create_task(receive())
        # The slot first: a message that is late because all are taken is late by the schedule, and counted so.
        while await slots.acquire() and (due := await load.next()):
            meant.append(due[0])
            await call.write(due[1])
        await call.done_writing()
        await receiver


class Calls:
    """Unary calls: so many callers with one call each at a time, on some connections."""

    def __init__(self, load: Load, settings: dict[str, Any]) -> None:
        self._load = load
        self._settings = settings
        self._callers = asyncio.Semaphore(settings["callers"])
        self._meant: dict[tuple[int, int], float] = {}
        self._connections: list[http2.Connection] = []

    async def connect(self) -> None:
        """Open the connections."""
        port, token, tls = self._settings["port"], self._settings["token"], None
        if self._settings["tls"]:
            tls = ssl.create_default_context(cafile=Path(self._settings["tls"]) / "ca.pem")
            tls.set_alpn_protocols(["h2"])
        self._connections = [
            await http2.Connection.open(port, _UNARY, token, partial(self._answered, number), tls)
            for number in range(CONNECTIONS)
        ]

    async def send(self) -> None:
        """Send until the load is over, or a connection is."""
        sending = asyncio.create_task(self._send())
        await asyncio.wait([sending, *(one.lost for one in self._connections)], return_when=asyncio.FIRST_COMPLETED)
        for connection in self._connections:
            if connection.lost.done():
                sending.cancel()
                connection.lost.result()
        await sending

    async def close(self) -> None:
        """End the connections."""
        for connection in self._connections:
            connection.close()

    async def _send(self) -> None:
        for turn in count():
            await self._callers.acquire()
            due = await self._load.next()
            if due is None:
                break
            number = turn % CONNECTIONS
            self._meant[number, self._connections[number].call(due[1])] = due[0]
        for _ in range(self._settings["callers"] - 1):  # those that are still under way
            await self._callers.acquire()

    def _answered(self, number: int, stream: int, body: bytes) -> None:
        result = charge_pb2.ChargeResponse.FromString(body).result
        self._load.take((result,), self._meant.pop((number, stream)))
        self._callers.release()


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
    per_s = settings["charges_per_s"] / max(1, batch)
    load = Load(messages, per_s, settings["warm_up_s"], settings["duration_s"])
    senders = Streams(load, settings) if batch else Calls(load, settings)
    await senders.connect()
    await asyncio.to_thread(wait)
    cpu_before = cpu_s(os.getpid())
    load.begin()
    await senders.send()
    client_cpu_s = cpu_s(os.getpid()) - cpu_before
    await senders.close()
    return load.report(client_cpu_s)


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
