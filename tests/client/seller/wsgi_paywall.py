"""A paywall for WSGI, which is synchronous: all that an integration needs is public. It sends whole responses."""

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from tallystick_client import Aggregator, PaymentFlow, PaymentFlows
from tallystick_client.seller.paywall import steps


class WsgiPaywall:
    """An application behind the rules of a flow. The aggregator's calls run on an event loop of their own."""

    def __init__(self, app: Callable[..., Iterable[bytes]], aggregator: Aggregator, **settings: Any) -> None:
        self._app, self._aggregator, self._flows = app, aggregator, PaymentFlows(**settings)
        self._lock, self._loop = threading.Lock(), asyncio.new_event_loop()
        self._threads: dict[object, threading.Thread] = {}
        self._start(self._loop, self._loop.run_forever)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer: list[steps.SendResponse] = []
        try:
            with self._flows.flow(_head(environ)) as flow:
                self._serve(flow, environ, answer)
        except Exception:
            if not answer:
                raise  # else the flow has answered 500
        lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer[0].headers]
        start_response(f"{answer[0].status} -", lines)
        return [answer[0].body]

    def _serve(self, flow: PaymentFlow, environ: dict[str, Any], answer: list[steps.SendResponse]) -> None:
        until = partial(self._until, flow, environ, answer)
        step = until(flow.start)
        if not isinstance(step, steps.CallApp):
            return
        try:
            status, headers, body = _called(self._app, environ)
        except Exception as error:  # noqa: BLE001 - the flow raises it again
            until(partial(flow.failed, error))
            return
        if step.is_held:
            step = until(partial(flow.responded, status, headers, body, is_last=True))
        if isinstance(step, steps.Deliver):
            headers = step.headers
            until(partial(flow.sent, body, is_last=True))
        if not isinstance(step, steps.StopApp):
            answer.append(steps.SendResponse(status, headers, body))
        until(flow.resume)

    def close(self) -> None:
        loop = self._threads.pop(self._loop)
        for thread in self._threads.values():
            thread.join()
        self._run(self._aggregator.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        loop.join()
        self._loop.close()

    def _until(self, flow: Any, environ: Any, answer: Any, advance: Callable[[], steps.Step]) -> steps.Step:
        """Carry steps out up to the next that is the application's."""
        while True:
            with self._lock:
                step = advance()
            if isinstance(step, steps.OF_THE_APP):
                return step
            try:
                advance = partial(flow.resume, self._carry_out(step, environ, answer))
            except Exception as error:  # noqa: BLE001 - the flow raises it again where it has no answer
                advance = partial(flow.failed, error)

    def _carry_out(self, step: steps.Step, environ: Any, answer: list[steps.SendResponse]) -> Any:
        if isinstance(step, steps.AskAggregator):
            return self._run(step.call(self._aggregator), step.within_s)
        if isinstance(step, steps.Wait):
            time.sleep(step.seconds)
        elif isinstance(step, steps.Background):
            self._start(step.work, partial(self._until, step.work, environ, answer, step.work.start))
        elif isinstance(step, steps.AwaitWork):
            self._threads[step.work].join(step.seconds)
        elif isinstance(step, steps.ReadBody):
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            environ["wsgi.input"] = io.BytesIO(body)
            return body
        elif isinstance(step, steps.SendResponse):
            answer.append(step)
        return False  # of CheckClient: nobody knows here whether the client has left

    def _run(self, call: Any, within_s: float | None = None) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(within_s)

    def _start(self, key: object, work: Callable[[], object]) -> None:
        self._threads[key] = threading.Thread(target=work)
        self._threads[key].start()


def _head(environ: dict[str, Any]) -> steps.RequestHead:
    names = {name: name.removeprefix("HTTP_").replace("_", "-").lower() for name in environ if name.isupper()}
    headers = [(name.encode(), str(environ[key]).encode("latin-1")) for key, name in names.items()]
    path = (environ.get("SCRIPT_NAME", "") + environ["PATH_INFO"]).encode("latin-1").decode(errors="replace")
    query = environ.get("QUERY_STRING", "").encode("latin-1")
    return steps.RequestHead(environ["REQUEST_METHOD"], path, headers, query, scope=environ)


def _called(app: Callable[..., Iterable[bytes]], environ: dict[str, Any]) -> tuple[int, steps.Headers, bytes]:
    told: list[Any] = []
    body = b"".join(app(environ, lambda status, headers, _=None: told.extend((status, headers))))
    return int(told[0][:3]), [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told[1]], body
