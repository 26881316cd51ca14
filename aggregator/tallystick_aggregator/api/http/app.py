"""Which path goes where. The two that are asked most skip the framework; the others are Starlette's.

POST /verify, /settle       payments
GET  /supported             what can be verified and settled
GET  /discovery/resources   what can be bought
GET  /healthz               200 while the aggregator serves, else 503
GET  /openapi.json, /       this, for programs and for people
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tallystick.errors import Described, MalformedError
from tallystick_aggregator.api.http import openapi, responses
from tallystick_aggregator.api.http.discovery import NoResources, Resources
from tallystick_aggregator.api.http.limits import HttpLimits, Seats
from tallystick_aggregator.api.http.payments import PaymentRoute, Settling, Verifying
from tallystick_aggregator.api.http.requests import NO_STRANGERS, token_of
from tallystick_aggregator.api.http.responses import ProblemError, Reply, problem_of, problem_reply
from tallystick_aggregator.auth.credentials import UnauthenticatedError
from tallystick_aggregator.facilitator import Facilitator

RESOURCES_MAX: Final = 100
RESOURCES_USUALLY: Final = 20
_OFFSET_MAX: Final = 2**53 - 1
_NUMBER_CHARS_MAX: Final = 16
_TYPE_CHARS_MAX: Final = 64
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
        self._resources = resources or NoResources()
        verbs = Verifying(facilitator), Settling(facilitator, limits.settle_s_max)
        self._payments = {f"/{verb.name}": PaymentRoute(facilitator, verb, limits, self.seats) for verb in verbs}
        self._pages = Starlette(
            routes=[
                *(Route(path, self._never, methods=["POST"]) for path in self._payments),
                Route("/supported", _guarded(self._supported)),
                Route("/discovery/resources", _guarded(self._discovery)),
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
        query = request.query_params
        kind = query.get("type", "")
        if len(kind) > _TYPE_CHARS_MAX:
            raise MalformedError(
                "type", kind, f"a kind of resource, such as http, of at most {_TYPE_CHARS_MAX} characters"
            )
        limit = _number(query.get("limit"), "limit", RESOURCES_USUALLY, 1, RESOURCES_MAX)
        offset = _number(query.get("offset"), "offset", 0, 0, _OFFSET_MAX)
        page = self._resources.page(kind, limit, offset)
        pagination = {"limit": limit, "offset": offset, "total": page.total}
        body = {"x402Version": 2, "items": page.items, "pagination": pagination}
        return Reply(200, msgspec.json.encode(body))

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


def _number(text: str | None, field: str, usual: int, least: int, most: int) -> int:
    if text is None:
        return usual
    is_number = text.isascii() and text.isdecimal() and len(text) <= _NUMBER_CHARS_MAX
    if not is_number or not least <= int(text) <= most:
        raise MalformedError(field, Described(repr(text[:_NUMBER_CHARS_MAX])), f"from {least} to {most}")
    return int(text)
