"""What a rule asks for, whose price may be a function of the request.

A price function may ask for the request's body. A body whose length was told is read before it is called; one that is
streamed up only once it has asked.
"""

import inspect
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from tallystick.patterns import PATTERN_CHARS_MAX
from tallystick.x402 import pay_ahead_extension
from tallystick_client.seller.paywall.rules import Match, RequestInfo
from tallystick_client.seller.paywall.steps import AwaitPrice, BodyTooLargeError, Flow, ReadBody, RequestHead

_log = logging.getLogger("tallystick.seller")


class RequestBody:
    """The body of one request, which is read when it must be known. When made, MalformedError on a wrong length."""

    def __init__(self, head: RequestHead, bytes_max: int) -> None:
        self._length = head.content_length
        self._is_streamed = self._length is None and head.may_have_body
        self._bytes_max = bytes_max

    @property
    def is_expected(self) -> bool:
        """Whether there may be a body at all."""
        return self._is_streamed or bool(self._length)

    def read_bound(self) -> Flow[bytes]:
        """The body that a payment is bound to: one whose length was told; nothing of one that is streamed up."""
        return b"" if self._is_streamed else (yield from self.read_if_length_is_told()) or b""

    def read_if_length_is_told(self) -> Flow[bytes | None]:
        """The body, None where it is streamed up. Raises BodyTooLargeError."""
        if self._is_streamed:
            return None
        if not self._length:
            return b""
        body = None if self._length > self._bytes_max else (yield from self.read())
        if body is None:
            raise BodyTooLargeError
        return body

    def read(self) -> Flow[bytes | None]:
        """The body, however it comes; None where it is too long to be read ahead."""
        body: bytes | None = yield ReadBody(self._bytes_max)
        return body


@dataclass(frozen=True, slots=True)
class Price:
    """What a rule asks for; None where it asks for nothing. `is_blind`: it was made without the body it asked for."""

    text: str | None
    is_blind: bool = False


class _Watched(RequestInfo):
    """Notes whether a price function looks at a body that was not read."""

    __slots__ = ("_is_looked_at",)

    @property
    def lacks_body(self) -> bool:
        """Whether the function looked, and there was nothing to see."""
        return getattr(self, "_is_looked_at", False) and self.body is None

    def __getattribute__(self, name: str) -> Any:
        if name == "body":
            # The fields are frozen; this is none of them.
            object.__setattr__(self, "_is_looked_at", True)
        return super().__getattribute__(name)


def price_of(match: Match, head: RequestHead, body: RequestBody) -> Flow[Price]:
    """The price of the rule that matched.

    Raises what the price function raises, and BodyNotReadError.
    """
    function = match.rule.price
    if isinstance(function, str):
        return Price(function)
    headers: dict[str, str] = {}
    for name, value in head.headers:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))

    def info_of(content: bytes | None) -> _Watched:
        return _Watched(head.method, match.path, head.query, headers, content, head.scope)

    info = info_of((yield from body.read_if_length_is_told()))
    try:
        text = yield from _called(function(info))
    except Exception as error:
        if not info.lacks_body:
            raise
        _log.debug("a price function failed without the body, it is asked again with it: %r", error)
    else:
        if not info.lacks_body:
            return Price(text)
    info = info_of((yield from body.read()))
    text = yield from _called(function(info))
    return Price(text, is_blind=info.body is None)


def _called(price: str | Awaitable[str | None] | None) -> Flow[str | None]:
    if inspect.isawaitable(price):
        text: str | None = yield AwaitPrice(price)
        return text
    return price


def pay_ahead_of(match: Match, head: RequestHead) -> Mapping[str, Any]:
    """The extension that says where the same price holds, if it is a fixed one: in the paths as the client sees them.

    Empty where the path on the request line does not tell what stands in front of the rule's.
    """
    raw = head.raw_path
    seen = unquote(raw.partition(b"?")[0].decode("latin-1")) if raw else head.path
    front = seen.removesuffix(match.path)
    path = front + match.rule.pattern.text
    if not isinstance(match.rule.price, str) or not seen.endswith(match.path):
        return {}
    # A star in front would be read as one of the pattern's.
    return {} if "*" in front or len(path) > PATTERN_CHARS_MAX else pay_ahead_extension(path, match.rule.methods)
