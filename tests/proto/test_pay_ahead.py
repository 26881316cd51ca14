"""The pay-ahead extension: sellers write it, payers read it, and nothing in it is believed that cannot be read."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.patterns import Pattern
from tallystick.x402 import PayAhead, pay_ahead_extension, read_pay_ahead
from tallystick.x402.pay_ahead import PAY_AHEAD


def read(info: Any) -> PayAhead | None:
    return read_pay_ahead({PAY_AHEAD: {"info": info}})


@pytest.mark.parametrize("methods", [None, ["GET"], ["GET", "POST"]])
def test_w6_what_a_seller_publishes_a_payer_reads(methods: list[str] | None) -> None:
    ahead = read_pay_ahead(pay_ahead_extension("/articles/*", methods))
    assert ahead == PayAhead(Pattern("/articles/*"), None if methods is None else frozenset(methods))


@pytest.mark.parametrize(
    ("method", "target", "covers"),
    [
        ("GET", b"/articles/1", True),
        ("GET", b"/articles/1?x=/free", True),
        ("GET", b"/articl%65s/%31", True),
        ("GET", b"/articles%2F1", True),
        ("POST", b"/articles/1", False),
        ("HEAD", b"/articles/1", False),
        ("GET", b"/favicon.ico", False),
        ("GET", b"/articles/../free", False),
        ("GET", b"/articles//1", False),
        ("GET", b"/articles/%2e%2e/free", False),
        ("GET", b"/articles/%ff", False),
        ("GET", b"/articles/\xff", False),
        ("GET", b"", False),
    ],
)
def test_w6_payments_go_ahead_only_where_the_price_was_published(method: str, target: bytes, covers: bool) -> None:
    assert PayAhead(Pattern("/articles/*"), frozenset({"GET", "HEAD"})).covers(method, target) is covers


def test_without_methods_all_that_can_cost_something_do() -> None:
    ahead = PayAhead(Pattern("*"))
    assert [m for m in ("GET", "POST", "PURGE", "HEAD", "OPTIONS", "TRACE") if ahead.covers(m, b"/")] == [
        "GET",
        "POST",
        "PURGE",
    ]


@pytest.mark.parametrize(
    "info",
    [
        {},
        [],
        {"path": 5},
        {"path": "articles"},
        {"path": "/" * 2_000},
        {"path": "/a", "methods": "GET"},
        {"path": "/a", "methods": [1]},
        {"path": "/a", "methods": [""]},
        {"path": "/a", "methods": ["M"] * 17},
        {"path": "/a", "methods": ["M" * 33]},
    ],
)
def test_w6_what_cannot_be_read_is_not_there(info: Any) -> None:
    assert read(info) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["info", "path", "methods"]), inner),
    max_leaves=9,
)


@given(JSON)
def test_w6_no_json_is_too_strange_to_be_passed_over(value: Any) -> None:
    ahead = read_pay_ahead({PAY_AHEAD: value})
    assert ahead is None or ahead.pattern.text.startswith(("/", "*"))
    assert read_pay_ahead(None) is None
