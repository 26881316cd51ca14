"""Threat 33: one payment buys one request."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.errors import MalformedError
from tallystick.requests import blinded_hash, body_digest, normal_target, request_hash

methods = st.sampled_from(["GET", "POST", "G", "ET", "get", "DELETE"])
targets = st.binary(max_size=40)
bodies = st.one_of(st.just(b""), st.binary(max_size=40))


def test_the_framing_is_the_documented_one() -> None:
    def frame(part: bytes) -> bytes:
        return len(part).to_bytes(4, "big") + part

    body = sha256(b"hello").digest()
    framed = frame(b"tallystick/request/1") + frame(b"POST") + frame(b"/a?b=c") + frame(body)
    assert request_hash("POST", b"/a?b=c", body_digest(b"hello")) == sha256(framed).digest()


def test_the_hash_of_a_plain_request_never_changes() -> None:
    assert request_hash("GET", b"/").hex() == GET_ROOT


@given(methods, targets, bodies, methods, targets, bodies)
def test_different_requests_have_different_hashes(
    method: str, target: bytes, body: bytes, method2: str, target2: bytes, body2: bytes
) -> None:
    same = (method, target, body) == (method2, target2, body2)
    assert (
        request_hash(method, target, body_digest(body)) == request_hash(method2, target2, body_digest(body2))
    ) == same


@given(methods, targets, st.binary(min_size=32, max_size=32))
def test_bytes_moved_over_a_border_make_another_request(method: str, target: bytes, digest: bytes) -> None:
    # Without lengths, a target that ends in a digest would be the shorter target with that digest as its body.
    assert request_hash(method, target + digest, b"") != request_hash(method, target, digest)
    assert request_hash(method + "X", target, digest) != request_hash(method, b"X" + target, digest)


def test_method_and_target_count_exactly_as_they_were_sent() -> None:
    base = request_hash("GET", b"/a")
    for method, target in [("get", b"/a"), ("GET", b"/a/"), ("GET", b"/%61"), ("GET", b"/a?"), ("GET", b"/A")]:
        assert request_hash(method, target) != base


def test_a_body_without_bytes_is_no_body() -> None:
    assert body_digest(b"") == b""
    assert body_digest(b"\0") == sha256(b"\0").digest()


@pytest.mark.parametrize(
    ("sent", "normal"),
    [
        (b"/a?", b"/a"),
        (b"/a?#", b"/a"),
        (b"/a#f", b"/a"),
        (b"/a?x#f?y", b"/a?x"),
        (b"", b"/"),
        (b"?x", b"/?x"),
        (b"http://a.example:80", b"/"),
        (b"http://a.example/b?c", b"/b?c"),
        (b"HTTPS://a.example?c", b"/?c"),
        (b"/a%2fb%7e?%e9", b"/a%2Fb~?%E9"),
        (b"/%61%2E%2d", b"/a.-"),
        (b'/a|b\xff"', b"/a%7Cb%FF%22"),
        (b"/100%", b"/100%25"),
        (b"/%%34%31", b"/%2541"),
    ],
)
def test_p19_what_servers_and_proxies_rewrite_makes_no_other_request(sent: bytes, normal: bytes) -> None:
    assert normal_target(sent) == normal


@pytest.mark.parametrize(
    "target", [b"/", b"//a", b"/a//b", b"/../a", b"/a?b?c", b"/a?b=/c&&d[]='", b"/%25%2F%3F", b"/a+b"]
)
def test_p19_what_may_be_another_resource_stays_one(target: bytes) -> None:
    assert normal_target(target) == target


@given(st.text(alphabet="/%aAfF2059?#:&|~.", max_size=20).map(str.encode) | st.binary(max_size=12))
def test_p19_a_normal_target_stays_as_it_is(target: bytes) -> None:
    assert normal_target(normal_target(target)) == normal_target(target)


@pytest.mark.parametrize("method", ["", "GÉT"])
def test_a_method_that_is_no_ascii_word_is_refused(method: str) -> None:
    with pytest.raises(MalformedError, match=r"^method: "):
        request_hash(method, b"/")


@pytest.mark.parametrize("digest", [b"\0", bytes(31), bytes(33), bytes(64)])
def test_a_digest_of_another_length_is_refused(digest: bytes) -> None:
    with pytest.raises(MalformedError, match=r"^body digest: got \d+ bytes"):
        request_hash("GET", b"/", digest)


GET_ROOT = "4b04d9286b2b101bc0941178257f5f88764d2a38e8b70da6fa6190c677772fe3"


@pytest.mark.parametrize(("plain", "blind"), [(bytes(31), bytes(16)), (bytes(32), b""), (bytes(32), bytes(17))])
def test_only_whole_hashes_are_blinded_by_16_bytes(plain: bytes, blind: bytes) -> None:
    with pytest.raises(MalformedError):
        blinded_hash(plain, blind)


def test_a_blinded_hash_is_no_requests_and_differs_with_each_blind() -> None:
    plain = request_hash("GET", b"/a")
    hashes = {plain, blinded_hash(plain, bytes(16)), blinded_hash(plain, b"\1" + bytes(15))}
    assert len(hashes) == 3
