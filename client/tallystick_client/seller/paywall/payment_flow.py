"""How a request is sold, without any I/O: every rule of the paywall, for any server (as h11 does it).

    flows = PaymentFlows(pay_to="0x…", rules=[…])              # one for all requests
    with flows.flow(RequestHead("GET", "/articles/1", headers, …)) as flow:
        step = flow.start()
        while not isinstance(step, Done):                      # carry the step out, then tell how it ended:
            ...                                                # step = flow.resume(await step.call(aggregator))

`steps` says what each step asks for, and which of `responded`, `sent`, `resume` and `failed` ends it. `asgi` is a whole
example. One `PaymentFlows` and its flows may be used by several threads, if a lock is held around each call to them.

What decides, in this order:

- The rule that matches the path (`rules`), and its price (`pricing`); none, or nothing to pay: the application answers.
  A payment that came all the same is told that nothing was charged: payers send payments ahead, and it would count as
  spent until its payer has compared its book with the aggregator's.
- No payment, or one that meets no offer: 402 with the offers (`offers`); what is no payment at all: 400. A body is read
  only for what may be a payment.
- The payment, bound to method, target and body: it is verified, served and taken (`sale`).
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from tallystick.errors import Described, MalformedError, RefusedError
from tallystick.facilitator import Supported
from tallystick.hexadecimal import parse_address
from tallystick.quantities import ZERO_ADDRESS
from tallystick.requests import body_digest, normal_target, request_hash
from tallystick.x402 import PAYMENT_RESPONSE_HEADER, PAYMENT_SIGNATURE_HEADER, Network, ResourceInfo
from tallystick.x402.bazaar import bazaar_extension
from tallystick_client.errors import AggregatorError
from tallystick_client.seller.paywall import responses
from tallystick_client.seller.paywall.headers import make_readable
from tallystick_client.seller.paywall.manifest import Manifest
from tallystick_client.seller.paywall.offers import Accepted, OfferBook, read_accepted
from tallystick_client.seller.paywall.paid import SCOPE_KEY
from tallystick_client.seller.paywall.paths import Roots, read_paths
from tallystick_client.seller.paywall.pricing import Price, RequestBody, pay_ahead_of, price_of
from tallystick_client.seller.paywall.response_cache import ResponseCache
from tallystick_client.seller.paywall.rules import Asked, Match, Rule, find_rules, methods_of, unreachable
from tallystick_client.seller.paywall.sale import Sale
from tallystick_client.seller.paywall.schemes import SCHEMES
from tallystick_client.seller.paywall.schemes.port import Offer, Scheme
from tallystick_client.seller.paywall.state import PaywallState, Unserved
from tallystick_client.seller.paywall.steps import (
    AppResponse,
    AskAggregator,
    BodyNotReadError,
    BodyTooLargeError,
    BodyTooSlowError,
    CallApp,
    ClientGoneError,
    ContinueApp,
    Deliver,
    Flow,
    Headers,
    Part,
    RequestHead,
    RoomFullError,
    SendResponse,
    Step,
    Steps,
    StopApp,
)
from tallystick_client.seller.paywall.urls import Urls

BODY_BYTES_MAX: Final = 1024 * 1024
KEPT_BYTES_MAX: Final = 8 * 1024 * 1024
MAX_TIMEOUT_S: Final = 60
SETTLE_PATIENCE_S: Final = 10.0
RELEASE_WAIT_S: Final = 2.0
BUSY_PATIENCE_S: Final = 5.0
_PAYMENT: Final = PAYMENT_SIGNATURE_HEADER.lower().encode()
_PAYMENT_V1: Final = b"x-payment"
_VERSION_1: Final = (
    f"version_unsupported: got X-PAYMENT, which is x402 version 1, allowed {PAYMENT_SIGNATURE_HEADER} of version 2"
)
_ORIGIN: Final = b"origin"
_RECEIPT: Final = PAYMENT_RESPONSE_HEADER.lower().encode()
_MARK: Final = "tallystick.unneeded"
_PAYMENT_REQUIRED: Final = 402
_NOT_FOUND: Final = 404

_log = logging.getLogger("tallystick.seller")


class _PricesUnknownError(Exception):
    """The aggregator does not say what it supports."""


class _Mark:
    """In the scope of a request whose payment one paywall did not need; another one behind it may."""

    def __init__(self, outer: "_Mark | None") -> None:
        self.outer = outer
        self.is_needed = False


class PaymentFlows:
    """What is the same for all requests of a paywall, and remembered between them.

    Settings as of `Paywall`. `declare_resources`: say in 402s how resources are called (the bazaar extension).
    `etag_key`: of the manifest (`manifest`). `release_wait_s`: how long an answer waits for its payment to be given
    back. `busy_patience_s`: how long a request waits while another one is under way on its payer's channel. `schemes`:
    those that are not left to the aggregator, in the order of the offers. `clock`: seconds that nobody sets. Raises
    MalformedError, which names the setting. Rules that can never decide anything are logged as warnings.
    """

    def __init__(
        self,
        *,
        pay_to: str,
        rules: Sequence[Rule],
        network: str | None = None,
        max_timeout_s: int = MAX_TIMEOUT_S,
        max_body_bytes: int = BODY_BYTES_MAX,
        keep_responses_bytes: int = KEPT_BYTES_MAX,
        settle_patience_s: float = SETTLE_PATIENCE_S,
        release_wait_s: float = RELEASE_WAIT_S,
        busy_patience_s: float = BUSY_PATIENCE_S,
        base_url: str | None = None,
        trust_proxy_headers: bool = False,
        publish: bool = True,
        declare_resources: bool = False,
        etag_key: bytes | None = None,
        schemes: Sequence[Scheme] = SCHEMES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pay_to = parse_address(pay_to, "pay_to")
        if self.pay_to == ZERO_ADDRESS:
            raise MalformedError("pay_to", pay_to, "an address that is not zero")
        self.rules = tuple(rules)
        if not self.rules:
            raise MalformedError("rules", Described("none"), "at least one Rule")
        for problem in unreachable(self.rules):
            _log.warning("%s", problem)
        network = None if network is None else str(Network.parse(network, "network"))
        self.book = OfferBook(self.pay_to, network, at_least("max_timeout_s", max_timeout_s, 1), schemes)
        self.max_body_bytes = at_least("max_body_bytes", max_body_bytes, 0)
        kept = ResponseCache(at_least("keep_responses_bytes", keep_responses_bytes, 0))
        self.state = PaywallState(kept, settle_patience_s, release_wait_s, busy_patience_s, clock)
        self.urls = Urls(base_url, trust_proxy_headers=trust_proxy_headers)
        self.manifest = Manifest(self.rules, self.book, etag_key) if publish else None
        self.declares_resources = declare_resources
        self.roots = Roots()
        """The prefixes that applications behind the paywall live under, as far as the adapter can see them."""
        self._is_prefix_told = False

    def flow(self, head: RequestHead) -> "PaymentFlow":
        """The flow of one request, which has not begun."""
        return PaymentFlow(self, head)

    def check(self, supported: Supported) -> None:
        """Raise MalformedError if the token is not for `pay_to`, or a static price cannot be asked for."""
        self.book.check(supported, self.rules)

    @property
    def unserved(self) -> tuple[Unserved, ...]:
        """Exact payments that landed here while nobody was there to get the page, the newest 1,000, oldest first."""
        return tuple(self.state.unserved)

    def asked(self, head: RequestHead) -> Asked:
        """What the rules look at. Raises MalformedError on a path that can be read in too many ways."""
        root = self.roots.first or head.root_path
        if root and not self._is_prefix_told:
            self._is_prefix_told = True
            for rule in self.rules:
                if rule.pattern.text.startswith(f"{root}/"):
                    message = "rule %a: a path is compared without the root_path %a first; write the rule without it"
                    _log.warning(message, rule.path, root)
        user_agent = (head.header(b"user-agent") or b"").decode("latin-1")
        paths = read_paths(head.path, head.raw_path, head.root_path, self.roots)
        return Asked(methods_of(head.method, head.headers), paths, user_agent)


class PaymentFlow(Steps):
    """One request, and all that is done to sell it; `close` it in any case (it is a context manager too)."""

    def __init__(self, flows: PaymentFlows, head: RequestHead) -> None:
        super().__init__(self._answer())
        self._flows = flows
        self._head = head
        self._payments = head.header_list(_PAYMENT)
        self._accepted: Accepted | MalformedError | None = None
        self._receipt: str | None = None
        """Says that the payment that came was not charged."""
        self._is_cross_origin = head.header(_ORIGIN) is not None

    def responded(self, status: int, headers: Headers, body: bytes | None, *, is_last: bool) -> Step:
        """The application has begun its response: this is its first part, which was not sent.

        `body` is None where its bytes are not known, as of a file that the server sends.
        """
        return self.resume(AppResponse(status, headers, Part(body, is_last)))

    def sent(self, body: bytes | None, *, is_last: bool) -> Step:
        """A part of the application's response was sent."""
        return self.resume(Part(body, is_last))

    def _advance(self, resume: Callable[[], Step]) -> Step:
        step = super()._advance(resume)
        if self._is_cross_origin and isinstance(step, SendResponse | Deliver):
            return replace(step, headers=make_readable(step.headers))
        return step

    def _answer(self) -> Flow[None]:
        self._read_payment()
        try:
            matches = find_rules(self._flows.rules, self._flows.asked(self._head))
            body = RequestBody(self._head, self._flows.max_body_bytes) if matches else None
        except MalformedError as error:
            yield responses.malformed(error, self._receipt)
            return
        if body is None:
            yield from self._give()
            return
        try:
            yield from self._priced(matches, body)
        except ClientGoneError:
            _log.debug("a client left before its request was complete")
        except BodyTooLargeError:
            yield responses.too_large(self._flows.max_body_bytes, self._receipt)
        except BodyTooSlowError:
            yield responses.too_slow()
        except RoomFullError:
            yield responses.crowded()

    def _publish(self, manifest: Manifest) -> Flow[None]:
        """What the site sells, where the application has no such page of its own."""
        try:
            supported: Supported = yield AskAggregator("supported")
        except (AggregatorError, MalformedError) as error:
            _log.warning("the aggregator does not say what it supports: %s", error)
            answer = responses.unavailable("Prices are not known now.")
        else:
            root = replace(self._head, path="/", raw_path=b"/", query=b"")
            answer = manifest.answer(supported, self._flows.urls.of(root).rstrip("/"), self._head)
        yield replace(answer, headers=responses.with_receipt(answer.headers, self._receipt))
        try:
            yield StopApp()
        except Exception as error:  # noqa: BLE001 - whatever it is, the request was answered
            _log.debug("the application stopped, its response was not delivered: %s", error)

    def _read_payment(self) -> None:
        """Read what came, and make the receipt that says that nothing was charged.

        There is none where no payment came, or one for another receiver: somebody behind this paywall may take it; and
        where a paywall in front of this one takes it.
        """
        if not self._payments:
            return
        try:
            accepted = self._accepted = read_accepted(self._payments)
        except MalformedError as error:
            self._accepted = error
            return
        if accepted.terms.pay_to == self._flows.pay_to and SCOPE_KEY not in self._head.scope:
            self._receipt = responses.receipt_of_nothing(str(accepted.terms.network))

    def _priced(self, matches: Sequence[Match], body: RequestBody) -> Flow[None]:
        """A request that rules speak of: the first of them that asks for money decides."""
        malformed = self._accepted if isinstance(self._accepted, MalformedError) else None
        if malformed is not None and body.is_expected and any(callable(match.rule.price) for match in matches):
            # Its price may depend on the body, which is not read for what is no payment.
            yield responses.malformed_payment(malformed, self._receipt)
            return
        try:
            quote = yield from self._quote(matches, body)
        except BodyNotReadError:
            raise
        except _PricesUnknownError as error:
            _log.warning("the aggregator does not say what it supports: %s", error)
            yield responses.unavailable("Prices are not known now.")
            return
        except Exception:
            if self._receipt is not None:
                yield responses.failed(self._receipt)
            raise
        if quote is None:
            yield from self._give()
        else:
            yield from self._offered(*quote, body)

    def _quote(self, matches: Sequence[Match], body: RequestBody) -> Flow[tuple[Match, Sequence[Offer]] | None]:
        """The first rule that asks for money, and the ways to pay it; None where the request is free.

        Raises BodyNotReadError, _PricesUnknownError, and what a price function raises.
        """
        is_blind = False
        for match in matches:
            text = match.rule.price
            price = Price(text) if isinstance(text, str) else (yield from price_of(match, self._head, body))
            is_blind = is_blind or price.is_blind
            if price.text is None:
                continue
            try:
                supported: Supported = yield AskAggregator("supported")
            except (AggregatorError, MalformedError) as error:
                raise _PricesUnknownError(str(error)) from error
            offers = self._flows.book.offers_for(supported, price.text, match.rule)
            if offers:
                return match, offers
        if is_blind:
            raise BodyTooLargeError
        return None

    def _offered(self, match: Match, offers: Sequence[Offer], body: RequestBody) -> Flow[None]:
        """A request that costs something: ask for the payment, or take the one that came."""
        if self._accepted is None:
            is_v1 = self._head.header(_PAYMENT_V1) is not None
            yield self._ask(match, offers, _VERSION_1 if is_v1 else f"{PAYMENT_SIGNATURE_HEADER} header is required")
            return
        self._note_needed()
        try:
            if isinstance(self._accepted, MalformedError):
                raise self._accepted
            bind = self._accepted.meet(offers)
            digest = body_digest((yield from body.read_bound()))
            payment = bind(request_hash(self._head.method, normal_target(self._head.target), digest))
        except MalformedError as error:
            yield responses.malformed_payment(error, self._receipt)
            return
        except RefusedError as error:
            yield self._ask(match, offers, error)
            return
        yield from Sale(self._flows.state, payment, self._head, partial(self._ask, match, offers)).run()

    def _ask(
        self,
        match: Match,
        offers: Sequence[Offer],
        error: MalformedError | RefusedError | str,
        receipt: str | None = None,
    ) -> SendResponse:
        rule = match.rule
        resource = ResourceInfo(
            url=self._flows.urls.of(self._head), description=rule.description, mime_type=rule.mime_type
        )
        ahead, declared = pay_ahead_of(match, self._head), self._declared(rule)
        scheme = self._accepted.scheme_among(offers) if isinstance(self._accepted, Accepted) else None
        return responses.ask_for_payment(offers, resource, error, receipt, ahead, declared, scheme)

    def _declared(self, rule: Rule) -> Mapping[str, Any]:
        """How the resource is called, for those who list it."""
        if not self._flows.declares_resources:
            return {}
        return bazaar_extension(self._head.method, rule.pattern.text, rule.mime_type)

    def _give(self) -> Flow[None]:
        """Serve a request that costs nothing, and say so where a payment came with it, unless somebody else did."""
        manifest = self._flows.manifest
        if manifest is not None and not manifest.is_asked(self._head):
            manifest = None
        if self._receipt is None and manifest is None:
            yield CallApp(is_held=False)
            return
        mark = self._head.scope[_MARK] = _Mark(self._head.scope.get(_MARK))
        try:
            response: AppResponse | None = yield CallApp()
        except Exception:
            if not mark.is_needed and self._receipt is not None:
                yield responses.failed(self._receipt)
            raise
        if response is None:
            return
        if manifest is not None and response.status == _NOT_FOUND:
            yield from self._publish(manifest)
            return
        # A 402 says by itself that no payment was taken.
        is_told = response.status == _PAYMENT_REQUIRED or any(name.lower() == _RECEIPT for name, _ in response.headers)
        receipt = None if mark.is_needed or is_told else self._receipt
        part: Any = yield Deliver(responses.with_receipt(response.headers, receipt))
        while part is not None:
            part = yield ContinueApp()

    def _note_needed(self) -> None:
        """Tell the paywalls in front of this one that the request's payment is looked at here."""
        mark: _Mark | None = self._head.scope.get(_MARK)
        while mark is not None:
            mark.is_needed = True
            mark = mark.outer


def at_least(name: str, value: int, minimum: int) -> int:
    """A setting that must be an integer and not less. Raises MalformedError."""
    if not isinstance(value, int) or value < minimum:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise MalformedError(name, value, f"an integer of at least {minimum}")
    return value
