"""ChargeService: the fast way for sellers, one charge a call or batches over a stream.

A stream has a reader and a writer. The reader starts a batch as soon as it came and there is room for it; the writer
answers the batches in their order. At most `unanswered_batches_max` batches of a stream are under way; beyond that it
is not read, which is what the caller's flow control feels. What a stream holds in memory is bounded by that.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any, Final, NamedTuple

import grpc
import grpc.aio
from msgspec import Meta

from tallystick.codec.charge import read_charge
from tallystick.errors import MalformedError
from tallystick.v1 import charge_pb2, charge_pb2_grpc
from tallystick_aggregator.api.grpc.calls import RejectedError, ServicerContext, guarded, token_of
from tallystick_aggregator.api.grpc.codec import write_charge_result
from tallystick_aggregator.api.grpc.fast_codec import read_batch, write_batch
from tallystick_aggregator.auth.credentials import Principal, Principals, Scope
from tallystick_aggregator.charging import PaymentBatcher, UncheckedPayment
from tallystick_aggregator.charging.batcher import BATCH_MAX, BatcherSettings
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.values import SECONDS_MAX, Count

Answer = Accepted | Refusal

STREAMS_SHARE: Final = BatcherSettings().waiting_max * 3 // 4
"""Payments of streams at once; the rest of what the batcher takes is left to single calls."""
_channel_of: Final = attrgetter("channel_id")
_NOT_YOURS: Final = refuse(Why.CHANNEL_NOT_YOURS)
"""The same whether it is unknown or another seller's: what others have is nobody's business."""


@dataclass(frozen=True, slots=True)
class ChargeLimits:
    """What streams are held to; `Supported` tells the first two to callers."""

    charges_per_batch_max: Annotated[int, Meta(ge=1, le=BATCH_MAX)] = 256
    unanswered_batches_max: Annotated[int, Meta(ge=1, le=1_024)] = 8
    streams_per_seller_max: Count = 64
    streams_max: Count = 1_024
    stream_idle_s: Annotated[float, Meta(ge=1, le=SECONDS_MAX)] = 900
    """A stream that says nothing for so long is closed."""


class Backpressure:
    """Room for payments on their way through: streams wait for it in turn, and are not read meanwhile (threat 28).

    First come, first served, so that nobody starves. One event loop only.
    """

    def __init__(self, size: int = STREAMS_SHARE) -> None:
        self._left = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def left(self) -> int:
        """How many more would fit now."""
        return self._left

    async def take(self, count: int) -> None:
        """Wait until there is room for `count`, and take it."""
        if not self._waiting and count <= self._left:
            self._left -= count
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(count)
            raise

    def give(self, count: int) -> None:
        """Give room back, and let in who waits."""
        self._left += count
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._left):
            count, turn = self._waiting.popleft()
            if not turn.done():
                self._left -= count
                turn.set_result(None)


class ChargeService(charge_pb2_grpc.ChargeServiceServicer):
    """See tallystick/v1/charge.proto."""

    def __init__(self, principals: Principals, batcher: PaymentBatcher, writer: Writer, limits: ChargeLimits) -> None:
        self.principals = principals
        self._batcher = batcher
        self._writer = writer
        self._limits = limits
        self._room = Backpressure()
        self._streams: Counter[str] = Counter()
        self._open: set[_Stream] = set()

    @guarded
    async def Charge(  # noqa: N802 - the .proto's name
        self, request: charge_pb2.ChargeRequest, context: ServicerContext
    ) -> charge_pb2.ChargeResponse:
        """Take one payment."""
        principal = self.principals.require(token_of(context), Scope.CHARGE)
        if not request.HasField("charge"):
            raise MalformedError("charge", None, "a charge")
        answers = await self._start(principal, [read_charge(request.charge)], lambda: None)
        return charge_pb2.ChargeResponse(result=write_charge_result(answers[0]))

    @guarded
    async def StreamCharges(  # type: ignore[override]  # noqa: N802 - reads and writes bytes, by its context
        self, request_iterator: object, context: ServicerContext
    ) -> None:
        """Take batches of payments until the caller ends the stream."""
        del request_iterator  # read by context.read
        token = token_of(context)
        principal = self.principals.require(token, Scope.CHARGE)
        with self._counted(principal.name):
            stream = _Stream(self, token, context, self._limits)
            self._open.add(stream)
            try:
                await stream.run()
            finally:
                self._open.discard(stream)

    def finish_streams(self) -> None:
        """Read no more of any stream; each ends when what it has read is answered. For the server's end."""
        for stream in self._open:
            stream.finish()

    async def start_batch(self, token: str, payments: Sequence[UncheckedPayment]) -> "asyncio.Future[list[Answer]]":
        """Charge a batch of a stream once there is room for it.

        The token is looked up for each batch, so that a revoked one ends.
        """
        count = len(payments)
        await self._room.take(count)
        try:
            principal = self.principals.require(token, Scope.CHARGE)
        except BaseException:
            self._room.give(count)
            raise
        # Backpressure is given back when the batcher lets go of them, not when nobody wants the answer any more.
        return self._start(principal, payments, lambda: self._room.give(count))

    def _start(
        self, principal: Principal, payments: Sequence[UncheckedPayment], released: Callable[[], None]
    ) -> "asyncio.Future[list[Answer]]":
        others = self._writer.ledger.strangers_among(set(map(_channel_of, payments)), principal.receivers)
        if not others:
            return self._batcher.start(payments, released)
        allowed = [payment for payment in payments if payment.channel_id not in others]
        return asyncio.create_task(_merged(payments, others, self._batcher.start(allowed, released)))

    @contextmanager
    def _counted(self, name: str) -> Generator[None, None, None]:
        limits = self._limits
        if self._streams[name] >= limits.streams_per_seller_max:
            raise RejectedError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"at most {limits.streams_per_seller_max} streams per token"
            )
        if self._streams.total() >= limits.streams_max:
            raise RejectedError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"at most {limits.streams_max} streams in all")
        self._streams[name] += 1
        try:
            yield
        finally:
            self._streams[name] -= 1
            if not self._streams[name]:
                del self._streams[name]


