"""The codec of headers and bodies: it interoperates with the official package and survives hostile input."""

import inspect
import json
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facilitator_messages import SettleRequest, SupportedKind, SupportedResponse, VerifyRequest, VerifyResponse
from tallystick.errors import MalformedError
from tallystick.x402 import (
    HEADER_BYTES_MAX,
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
from tallystick.x402.messages import Message

OFFICIAL: dict[str, Any] = json.loads((Path(__file__).parent / "vectors/x402_messages.json").read_text())
MESSAGE_TYPES: list[type[Message]] = [
    PaymentRequired,
    PaymentPayload,
    VerifyRequest,
    SettleRequest,
    VerifyResponse,
    SettleResponse,
    SupportedResponse,
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
optional_texts = st.none() | texts
# 2**53 bounds what JSON peers keep exactly.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, json_values, max_size=4)
optional_objects = st.none() | objects
requirements = st.builds(
    PaymentRequirements,
    scheme=texts,
    network=texts,
    amount=texts,
    asset=texts,
    pay_to=texts,
    max_timeout_seconds=st.integers(0, 2**31 - 1),
    extra=objects,
)
resources = st.none() | st.builds(ResourceInfo, url=texts, description=optional_texts, mime_type=optional_texts)
payments = st.builds(
    PaymentPayload, payload=objects, accepted=requirements, resource=resources, extensions=optional_objects
)
messages = st.one_of(
    st.builds(
        PaymentRequired,
        error=optional_texts,
        resource=resources,
        accepts=st.lists(requirements, max_size=3),
        extensions=optional_objects,
    ),
    payments,
    st.builds(VerifyRequest, payment_payload=payments, payment_requirements=requirements),
    st.builds(
        VerifyResponse,
        is_valid=st.booleans(),
        invalid_reason=optional_texts,
        payer=optional_texts,
        extra=optional_objects,
    ),
    st.builds(
        SettleResponse,
        success=st.booleans(),
        error_reason=optional_texts,
        transaction=texts,
        network=texts,
        amount=optional_texts,
        extra=optional_objects,
    ),
    st.builds(
        SupportedResponse,
        kinds=st.lists(st.builds(SupportedKind, scheme=texts, network=texts, extra=optional_objects), max_size=3),
        extensions=st.lists(texts, max_size=3),
        signers=st.dictionaries(texts, st.lists(texts, max_size=2), max_size=2),
    ),
)


def header(data: object) -> str:
    return b64encode(data if isinstance(data, bytes) else json.dumps(data).encode()).decode()


def error_of(decode: Callable[[], object]) -> MalformedError | None:
    """Let every other exception through: the test then fails with it."""
    try:
        decode()
    except MalformedError as error:
        return error
    return None


def refuse(text: str, type_: type[Message] = PaymentRequired) -> str:
    with pytest.raises(MalformedError) as caught:
        decode_header(text, type_, "PAYMENT-REQUIRED")
    return str(caught.value)


@given(messages)
def test_every_message_survives_its_header_and_its_body(message: Message) -> None:
    assert decode_header(encode_header(message), type(message), "H", max_bytes=10**6) == message
    assert decode_json(encode_json(message), type(message), "body", 10**6) == message


def test_keys_are_camel_case_absent_when_empty_and_the_version_is_always_told() -> None:
    offer = PaymentRequirements(
        scheme="exact", network="eip155:1", amount="1", asset="0x", pay_to="0x", max_timeout_seconds=60
    )
    told = json.loads(encode_json(PaymentRequired(accepts=[offer])))
    assert told == {
        "x402Version": 2,
        "accepts": [
            {
                "scheme": "exact",
                "network": "eip155:1",
                "amount": "1",
                "asset": "0x",
                "payTo": "0x",
                "maxTimeoutSeconds": 60,
                "extra": {},
            }
        ],
    }
    supported = json.loads(encode_json(SupportedResponse(kinds=[SupportedKind(scheme="exact", network="eip155:1")])))
    assert supported == {
        "kinds": [{"x402Version": 2, "scheme": "exact", "network": "eip155:1"}],
        "extensions": [],
        "signers": {},
    }


def test_headers_of_the_official_package_are_read_and_written_back_alike() -> None:
    for name, type_ in [
        ("paymentRequired", PaymentRequired),
        ("paymentSignature", PaymentPayload),
        ("paymentResponse", SettleResponse),
        ("paymentResponseRefused", SettleResponse),
    ]:
        message = decode_header(OFFICIAL[name], type_, name)
        again = decode_header(encode_header(message), type_, name)
        assert again == message
    required = decode_header(OFFICIAL["paymentRequired"], PaymentRequired, "PAYMENT-REQUIRED")
    assert required.accepts[0].pay_to == "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    assert required.resource == ResourceInfo(
        url="https://example.com/a?b=c", description="An article", mime_type="text/html"
    )


def test_bodies_of_the_official_package_are_read_with_and_without_nulls() -> None:
    with_nulls = decode_json(json.dumps(OFFICIAL["supportedWithNulls"]).encode(), SupportedResponse, "body", 10_000)
    without = decode_json(json.dumps(OFFICIAL["supported"]).encode(), SupportedResponse, "body", 10_000)
    assert with_nulls == without
    assert json.loads(encode_json(without)) == OFFICIAL["supported"]
    assert decode_json(json.dumps(OFFICIAL["verifyResponse"]).encode(), VerifyResponse, "body", 10_000).is_valid


def test_unknown_keys_of_others_are_tolerated() -> None:
    required = decode_header(header({"accepts": [], "futureKey": {"a": 1}}), PaymentRequired, "PAYMENT-REQUIRED")
    assert required == PaymentRequired(accepts=[])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, "PAYMENT-REQUIRED $.accepts: got nothing, allowed a value"),
        ([], "PAYMENT-REQUIRED: got array, allowed object"),
        ({"accepts": {}}, "PAYMENT-REQUIRED $.accepts: got object, allowed array"),
        ({"accepts": [{}]}, "PAYMENT-REQUIRED $.accepts[0].scheme: got nothing, allowed a value"),
        ({"accepts": [{"scheme": 1}]}, "PAYMENT-REQUIRED $.accepts[0].scheme: got int, allowed str"),
        ({"accepts": [], "x402Version": 1}, "PAYMENT-REQUIRED $.x402Version: got '1', allowed a value that x402 v2"),
        ({"accepts": [], "x402Version": "2"}, "PAYMENT-REQUIRED $.x402Version: got str, allowed int"),
        ({"accepts": [], "x402Version": 2.0}, "PAYMENT-REQUIRED $.x402Version: got float, allowed int"),
        (b"", "PAYMENT-REQUIRED: got '', allowed canonical base64"),
        (b"{", "PAYMENT-REQUIRED: got 1 bytes, allowed UTF-8 JSON"),
        (b'{"accepts":[],"error":"\xff"}', "allowed UTF-8 JSON"),
        (b'{"accepts":[],"error":"\\ud800"}', "allowed UTF-8 JSON"),
        (b'{"accepts":[],"extensions":{"a":NaN}}', "allowed UTF-8 JSON"),
        (b'{"accepts":[],"extensions":{"a":1e999}}', "PAYMENT-REQUIRED $.extensions[...]: got a value that no message"),
        (
            b'{"extensions":{"a":' + b"[" * 6_000 + b"]" * 6_000 + b"}}",
            "got more, allowed at most 500 arrays and objects",
        ),
    ],
    ids=[str(n) for n in range(15)],
)
def test_what_is_no_message_is_refused_by_its_path(data: object, expected: str) -> None:
    assert expected in refuse(header(data))


