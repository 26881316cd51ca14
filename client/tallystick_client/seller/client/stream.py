"""Many charges over one gRPC stream, in batches: what a busy seller uses instead of one call per charge.

Bounded: at most WAITING_MAX charges wait here, at most as many batches as the aggregator allows are unanswered; beyond
that `charge` waits. When the stream breaks it is opened again, and what was not answered is sent again: the payment
ids make that safe, an id is charged once. Only when nothing is answered for PATIENCE_S do the waiting calls fail.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Self

import grpc
import grpc.aio

from tallystick.charges import Charge, Charged
from tallystick.codec.charge import read_charge_result, write_charge
from tallystick.errors import MalformedError, RefusedError
from tallystick.v1 import charge_pb2
from tallystick_client.rpc import AggregatorError, AggregatorUnavailableError, CallRejectedError, failure

WAITING_MAX: Final = 4_096
"""Charges inside at once, answered ones not counted."""
PATIENCE_S: Final = 30.0
"""How long the stream is tried again without any answer."""
BACKOFF_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses before the stream is opened again; the last one repeats."""

_Call = grpc.aio.StreamStreamCall[charge_pb2.StreamChargesRequest, charge_pb2.StreamChargesResponse]

_log = logging.getLogger("tallystick.seller")


class _Waiting(NamedTuple):
    """A charge whose caller waits."""

    message: charge_pb2.Charge
    done: asyncio.Future[Charged]


class _Batch:
    """Charges that were sent together."""

    __slots__ = ("charges", "times_sent")

    def __init__(self, charges: list[_Waiting]) -> None:
        self.charges = charges
        self.times_sent = 0