async def _merged(
    payments: Sequence[UncheckedPayment], others: Set[bytes], allowed: "asyncio.Future[list[Answer]]"
) -> list[Answer]:
    """The answers to all payments, those on channels of others included."""
    answers = iter(await allowed)
    return [_NOT_YOURS if payment.channel_id in others else next(answers) for payment in payments]


class _Batch(NamedTuple):
    """A batch under way."""

    seq: int
    answers: "asyncio.Future[list[Answer]]"


class _Stream:
    """One stream: `run` writes, a task of its own reads."""

    def __init__(self, service: ChargeService, token: str, context: Any, limits: ChargeLimits) -> None:
        self._service = service
        self._token = token
        self._context = context
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.unanswered_batches_max)
        self._under_way: asyncio.Queue[_Batch | Exception | None] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read())

    def finish(self) -> None:
        """Read no more; the caller learns that it has to open another stream."""
        self._reader.cancel()
        self._under_way.put_nowait(
            RejectedError(
                grpc.StatusCode.UNAVAILABLE, "the aggregator is stopping; send what was not answered again later"
            )
        )

    async def run(self) -> None:
        """Answer until the caller ends the stream; raises what made a batch unacceptable, after those before it."""
        try:
            while (batch := await self._under_way.get()) is not None:
                if isinstance(batch, Exception):
                    raise batch
                answers = await batch.answers
                await self._context.write(write_batch(batch.seq, answers))
                self._slots.release()
        finally:
            self._reader.cancel()
            while not self._under_way.empty():
                batch = self._under_way.get_nowait()
                if isinstance(batch, _Batch):
                    batch.answers.cancel()

    async def _read(self) -> None:
        end: Exception | None = None
        try:
            while (data := await self._next()) is not None:
                seq, payments = read_batch(data, self._limits.charges_per_batch_max)
                self._under_way.put_nowait(_Batch(seq, await self._service.start_batch(self._token, payments)))
        except Exception as error:  # noqa: BLE001 - the writer raises it in its turn
            end = error
        self._under_way.put_nowait(end)

    async def _next(self) -> bytes | None:
        """Read the next batch, once fewer than the allowed number are unanswered; None at the end."""
        await self._slots.acquire()
        try:
            async with asyncio.timeout(self._limits.stream_idle_s):
                data = await self._context.read()
        except TimeoutError:
            raise RejectedError(
                grpc.StatusCode.UNAVAILABLE, f"the stream was idle for {self._limits.stream_idle_s:g} s"
            ) from None
        return None if data is grpc.aio.EOF else data


def add_charge_service(service: ChargeService, server: grpc.aio.Server) -> None:
    """Register the service as the generated function does, but the stream's messages come and go as bytes."""
    methods: dict[str, Any] = {
        "Charge": grpc.unary_unary_rpc_method_handler(
            service.Charge,
            request_deserializer=charge_pb2.ChargeRequest.FromString,
            response_serializer=charge_pb2.ChargeResponse.SerializeToString,
        ),
        "StreamCharges": grpc.stream_stream_rpc_method_handler(service.StreamCharges),
    }
    name = charge_pb2.DESCRIPTOR.services_by_name["ChargeService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
    server.add_registered_method_handlers(name, methods)
