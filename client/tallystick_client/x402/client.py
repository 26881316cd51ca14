"""`deferred` for the SDK's client: `x402HttpxClient`, the requests adapter and the MCP client pay by it from a wallet.

    scheme = DeferredClientScheme(wallet)
    client = x402Client().register("eip155:8453", scheme)
    async with x402HttpxClient(client, event_hooks=scheme.event_hooks) as http:
        page = await http.get("https://example.org/articles/1")

The SDK does not tell a scheme which request it pays for. `event_hooks` (httpx) and `show` (anything else) do; without
them a payment is for GET of the 402's resource, and requests with a body are refused by their sellers.

An error of the wallet's comes as the SDK's PaymentAbortedError, with the wallet's own as its `__cause__`.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Hashable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from x402 import schemas

from tallystick.errors import TallystickError
from tallystick.x402 import SCHEME_DEFERRED
from tallystick_client.payer.http.background import WalletThread
from tallystick_client.payer.http.steps import is_read_first
from tallystick_client.payer.policy.answers import Answer
from tallystick_client.payer.wallet.schemes.port import Payer
from tallystick_client.x402.binding import request_at
from tallystick_client.x402.payments import WalletPayments, shown, told_answer, tool_answer

_made: ContextVar[dict[str, Any] | None] = ContextVar("tallystick_payment", default=None)
"""The payment that was just made here: the SDK's hooks may wait for it, its `create_payment_payload` may not."""
_NOT_MADE: Final = "this scheme pays through the SDK's client only: x402Client().register(network, scheme)"


class _Scheme:
    """What both variants share."""

    scheme = SCHEME_DEFERRED
    payments: WalletPayments

    def create_payment_payload(self, requirements: schemas.PaymentRequirements) -> dict[str, Any]:  # noqa: ARG002
        """The payment that the hook before has made."""
        payment = _made.get()
        if payment is None:
            raise TypeError(_NOT_MADE)
        _made.set(None)
        return payment

    def find_default_asset(self, asset: str, network: str) -> dict[str, Any] | None:
        """The tokens of the wallet's allow-list; the SDK's spend controls take them for known ones."""
        return self.payments.default_asset(asset, network)

    @contextmanager
    def show(
        self, method: str, url: str, body: bytes | None = b"", headers: Mapping[str, str] = MappingProxyType({})
    ) -> Generator[None]:
        """Pay for this request in the block; `body` is None for one that is streamed up. `headers`: the request's."""
        before = shown.set(request_at(method, url, headers, body))
        try:
            yield
        finally:
            shown.reset(before)


class DeferredClientScheme(_Scheme):
    """The SDK's client scheme for `x402Client`: pays from a wallet that is open in the same event loop.

    `clock`: seconds since the epoch. `require_https`: pay over plain http at this machine's own address only.
    """

    def __init__(self, wallet: Payer, clock: Callable[[], float] = time.time, *, require_https: bool = True) -> None:
        self.payments = WalletPayments(wallet, self.scheme, clock, require_https=require_https)
        self.scheme_hooks = {
            "before_payment_creation": self._before_payment_creation,
            "on_payment_response": self._on_payment_response,
        }

    @property
    def event_hooks(self) -> dict[str, list[Callable[[Any], Awaitable[None]]]]:
        """Hooks for httpx's AsyncClient: they show each request to this scheme, and how it was answered."""
        return {"request": [self._show], "response": [self._was_answered]}

    async def after_payment(self, context: Any) -> None:
        """For the SDK's MCP client, which tells schemes nothing: `mcp.on_after_payment(scheme.after_payment)`."""
        await self.payments.answered(_task(), tool_answer(context.settle_response))

    async def _show(self, request: Any) -> None:
        # A task that goes on to its next request has given up the one before, and another task may try that again.
        self.payments.lost(_task())
        body = await request.aread() if is_read_first(request.headers) else None
        shown.set(request_at(request.method, str(request.url), request.headers, body))

    async def _was_answered(self, response: Any) -> None:
        shown.set(None)
        # The SDK's own hook comes first, and takes the payment; this is for answers that say nothing of it.
        await self.payments.answered(_task(), Answer(response.status_code, response.headers))

    async def _before_payment_creation(self, context: schemas.PaymentCreationContext) -> None:
        required, selected = _of_v2(context)
        task = _task()
        try:
            _made.set(await self.payments.pay(task, required, selected, shown.get()))
        except TallystickError as error:
            raise _aborted(error) from error
        # Once for each task, however many payments it makes.
        task.remove_done_callback(self.payments.lost)
        task.add_done_callback(self.payments.lost)

    async def _on_payment_response(
        self, context: schemas.PaymentResponseContext
    ) -> schemas.RecoveredResponseResult | None:
        try:
            again = await self.payments.answered(_task(), told_answer(context))
        except TallystickError as error:
            raise _aborted(error) from error
        return schemas.RecoveredResponseResult() if again else None


