"""Which of a 402's offers may be taken: the allow-list decides, not the 402 (threats 4, 24, 39).

An offer is taken only if its network, escrow, operator, delay, EIP-712 domain and token are exactly those of an
operator that the wallet was configured with. What is left to the seller is the receiver and the price, and the budgets
bound the price.

A 402 is read leniently: sellers list offers for other clients, other chains and other versions beside ours. What cannot
be read of it is left out, and said where no offer remains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from msgspec import Struct, structs

from tallystick.errors import MalformedError, describe
from tallystick.hexadecimal import checksum
from tallystick.quantities import ZERO_ADDRESS
from tallystick.tokens import Token
from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    PaymentRequirements,
    PaymentTerms,
    decode_header,
    read_terms,
)
from tallystick.x402.messages import as_object, malformed
from tallystick_client.payer.errors import OfferNotAllowedError
from tallystick_client.payer.policy.operators import Asset, Operator

OFFERS_MAX: Final = 64
"""A 402 with more offers than this is not read to its end."""
HEADER_BYTES_MAX: Final = 65_536
"""Of a 402: a query makes it grow, and servers that are not ours do not bound it."""
_VERSION: Final = 2
_CORRECTIVE: Final = frozenset({"channelState", "voucherState"})


class Echo(NamedTuple):
    """What a payment repeats of its 402 beside the offer, as it came (x402 specification v2, sections 5.1 and 5.2)."""

    resource: Mapping[str, Any] | None = None
    extensions: Mapping[str, Any] | None = None


NO_ECHO: Final = Echo()


class Asked(NamedTuple):
    """What a 402 says; of an entry in `accepts` that cannot be read, why."""

    error: str
    accepts: Sequence[PaymentRequirements | MalformedError]
    resource: Mapping[str, Any] | None = None
    extensions: Mapping[str, Any] | None = None


class Offered(Protocol):
    """A 402 that is asked for its offers: `Asked`, or x402's PaymentRequired."""

    @property
    def accepts(self) -> Sequence[PaymentRequirements | MalformedError]:
        """The ways to pay."""
        ...


class _Received(Struct, frozen=True, rename="camel"):
    """A PAYMENT-REQUIRED header, of whatever version and seller."""

    accepts: list[Any]
    x402_version: Any = _VERSION
    error: Any = None
    resource: Any = None
    extensions: Any = None


class Seller(NamedTuple):
    """Where a payment goes: all of it from the allow-list, but for the receiver and the host."""

    operator: Operator
    token: Token
    receiver: bytes
    host: str

    @property
    def asset(self) -> Asset:
        """What it is paid in."""
        return Asset(str(self.operator.network), self.token.address)


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer that may be taken. `accepted` and `echo` are what the payment repeats."""

    operator: Operator
    token: Token
    terms: PaymentTerms
    accepted: PaymentRequirements
    echo: Echo = field(default=NO_ECHO, compare=False, repr=False)
    """Of the 402 that made it. A payment that is sent ahead answers none, and repeats nothing."""
    instead_of: tuple[str, ...] = field(default=(), compare=False)
    """The schemes of the offers beside it that could have been taken too, where all of them take deposits."""

    def goes_where(self, other: "Offer") -> bool:
        """Whether both are paid by the same scheme, in the same token, to the same receiver at the same operator."""
        ours = self.terms.scheme, self.operator, self.token, self.terms.pay_to
        return ours == (other.terms.scheme, other.operator, other.token, other.terms.pay_to)

    def seller(self, host: str) -> Seller:
        """Whom a payment goes to."""
        return Seller(self.operator, self.token, self.terms.pay_to, host)


def read_offers(header: str) -> Asked:
    """The 402 in the value of its PAYMENT-REQUIRED header.

    Raises MalformedError, and OfferNotAllowedError on another version than 2.
    """
    received = decode_header(header, _Received, PAYMENT_REQUIRED_HEADER, HEADER_BYTES_MAX)
    version = received.x402_version
    if type(version) is not int or version != _VERSION:  # true is 1 to Python, and 2.0 is 2
        raise _other_version(f"{PAYMENT_REQUIRED_HEADER} $.x402Version", version)
    return Asked(
        error=received.error if isinstance(received.error, str) else "",
        accepts=read_requirements(received.accepts),
        resource=as_object(received.resource) or None,
        extensions=as_object(received.extensions) or None,
    )


def read_requirements(accepts: Sequence[object]) -> list[PaymentRequirements | MalformedError]:
    """The first OFFERS_MAX entries of `accepts`; of one that cannot be read, why."""
    return [_requirements(entry, f"accepts[{at}]") for at, entry in enumerate(accepts[:OFFERS_MAX])]


def check_version(body: bytes) -> None:
    """Raise OfferNotAllowedError if the body of a 402 without PAYMENT-REQUIRED has another version's terms."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    version = as_object(told).get("x402Version")
    if version is not None and "accepts" in told:
        raise _other_version("x402Version", version)


def _other_version(field: str, version: object) -> OfferNotAllowedError:
    problem = f"{field}: got {describe(version)}, allowed {_VERSION}: the seller speaks another version of x402"
    return OfferNotAllowedError([problem])


def _requirements(entry: object, field: str) -> PaymentRequirements | MalformedError:
    try:
        return msgspec.convert(entry, PaymentRequirements)
    except msgspec.ValidationError as error:
        return malformed(error, field)