def test_nesting_within_the_limit_is_malformed_at_worst_even_on_a_deep_stack() -> None:
    data = b'{"extensions":{"a":' + b"[" * 450 + b"]" * 450 + b"}}"
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 150)
    try:
        error = error_of(lambda: decode_json(data, PaymentRequired, "body", 10_000))
    finally:
        sys.setrecursionlimit(limit)
    assert error is not None


@pytest.mark.parametrize("seconds", [-1, 2**31, 10**400])
def test_a_timeout_out_of_range_is_refused(seconds: int) -> None:
    offer = (
        b'{"scheme":"a","network":"a","amount":"1","asset":"a","payTo":"a","maxTimeoutSeconds":%b}'
        % str(seconds).encode()
    )
    assert "$.accepts[0].maxTimeoutSeconds" in refuse(header(b'{"accepts":[' + offer + b"]}"))


@pytest.mark.parametrize(
    "text",
    ["e30", "e30===", "e3 0=", "e30=\n", " e30=", "e30=e30=", "e31=", "e3\u00e9=", "\ud800", "-_8=", "%7B%7D", "{}"],
)
def test_base64_is_strict(text: str) -> None:
    assert refuse(text).startswith("PAYMENT-REQUIRED: got ")


def test_a_header_beyond_the_limit_is_refused_before_it_is_decoded() -> None:
    assert refuse("!" * (HEADER_BYTES_MAX + 1)) == (
        f"PAYMENT-REQUIRED: got {HEADER_BYTES_MAX + 1} characters, allowed at most {HEADER_BYTES_MAX}"
    )
    with pytest.raises(MalformedError, match=r"^body: got 11 bytes, allowed at most 10$"):
        decode_json(b" " * 11, PaymentRequired, "body", 10)


@pytest.mark.parametrize("type_", MESSAGE_TYPES)
@given(data=st.binary(max_size=200))
def test_decoding_bytes_raises_nothing_but_malformed(type_: type[Message], data: bytes) -> None:
    errors = [
        error_of(lambda: decode_json(data, type_, "here", 1000)),
        error_of(lambda: decode_header(header(data), type_, "here")),
    ]
    assert all(error is not None and error.field.startswith("here") for error in errors)


@given(st.text(st.characters(), max_size=200))
@example("\ud800")
def test_decoding_text_raises_nothing_but_malformed(text: str) -> None:
    error = error_of(lambda: decode_header(text, PaymentPayload, "PAYMENT-SIGNATURE"))
    assert error is not None
    assert str(error).isprintable()


@pytest.mark.parametrize("type_", MESSAGE_TYPES)
@given(data=json_values)
def test_decoding_foreign_json_raises_nothing_but_malformed(type_: type[Message], data: object) -> None:
    error = error_of(lambda: decode_header(header(data), type_, "here"))
    # Every message has a key of its own that must be there.
    assert error is not None
    assert error.field.startswith("here")


@given(messages, st.data())
def test_a_message_with_one_value_exchanged_decodes_or_is_malformed(message: Message, data: st.DataObject) -> None:
    told = json.loads(encode_json(message))
    key = data.draw(st.sampled_from(sorted(told)))
    told[key] = data.draw(json_values)
    error = error_of(lambda: decode_header(header(told), type(message), "here", max_bytes=10**6))
    assert error is None or (str(error).isprintable() and error.field.startswith("here"))