class DeferredClientSchemeSync(_Scheme):
    """The SDK's client scheme for `x402ClientSync`: pays from a wallet on a thread of its own. Threads may share it."""

    def __init__(
        self, wallet: WalletThread[Any], clock: Callable[[], float] = time.time, *, require_https: bool = True
    ) -> None:
        self._thread = wallet
        self.payments = WalletPayments(wallet.wallet, self.scheme, clock, require_https=require_https)
        self.scheme_hooks = {
            "before_payment_creation": self._before_payment_creation,
            "on_payment_response": self._on_payment_response,
        }

    def after_payment(self, context: Any) -> None:
        """As `DeferredClientScheme.after_payment`."""
        answer = tool_answer(context.settle_response)
        self._thread.run(self.payments.answered(threading.current_thread(), answer))

    def lost(self) -> None:
        """No answer came to this thread's request, if it was paid for: the next try sends the same payment again."""
        self._thread.call_soon(partial(self.payments.lost, threading.current_thread()))

    def was_answered(self, status: int, headers: Any) -> None:
        """This thread's request was answered. The SDK tells it itself of answers that speak of the payment."""
        self._thread.run(self.payments.answered(threading.current_thread(), Answer(status, headers)))

    def _before_payment_creation(self, context: schemas.PaymentCreationContext) -> None:
        required, selected = _of_v2(context)
        paying = self._pay(threading.current_thread(), required, selected, shown.get())
        try:
            _made.set(self._thread.run(paying))
        except TallystickError as error:
            raise _aborted(error) from error
        except BaseException:
            # An interrupt may have come when the payment was just made: it keeps nobody else from paying.
            self.lost()
            raise

    async def _pay(self, thread: Hashable, *what: Any) -> dict[str, Any]:
        for owner in self.payments.owners():
            if isinstance(owner, threading.Thread) and not owner.is_alive():
                self.payments.lost(owner)
        return await self.payments.pay(thread, *what)

    def _on_payment_response(self, context: schemas.PaymentResponseContext) -> schemas.RecoveredResponseResult | None:
        try:
            again = self._thread.run(self.payments.answered(threading.current_thread(), told_answer(context)))
        except TallystickError as error:
            raise _aborted(error) from error
        return schemas.RecoveredResponseResult() if again else None


def _of_v2(context: schemas.PaymentCreationContext) -> tuple[schemas.PaymentRequired, schemas.PaymentRequirements]:
    required, selected = context.payment_required, context.selected_requirements
    assert isinstance(required, schemas.PaymentRequired), "registered for version 2 only"
    assert isinstance(selected, schemas.PaymentRequirements), "as above"
    return required, selected


def _aborted(error: TallystickError) -> schemas.PaymentAbortedError:
    return schemas.PaymentAbortedError(str(error))


def _task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None, "the SDK's client runs in a task"
    return task