class OfferRules(Protocol):
    """What a scheme knows of offers: a part of `wallet.schemes.port.Scheme`."""

    @property
    def name(self) -> str:
        """The scheme's name in offers."""
        ...

    @property
    def takes_deposits(self) -> bool:
        """Whether its payments come out of a deposit, not out of the payer's own address."""
        ...

    @property
    def advantage(self) -> str:
        """Why it is preferred to others that take deposits, for a person to read."""
        ...

    def problem(self, requirements: PaymentRequirements, field: str, operator: Operator, token: Token) -> str:
        """Why this operator's allow-list does not take what the offer says beyond receiver, amount and token; empty
        where it does. Begins with the name of a part of the offer, whose own name is `field`. Raises MalformedError.
        """
        ...

    def lack(self, means: "Means", offer: Offer) -> str:
        """What a wallet lacks to pay this offer; empty where it lacks nothing."""
        ...


class Means(Protocol):
    """What a wallet has to pay with."""

    @property
    def operators(self) -> Sequence[Operator]:
        """The allow-list."""
        ...

    @property
    def schemes(self) -> Mapping[str, OfferRules]:
        """By their names; those that are preferred come first."""
        ...

    @property
    def allows_exact(self) -> bool:
        """Whether it pays without a deposit."""
        ...

    def can_defer(self, operator: Operator, token: Token) -> bool:
        """Whether there is, or may be, a deposit to pay from."""
        ...

    def channel_lack(self, offer: Offer) -> str:
        """What is lacking to pay this offer from a channel with its seller alone; empty where nothing is."""
        ...


def choose(required: Offered, means: Means) -> Offer:
    """The offer to take: the first of the scheme that the wallet prefers, among those that it may take and can pay.

    Raises OfferNotAllowedError, which says for each offer why it is not taken.
    """
    allowed: list[Offer] = []
    problems: list[str] = []
    for index, requirements in enumerate(required.accepts[:OFFERS_MAX]):
        field = f"accepts[{index}]"
        if isinstance(requirements, MalformedError):
            problems.append(str(requirements))
            continue
        scheme = means.schemes.get(requirements.scheme)
        if scheme is None:
            names = " or ".join(means.schemes)
            problems.append(f"{field}.scheme: got {requirements.scheme[:32]!a}, allowed {names}")
            continue
        offer = _check(requirements, field, scheme, means.operators)
        if isinstance(offer, str):
            problems.append(offer)
        elif lack := scheme.lack(means, offer):
            problems.append(f"{field}: {lack}")
        else:
            allowed.append(offer)
    if not allowed:
        raise OfferNotAllowedError(problems)
    preferred = list(means.schemes)
    taken = min(allowed, key=lambda offer: preferred.index(offer.terms.scheme))
    if not means.schemes[taken.terms.scheme].takes_deposits:
        return taken
    others = {offer.terms.scheme for offer in allowed if means.schemes[offer.terms.scheme].takes_deposits}
    return replace(taken, instead_of=tuple(sorted(others - {taken.terms.scheme}, key=preferred.index)))


def allowed_offers(required: Offered, scheme: OfferRules, operators: Sequence[Operator]) -> list[Offer]:
    """The offers of this scheme that the allow-list takes."""
    found = [
        _check(requirements, f"accepts[{index}]", scheme, operators)
        for index, requirements in enumerate(required.accepts[:OFFERS_MAX])
        if not isinstance(requirements, MalformedError) and requirements.scheme == scheme.name
    ]
    return [offer for offer in found if not isinstance(offer, str)]


def preference(offer: Offer, schemes: Mapping[str, OfferRules]) -> str:
    """Which deposit an offer is paid from, and why, for a person to read; empty where the 402 left no choice."""
    if not offer.instead_of:
        return ""
    return f"{offer.terms.scheme} rather than {' or '.join(offer.instead_of)}: {schemes[offer.terms.scheme].advantage}"


def first_difference(*compared: tuple[str, str | int, str | int]) -> str:
    """The first of an offer's `extra` that is not as allowed, by name, what was got and what is allowed; or nothing."""
    for name, got, allowed in compared:
        if got != allowed:
            return f"extra.{name}: got {describe(got)}, allowed {allowed}"
    return ""


def _check(
    requirements: PaymentRequirements, field: str, scheme: OfferRules, operators: Sequence[Operator]
) -> Offer | str:
    """The offer, or why it is not allowed."""
    try:
        terms = read_terms(requirements, field)
        if terms.amount == 0:
            return f"{field}.amount: got 0, allowed more"
        problem = f"network: got {terms.network}, allowed one of a configured operator"
        for operator in operators:
            if operator.network != terms.network:
                continue
            token = operator.token(terms.asset)
            if token is None:
                problem = f"asset: got {checksum(terms.asset)}, allowed a configured token"
                continue
            problem = _receiver_problem(terms, operator) or scheme.problem(requirements, field, operator, token)
            if not problem:
                return Offer(operator, token, terms, _accepted(requirements))
    except MalformedError as error:
        return str(error)
    return f"{field}.{problem}"


def _receiver_problem(terms: PaymentTerms, operator: Operator) -> str:
    # The escrow refuses these too; a token would keep what is sent to it.
    if terms.pay_to in {ZERO_ADDRESS, operator.escrow, terms.asset}:
        return f"payTo: got {checksum(terms.pay_to)}, allowed neither zero, the escrow nor the token"
    return ""


def _accepted(requirements: PaymentRequirements) -> PaymentRequirements:
    # A corrective 402 adds a channel's totals: they belong to one payment, and these terms are remembered. All else is
    # repeated as it came: official servers compare it with what they sent.
    extra = {name: value for name, value in requirements.extra.items() if name not in _CORRECTIVE}
    return structs.replace(requirements, extra=extra)
