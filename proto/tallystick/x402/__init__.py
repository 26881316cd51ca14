"""x402 v2 as it stands on the wire, and its conversion to bytes and integers.

messages    the JSON objects, the three headers and their strict codec
terms       what a 402 asks for: network, amount, token, receiver, and what each scheme adds
payloads    what a payment carries: `deferred` and `exact`
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
from tallystick.x402.terms import (
    SCHEME_DEFERRED,
    SCHEME_EXACT,
    DeferredTerms,
    ExactTerms,
    Network,
    PaymentTerms,
    read_deferred_terms,
    read_exact_terms,
    read_terms,
)

__all__ = [
    "HEADER_BYTES_MAX",
    "PAYMENT_IDENTIFIER",
    "PAYMENT_REQUIRED_HEADER",
    "PAYMENT_RESPONSE_HEADER",
    "PAYMENT_SIGNATURE_HEADER",
    "SCHEME_DEFERRED",
    "SCHEME_EXACT",
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
    "ResourceInfo",
    "SettleResponse",
    "bound_hash",
    "decode_header",
    "decode_json",
    "deferred_payload",
    "encode_header",
    "encode_json",
    "exact_payload",
    "pay_ahead_extension",
    "payment_identifier_declaration",
    "payment_identifier_extension",
    "read_deferred",
    "read_deferred_terms",
    "read_exact",
    "read_exact_terms",
    "read_identifier",
    "read_pay_ahead",
    "read_terms",
    "without_page",
]
