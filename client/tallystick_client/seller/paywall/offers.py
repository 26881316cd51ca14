"""What a 402 says: a price turned into terms for every scheme that the aggregator supports.

`deferred` comes first, because it costs both sides less; `exact` is there for payers without a deposit. Then come the
schemes of which the aggregator itself says what their offers carry: their payments are passed on as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tallystick.amounts import parse_price
from tallystick.errors import Described, MalformedError, RefusedError
from tallystick.facilitator import Kind, Supported
from tallystick.hexadecimal import checksum, to_hex
from tallystick.quantities import ChannelTotals
from tallystick.tokens import Token
from tallystick.x402 import (
    PAYMENT_IDENTIFIER,
    SCHEME_DEFERRED,
    SCHEME_EXACT,
    DeferredTerms,
    ExactTerms,
    Network,
    PaymentRequired,
    PaymentRequirements,
    PaymentTerms,
    ResourceInfo,
    payment_identifier_declaration,
)
from tallystick_client.seller.paywall.rules import symbol_of

_SCHEMES: Final = (SCHEME_DEFERRED, SCHEME_EXACT)


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to pay: the terms, how they stand in the 402, and the token they are counted in."""

    terms: PaymentTerms
    requirements: PaymentRequirements
    asset: Token


def make_offers(
    supported: Supported, price: str, *, pay_to: bytes, network: str | None, timeout_s: int, field: str
) -> tuple[Offer, ...]:
    """The offers for a price such as "0.001 USDC", in the order in which the 402 makes them; none where it is zero.

    Raises MalformedError, which names `field`, on a token that the aggregator does not take or a price too fine for
    it, and, where `network` is None, if it takes the token on several networks.
    """
    symbol = symbol_of(price, field)
    ways = [
        (kind, asset)
        for kind in sorted(filter(_is_offered, supported.kinds), key=_rank)
        if network in {None, kind.network}
        for asset in kind.assets
        if asset.symbol == symbol
    ]
    networks = sorted({kind.network for kind, _ in ways})
    if not ways:
        raise MalformedError(field, price, _allowed(supported, network))
    if len(networks) > 1:
        raise MalformedError("network", Described("none"), f"one of {', '.join(networks)}: all take {symbol}")
    offers = [_offer(kind, asset, price, pay_to, timeout_s, field) for kind, asset in ways]
    return tuple(offer for offer in offers if offer.terms.amount)


def payment_required(
    offers: Sequence[Offer],
    resource: ResourceInfo,
    error: str,
    totals: ChannelTotals | None = None,
    extensions: Mapping[str, Any] | None = None,
) -> PaymentRequired:
    """What the 402 says; with the channel's totals where a refusal told them, so that the payer can sign higher.

    `extensions` are those for `deferred` payments beside the payment id's.
    """
    takes_deferred = [offer.terms.scheme == SCHEME_DEFERRED for offer in offers]
    return PaymentRequired(
        error=error,
        resource=resource,
        accepts=[_with_totals(offer, totals) for offer in offers],
        extensions={
            PAYMENT_IDENTIFIER: payment_identifier_declaration(required=all(takes_deferred)),
            **((extensions or {}) if any(takes_deferred) else {}),
        },
    )


def error_text(error: MalformedError | RefusedError) -> str:
    """The `error` of a 402: the reason's code, then what was wrong and what would be right."""
    if isinstance(error, MalformedError):
        return f"payload_invalid: {error}"
    detail = f" ({error.field}: got {error.got}, allowed {error.allowed})" if error.field and error.allowed else ""
    return f"{error.reason.code}: {error.message}{detail}"


def _offer(kind: Kind, asset: Token, price: str, pay_to: bytes, timeout_s: int, field: str) -> Offer:
    amount = parse_price(price, asset.decimals, field).amount
    terms = PaymentTerms(kind.scheme, Network.parse(kind.network, "network"), amount, asset.address, pay_to)
    requirements = PaymentRequirements(
        scheme=kind.scheme,
        network=kind.network,
        amount=str(amount),
        asset=checksum(asset.address),
        pay_to=checksum(pay_to),
        max_timeout_seconds=timeout_s,
        extra=_extra(kind, asset),
    )
    return Offer(terms, requirements, asset)


def _is_offered(kind: Kind) -> bool:
    return kind.scheme in _SCHEMES or bool(kind.extra)


def _rank(kind: Kind) -> int:
    return _SCHEMES.index(kind.scheme) if kind.scheme in _SCHEMES else len(_SCHEMES)


def _extra(kind: Kind, asset: Token) -> dict[str, Any]:
    if kind.scheme not in _SCHEMES:
        return dict(kind.extra)
    if kind.scheme == SCHEME_EXACT:
        return ExactTerms(asset.name, asset.version).extra()
    return DeferredTerms(
        escrow=kind.escrow,
        receiver_authorizer=kind.operator,
        withdraw_delay_s=kind.withdraw_delay_s,
        name=kind.escrow_name,
        version=kind.escrow_version,
        min_deposit=asset.min_deposit or None,
    ).extra()


def _with_totals(offer: Offer, totals: ChannelTotals | None) -> PaymentRequirements:
    requirements = offer.requirements
    if totals is None or requirements.scheme != SCHEME_DEFERRED:
        return requirements
    # The names of batch-settlement's corrective 402, and one of ours for what is held by requests under way.
    extra = {
        **requirements.extra,
        "channelState": {
            "channelId": to_hex(totals.channel_id),
            "chargedCumulativeAmount": str(totals.charged),
            "reservedAmount": str(totals.reserved),
            "totalClaimed": str(totals.claimed),
        },
        "voucherState": {"signedMaxClaimable": str(totals.ceiling)},
    }
    return PaymentRequirements(
        scheme=requirements.scheme,
        network=requirements.network,
        amount=requirements.amount,
        asset=requirements.asset,
        pay_to=requirements.pay_to,
        max_timeout_seconds=requirements.max_timeout_seconds,
        extra=extra,
    )


def _allowed(supported: Supported, network: str | None) -> str:
    tokens = sorted(
        {f"{asset.symbol} on {kind.network}" for kind in supported.kinds if _is_offered(kind) for asset in kind.assets}
    )
    where = f" on {network}" if network is not None else ""
    return f"a token that the aggregator takes{where}: {', '.join(tokens) or 'it takes none'}"
