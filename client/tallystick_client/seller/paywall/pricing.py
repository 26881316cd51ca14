"""What a request costs: a rule's price, which may be a function of the request, as offers to pay it.

A price function may ask for the request's body. A body whose length was told is read before it is called; one that is
streamed up only once it has asked.
"""

import inspect
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from tallystick.errors import Described, MalformedError
from tallystick.facilitator import Supported
from tallystick.hexadecimal import checksum
from tallystick.patterns import PATTERN_CHARS_MAX
from tallystick.x402 import pay_ahead_extension
from tallystick_client.seller.paywall.asgi import Scope
from tallystick_client.seller.paywall.bodies import BodyReader
from tallystick_client.seller.paywall.offers import Offer, make_offers
from tallystick_client.seller.paywall.rules import Match, RequestInfo, Rule

CHARGE: Final = "charge"
"""The scope of tokens that may verify and settle."""
_OFFERS_MAX: Final = 1_024
"""Prices whose offers are remembered: a price function may make up any number of them."""

_log = logging.getLogger("tallystick.seller")


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


async def price_of(match: Match, scope: Scope, body: BodyReader) -> Price:
    """The price of the rule that matched.

    Raises what the price function raises, and what the body's reader does.
    """
    function = match.rule.price
    if isinstance(function, str):
        return Price(function)
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))

    def info_of(content: bytes | None) -> _Watched:
        return _Watched(
            method=scope["method"],
            path=match.path,
            query=scope.get("query_string", b""),
            headers=headers,
            body=content,
            scope=scope,
        )

    info = info_of(await body.read_if_length_is_told())
    try:
        text = await _called(function(info))
    except Exception as error:
        if not info.lacks_body:
            raise
        _log.debug("a price function failed without the body, it is asked again with it: %r", error)
    else:
        if not info.lacks_body:
            return Price(text)
    info = info_of(await body.read_ahead())
    return Price(await _called(function(info)), is_blind=info.body is None)


async def _called(price: str | Awaitable[str | None] | None) -> str | None:
    return await price if inspect.isawaitable(price) else price


class OfferBook:
    """The offers for prices, remembered as long as the aggregator supports the same."""

    def __init__(self, pay_to: bytes, network: str | None, timeout_s: int) -> None:
        self._pay_to = pay_to
        self._network = network
        self._timeout_s = timeout_s
        self._offers: dict[str, tuple[Offer, ...]] = {}
        self._offers_of: Supported | None = None

    def __len__(self) -> int:
        return len(self._offers)

    def offers_for(self, supported: Supported, price: str, rule: Rule) -> tuple[Offer, ...]:
        """The ways to pay this price; none where it is zero.

        Raises MalformedError where the aggregator does not take it, or its token could not charge for `pay_to`.
        """
        if self._offers_of is not supported or len(self._offers) >= _OFFERS_MAX:
            _check_token(supported, self._pay_to)
            self._offers_of = supported
            self._offers.clear()
        offers = self._offers.get(price)
        if offers is None:
            offers = self._offers[price] = make_offers(
                supported,
                price,
                pay_to=self._pay_to,
                network=self._network,
                timeout_s=self._timeout_s,
                field=f"rule {rule.path!a}: price",
            )
        return offers

    def check(self, supported: Supported, rules: Sequence[Rule]) -> None:
        """Raise MalformedError if the token is not for `pay_to`, or a fixed price cannot be asked for."""
        _check_token(supported, self._pay_to)
        for rule in rules:
            if isinstance(rule.price, str):
                self.offers_for(supported, rule.price, rule)


def pay_ahead_of(match: Match, scope: Scope) -> Mapping[str, Any]:
    """The extension that says where the same price holds, if it is a fixed one: in the paths as the client sees them.

    Empty where the path on the request line does not tell what stands in front of the rule's.
    """
    raw: bytes = scope.get("raw_path") or b""
    seen = unquote(raw.partition(b"?")[0].decode("latin-1")) if raw else str(scope["path"])
    front = seen.removesuffix(match.path)
    path = front + match.rule.pattern.text
    if not isinstance(match.rule.price, str) or not seen.endswith(match.path):
        return {}
    # A star in front would be read as one of the pattern's.
    return {} if "*" in front or len(path) > PATTERN_CHARS_MAX else pay_ahead_extension(path, match.rule.methods)


def _check_token(supported: Supported, pay_to: bytes) -> None:
    """Raise MalformedError where the token could not charge what payers sign: they would sign for nothing."""
    if not supported.receivers:
        return
    if pay_to not in supported.receivers:
        theirs = ", ".join(sorted(map(checksum, supported.receivers)))
        raise MalformedError("pay_to", Described(checksum(pay_to)), f"a receiver of the aggregator's token: {theirs}")
    if CHARGE not in supported.scopes:
        scopes = Described(f"one with the scopes {', '.join(sorted(supported.scopes))}")
        raise MalformedError("token", scopes, f"one with the scope {CHARGE}")
