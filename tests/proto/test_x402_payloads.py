"""Terms, payloads and the payment identifier: JSON on one side, bytes and integers on the other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick import payment_ids
from tallystick.channels import ChannelConfig
from tallystick.eip712 import Domain, digest, hash_transfer_with_authorization
from tallystick.errors import MalformedError
from tallystick.payment_ids import format_payment_id
from tallystick.signatures import recover
from tallystick.spend_keys import SpendProof
from tallystick.x402 import (
    PAYMENT_IDENTIFIER,
    DeferredPayment,
    DeferredTerms,
    ExactAuthorization,
    ExactTerms,
    Network,
    PaymentPayload,
    PaymentRequired,
    PaymentRequirements,
    decode_header,
    deferred_payload,
    encode_header,
    exact_payload,
    payment_identifier_declaration,
    payment_identifier_extension,
    read_deferred,
    read_deferred_terms,
    read_exact,
    read_exact_terms,
    read_terms,
)
from tallystick.x402.identifier import read_payment_id, requires_payment_id

OFFICIAL: dict[str, Any] = json.loads((Path(__file__).parent / "vectors/x402_messages.json").read_text())

words = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20)
parties = addresses.filter(any)
amounts = st.integers(0, 2**128 - 1)
seconds = st.integers(0, 2**64 - 1)
ids = st.builds(payment_ids.new_payment_id, st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
configs = st.builds(
    ChannelConfig,
    payer=parties,
    payer_authorizer=parties,
    receiver=addresses,
    receiver_authorizer=parties,
    token=parties,
    withdraw_delay_s=st.integers(900, 2_592_000),
    salt=words,
)
deferred_payments = st.builds(
    DeferredPayment,
    config=configs,
    payment_id=ids,
    ceiling=amounts,
    signature=st.binary(min_size=65, max_size=65),
    spend=st.none() | st.builds(SpendProof, key_id=words, max_amount=amounts, mac=words),
    channel_id=words,
)
authorizations = st.builds(
    ExactAuthorization,
    from_=addresses,
    to=addresses,
    value=amounts,
    valid_after=seconds,
    valid_before=seconds,
    nonce=words,
    signature=st.binary(max_size=200),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)

OFFER = PaymentRequirements(
    scheme="deferred",
    network="eip155:31337",
    amount="1000",
    asset="0x" + "11" * 20,
    pay_to="0x" + "22" * 20,
    max_timeout_seconds=60,
)
TERMS = DeferredTerms(
    escrow=b"\1" * 20,
    receiver_authorizer=b"\2" * 20,
    withdraw_delay_s=86_400,
    name="Tallystick Escrow",
    version="1",
    min_deposit=10**6,
)
PAYMENT = DeferredPayment(
    config=ChannelConfig(b"\1" * 20, b"\2" * 20, b"\3" * 20, b"\4" * 20, b"\5" * 20, 86_400, b"\6" * 32),
    payment_id=payment_ids.new(),
    ceiling=5_000,
    signature=b"\7" * 65,
    spend=SpendProof(b"\x08" * 32, 1_000, b"\x09" * 32),
    channel_id=b"\x0a" * 32,
)
EXACT = ExactAuthorization(b"\1" * 20, b"\2" * 20, 1_000, 0, 2_000_000_000, b"\3" * 32, b"\4" * 65)


def envelope(payment: DeferredPayment) -> PaymentPayload:
    return PaymentPayload(
        payload=deferred_payload(payment),
        accepted=OFFER,
        extensions=payment_identifier_extension(payment.payment_id),
    )


def with_value(payload: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """The payload with one value exchanged, or taken out where the value is `...`."""
    copy: dict[str, Any] = json.loads(json.dumps(payload))
    *parents, name = path.split(".")
    target = copy
    for parent in parents:
        target = target[parent]
    if value is ...:
        del target[name]
    else:
        target[name] = value
    return copy


def paths(value: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, inner in value.items():
        found.append(prefix + key)
        if isinstance(inner, dict):
            found += paths(inner, f"{prefix}{key}.")
    return found


def error_of(read: Callable[[], object]) -> MalformedError | None:
    """Let every other exception through: the test then fails with it."""
    try:
        read()
    except MalformedError as error:
        return error
    return None


@given(deferred_payments)
def test_a_deferred_payment_survives_the_wire(payment: DeferredPayment) -> None:
    header = encode_header(envelope(payment))
    assert read_deferred(decode_header(header, PaymentPayload, "PAYMENT-SIGNATURE")) == payment


@given(authorizations)
def test_an_exact_payment_survives_the_wire(authorization: ExactAuthorization) -> None:
    header = encode_header(PaymentPayload(payload=exact_payload(authorization), accepted=OFFER))
    assert read_exact(decode_header(header, PaymentPayload, "PAYMENT-SIGNATURE")) == authorization


def test_an_exact_payment_of_the_official_client_is_read_and_its_signature_recovers() -> None:
    payment = decode_header(OFFICIAL["paymentSignature"], PaymentPayload, "PAYMENT-SIGNATURE")
    terms = read_terms(payment.accepted)
    token = read_exact_terms(payment.accepted.extra)
    exact = read_exact(payment)
    struct_hash = hash_transfer_with_authorization(
        from_=exact.from_,
        to=exact.to,
        value=exact.value,
        valid_after=exact.valid_after,
        valid_before=exact.valid_before,
        nonce=exact.nonce,
    )
    domain = Domain(token.name, token.version, terms.network.chain_id, terms.asset)
    assert recover(digest(domain, struct_hash), exact.signature) == exact.from_
    assert (exact.to, exact.value) == (terms.pay_to, terms.amount)
    # It declares the extension that was required of it, and yet names no id.
    assert read_payment_id(payment) is None


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("type", "deposit", "payload $.type"),
        ("type", ..., "payload $.type"),
        ("channelConfig", ..., "payload $.channelConfig"),
        ("channelConfig.payer", "0x", "payload.channelConfig.payer"),
        ("channelConfig.payerAuthorizer", "0x" + "00" * 20, "payload.channelConfig.payerAuthorizer"),
        ("channelConfig.withdrawDelay", 899, "payload.channelConfig.withdrawDelay"),
        ("channelConfig.withdrawDelay", "86400", "payload $.channelConfig.withdrawDelay"),
        ("channelConfig.salt", "0x" + "00" * 31, "payload.channelConfig.salt"),
        ("voucher.maxClaimableAmount", "-1", "payload.voucher.maxClaimableAmount"),
        ("voucher.maxClaimableAmount", 5, "payload $.voucher.maxClaimableAmount"),
        ("voucher.maxClaimableAmount", str(2**128), "payload.voucher.maxClaimableAmount"),
        ("voucher.signature", "0x" + "00" * 64, "payload.voucher.signature"),
        ("voucher.channelId", "0x", "payload.voucher.channelId"),
        ("spendProof.maxAmount", "01", "payload.spendProof.maxAmount"),
        ("spendProof.keyId", "0x", "payload.spendProof.keyId"),
        ("spendProof.mac", "0x" + "00" * 33, "payload.spendProof.mac"),
        ("spendProof.mac", ..., "payload $.spendProof.mac"),
    ],
)
def test_a_bad_deferred_payload_is_refused_by_the_name_of_its_field(path: str, value: object, field: str) -> None:
    payload = with_value(deferred_payload(PAYMENT), path, value)
    payment = PaymentPayload(
        payload=payload, accepted=OFFER, extensions=payment_identifier_extension(PAYMENT.payment_id)
    )
    error = error_of(lambda: read_deferred(payment))
    assert error is not None
    assert error.field == field


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("signature", "0x1", "payload.signature"),
        ("signature", "0x" + "00" * 4_097, "payload.signature"),
        ("authorization", ..., "payload $.authorization"),
        ("authorization.from", ..., "payload $.authorization.from"),
        ("authorization.from", "0x1", "payload.authorization.from"),
        ("authorization.to", "somebody", "payload.authorization.to"),
        ("authorization.value", "1.5", "payload.authorization.value"),
        ("authorization.validAfter", "-1", "payload.authorization.validAfter"),
        ("authorization.validBefore", str(2**64), "payload.authorization.validBefore"),
        ("authorization.nonce", "0x", "payload.authorization.nonce"),
    ],
)
def test_a_bad_exact_payload_is_refused_by_the_name_of_its_field(path: str, value: object, field: str) -> None:
    payment = PaymentPayload(payload=with_value(exact_payload(EXACT), path, value), accepted=OFFER)
    error = error_of(lambda: read_exact(payment))
    assert error is not None
    assert error.field == field


@given(st.data(), json_values)
def test_a_payload_with_any_value_exchanged_is_read_or_malformed(data: st.DataObject, value: object) -> None:
    for payload, read in [(deferred_payload(PAYMENT), read_deferred), (exact_payload(EXACT), read_exact)]:
        path = data.draw(st.sampled_from(paths(payload)))
        extensions = payment_identifier_extension(PAYMENT.payment_id)
        payment = PaymentPayload(payload=with_value(payload, path, value), accepted=OFFER, extensions=extensions)
        error = error_of(lambda payment=payment, read=read: read(payment))
        assert error is None or error.field.startswith("payload")


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4))
def test_a_foreign_payload_is_malformed(payload: dict[str, Any]) -> None:
    payment = PaymentPayload(payload=payload, accepted=OFFER)
    assert error_of(lambda: read_deferred(payment)) is not None
    assert error_of(lambda: read_exact(payment)) is not None


def test_a_signature_is_told_neither_in_errors_nor_in_reprs() -> None:
    signature = "0x" + "ab" * 66
    payload = with_value(deferred_payload(PAYMENT), "voucher.signature", signature)
    payment = PaymentPayload(
        payload=payload, accepted=OFFER, extensions=payment_identifier_extension(PAYMENT.payment_id)
    )
    error = error_of(lambda: read_deferred(payment))
    assert error is not None
    assert "abab" not in str(error)
    assert "132 hex digits" in str(error)
    assert "signature" not in repr(PAYMENT)
    assert "signature" not in repr(EXACT)


def test_a_deferred_payment_must_name_itself() -> None:
    for extensions in (None, {}, {PAYMENT_IDENTIFIER: {}}, {PAYMENT_IDENTIFIER: {"info": {"required": True}}}):
        payment = PaymentPayload(payload=deferred_payload(PAYMENT), accepted=OFFER, extensions=extensions)
        with pytest.raises(MalformedError, match=r"^extensions\.payment-identifier\.info\.id: got nothing"):
            read_deferred(payment)


@pytest.mark.parametrize("value", [1, None, [], "", "pay_0123456789abcdef", "0" * 200])
def test_a_payment_id_that_is_no_uuid_is_refused(value: object) -> None:
    extensions = {PAYMENT_IDENTIFIER: {"info": {"required": True, "id": value}}}
    payment = PaymentPayload(payload={}, accepted=OFFER, extensions=extensions)
    with pytest.raises(MalformedError, match=r"^extensions\.payment-identifier\.info\.id: got "):
        read_payment_id(payment)


@given(json_values)
def test_any_extension_is_read_or_malformed(value: object) -> None:
    for extensions in ({PAYMENT_IDENTIFIER: value}, {PAYMENT_IDENTIFIER: {"info": value}}):
        payment = PaymentPayload(payload={}, accepted=OFFER, extensions=extensions)
        error = error_of(lambda payment=payment: read_payment_id(payment))
        assert error is None or error.field.startswith("extensions.payment-identifier")


def test_the_declaration_is_the_official_one_and_says_that_an_id_is_required() -> None:
    official = decode_header(OFFICIAL["paymentRequired"], PaymentRequired, "PAYMENT-REQUIRED")
    assert official.extensions == {PAYMENT_IDENTIFIER: payment_identifier_declaration()}
    assert requires_payment_id(official)
    optional = {PAYMENT_IDENTIFIER: payment_identifier_declaration(required=False)}
    assert not requires_payment_id(PaymentRequired(accepts=[], extensions=optional))
    assert not requires_payment_id(PaymentRequired(accepts=[]))


def test_the_extension_of_a_payment_carries_its_id_as_text() -> None:
    payment_id = payment_ids.new()
    extensions = payment_identifier_extension(payment_id)
    assert extensions == {"payment-identifier": {"info": {"required": True, "id": format_payment_id(payment_id)}}}
    assert read_payment_id(PaymentPayload(payload={}, accepted=OFFER, extensions=extensions)) == payment_id


def test_terms_are_read_as_bytes_and_integers() -> None:
    terms = read_terms(OFFER)
    assert (terms.scheme, terms.network, terms.amount) == ("deferred", Network(31337), 1000)
    assert (terms.asset, terms.pay_to) == (b"\x11" * 20, b"\x22" * 20)


@pytest.mark.parametrize("field", ["network", "amount", "asset", "payTo"])
def test_bad_terms_are_refused_by_the_name_of_their_field(field: str) -> None:
    values = {"network": "eip155:31337", "amount": "1000", "asset": "0x" + "11" * 20, "payTo": "0x" + "22" * 20}
    values[field] = "nonsense"
    offer = PaymentRequirements(
        scheme="deferred",
        network=values["network"],
        amount=values["amount"],
        asset=values["asset"],
        pay_to=values["payTo"],
        max_timeout_seconds=60,
    )
    with pytest.raises(MalformedError, match=rf"^accepts\[0\]\.{field}: got "):
        read_terms(offer, "accepts[0]")


def test_deferred_terms_survive_their_extra() -> None:
    assert read_deferred_terms(TERMS.extra()) == TERMS
    without = DeferredTerms(b"\1" * 20, b"\2" * 20, 900, "n", "1")
    assert "minDeposit" not in without.extra()
    assert read_deferred_terms(without.extra()) == without


@pytest.mark.parametrize("key", TERMS.extra())
@pytest.mark.parametrize("value", [None, 1.5, "", [], {}, True, -1, "0x1"])
def test_bad_deferred_terms_are_refused_by_the_name_of_their_field(key: str, value: object) -> None:
    extra = {**TERMS.extra(), key: value}
    error = error_of(lambda: read_deferred_terms(extra, "accepts[0].extra"))
    tolerated = (key == "minDeposit" and value is None) or (
        key in {"name", "version", "voucherManager"} and value == "0x1"
    )
    assert (error is None) == tolerated
    assert error is None or error.field == f"accepts[0].extra.{key}"


def test_exact_terms_survive_their_extra() -> None:
    for terms in (ExactTerms("USD Coin", "2"), ExactTerms("USD Coin", "2", "permit2")):
        assert read_exact_terms(terms.extra()) == terms
    with pytest.raises(MalformedError, match=r"^extra\.version: got nothing"):
        read_exact_terms({"name": "USD Coin"})


def test_networks_are_caip_2_names_of_evm_chains() -> None:
    assert Network.parse("eip155:8453", "network") == Network(8453)
    assert str(Network(8453)) == "eip155:8453"


@pytest.mark.parametrize(
    "text",
    ["", "eip155", "eip155:", "eip155:0", "eip155:01", "eip155:-1", "eip155:*", "eip155:1 ", "EIP155:1", "base",
     8453, None, "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "eip155:\u0661", f"eip155:{2**64}"],
)  # fmt: skip
def test_what_is_no_evm_network_is_refused(text: object) -> None:
    with pytest.raises(MalformedError, match=r"^network: got .*, allowed a CAIP-2 name"):
        Network.parse(text, "network")
