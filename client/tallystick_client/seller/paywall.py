"""The paywall: an ASGI middleware that sells what is behind it, request by request.

It needs no framework. Which requests cost what is the rules' business (`rules`), what a 402 says is `offers`', and
what happens to a request that comes with a payment is `sale`'s. This module puts them together.
"""

import inspect
import logging
from collections.abc import Sequence
from typing import Final

from tallystick.errors import Described, MalformedError, Refused
from tallystick.hexadecimal import checksum, parse_address
from tallystick.quantities import ZERO_ADDRESS
from tallystick.requests import body_digest, request_hash
from tallystick.x402 import PAYMENT_SIGNATURE_HEADER, Network, ResourceInfo
from tallystick_client.rpc import AggregatorError, CallRejected
from tallystick_client.seller import answers
from tallystick_client.seller.aggregator import Aggregator
from tallystick_client.seller.asgi import (
    App,
    BodyTooLarge,
    ClientGone,
    Incoming,
    Message,
    Receive,
    Scope,
    Send,
    content_length,
    header,
    header_list,
    request_target,
    url,
)
from tallystick_client.seller.kept import KeptAnswers
from tallystick_client.seller.messages import Supported
from tallystick_client.seller.offers import Offer, make_offers
from tallystick_client.seller.presented import read_payment
from tallystick_client.seller.rules import RequestInfo, Rule, find_rule
from tallystick_client.seller.sale import Sale, Till
from tallystick_client.seller.unserved import Unserved

BODY_BYTES_MAX: Final = 1024 * 1024
KEPT_BYTES_MAX: Final = 8 * 1024 * 1024
MAX_TIMEOUT_S: Final = 60
SETTLE_PATIENCE_S: Final = 10.0
CHARGE: Final = "charge"
"""The scope of tokens that may verify and settle."""
_OFFERS_MAX: Final = 1_024
"""Prices whose offers are remembered: a price function may make up any number of them."""
_PAYMENT: Final = PAYMENT_SIGNATURE_HEADER.lower().encode()

_log = logging.getLogger("tallystick.seller")


