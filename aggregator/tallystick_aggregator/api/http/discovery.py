"""GET and PUT /discovery/resources: what can be bought, and a seller's list of what it sells (`listing`)."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec
from starlette.datastructures import QueryParams

from tallystick.errors import Described, MalformedError
from tallystick.hexadecimal import parse_address
from tallystick_aggregator.api.http.responses import Reply
from tallystick_aggregator.auth.credentials import Principal
from tallystick_aggregator.listing import Filter, Published, ResourcePage

RESOURCES_MAX: Final = 100
RESOURCES_USUALLY: Final = 20
TEXT_CHARS_MAX: Final = 64
_OFFSET_MAX: Final = 2**53 - 1
_NUMBER_CHARS_MAX: Final = 16


class Resources(Protocol):
    """What can be bought, as far as sellers told the aggregator."""

    def page(self, wanted: Filter, limit: int, offset: int) -> ResourcePage:
        """Return at most `limit` of the resources that are asked for, after the first `offset`."""
        ...

    async def publish(self, principal: Principal, manifest: bytes) -> Published:
        """List these resources of a seller instead of those before. Raises MalformedError."""
        ...


class NoResources:
    """Nothing is listed, and nobody may list anything."""

    def page(self, wanted: Filter, limit: int, offset: int) -> ResourcePage:
        """See Resources."""
        del wanted, limit, offset
        return ResourcePage((), 0)

    async def publish(self, principal: Principal, manifest: bytes) -> Published:
        """See Resources."""
        del principal, manifest
        raise MalformedError("items", Described("a list"), "none: nothing is listed here")


def page(resources: Resources, query: QueryParams) -> Reply:
    """Answer a GET. Raises MalformedError."""
    kind, scheme, network, extension = (_text(query, name) for name in ("type", "scheme", "network", "extensions"))
    pay_to = _address(query.get("payTo"))
    limit = _number(query.get("limit"), "limit", RESOURCES_USUALLY, 1, RESOURCES_MAX)
    offset = _number(query.get("offset"), "offset", 0, 0, _OFFSET_MAX)
    found = resources.page(Filter(kind, pay_to, scheme, network, extension), limit, offset)
    pagination = {"limit": limit, "offset": offset, "total": found.total}
    return Reply(200, msgspec.json.encode({"x402Version": 2, "items": found.items, "pagination": pagination}))


async def publish(resources: Resources, principal: Principal, read: Callable[[], Awaitable[bytes]]) -> Reply:
    """Answer a PUT of this seller, whose body is yet to be read. Raises MalformedError."""
    published = await resources.publish(principal, await read())
    return Reply(200, msgspec.json.encode(published._asdict()))


def _text(query: QueryParams, name: str) -> str:
    value = query.get(name, "")
    if len(value) > TEXT_CHARS_MAX:
        raise MalformedError(name, value, f"at most {TEXT_CHARS_MAX} characters")
    return value


def _address(text: str | None) -> bytes:
    # Whatever case its letters are in: nobody is paid by this.
    return b"" if text is None else parse_address(text[:2] + text[2:].lower(), "payTo")


def _number(text: str | None, field: str, usual: int, least: int, most: int) -> int:
    if text is None:
        return usual
    is_number = text.isascii() and text.isdecimal() and len(text) <= _NUMBER_CHARS_MAX
    if not is_number or not least <= int(text) <= most:
        raise MalformedError(field, Described(repr(text[:_NUMBER_CHARS_MAX])), f"from {least} to {most}")
    return int(text)
