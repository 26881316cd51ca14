"""What a 402 asks for, as bytes and integers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from tallystick.amounts import parse_amount, parse_uint64
from tallystick.errors import MalformedError
from tallystick.hexadecimal import checksum, parse_address
from tallystick.x402.messages import PaymentRequirements

SCHEME_DEFERRED: Final = "deferred"
SCHEME_EXACT: Final = "exact"
SCHEME_UPTO: Final = "upto"
SCHEME_BATCH_SETTLEMENT: Final = "batch-settlement"

VOUCHER_MANAGER: Final = "voucherManager"
VOUCHER_MANAGER_FACILITATOR: Final = "facilitator"
VOUCHER_MANAGER_SERVER: Final = "server"
ASSET_TRANSFER_EIP3009: Final = "eip3009"
ASSET_TRANSFER_PERMIT2: Final = "permit2"
ASSET_TRANSFER_METHOD: Final = "assetTransferMethod"
_EIP155: Final = "eip155:"
_NAME_CHARS_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Network:
    """An EVM chain; its text is the CAIP-2 name, "eip155:8453"."""

    chain_id: int

    @classmethod
    def parse(cls, text: object, field: str) -> Self:
        """The chain of a CAIP-2 name; raises MalformedError on all but `eip155:` and a decimal chain id above 0."""
        allowed = 'a CAIP-2 name of an EVM chain, as in "eip155:8453"'
        if not isinstance(text, str) or not text.startswith(_EIP155):
            raise MalformedError(field, text, allowed)
        try:
            chain_id = parse_uint64(text.removeprefix(_EIP155), field)
        except MalformedError:
            raise MalformedError(field, text, allowed) from None
        if chain_id == 0:
            raise MalformedError(field, text, allowed)
        return cls(chain_id)

    def __str__(self) -> str:
        return f"{_EIP155}{self.chain_id}"


@dataclass(frozen=True, slots=True)
class PaymentTerms:
    """What the seller asks for; `amount` is in atomic units of `asset`, addresses have 20 bytes.

    `max_timeout_s`: how long the seller waits for a settlement (`maxTimeoutSeconds`); 0 where it does not say. `extra`
    is the seller's, as it stands in its PaymentRequirements. Terms that differ in these alone are the same terms.
    """

    scheme: str
    network: Network
    amount: int
    asset: bytes
    pay_to: bytes
    max_timeout_s: int = field(default=0, compare=False)
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class DeferredTerms:
    """What `deferred` adds to the terms: the escrow, its EIP-712 domain, the operator, and the deposit that it wants.

    A payer takes them only if escrow, name and operator are what it is configured for: a 402 never decides where a
    deposit goes. `blinding`: the seller takes payments that are bound to a blinded request hash, and keeps the blind
    from its aggregator (`tallystick.requests`).
    """

    escrow: bytes
    receiver_authorizer: bytes
    withdraw_delay_s: int
    name: str
    version: str
    min_deposit: int | None = None
    voucher_manager: str = VOUCHER_MANAGER_FACILITATOR
    blinding: bool = False

    def extra(self) -> dict[str, Any]:
        """The `extra` of the PaymentRequirements."""
        extra: dict[str, Any] = {
            "escrow": checksum(self.escrow),
            "receiverAuthorizer": checksum(self.receiver_authorizer),
            "withdrawDelay": self.withdraw_delay_s,
            "name": self.name,
            "version": self.version,
            VOUCHER_MANAGER: self.voucher_manager,
        }
        if self.min_deposit is not None:
            extra["minDeposit"] = str(self.min_deposit)
        if self.blinding:
            extra["blinding"] = True
        return extra


@dataclass(frozen=True, slots=True)
class ExactTerms:
    """What `exact` adds to the terms: the token's own EIP-712 domain, and how it is moved."""

    name: str
    version: str
    asset_transfer_method: str = ASSET_TRANSFER_EIP3009

    def extra(self) -> dict[str, Any]:
        """The `extra` of the PaymentRequirements."""
        extra = {"name": self.name, "version": self.version}
        if self.asset_transfer_method != ASSET_TRANSFER_EIP3009:
            extra[ASSET_TRANSFER_METHOD] = self.asset_transfer_method
        return extra


@dataclass(frozen=True, slots=True)
class UptoTerms:
    """What `upto` adds to the terms: who alone may settle it, and the token's EIP-712 domain, for permits."""

    facilitator: bytes
    name: str
    version: str

    def extra(self) -> dict[str, Any]:
        """The `extra` of the PaymentRequirements."""
        return {
            "name": self.name,
            "version": self.version,
            ASSET_TRANSFER_METHOD: ASSET_TRANSFER_PERMIT2,
            "facilitatorAddress": checksum(self.facilitator),
        }


@dataclass(frozen=True, slots=True)
class BatchSettlementTerms:
    """What `batch-settlement` adds to the terms (scheme_batch_settlement_evm.md, "402 Response").

    `name` and `version` are of the token's EIP-712 domain. `min_deposit`, in atomic units, is a wish, at least the
    price. `refund_authorizer`: the server's own key for refunds, only where the facilitator manages vouchers.
    """

    receiver_authorizer: bytes
    withdraw_delay_s: int
    name: str
    version: str
    asset_transfer_method: str = ASSET_TRANSFER_EIP3009
    min_deposit: int | None = None
    voucher_manager: str = VOUCHER_MANAGER_SERVER
    refund_authorizer: bytes | None = None

    @property
    def is_managed(self) -> bool:
        """Whether the facilitator keeps the channel's vouchers, so that the server only forwards."""
        return self.voucher_manager == VOUCHER_MANAGER_FACILITATOR

    def extra(self) -> dict[str, Any]:
        """The `extra` of the PaymentRequirements; a corrective 402 adds to it (`batch_settlement_states`)."""
        extra: dict[str, Any] = {
            "receiverAuthorizer": checksum(self.receiver_authorizer),
            "withdrawDelay": self.withdraw_delay_s,
            "name": self.name,
            "version": self.version,
        }
        if self.asset_transfer_method != ASSET_TRANSFER_EIP3009:
            extra[ASSET_TRANSFER_METHOD] = self.asset_transfer_method
        if self.min_deposit is not None:
            extra["minDeposit"] = str(self.min_deposit)
        if self.voucher_manager != VOUCHER_MANAGER_SERVER:
            extra[VOUCHER_MANAGER] = self.voucher_manager
        if self.refund_authorizer is not None:
            extra["refundAuthorizer"] = checksum(self.refund_authorizer)
        return extra


