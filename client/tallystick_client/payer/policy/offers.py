"""Which of a 402's offers may be taken: the allow-list decides, not the 402 (threats 4, 24, 39).

An offer is taken only if its network, escrow, operator, delay, EIP-712 domain and token are exactly those of an
operator that the wallet was configured with. What is left to the seller is the receiver and the price, and the budgets
bound the price.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from msgspec import structs

from tallystick.errors import MalformedError, describe
from tallystick.hexadecimal import checksum
from tallystick.quantities import ZERO_ADDRESS
from tallystick.reasons import Reason
from tallystick.tokens import Token
from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    SCHEME_DEFERRED,
    SCHEME_EXACT,
    DeferredTerms,
    ExactTerms,
    PaymentRequired,
    PaymentRequirements,
    PaymentTerms,
    decode_header,
    read_deferred_terms,
    read_exact_terms,
    read_terms,
)
from tallystick.x402.terms import ASSET_TRANSFER_EIP3009, VOUCHER_MANAGER_FACILITATOR
from tallystick_client.payer.errors import OfferNotAllowedError
from tallystick_client.payer.policy.operators import Asset, Operator

OFFERS_MAX: Final = 64
"""A 402 with more offers than this is not read to its end."""
_CORRECTIVE: Final = frozenset({"channelState", "voucherState"})


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
    """An offer that may be taken. `accepted` is what the payment repeats of it."""

    operator: Operator
    token: Token
    terms: PaymentTerms
    accepted: PaymentRequirements

    @property
    def is_deferred(self) -> bool:
        """Whether it is paid from a deposit."""
        return self.terms.scheme == SCHEME_DEFERRED

    def goes_where(self, other: "Offer") -> bool:
        """Whether both are paid from the same deposit to the same receiver: then one payment id is charged once."""
        same = (self.operator, self.token, self.terms.pay_to) == (other.operator, other.token, other.terms.pay_to)
        return same and self.is_deferred and other.is_deferred

    def seller(self, host: str) -> Seller:
        """Whom a payment goes to."""
        return Seller(self.operator, self.token, self.terms.pay_to, host)


def read_offers(header: str) -> PaymentRequired:
    """The 402 in the value of its PAYMENT-REQUIRED header; raises MalformedError."""
    return decode_header(header, PaymentRequired, PAYMENT_REQUIRED_HEADER)


def told_error(headers: Mapping[str, str]) -> str:
    """What an answer's PAYMENT-REQUIRED header says of the payment that was not taken, its reason's code first.

    Empty where there is none, or none that can be read.
    """
    try:
        return (read_offers(headers[PAYMENT_REQUIRED_HEADER]).error or "") if PAYMENT_REQUIRED_HEADER in headers else ""
    except MalformedError:
        return ""


def reason_in(error: str) -> Reason:
    """The reason at the beginning of a 402's `error`; UNSPECIFIED where there is none that we know."""
    return Reason.from_code(error.partition(":")[0].strip())


def choose(
    required: PaymentRequired,
    operators: Iterable[Operator],
    *,
    can_defer: Callable[[Operator, Token], bool],
    allow_exact: bool = True,
) -> Offer:
    """The offer to take: `deferred` where the wallet has or may open an account, else `exact`.

    Raises OfferNotAllowedError, which says for each offer why it is not taken.
    """
    allowed: list[Offer] = []
    problems: list[str] = []
    for index, requirements in enumerate(required.accepts[:OFFERS_MAX]):
        offer = _check(requirements, f"accepts[{index}]", operators)
        if isinstance(offer, str):
            problems.append(offer)
        elif offer.is_deferred and not can_defer(offer.operator, offer.token):
            problems.append(f"accepts[{index}]: there is no deposit to pay from, and no policy to make one")
        elif not offer.is_deferred and not allow_exact:
            problems.append(f"accepts[{index}]: this wallet does not pay by exact")
        else:
            allowed.append(offer)
    for offer in allowed:
        if offer.is_deferred:
            return offer
    if not allowed:
        raise OfferNotAllowedError(problems)
    return allowed[0]


def _check(requirements: PaymentRequirements, field: str, operators: Iterable[Operator]) -> Offer | str:
    """The offer, or why it is not allowed."""
    try:
        terms = read_terms(requirements, field)
        added = _read_extra(requirements, field)
    except MalformedError as error:
        return str(error)
    if added is None:
        return f"{field}.scheme: got {terms.scheme[:32]!a}, allowed {SCHEME_DEFERRED} or {SCHEME_EXACT}"
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
        problem = _receiver_problem(terms, operator) or (
            _deferred_problem(added, operator) if isinstance(added, DeferredTerms) else _exact_problem(added, token)
        )
        if not problem:
            return Offer(operator, token, terms, _accepted(requirements))
    return f"{field}.{problem}"


def _read_extra(requirements: PaymentRequirements, field: str) -> DeferredTerms | ExactTerms | None:
    if requirements.scheme == SCHEME_DEFERRED:
        return read_deferred_terms(requirements.extra, f"{field}.extra")
    if requirements.scheme == SCHEME_EXACT:
        return read_exact_terms(requirements.extra, f"{field}.extra")
    return None


def _receiver_problem(terms: PaymentTerms, operator: Operator) -> str:
    # The escrow refuses these too; a token would keep what is sent to it.
    if terms.pay_to in {ZERO_ADDRESS, operator.escrow, terms.asset}:
        return f"payTo: got {checksum(terms.pay_to)}, allowed neither zero, the escrow nor the token"
    return ""


def _deferred_problem(added: DeferredTerms, operator: Operator) -> str:
    domain = operator.domain
    compared = (
        ("escrow", checksum(added.escrow), checksum(operator.escrow)),
        ("receiverAuthorizer", checksum(added.receiver_authorizer), checksum(operator.operator)),
        ("withdrawDelay", added.withdraw_delay_s, operator.withdraw_delay_s),
        ("name", added.name, domain.name),
        ("version", added.version, domain.version),
        ("voucherManager", added.voucher_manager, VOUCHER_MANAGER_FACILITATOR),
    )
    return _first_difference(compared)


def _exact_problem(added: ExactTerms, token: Token) -> str:
    compared = (
        ("name", added.name, token.name),
        ("version", added.version, token.version),
        ("assetTransferMethod", added.asset_transfer_method, ASSET_TRANSFER_EIP3009),
    )
    return _first_difference(compared)


def _first_difference(compared: Iterable[tuple[str, str | int, str | int]]) -> str:
    for name, got, allowed in compared:
        if got != allowed:
            return f"extra.{name}: got {describe(got)}, allowed {allowed}"
    return ""


def _accepted(requirements: PaymentRequirements) -> PaymentRequirements:
    # A corrective 402 adds a channel's totals: they belong to one payment, and these terms are remembered. All else is
    # repeated as it came: official servers compare it with what they sent.
    extra = {name: value for name, value in requirements.extra.items() if name not in _CORRECTIVE}
    return structs.replace(requirements, extra=extra)
