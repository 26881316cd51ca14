"""The proxy itself: an HTTP server on a free port of 127.0.0.1, in front of one node."""

import asyncio
import itertools
import json
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from aiohttp import web

from rpc_faults.rules import (
    UNCHANGED,
    Delay,
    Drop,
    Duplicate,
    Falsify,
    NodeRefusedError,
    Question,
    Refuse,
    Rule,
)
from rpc_faults.views import subjects

NODE_TIMEOUT_S: Final = 30.0
ASKED_MAX: Final = 10_000
_BODY_BYTES_MAX: Final = 16 * 1024 * 1024
_DROPPED: Final = object()


@dataclass(frozen=True, slots=True)
class Made:
    """One fault that was made: the journal's entry. `truth` and `said` are results or error objects, as JSON.

    `consumed`: the answer was written to a caller that had not hung up. For a drop it is False.
    """

    at: float
    endpoint: str
    kind: str
    question: Question
    truth: Any
    said: Any
    consumed: bool

    def subjects(self) -> set[str]:
        """What the answer was about, in hex: a transaction, or the accounts or channels that were told falsely."""
        return subjects(self.question, self.truth, self.said)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        method, params = self.question
        return {
            "time": round(self.at, 3),
            "endpoint": self.endpoint,
            "kind": self.kind,
            "method": method,
            "params": params,
            "truth": self.truth,
            "said": self.said,
            "consumed": self.consumed,
        }


@dataclass(frozen=True, slots=True)
class _Answer:
    """What goes out for one question; `rule` is why it is not simply the node's answer."""

    question: Question
    body: dict[str, Any]
    rule: Rule | None = None
    truth: Any = None
    status: int = 200
    text: str | None = None

    @property
    def said(self) -> Any:
        return self.text if self.text is not None else self.body.get("result", self.body.get("error"))


class FaultProxy:
    """Passes JSON-RPC on to a node, but for what its rules are about. Use it as an async context manager.

    The first rule that is about a question decides; the order is the order of `add`. What is drawn by chance comes from
    `seed` alone, so the same questions in the same order meet the same faults. `clock` stamps the journal.
    """

    def __init__(
        self,
        node_url: str,
        rules: Iterable[Rule] = (),
        *,
        name: str = "endpoint",
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.journal: list[Made] = []
        """All faults that were made, in their order."""
        self.asked: deque[tuple[float, Question]] = deque(maxlen=ASKED_MAX)
        """The newest questions, and when they came."""
        self._node_url = node_url
        self._rules = list(rules)
        self._chance = random.Random(seed)
        self._clock = clock
        self._numbers = itertools.count(1)
        self._closing = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=NODE_TIMEOUT_S))
        application = web.Application(client_max_size=_BODY_BYTES_MAX)
        application.router.add_post("/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()

    @property
    def url(self) -> str:
        """Where it listens. The path is as secret as a provider's access key is."""
        assert self._runner is not None
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/key-of-{self.name}"

    def add(self, *rules: Rule) -> None:
        """Go by these rules too, after those that there are."""
        self._rules += rules

    def remove(self, *rules: Rule) -> None:
        """Forget rules; one that is not there is no error."""
        self._rules = [rule for rule in self._rules if rule not in rules]

    def clear(self) -> None:
        """Forget all rules."""
        self._rules = []

    async def ask(self, method: str, *params: Any) -> Any:
        """The node's own result. Raises NodeRefusedError."""
        assert self._session is not None
        request = {"jsonrpc": "2.0", "id": next(self._numbers), "method": method, "params": params}
        async with self._session.post(self._node_url, json=request) as response:
            answer = await response.json(content_type=None)
        if answer.get("error") is not None:
            raise NodeRefusedError(answer["error"])
        return answer["result"]

    # One request.

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            body = json.loads(await request.read())
        except ValueError:
            return web.json_response({"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "no JSON"}})
        calls = body if isinstance(body, list) else [body]
        answers = [await self._answer(call) for call in calls]
        if any(answer is _DROPPED for answer in answers):
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        kept = [answer for answer in answers if isinstance(answer, _Answer)]
        bodies = [
            answer.body | {"jsonrpc": "2.0", "id": call.get("id")} for answer, call in zip(kept, calls, strict=True)
        ]
        text = next((answer.text for answer in kept if answer.text is not None), None)
        response = web.Response(
            status=max(answer.status for answer in kept),
            text=text if text is not None else json.dumps(bodies if isinstance(body, list) else bodies[0]),
            content_type="text/plain" if text is not None else "application/json",
        )
        await self._write(request, response, kept)
        return response

    async def _write(self, request: web.Request, response: web.Response, answers: Iterable[_Answer]) -> None:
        """Send it, then note the faults in it: only now it is known whether somebody was there to hear them."""
        consumed = request.transport is not None and not request.transport.is_closing()
        if consumed:
            try:
                await response.prepare(request)
                await response.write_eof()
            except ConnectionError:
                consumed = False
        for answer in answers:
            if answer.rule is not None:
                self._note(answer.rule, answer.question, answer.truth, answer.said, consumed=consumed)

    def _note(self, rule: Rule, question: Question, truth: Any, said: Any, *, consumed: bool) -> None:
        self.journal.append(Made(self._clock(), self.name, rule.kind, question, truth, said, consumed))
        rule.made.set()

    async def _answer(self, call: dict[str, Any]) -> object:
        """An _Answer, or _DROPPED."""
        question = Question(call["method"], call.get("params") or [])
        self.asked.append((self._clock(), question))
        rules = [rule for rule in self._rules if rule.is_about(question)]
        for rule in rules:
            if rule.share < 1.0 and self._chance.random() >= rule.share:
                continue
            answer = await self._by_rule(rule, question)
            if answer is not None:
                return answer
        return _Answer(question, await self._true(question))

    async def _by_rule(self, rule: Rule, question: Question) -> object:
        """What the rule makes of a question; None if it has nothing to say after all."""
        effect = rule.effect
        if not isinstance(effect, Falsify):
            rule.count += 1
        if isinstance(effect, Drop):
            truth = await self._true(question) if effect.reaches_node else None
            self._note(rule, question, truth, None, consumed=False)
            return _DROPPED
        if isinstance(effect, Refuse):
            return _Answer(question, {"error": effect.error(question)}, rule, None, effect.status, effect.text)
        truth = await self._true(question)
        if isinstance(effect, Delay):
            await self._pause(effect.seconds)
            return _Answer(question, truth, rule, truth)
        if isinstance(effect, Duplicate):
            return _Answer(question, await self._true(question), rule, truth)
        if "result" not in truth or rule.is_spent:
            return None
        said = await effect.change(question, truth["result"], self.ask)
        if said is UNCHANGED or said == truth["result"] or rule.is_spent:  # another question may have been quicker
            return None
        rule.count += 1
        return _Answer(question, {"result": said}, rule, truth["result"])

    async def _true(self, question: Question) -> dict[str, Any]:
        try:
            return {"result": await self.ask(question.method, *question.params)}
        except NodeRefusedError as refused:
            return {"error": refused.error}

    async def _pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the proxy."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass
