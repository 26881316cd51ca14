"""The paywall: an ASGI middleware that sells what is behind it, request by request.

It needs no framework. Which requests cost what is the rules' business (`rules`), what a 402 says is `offers`', and
what happens to a request that comes with a payment is `sale`'s. This module puts them together.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tallystick.errors import Described, MalformedError, RefusedError
from tallystick.hexadecimal import parse_address
from tallystick.quantities import ZERO_ADDRESS
from tallystick.requests import body_digest, normal_target, request_hash
from tallystick.x402 import PAYMENT_SIGNATURE_HEADER, Network, ResourceInfo
from tallystick_client.rpc import AggregatorError, CallRejectedError
from tallystick_client.seller.client.aggregator import Aggregator
from tallystick_client.seller.paywall import responses, unneeded
from tallystick_client.seller.paywall.asgi import (
    App,
    Backpressure,
    BodyNotReadError,
    BodyTooLargeError,
    ClientGoneError,
    Incoming,
    Message,
    Receive,
    RoomFullError,
    Scope,
    Send,
    header,
    header_list,
    request_target,
    url,
)
from tallystick_client.seller.paywall.bodies import BodyLimits, BodyReader, BodyTooSlowError
from tallystick_client.seller.paywall.offers import Offer
from tallystick_client.seller.paywall.paths import Roots, find_roots, read_paths
from tallystick_client.seller.paywall.payment_flow import PaywallState, Sale
from tallystick_client.seller.paywall.pricing import OfferBook, Price, pay_ahead_of, price_of
from tallystick_client.seller.paywall.response_cache import ResponseCache
from tallystick_client.seller.paywall.rules import Asked, Match, Rule, find_rules, methods_of, unreachable
from tallystick_client.seller.paywall.unserved import Unserved

BODY_BYTES_MAX: Final = 1024 * 1024
BUFFERED_BYTES_MAX: Final = 64 * 1024 * 1024
BODY_PATIENCE_S: Final = 30.0
KEPT_BYTES_MAX: Final = 8 * 1024 * 1024
MAX_TIMEOUT_S: Final = 60
SETTLE_PATIENCE_S: Final = 10.0
_PAYMENT: Final = PAYMENT_SIGNATURE_HEADER.lower().encode()

_log = logging.getLogger("tallystick.seller")


class Paywall:
    """Answers 402 where a rule asks for a payment and none came, and charges for every 2xx that goes out.

    `pay_to`: the seller's address. `rules`: the price list; what no rule speaks of is free, and HEAD, OPTIONS,
    /robots.txt and /.well-known/ always are. `network`: a CAIP-2 name, needed where the aggregator takes a rule's token
    on several. `max_timeout_s`: how long a payer's `exact` authorization is to be valid; the handler has to be done
    before. `max_body_bytes`: request bodies with a Content-Length are part of what is paid for and are read ahead, up
    to this. `buffer_bodies_bytes`: memory for the bodies of all requests that are read ahead at once.
    `body_patience_s`: how long one may take. `keep_responses_bytes`: memory for answers that are sent again to a payer
    whose connection broke. `settle_patience_s`: how long a served request waits for an aggregator that is away.

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
    ) -> None:
        self.app = app
        self._aggregator = aggregator
        self._pay_to = parse_address(pay_to, "pay_to")
        if self._pay_to == ZERO_ADDRESS:
            raise MalformedError("pay_to", pay_to, "an address that is not zero")
        self._rules = tuple(rules)
        if not self._rules:
            raise MalformedError("rules", Described("none"), "at least one Rule")
        for problem in unreachable(self._rules):
            _log.warning("%s", problem)
        self._roots: Roots | None = None
        self._is_prefix_told = False
        network = None if network is None else str(Network.parse(network, "network"))
        self._book = OfferBook(self._pay_to, network, _at_least("max_timeout_s", max_timeout_s, 1))
        max_body_bytes = _at_least("max_body_bytes", max_body_bytes, 0)
        room = Backpressure(_at_least("buffer_bodies_bytes", buffer_bodies_bytes, max_body_bytes))
        if not body_patience_s > 0:
            raise MalformedError("body_patience_s", Described(str(body_patience_s)), "more than 0 seconds")
        self._bodies = BodyLimits(max_body_bytes, room, body_patience_s)
        kept = ResponseCache(_at_least("keep_responses_bytes", keep_responses_bytes, 0))
        self._state = PaywallState(aggregator, kept, settle_patience_s)

    @property
    def unserved(self) -> tuple[Unserved, ...]:
        """Exact payments that landed here while nobody was there to get the page, the newest 1,000, oldest first.

        Their payers showed no payment id, so nobody can prove to be one of them: pay back, or let it be. In memory of
        this process; each is a warning in the log too.
        """
        return tuple(self._state.unserved)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        came = unneeded.Came(header_list(scope, _PAYMENT), scope)
        receipt = came.receipt_of_nothing(self._pay_to)
        incoming = Incoming(receive, self._bodies.room)
        try:
            matches = find_rules(self._rules, self._asked(scope))
            body = BodyReader(scope, incoming, self._bodies) if matches else None
        except MalformedError as error:
            await responses.say_malformed(send, error, receipt)
            return
        if body is None:
            await self._give(scope, receive, send, receipt)
            return
        visit = _Visit(scope, incoming, body, send, came, receipt)
        try:
            await self._priced(matches, visit)
        except ClientGoneError:
            _log.debug("a client left before its request was complete")
        except BodyTooLargeError:
            await responses.say_too_large(send, self._bodies.bytes_max, receipt)
        except BodyTooSlowError:
            await responses.say_too_slow(send)
        except RoomFullError:
            await responses.say_crowded(send)
        finally:
            await incoming.close()

    async def _priced(self, matches: Sequence[Match], visit: "_Visit") -> None:
        """A request that rules speak of: the first of them that asks for money decides."""
        if visit.came.error is not None and visit.body.is_expected and any(callable(m.rule.price) for m in matches):
            # Its price may depend on the body, which is not read for what is no payment.
            await responses.say_malformed(visit.send, visit.came.error, visit.receipt)
            return
        try:
            quote = await self._quote(matches, visit)
        except BodyNotReadError:
            raise
        except _PricesUnknownError as error:
            _log.warning("the aggregator does not say what it supports: %s", error)
            await responses.say_unavailable(visit.send, "Prices are not known now.")
            return
        except Exception:
            if visit.receipt is not None:
                await responses.say_failed(visit.send, visit.receipt)
            raise
        if quote is None:
            await self._give(visit.scope, visit.incoming.receive, visit.send, visit.receipt)
        else:
            await self._offered(*quote, visit)

    async def _quote(self, matches: Sequence[Match], visit: "_Visit") -> tuple[Match, Sequence[Offer]] | None:
        """The first rule that asks for money, and the ways to pay it; None where the request is free.

        Raises BodyNotReadError, _PricesUnknownError, and what a price function raises.
        """
        is_blind = False
        for match in matches:
            price = await price_of(match, visit.scope, visit.body)
            is_blind = is_blind or price.is_blind
            offers = await self._offers_for(price, match)
            if offers:
                return match, offers
        if is_blind:
            raise BodyTooLargeError
        return None

    async def _offers_for(self, price: Price, match: Match) -> Sequence[Offer]:
        if price.text is None:
            return ()
        try:
            supported = await self._aggregator.supported()
        except (AggregatorError, MalformedError) as error:
            raise _PricesUnknownError(str(error)) from error
        return self._book.offers_for(supported, price.text, match.rule)

    async def _give(self, scope: Scope, receive: Receive, send: Send, receipt: str | None) -> None:
        """Serve a request that costs nothing, and say so where a payment came with it."""
        if receipt is None:
            await self.app(scope, receive, send)
        else:
            await unneeded.serve(self.app, scope, receive, send, receipt)

    async def _offered(self, match: Match, offers: Sequence[Offer], visit: "_Visit") -> None:
        """A request that costs something: ask for the payment, or take the one that came."""
        scope, rule = visit.scope, match.rule
        resource = ResourceInfo(url=url(scope), description=rule.description, mime_type=rule.mime_type)

        async def refuse(error: MalformedError | RefusedError | str, receipt: str | None = None) -> None:
            ahead = pay_ahead_of(match, scope)
            await responses.ask_for_payment(visit.send, offers, resource, error, receipt, ahead)

        if not visit.came.is_there:
            await refuse(f"{PAYMENT_SIGNATURE_HEADER} header is required")
            return
        unneeded.note_needed(scope)
        try:
            unbound = visit.came.accepted.meet(offers)
            digest = body_digest(await visit.body.read_bound())
            bound_to = request_hash(scope["method"], normal_target(request_target(scope)), digest)
        except (MalformedError, RefusedError) as error:
            await refuse(error)
            return
        await Sale(self._state, unbound.bind(bound_to), visit.incoming, visit.send, refuse).run(self.app, scope)

    def _asked(self, scope: Scope) -> Asked:
        """What the rules look at. Raises MalformedError on a path that can be read in too many ways."""
        if self._roots is None:
            # Not when the paywall is made: more may be mounted until the first request.
            self._roots = find_roots(self.app)
        root = self._roots.first or scope.get("root_path", "")
        if root and not self._is_prefix_told:
            self._is_prefix_told = True
            for rule in self._rules:
                if rule.pattern.text.startswith(f"{root}/"):
                    message = "rule %a: a path is compared without the root_path %a first; write the rule without it"
                    _log.warning(message, rule.path, root)
        user_agent = (header(scope, b"user-agent") or b"").decode("latin-1")
        return Asked(methods_of(scope["method"], scope["headers"]), read_paths(scope, self._roots), user_agent)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_checked() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._check_settings()
            return message

        async def send_closing(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self._state.finish()
                await self._aggregator.close()
            await send(message)

        try:
            await self.app(scope, receive_checked, send_closing)
        except _StartupFailedError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})

    async def _check_settings(self) -> None:
        """Raise _StartupFailedError if the token is not taken, or a static price cannot be asked for."""
        try:
            supported = await self._aggregator.supported()
        except CallRejectedError as error:
            raise _StartupFailedError(str(error)) from error
        except (AggregatorError, MalformedError) as error:
            _log.warning("prices are not checked: the aggregator does not say what it supports: %s", error)
            return
        try:
            self._book.check(supported, self._rules)
        except MalformedError as error:
            raise _StartupFailedError(str(error)) from error


class _StartupFailedError(Exception):
    """The paywall's settings do not fit the aggregator's."""


class _PricesUnknownError(Exception):
    """The aggregator does not say what it supports."""


@dataclass(frozen=True, slots=True)
class _Visit:
    """A request that rules speak of. `receipt` says that its payment was not charged."""

    scope: Scope
    incoming: Incoming
    body: BodyReader
    send: Send
    came: unneeded.Came
    receipt: str | None


def _at_least(name: str, value: int, minimum: int) -> int:
    if not isinstance(value, int) or value < minimum:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise MalformedError(name, value, f"an integer of at least {minimum}")
    return value
