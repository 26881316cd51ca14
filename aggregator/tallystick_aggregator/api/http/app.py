"""Which path goes where. The two that are asked most skip the framework; the others are Starlette's.

POST /verify, /settle       payments
GET  /supported             what can be verified and settled
GET  /discovery/resources   what can be bought
PUT  /discovery/resources   a seller's list of what it sells
GET  /healthz               200 while the aggregator serves, else 503
GET  /openapi.json, /       this, for programs and for people
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tallystick_aggregator.api.http import discovery, openapi, responses
from tallystick_aggregator.api.http.discovery import NoResources, Resources
from tallystick_aggregator.api.http.limits import HttpLimits, Seats
from tallystick_aggregator.api.http.payments import PaymentRoute, Settling, Verifying
from tallystick_aggregator.api.http.requests import NO_STRANGERS, ClientGoneError, read_body, token_of
from tallystick_aggregator.api.http.responses import ProblemError, Reply, problem_of, problem_reply
from tallystick_aggregator.auth.credentials import UnauthenticatedError
from tallystick_aggregator.facilitator import Facilitator

_CLIENT_GONE: Final = 499
"""Nobody is there to see it."""
_KNOWN: Final = {404: "not_found", 405: "method_not_allowed"}

Page = Callable[[Request], Awaitable[Reply]]


class FacilitatorApp:
    """The ASGI application."""

    def __init__(
        self, facilitator: Facilitator, limits: HttpLimits | None = None, resources: Resources | None = None
    ) -> None:
        """`resources` is what /discovery/resources lists; nothing without it."""
        limits = limits or HttpLimits()
        self.serving = False
        """What /healthz tells."""
        self.settling = False
        """Whether what is charged gets claimed, told there too."""
        self.seats = Seats(limits)
        self._facilitator = facilitator
        self._limits = limits
        self._resources = resources or NoResources()
        verbs = Verifying(facilitator), Settling(facilitator, limits.settle_s_max)
        self._payments = {f"/{verb.name}": PaymentRoute(facilitator, verb, limits, self.seats) for verb in verbs}
        self._pages = Starlette(
            routes=[
                *(Route(path, self._never, methods=["POST"]) for path in self._payments),
                Route("/supported", _guarded(self._supported)),
                Route("/discovery/resources", _guarded(self._discovery), methods=["GET", "PUT"]),
                Route("/healthz", _guarded(self._health)),
                Route("/openapi.json", _guarded(self._openapi)),
                Route("/", self._for_people),
            ],
            exception_handlers={HTTPException: _not_there},
        )
        # A payment is posted to one address, not sent on to another.
        self._pages.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        route = self._payments.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (route or self._pages)(scope, receive, send)

    async def tell_health(self, *, serving: bool) -> None:
        """Set what /healthz tells."""
        self.serving = serving

    async def tell_settling(self, *, settling: bool) -> None:
        """Set what /healthz tells of settlement."""
        self.settling = settling

    # Pages.

    async def _supported(self, request: Request) -> Reply:
        token = token_of(request.scope["headers"])
        if token is None:
            if not self._facilitator.is_open:
                raise UnauthenticatedError(NO_STRANGERS)
            with self.seats.seat():
                return Reply(200, responses.supported(await self._facilitator.supported_for_strangers()))
        principal, kinds = await self._facilitator.supported(token)
        with self.seats.seat(principal.name):
            return Reply(200, responses.supported(kinds))

    async def _discovery(self, request: Request) -> Reply:
        if request.method != "PUT":
            return discovery.page(self._resources, request.query_params)
        token = token_of(request.scope["headers"])
        if token is None:
            raise UnauthenticatedError(NO_STRANGERS)
        principal = self._facilitator.charger(token)
        with self.seats.seat(principal.name):
            read = partial(read_body, request.scope, request.receive, self._limits)
            return await discovery.publish(self._resources, principal, read)

    async def _health(self, request: Request) -> Reply:
        del request
        told = {"status": "serving" if self.serving else "not_serving", "settling": self.settling}
        return Reply(200 if self.serving else 503, msgspec.json.encode(told))

    async def _openapi(self, request: Request) -> Reply:
        del request
        return Reply(200, openapi.document())

    async def _for_people(self, request: Request) -> Response:
        del request
        return HTMLResponse(openapi.page())

    async def _never(self, request: Request) -> Response:
        raise AssertionError(f"{request.url.path} is answered before")


def _guarded(page: Page) -> Callable[[Request], Awaitable[Response]]:
    async def call(request: Request) -> Response:
        try:
            reply = await page(request)
        except ClientGoneError:
            return Response(status_code=_CLIENT_GONE)
        except Exception as error:  # noqa: BLE001 - the outermost edge
            reply = problem_reply(problem_of(error, request.url.path))
        return _response(reply)

    return call


async def _not_there(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    message = f"{request.method} {request.url.path[:64]!a} is not served here; see /openapi.json"
    response = _response(problem_reply(ProblemError(status, _KNOWN.get(status, "http"), message)))
    response.headers.update((error.headers if isinstance(error, HTTPException) else None) or {})
    return response


def _response(reply: Reply) -> Response:
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(reply.body, reply.status, headers, responses.JSON.decode())
