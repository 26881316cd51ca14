"""What a 402 says, and the payment that meets it.

A price is turned into terms for every scheme that the aggregator supports: those that are registered in their order,
then those of which the aggregator itself says what their offers carry. What is special about one is in `schemes`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec import structs

from tallystick.amounts import parse_price
from tallystick.errors import Described, MalformedError, RefusedError, describe
from tallystick.facilitator import Kind, Supported
from tallystick.hexadecimal import checksum, to_hex
from tallystick.reasons import Reason
from tallystick.tokens import Token
from tallystick.x402 import (
    PAYMENT_IDENTIFIER,
    PAYMENT_SIGNATURE_HEADER,
    Network,
    PaymentPayload,
    PaymentRequired,
    PaymentRequirements,
    PaymentTerms,
    ResourceInfo,
    decode_header,
    payment_identifier_declaration,
    read_terms,
)
from tallystick_client.seller.paywall.rules import Rule, symbol_of
from tallystick_client.seller.paywall.schemes import SCHEMES, scheme_of
from tallystick_client.seller.paywall.schemes.port import Bind, IncomingPayment, Offer, Scheme

CHARGE: Final = "charge"
"""The scope of tokens that may verify and settle."""
_OFFERS_MAX: Final = 1_024
"""Prices whose offers are remembered: a price function may make up any number of them."""


def make_offers(
    supported: Supported,
    price: str,
    *,
    pay_to: bytes,
    network: str | None,
    timeout_s: int,
    field: str,
    schemes: Sequence[Scheme] = SCHEMES,
) -> tuple[Offer, ...]:
    """The offers for a price such as "0.001 USDC", in the order in which the 402 makes them; none where it is zero.

    Raises MalformedError, which names `field`, on a token that the aggregator does not take or a price too fine for
    it, and, where `network` is None, if it takes the token on several networks.
    """
    symbol = symbol_of(price, field)
    kinds = _offered(supported, schemes)
    ways = [
        (scheme, kind, asset)
        for scheme, kind in kinds
        if network in {None, kind.network}
        for asset in kind.assets
        if asset.symbol == symbol
    ]
    networks = sorted({kind.network for _, kind, _ in ways})
    if not ways:
        raise MalformedError(field, price, _allowed(kinds, network))
    if len(networks) > 1:
        raise MalformedError("network", Described("none"), f"one of {', '.join(networks)}: all take {symbol}")
    offers = [_offer(scheme, kind, asset, price, pay_to, timeout_s, field) for scheme, kind, asset in ways]
    return tuple(offer for offer in offers if offer.terms.amount)


def payment_required(
    offers: Sequence[Offer],
    resource: ResourceInfo,
    error: str,
    refused: RefusedError | None = None,
    extensions: Mapping[str, Any] | None = None,
    declared: Mapping[str, Any] | None = None,
) -> PaymentRequired:
    """What the 402 says; after a refusal with what the payer needs for its next payment (`Scheme.correction`).

    `extensions` are those for payments that are reserved, beside the payment id's; `declared` those for all.
    """
    return PaymentRequired(
        error=error,
        resource=resource,
        accepts=[_corrected(offer, refused) for offer in offers],
        extensions={
            PAYMENT_IDENTIFIER: payment_identifier_declaration(
                required=all(offer.scheme.requires_id for offer in offers)
            ),
            **{name: declared for offer in offers for name, declared in offer.extensions.items()},
            **((extensions or {}) if any(offer.scheme.is_reserved for offer in offers) else {}),
            **(declared or {}),
        },
    )


def error_text(error: MalformedError | RefusedError) -> str:
    """The `error` of a 402: the reason's code, then what was wrong and what would be right."""
    if isinstance(error, MalformedError):
        return f"payload_invalid: {error}"
    detail = f" ({error.field}: got {error.got}, allowed {error.allowed})" if error.field and error.allowed else ""
    return f"{error.reason.code}: {error.message}{detail}"


def _offer(scheme: Scheme, kind: Kind, asset: Token, price: str, pay_to: bytes, timeout_s: int, field: str) -> Offer:
    amount = parse_price(price, asset.decimals, field).amount
    extra = scheme.offer_extra(kind, asset)
    terms = PaymentTerms(
        kind.scheme,
        Network.parse(kind.network, "network"),
        amount,
        asset.address,
        pay_to,
        extra=extra if scheme.tells_extra else {},
    )
    requirements = PaymentRequirements(
        scheme=kind.scheme,
        network=kind.network,
        amount=str(amount),
        asset=checksum(asset.address),
        pay_to=checksum(pay_to),
        max_timeout_seconds=timeout_s,
        extra=extra,
    )
    return Offer(scheme, terms, requirements, asset, scheme.extensions(kind))


def _offered(supported: Supported, schemes: Sequence[Scheme]) -> list[tuple[Scheme, Kind]]:
    """What the aggregator supports and payers can be asked for, the registered schemes first and in their order."""
    kinds = [(scheme_of(kind.scheme, schemes), kind) for kind in supported.kinds]
    ranks = {scheme.name: rank for rank, scheme in enumerate(schemes)}
    offered = [(scheme, kind) for scheme, kind in kinds if scheme.is_offered(kind)]
    return sorted(offered, key=lambda way: ranks.get(way[0].name, len(ranks)))