class Paywall:
    """Answers 402 where a rule asks for a payment and none came, and charges for every 2xx that goes out.

    `pay_to`: the seller's address. `rules`: the price list; what no rule speaks of is free, and HEAD, OPTIONS,
    /robots.txt and /.well-known/ always are. `network`: a CAIP-2 name, needed where the aggregator takes a rule's token
    on several. `max_timeout_s`: how long a payer's `exact` authorization is to be valid; the handler has to be done
    before. `max_body_bytes`: request bodies with a Content-Length are part of what is paid for and are read ahead, up
    to this. `keep_responses_bytes`: memory for answers that are sent again to a payer whose connection broke.
    `settle_patience_s`: how long a served request waits for an aggregator that is away.

    Raises MalformedError, which names the setting, what it was and what is allowed. Prices, the token and whether it is
    for `pay_to` are checked when the server starts, if it tells (ASGI's lifespan) and the aggregator answers; else
    before the first 402.
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
        keep_responses_bytes: int = KEPT_BYTES_MAX,
        settle_patience_s: float = SETTLE_PATIENCE_S,
    ) -> None:
        self.app = app
        self._aggregator = aggregator
        self._pay_to = parse_address(pay_to, "pay_to")
        if self._pay_to == ZERO_ADDRESS:
            raise MalformedError("pay_to", pay_to, "an address that is not zero")
        self._rules = tuple(rules)
        if not self._rules:
            raise MalformedError("rules", Described("none"), "at least one Rule")
        self._network = None if network is None else str(Network.parse(network, "network"))
        self._max_timeout_s = _at_least("max_timeout_s", max_timeout_s, 1)
        self._max_body_bytes = _at_least("max_body_bytes", max_body_bytes, 0)
        kept = KeptAnswers(_at_least("keep_responses_bytes", keep_responses_bytes, 0))
        self._till = Till(aggregator, kept, settle_patience_s)
        self._offers: dict[str, tuple[Offer, ...]] = {}
        self._offers_of: Supported | None = None

    @property
    def unserved(self) -> tuple[Unserved, ...]:
        """Exact payments that landed here while nobody was there to get the page, the newest 1,000, oldest first.

        Their payers showed no payment id, so nobody can prove to be one of them: pay back, or let it be. In memory of
        this process; each is a warning in the log too.
        """
        return tuple(self._till.unserved)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        user_agent = (header(scope, b"user-agent") or b"").decode("latin-1")
        try:
            rule = find_rule(self._rules, scope["method"], scope["path"], user_agent)
        except MalformedError as error:
            await answers.say_malformed(send, error)
            return
        if rule is None:
            await self.app(scope, receive, send)
            return
        incoming = Incoming(receive)
        try:
            await self._priced(rule, scope, incoming, send)
        except ClientGone:
            _log.debug("a client left before its request was complete")
        except BodyTooLarge:
            await answers.say_too_large(send, self._max_body_bytes)
        finally:
            await incoming.close()

    async def _priced(self, rule: Rule, scope: Scope, incoming: Incoming, send: Send) -> None:
        """A request that a rule speaks of."""
        try:
            length = content_length(scope)
        except MalformedError as error:
            await answers.say_malformed(send, error)
            return
        price = await self._price(rule, scope, incoming, length)
        if price is None:
            await self.app(scope, incoming.receive, send)
            return
        try:
            supported = await self._aggregator.supported()
        except (AggregatorError, MalformedError) as error:
            _log.warning("the aggregator does not say what it supports: %s", error)
            await answers.say_unavailable(send, "Prices are not known now.")
            return
        offers = self._offers_for(supported, price, rule)
        if not offers:
            await self.app(scope, incoming.receive, send)
            return
        await self._offered(offers, rule, scope, incoming, send)

    async def _offered(self, offers: Sequence[Offer], rule: Rule, scope: Scope, incoming: Incoming, send: Send) -> None:
        """A request that costs something: ask for the payment, or take the one that came."""
        resource = ResourceInfo(url=url(scope), description=rule.description, mime_type=rule.mime_type)

        async def refuse(error: MalformedError | Refused, receipt: str | None = None) -> None:
            await answers.ask_for_payment(send, offers, resource, error, receipt)

        payments = header_list(scope, _PAYMENT)
        if not payments:
            missing = f"{PAYMENT_SIGNATURE_HEADER} header is required"
            await answers.ask_for_payment(send, offers, resource, missing)
            return
        body = await self._read_body(incoming, content_length(scope))
        try:
            bound_to = request_hash(scope["method"], request_target(scope), body_digest(body))
            presented = read_payment(payments, offers, bound_to)
        except (MalformedError, Refused) as error:
            await refuse(error)
            return
        await Sale(self._till, presented, incoming, send, refuse).run(self.app, scope)

    async def _price(self, rule: Rule, scope: Scope, incoming: Incoming, length: int | None) -> str | None:
        if isinstance(rule.price, str):
            return rule.price
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        price = rule.price(
            RequestInfo(
                method=scope["method"],
                path=scope["path"],
                query=scope.get("query_string", b""),
                headers=headers,
                body=await self._read_body(incoming, length),
                scope=scope,
            )
        )
        return await price if inspect.isawaitable(price) else price

    async def _read_body(self, incoming: Incoming, length: int | None) -> bytes:
        """The body, where its length was told; nothing of one that is streamed up."""
        if not length:
            return b""
        if length > self._max_body_bytes:
            raise BodyTooLarge
        return await incoming.read_body(self._max_body_bytes)

    def _offers_for(self, supported: Supported, price: str, rule: Rule) -> tuple[Offer, ...]:
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
                timeout_s=self._max_timeout_s,
                field=f"rule {rule.path!a}: price",
            )
        return offers

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_checked() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._check_settings()
            return message

        async def send_closing(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self._till.finish()
                await self._aggregator.close()
            await send(message)

        try:
            await self.app(scope, receive_checked, send_closing)
        except _StartupFailed as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})

    async def _check_settings(self) -> None:
        """Raise _StartupFailed if the aggregator does not take the token, or a static price cannot be asked for."""
        try:
            supported = await self._aggregator.supported()
        except CallRejected as error:
            raise _StartupFailed(str(error)) from error
        except (AggregatorError, MalformedError) as error:
            _log.warning("prices are not checked: the aggregator does not say what it supports: %s", error)
            return
        try:
            _check_token(supported, self._pay_to)
            for rule in self._rules:
                if isinstance(rule.price, str):
                    self._offers_for(supported, rule.price, rule)
        except MalformedError as error:
            raise _StartupFailed(str(error)) from error


class _StartupFailed(Exception):
    """The paywall's settings do not fit the aggregator's."""


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


def _at_least(name: str, value: int, minimum: int) -> int:
    if not isinstance(value, int) or value < minimum:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise MalformedError(name, value, f"an integer of at least {minimum}")
    return value