def read_terms(requirements: PaymentRequirements, field: str = "accepted") -> PaymentTerms:
    """The terms as bytes and integers; raises MalformedError, its field below `field`."""
    return PaymentTerms(
        scheme=requirements.scheme,
        network=Network.parse(requirements.network, f"{field}.network"),
        amount=parse_amount(requirements.amount, f"{field}.amount"),
        asset=parse_address(requirements.asset, f"{field}.asset"),
        pay_to=parse_address(requirements.pay_to, f"{field}.payTo"),
        max_timeout_s=requirements.max_timeout_seconds,
        extra=requirements.extra or {},
    )


def read_deferred_terms(extra: dict[str, Any], field: str = "extra") -> DeferredTerms:
    """What the `extra` of a `deferred` offer says; raises MalformedError, its field below `field`."""
    min_deposit = extra.get("minDeposit")
    return DeferredTerms(
        escrow=parse_address(extra.get("escrow"), f"{field}.escrow"),
        receiver_authorizer=parse_address(extra.get("receiverAuthorizer"), f"{field}.receiverAuthorizer"),
        withdraw_delay_s=_seconds(extra.get("withdrawDelay"), f"{field}.withdrawDelay"),
        name=_name(extra.get("name"), f"{field}.name"),
        version=_name(extra.get("version"), f"{field}.version"),
        min_deposit=None if min_deposit is None else parse_amount(min_deposit, f"{field}.minDeposit"),
        voucher_manager=_name(extra.get(VOUCHER_MANAGER), f"{field}.{VOUCHER_MANAGER}"),
        blinding=extra.get("blinding") is True,
    )


def read_exact_terms(extra: dict[str, Any], field: str = "extra") -> ExactTerms:
    """What the `extra` of an `exact` offer says; raises MalformedError, its field below `field`."""
    return ExactTerms(
        name=_name(extra.get("name"), f"{field}.name"),
        version=_name(extra.get("version"), f"{field}.version"),
        asset_transfer_method=_name(
            extra.get(ASSET_TRANSFER_METHOD, ASSET_TRANSFER_EIP3009), f"{field}.{ASSET_TRANSFER_METHOD}"
        ),
    )


def read_upto_terms(extra: dict[str, Any], field: str = "extra") -> UptoTerms:
    """What the `extra` of an `upto` offer says; raises MalformedError, its field below `field`."""
    return UptoTerms(
        facilitator=parse_address(extra.get("facilitatorAddress"), f"{field}.facilitatorAddress"),
        name=_name(extra.get("name"), f"{field}.name"),
        version=_name(extra.get("version"), f"{field}.version"),
    )


def read_batch_settlement_terms(extra: dict[str, Any], field: str = "extra") -> BatchSettlementTerms:
    """What the `extra` of a `batch-settlement` offer says; raises MalformedError, its field below `field`."""
    min_deposit, refund_authorizer = extra.get("minDeposit"), extra.get("refundAuthorizer")
    return BatchSettlementTerms(
        receiver_authorizer=parse_address(extra.get("receiverAuthorizer"), f"{field}.receiverAuthorizer"),
        withdraw_delay_s=_seconds(extra.get("withdrawDelay"), f"{field}.withdrawDelay"),
        name=_name(extra.get("name"), f"{field}.name"),
        version=_name(extra.get("version"), f"{field}.version"),
        asset_transfer_method=_one_of(
            extra.get(ASSET_TRANSFER_METHOD, ASSET_TRANSFER_EIP3009),
            (ASSET_TRANSFER_EIP3009, ASSET_TRANSFER_PERMIT2),
            f"{field}.{ASSET_TRANSFER_METHOD}",
        ),
        min_deposit=None if min_deposit is None else parse_amount(min_deposit, f"{field}.minDeposit"),
        voucher_manager=_one_of(
            extra.get(VOUCHER_MANAGER, VOUCHER_MANAGER_SERVER),
            (VOUCHER_MANAGER_SERVER, VOUCHER_MANAGER_FACILITATOR),
            f"{field}.{VOUCHER_MANAGER}",
        ),
        refund_authorizer=None
        if refund_authorizer is None
        else parse_address(refund_authorizer, f"{field}.refundAuthorizer"),
    )


def _one_of(value: object, choices: tuple[str, ...], field: str) -> str:
    if not isinstance(value, str) or value not in choices:
        raise MalformedError(field, value, " or ".join(f'"{choice}"' for choice in choices))
    return value


def _name(value: object, field: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _NAME_CHARS_MAX:
        raise MalformedError(field, value, f"a text of 1 to {_NAME_CHARS_MAX} characters")
    return value


def _seconds(value: object, field: str) -> int:
    # A bool is an int to Python, and no number to JSON.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
        raise MalformedError(field, value, "an integer of seconds, below 2**40")
    return value