def _corrected(offer: Offer, refused: RefusedError | None) -> PaymentRequirements:
    correction = offer.scheme.correction(refused) if refused is not None else None
    if not correction:
        return offer.requirements
    return structs.replace(offer.requirements, extra={**offer.requirements.extra, **correction})


def _allowed(kinds: Sequence[tuple[Scheme, Kind]], network: str | None) -> str:
    tokens = sorted({f"{asset.symbol} on {kind.network}" for _, kind in kinds for asset in kind.assets})
    where = f" on {network}" if network is not None else ""
    return f"a token that the aggregator takes{where}: {', '.join(tokens) or 'it takes none'}"


class OfferBook:
    """The offers for prices, remembered as long as the aggregator supports the same."""

    def __init__(self, pay_to: bytes, network: str | None, timeout_s: int, schemes: Sequence[Scheme]) -> None:
        self._pay_to = pay_to
        self._network = network
        self._timeout_s = timeout_s
        self._schemes = schemes
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
                schemes=self._schemes,
            )
        return offers

    def check(self, supported: Supported, rules: Sequence[Rule]) -> None:
        """Raise MalformedError if the token is not for `pay_to`, or a fixed price cannot be asked for."""
        _check_token(supported, self._pay_to)
        for rule in rules:
            if isinstance(rule.price, str):
                self.offers_for(supported, rule.price, rule)


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


# The payment that meets an offer.


@dataclass(frozen=True, slots=True)
class Accepted:
    """A payment as it came, and the terms that its payer accepted."""

    message: PaymentPayload
    terms: PaymentTerms

    def meet(self, offers: Sequence[Offer]) -> Bind:
        """The payment with the offer that it meets, not yet compared with the request that it came with.

        Raises MalformedError, which names the field, on what is no payment, and RefusedError on one that meets no
        offer.
        """
        offer = _matching(offers, self.terms)
        return offer.scheme.read(self.message, offer)

    def scheme_among(self, offers: Sequence[Offer]) -> Scheme | None:
        """The payment's scheme, where one of these offers is of it."""
        return next((offer.scheme for offer in offers if offer.scheme.name == self.terms.scheme), None)


def read_accepted(headers: Sequence[bytes]) -> Accepted:
    """The payment in the values of the PAYMENT-SIGNATURE headers, of which there must be one.

    Raises MalformedError, which names the field.
    """
    if len(headers) != 1:
        raise MalformedError(PAYMENT_SIGNATURE_HEADER, Described(f"{len(headers)} of them"), "one")
    message = decode_header(headers[0].decode("latin-1"), PaymentPayload, PAYMENT_SIGNATURE_HEADER)
    return Accepted(message, read_terms(message.accepted))


def read_payment(headers: Sequence[bytes], offers: Sequence[Offer], request_hash: bytes) -> IncomingPayment:
    """The payment in the values of the PAYMENT-SIGNATURE headers, of which there must be one.

    Raises MalformedError, which names the field, on what is no payment, and RefusedError on one that meets no offer.
    """
    return read_accepted(headers).meet(offers)(request_hash)


def _matching(offers: Sequence[Offer], accepted: PaymentTerms) -> Offer:
    """The offer that the payer accepted, if it still stands at that price or below."""
    schemes = [offer for offer in offers if offer.terms.scheme == accepted.scheme]
    if not schemes:
        allowed = " or ".join(offer.terms.scheme for offer in offers)
        raise _refused(Reason.SCHEME_UNSUPPORTED, "accepted.scheme", accepted.scheme, allowed)
    networks = [offer for offer in schemes if offer.terms.network == accepted.network]
    if not networks:
        allowed = " or ".join(str(offer.terms.network) for offer in schemes)
        raise _refused(Reason.NETWORK_UNSUPPORTED, "accepted.network", str(accepted.network), allowed)
    tokens = [offer for offer in networks if offer.terms.asset == accepted.asset]
    if not tokens:
        allowed = " or ".join(offer.requirements.asset for offer in networks)
        raise _refused(Reason.TOKEN_MISMATCH, "accepted.asset", to_hex(accepted.asset), allowed)
    offer = tokens[0]
    if offer.terms.pay_to != accepted.pay_to:
        got = to_hex(accepted.pay_to)
        raise _refused(Reason.RECEIVER_MISMATCH, "accepted.payTo", got, offer.requirements.pay_to)
    if accepted.amount < offer.terms.amount:
        got, allowed = str(accepted.amount), f"at least {offer.terms.amount}"
        raise _refused(Reason.AMOUNT_MISMATCH, "accepted.amount", got, allowed)
    return offer


def _refused(reason: Reason, field: str, got: str, allowed: str) -> RefusedError:
    return RefusedError(reason, reason.advice, field, describe(got), allowed)