class ChargeStream:
    """Charges over one stream; use it as `async with`. Any number of tasks may call `charge` at once."""

    def __init__(
        self,
        open_stream: Callable[[], _Call],
        limits: Callable[[], Awaitable[tuple[int, int]]],
        *,
        timeout_s: float,
        patience_s: float = PATIENCE_S,
        waiting_max: int = WAITING_MAX,
        backoff_s: Sequence[float] = BACKOFF_S,
    ) -> None:
        """`limits` tells the charges per batch and the unanswered batches that the aggregator allows; `timeout_s` is
        how long a batch may be unanswered before the stream counts as broken. See the module for the rest.
        """
        self._open_stream = open_stream
        self._limits = limits
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._backoff_s = backoff_s
        self._room = asyncio.Semaphore(waiting_max)
        self._waiting: deque[_Waiting] = deque()
        self._unanswered: dict[int, _Batch] = {}
        self._seq = 0
        self._answered = 0
        self._changed = asyncio.Event()
        self._closed: AggregatorError | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def charge(self, charge: Charge) -> Charged:
        """Take one payment. Raises RefusedError, AggregatorUnavailableError or CallRejectedError.

        Waits while the stream is full.
        """
        async with self._room:
            if self._closed is not None:
                raise self._closed
            done: asyncio.Future[Charged] = asyncio.get_running_loop().create_future()
            self._waiting.append(_Waiting(write_charge(charge), done))
            self._changed.set()
            return await done

    async def close(self) -> None:
        """End the stream.

        Charges that wait for an answer fail with AggregatorUnavailableError, their outcome unknown.
        """
        self._fail(AggregatorUnavailableError("the stream was closed", grpc.StatusCode.CANCELLED), for_good=True)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Nobody awaits the task while charges wait: whatever ended it, they hear of it.
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("the stream of charges ended", exc_info=error)
            self._fail(CallRejectedError(f"the stream ended: {error}", grpc.StatusCode.INTERNAL), for_good=True)

    async def _run(self) -> None:
        """Keep a stream open until closed, and fail the waiting charges when patience is at its end."""
        loop = asyncio.get_running_loop()
        attempts, broken_since = 0, 0.0
        while self._closed is None:
            if not self._waiting and not self._unanswered:
                attempts = 0
                await self._change()
                continue
            answered_before = self._answered
            error = await self._stream_once()
            if attempts == 0 or self._answered != answered_before:
                attempts, broken_since = 0, loop.time()
            if isinstance(error, CallRejectedError):
                self._fail(error, for_good=True)
            elif loop.time() - broken_since >= self._patience_s:
                self._fail(error)
            else:
                _log.info("the stream of charges broke and is opened again: %s", error)
                await asyncio.sleep(self._backoff_s[min(attempts, len(self._backoff_s) - 1)])
                attempts += 1

    async def _stream_once(self) -> AggregatorError:
        """Open a stream, send and receive until it breaks, and say why."""
        call: _Call | None = None
        writer: asyncio.Task[None] | None = None
        try:
            batch_max, unanswered_max = await self._limits()
            call = self._open_stream()
            async with asyncio.timeout(self._timeout_s) as deadline:
                writer = asyncio.create_task(self._write(call, deadline, max(1, batch_max), max(1, unanswered_max)))
                await self._read(call, deadline)
        except grpc.aio.AioRpcError as error:
            return failure(error)
        except AggregatorError as error:
            return error
        except TimeoutError:
            message = f"a batch of charges was not answered within {self._timeout_s:g} s"
            return AggregatorUnavailableError(message, grpc.StatusCode.DEADLINE_EXCEEDED)
        finally:
            if writer is not None:
                writer.cancel()
                await asyncio.wait([writer])
            if call is not None:
                call.cancel()
        return AggregatorUnavailableError("the aggregator ended the stream", grpc.StatusCode.UNAVAILABLE)

    async def _write(self, call: _Call, deadline: asyncio.Timeout, batch_max: int, unanswered_max: int) -> None:
        for seq, batch in list(self._unanswered.items()):
            await self._send(call, seq, batch)
        while True:
            while not self._waiting or len(self._unanswered) >= unanswered_max:
                await self._change()
            charges = self._next_charges(batch_max)
            if not charges:
                continue
            self._seq += 1
            if not self._unanswered:
                deadline.reschedule(asyncio.get_running_loop().time() + self._timeout_s)
            self._unanswered[self._seq] = batch = _Batch(charges)
            await self._send(call, self._seq, batch)

    def _next_charges(self, batch_max: int) -> list[_Waiting]:
        """Up to `batch_max` charges whose callers still wait."""
        charges: list[_Waiting] = []
        while self._waiting and len(charges) < batch_max:
            waiting = self._waiting.popleft()
            if not waiting.done.done():
                charges.append(waiting)
        return charges

    @staticmethod
    async def _send(call: _Call, seq: int, batch: _Batch) -> None:
        batch.times_sent += 1
        charges = [waiting.message for waiting in batch.charges]
        # What breaks the stream comes out of the reader too, which tells it apart.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.write(charge_pb2.StreamChargesRequest(seq=seq, charges=charges))

    async def _read(self, call: _Call, deadline: asyncio.Timeout) -> None:
        while (response := await call.read()) is not grpc.aio.EOF:
            assert isinstance(response, charge_pb2.StreamChargesResponse)
            batch = self._unanswered.get(response.seq)
            if batch is None or len(response.results) != len(batch.charges):
                what = "a batch that was not sent" if batch is None else "fewer or more charges than were sent"
                raise CallRejectedError(f"the aggregator answered {what}", grpc.StatusCode.INTERNAL)
            del self._unanswered[response.seq]
            self._answered += 1
            for waiting, result in zip(batch.charges, response.results, strict=True):
                _answer(waiting.done, result, resent=batch.times_sent > 1)
            loop = asyncio.get_running_loop()
            deadline.reschedule(loop.time() + self._timeout_s if self._unanswered else None)
            self._changed.set()

    async def _change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _fail(self, error: AggregatorError, *, for_good: bool = False) -> None:
        if for_good and self._closed is None:
            self._closed = error
        waiting = [waiting for batch in self._unanswered.values() for waiting in batch.charges] + list(self._waiting)
        self._unanswered.clear()
        self._waiting.clear()
        for one in waiting:
            if not one.done.done():
                one.done.set_exception(error)


def _answer(done: asyncio.Future[Charged], result: charge_pb2.ChargeResult, *, resent: bool) -> None:
    if done.done():
        return
    try:
        charged = read_charge_result(result)
    except MalformedError as error:
        done.set_exception(error)
        return
    if isinstance(charged, RefusedError):
        done.set_exception(charged)
    else:
        done.set_result(Charged(charged.charged, charged.replayed, resent))
