"""The paywall for ASGI: it carries out the steps of a payment flow, and holds no rule (those are in `payment_flow`)."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

from tallystick.errors import Described, MalformedError
from tallystick_client.errors import AggregatorError, CallRejectedError
from tallystick_client.seller.client.aggregator import Aggregator
from tallystick_client.seller.paywall.bodies import Backpressure, Incoming, Message, Receive
from tallystick_client.seller.paywall.headers import hides_cors
from tallystick_client.seller.paywall.listing import Announcer
from tallystick_client.seller.paywall.outgoing import AHEAD_OF_RESPONSE, BODY, START, Outgoing, Send
from tallystick_client.seller.paywall.paths import find_roots
from tallystick_client.seller.paywall.payment_flow import (
    BODY_BYTES_MAX,
    BUSY_PATIENCE_S,
    KEPT_BYTES_MAX,
    MAX_TIMEOUT_S,
    RELEASE_WAIT_S,
    SETTLE_PATIENCE_S,
    PaymentFlow,
    PaymentFlows,
    at_least,
)
from tallystick_client.seller.paywall.rules import Rule
from tallystick_client.seller.paywall.state import Unserved
from tallystick_client.seller.paywall.steps import (
    OF_THE_APP,
    AskAggregator,
    AwaitPrice,
    AwaitWork,
    Background,
    BodyTooSlowError,
    CallApp,
    CheckClient,
    Deliver,
    Done,
    ReadBody,
    RequestHead,
    SendResponse,
    Step,
    Steps,
    Wait,
    Work,
)

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BUFFERED_BYTES_MAX: Final = 64 * 1024 * 1024
BODY_PATIENCE_S: Final = 30.0

_log = logging.getLogger("tallystick.seller")


class Paywall:
    """Answers 402 where a rule asks for a payment and none came, and charges for every 2xx that goes out.

    `pay_to`: the seller's address. `rules`: the price list; what no rule speaks of is free, and HEAD, OPTIONS,
    /robots.txt and /.well-known/ always are. `network`: a CAIP-2 name, needed where the aggregator takes a rule's token
    on several. `max_timeout_s`: how long a payer's `exact` authorization is to be valid; the handler has to be done
    before. `max_body_bytes`: request bodies with a Content-Length are part of what is paid for and are read ahead, up
    to this. `buffer_bodies_bytes`: memory for the bodies of all requests that are read ahead at once.
    `body_patience_s`: how long one may take. `keep_responses_bytes`: memory for answers that are sent again to a payer
    whose connection broke. `settle_patience_s`: how long a served request waits for an aggregator that is away;
    `release_wait_s`: how long an answer waits for its payment to be given back. `busy_patience_s`: how long a request
    waits while another one is under way on its payer's channel. `base_url`: scheme and host as clients see them, for
    the URL in a 402; `trust_proxy_headers`: X-Forwarded-Proto and -Host say it. `publish`: whether the price list is
    told at /.well-known/x402.json and /.well-known/x402, where `app` has no pages of its own. `list_resources`: have
    the aggregator list it at /discovery/resources, and declare it in 402s; needs `base_url`.
    `clock` (seconds that nobody sets) and `sleep` are what is waited for by.

    Raises MalformedError, which names the setting, what it was and what is allowed. Prices, the token and whether it is
    for `pay_to` are checked when the server starts, if it tells (ASGI's lifespan) and the aggregator answers; else
    before the first 402. Rules that can never decide anything are logged as warnings.
    """

    def __init__(
        self,
        app: App,
        *,
        aggregator: Aggregator,
        pay_to: str,
        rules: Sequence[Rule],
        network: str | None = None,
        max_timeout_s: int = MAX_TIMEOUT_S,
        max_body_bytes: int = BODY_BYTES_MAX,
        buffer_bodies_bytes: int = BUFFERED_BYTES_MAX,
        body_patience_s: float = BODY_PATIENCE_S,
        keep_responses_bytes: int = KEPT_BYTES_MAX,
        settle_patience_s: float = SETTLE_PATIENCE_S,
        release_wait_s: float = RELEASE_WAIT_S,
        busy_patience_s: float = BUSY_PATIENCE_S,
        base_url: str | None = None,
        trust_proxy_headers: bool = False,
        publish: bool = True,
        list_resources: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.app = app
        self.aggregator = aggregator
        self.flows = PaymentFlows(
            pay_to=pay_to,
            rules=rules,
            network=network,
            max_timeout_s=max_timeout_s,
            max_body_bytes=max_body_bytes,
            keep_responses_bytes=keep_responses_bytes,
            settle_patience_s=settle_patience_s,
            release_wait_s=release_wait_s,
            busy_patience_s=busy_patience_s,
            base_url=base_url,
            trust_proxy_headers=trust_proxy_headers,
            publish=publish,
            declare_resources=list_resources,
            etag_key=aggregator.derived_key(b"manifest"),
            clock=clock,
        )
        self._announcer = Announcer(aggregator, self.flows, base_url, sleep) if list_resources else None
        self.room = Backpressure(at_least("buffer_bodies_bytes", buffer_bodies_bytes, max_body_bytes))
        if not body_patience_s > 0:
            raise MalformedError("body_patience_s", Described(str(body_patience_s)), "more than 0 seconds")
        self.body_patience_s = body_patience_s
        self._release_wait_s = release_wait_s
        self._sleep = sleep
        self._has_looked = False
        self._tasks: dict[Work, asyncio.Task[None]] = {}

    @property
    def unserved(self) -> tuple[Unserved, ...]:
        """Exact payments that landed here while nobody was there to get the page, the newest 1,000, oldest first.

        Their payers showed no payment id, so nobody can prove to be one of them: pay back, or let it be. In memory of
        this process; each is a warning in the log too.
        """
        return self.flows.unserved

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def finish(self) -> None:
        """Wait until what is done beside requests is done; what may be left is left after `release_wait_s`."""
        if self._announcer is not None:
            await self._announcer.stop()
        while waited_for := [task for work, task in self._tasks.items() if not work.may_be_left]:
            await asyncio.wait(waited_for)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=self._release_wait_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._has_looked:
            self._look_at_app()
        with self.flows.flow(request_head(scope)) as flow:
            exchange = _Exchange(self, flow, Incoming(receive, self.room), send)
            try:
                await exchange.run(self.app, scope, receive)
            finally:
                await exchange.incoming.close()

    def _look_at_app(self) -> None:
        """Not when the paywall is made: more may be mounted, and put around, until the first request."""
        self._announce()
        self._has_looked, self.flows.roots = True, find_roots(self.app)
        if hides_cors(self.app):
            _log.warning(
                "a CORS middleware is behind the paywall, so that scripts of other origins cannot read a 402: "
                "put it around the paywall"
            )

    def _announce(self) -> None:
        if self._announcer is not None:
            self._announcer.start()

    # The steps that have nothing to do with one request.

    async def carry_out(self, step: Step) -> Any:
        """The result of a step."""
        if isinstance(step, AskAggregator):
            if step.within_s is None:
                return await step.call(self.aggregator)
            async with asyncio.timeout(step.within_s):
                return await step.call(self.aggregator)
        if isinstance(step, AwaitPrice):
            return await step.price
        if isinstance(step, Wait):
            return await self._sleep(step.seconds)
        if isinstance(step, Background):
            task = self._tasks[step.work] = asyncio.create_task(self._work(step.work))
            task.add_done_callback(lambda _: self._tasks.pop(step.work))
            return None
        assert isinstance(step, AwaitWork), step
        task_of = self._tasks.get(step.work)
        if task_of is not None:
            await asyncio.wait([task_of], timeout=step.seconds)
        return None

    async def _work(self, work: Work) -> None:
        await until(work, work.start(), self.carry_out)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_checked() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._check_settings()
                self._announce()
            return message

        async def send_closing(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self.finish()
                await self.aggregator.close()
            await send(message)

        try:
            await self.app(scope, receive_checked, send_closing)
        except _StartupFailedError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})

    async def _check_settings(self) -> None:
        """Raise _StartupFailedError if the token is not taken, or a static price cannot be asked for."""
        try:
            supported = await self.aggregator.supported()
        except CallRejectedError as error:
            raise _StartupFailedError(str(error)) from error
        except (AggregatorError, MalformedError) as error:
            _log.warning("prices are not checked: the aggregator does not say what it supports: %s", error)
            return
        try:
            self.flows.check(supported)
        except MalformedError as error:
            raise _StartupFailedError(str(error)) from error


class _Exchange:
    """One request: the steps of its flow, and the two ends of its connection."""

    def __init__(self, paywall: Paywall, flow: PaymentFlow, incoming: Incoming, send: Send) -> None:
        self.incoming = incoming
        self._paywall = paywall
        self._flow = flow
        self._send = send
        self._step: Step = Done()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def run(self, app: App, scope: Scope, receive: Receive) -> None:
        """Carry the flow out to its end, with the application where it is asked for."""
        step = await self._until(self._flow.start())
        if not isinstance(step, CallApp):
            return
        receive = receive if self.incoming.is_untouched and not step.paid else self.incoming.receive
        outgoing = Outgoing(self._deliver, self._decide)
        try:
            await app(scope, receive, outgoing.send if step.is_held else self._send)
            # A task of the application's own may be sending still: one drives the flow at a time.
            await self._is_idle.wait()
        except Exception as error:  # noqa: BLE001 - the flow raises it again
            await self._is_idle.wait()
            ended = self._flow.failed(error)
        except BaseException as error:  # noqa: BLE001 - the same, at once
            ended = self._flow.failed(error)
        else:
            # It is done where such a task was cancelled, as frameworks do when the client leaves.
            ended = self._step if self._flow.is_done else self._flow.resume()
        await self._until(ended)

    async def _decide(self, start: Message, first: Message) -> Message | None:
        """What the flow makes of the start of the response; None where something else was answered."""
        body, is_last = _part(first)
        headers = list(start.get("headers", ()))
        step = await self._until(self._flow.responded(start["status"], headers, body, is_last=is_last))
        return {**start, "headers": step.headers} if isinstance(step, Deliver) else None

    async def _deliver(self, message: Message) -> None:
        await self._send(message)
        if message["type"] != START and message["type"] not in AHEAD_OF_RESPONSE:
            body, is_last = _part(message)
            await self._until(self._flow.sent(body, is_last=is_last))

    async def _until(self, step: Step) -> Step:
        self._step = step
        if not isinstance(step, OF_THE_APP):
            self._is_idle.clear()
            self._step = Done()
            try:
                self._step = await until(self._flow, step, self._carry_out)
            finally:
                self._is_idle.set()
        return self._step

    async def _carry_out(self, step: Step) -> Any:
        if isinstance(step, CheckClient):
            return await self.incoming.is_client_gone()
        if isinstance(step, ReadBody):
            try:
                async with asyncio.timeout(self._paywall.body_patience_s):
                    return await self.incoming.read_ahead(step.bytes_max)
            except TimeoutError:
                raise BodyTooSlowError from None
        if isinstance(step, SendResponse):
            await self._send({"type": START, "status": step.status, "headers": step.headers})
            await self._send({"type": BODY, "body": step.body, "more_body": False})
            return None
        return await self._paywall.carry_out(step)


async def until(steps: Steps, step: Step, carry_out: Callable[[Step], Awaitable[Any]]) -> Step:
    """Carry steps out up to the next that is the application's; those of work come to their end."""
    while not isinstance(step, OF_THE_APP):
        try:
            result = await carry_out(step)
        except BaseException as error:  # noqa: BLE001 - the rules say what becomes of it, or raise it again
            step = steps.failed(error)
        else:
            step = steps.resume(result)
    return step


def request_head(scope: Scope) -> RequestHead:
    """An ASGI request, as the flow takes it."""
    name, port = scope.get("server") or ("localhost", None)
    return RequestHead(
        method=scope["method"],
        path=scope["path"],
        headers=scope["headers"],
        query=scope.get("query_string", b""),
        raw_path=scope.get("raw_path") or b"",
        root_path=scope.get("root_path") or "",
        scheme=scope.get("scheme", "http"),
        server=f"{name}:{port}" if port else str(name),
        http_version=scope.get("http_version", "1.1"),
        scope=scope,
    )


def _part(message: Message) -> tuple[bytes | None, bool]:
    """The body in a message, None where it is not known, and whether it was the last."""
    if message["type"] != BODY:
        return None, False
    return message.get("body", b""), not message.get("more_body", False)


class _StartupFailedError(Exception):
    """The paywall's settings do not fit the aggregator's."""
