"""x402 v2 as it stands on the wire, and its conversion to bytes and integers.

messages    the JSON objects, the three headers and their strict codec
terms       what a 402 asks for: network, amount, token, receiver, and what each scheme adds
payloads    what a payment carries: `deferred` and `exact`
permit2     what payments by Permit2 carry, and permits that are landed with them
batch_settlement  the standard scheme of this name: its payloads, states and codes
facilitator what is posted to a facilitator over HTTP, and its answers
identifier  the payment-identifier extension
forwarding  what a seller compares of a `deferred` payment, and what it hands on to its aggregator
pay_ahead   the pay-ahead extension: where a price holds
"""

from tallystick.x402.forwarding import bound_hash, without_page
from tallystick.x402.identifier import (
    PAYMENT_IDENTIFIER,
    payment_identifier_declaration,
    payment_identifier_extension,
    read_identifier,
)
from tallystick.x402.messages import (
    HEADER_BYTES_MAX,
    PAYMENT_REQUIRED_HEADER,
    PAYMENT_RESPONSE_HEADER,
    PAYMENT_SIGNATURE_HEADER,
    PaymentPayload,
    PaymentRequired,
    PaymentRequirements,
    ResourceInfo,
    SettleResponse,
    decode_header,
    decode_json,
    encode_header,
    encode_json,
)
from tallystick.x402.pay_ahead import PayAhead, pay_ahead_extension, read_pay_ahead
from tallystick.x402.payloads import (
    DeferredPayment,
    ExactAuthorization,
    deferred_payload,
    exact_payload,
    read_deferred,
    read_exact,
)
from tallystick.x402.permit2 import (
    EIP2612_GAS_SPONSORING,
    ERC20_APPROVAL_GAS_SPONSORING,
    Permit2Authorization,
    SignedApproval,
    TokenPermit,
    approval_declaration,
    approval_extension,
    is_permit2,
    permit2_payload,
    permit_declaration,
    permit_extension,
    read_exact_permit2,
    read_upto,
)
from tallystick.x402.terms import (
    ASSET_TRANSFER_EIP3009,
    ASSET_TRANSFER_METHOD,
    ASSET_TRANSFER_PERMIT2,
    SCHEME_DEFERRED,
    SCHEME_EXACT,
    SCHEME_UPTO,
    DeferredTerms,
    ExactTerms,
    Network,
    PaymentTerms,
    UptoTerms,
    read_deferred_terms,
    read_exact_terms,
    read_terms,
    read_upto_terms,
)

__all__ = [
    "ASSET_TRANSFER_EIP3009",
    "ASSET_TRANSFER_METHOD",
    "ASSET_TRANSFER_PERMIT2",
    "EIP2612_GAS_SPONSORING",
    "ERC20_APPROVAL_GAS_SPONSORING",
    "HEADER_BYTES_MAX",
    "PAYMENT_IDENTIFIER",
    "PAYMENT_REQUIRED_HEADER",
    "PAYMENT_RESPONSE_HEADER",
    "PAYMENT_SIGNATURE_HEADER",
    "SCHEME_DEFERRED",
    "SCHEME_EXACT",
    "SCHEME_UPTO",
    "DeferredPayment",
    "DeferredTerms",
    "ExactAuthorization",
    "ExactTerms",
    "Network",
    "PayAhead",
    "PaymentPayload",
    "PaymentRequired",
    "PaymentRequirements",
    "PaymentTerms",
    "Permit2Authorization",
    "ResourceInfo",
    "SettleResponse",
    "SignedApproval",
    "TokenPermit",
    "UptoTerms",
    "approval_declaration",
    "approval_extension",
    "bound_hash",
    "decode_header",
    "decode_json",
    "deferred_payload",
    "encode_header",
    "encode_json",
    "exact_payload",
    "is_permit2",
    "pay_ahead_extension",
    "payment_identifier_declaration",
    "payment_identifier_extension",
    "permit2_payload",
    "permit_declaration",
    "permit_extension",
    "read_deferred",
    "read_deferred_terms",
    "read_exact",
    "read_exact_permit2",
    "read_exact_terms",
    "read_identifier",
    "read_pay_ahead",
    "read_terms",
    "read_upto",
    "read_upto_terms",
    "without_page",
]
