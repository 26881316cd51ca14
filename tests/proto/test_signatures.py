"""Invariant I5 and threat 19: only what the chain takes counts as a signature."""

import contextlib
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from eth_account import Account
from eth_keys.datatypes import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tallystick.errors import InvalidSignatureError, MalformedError
from tallystick.signatures import (
    ORDER,
    AuthorizerKey,
    Signer,
    recover,
    verify_authorship_many,
    verify_many,
)

KEY = bytes.fromhex("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
SIGNER = Signer(KEY)
DIGEST = bytes(range(32))
SIGNATURE = SIGNER.sign(DIGEST)
AUTHORIZER = AuthorizerKey.recover(DIGEST, SIGNATURE)


def verified(key: AuthorizerKey, digest: bytes, signature: bytes) -> bool:
    return verify_many(((key, digest, signature),))[0]


def wrote(key: AuthorizerKey, digest: bytes, signature: bytes) -> bool:
    return verify_authorship_many(((key, digest, signature),))[0]


R, S, V = SIGNATURE[:32], SIGNATURE[32:64], SIGNATURE[64]
HIGH_S = (ORDER - int.from_bytes(S, "big")).to_bytes(32, "big")
ZERO = bytes(32)
N = ORDER.to_bytes(32, "big")
OTHER_V = bytes([27 + 28 - V])

BAD_FORMS = {
    "empty": (b"", "0 bytes"),
    "64 bytes": (R + S, "64 bytes"),
    "66 bytes": (SIGNATURE + b"\0", "66 bytes"),
    "v 0": (R + S + b"\0", "v is 0"),
    "v 1": (R + S + b"\1", "v is 1"),
    "v 26": (R + S + b"\x1a", "v is 26"),
    "v 29": (R + S + b"\x1d", "v is 29"),
    "v 35": (R + S + b"\x23", "v is 35"),
    "v 255": (R + S + b"\xff", "v is 255"),
    "high s": (R + HIGH_S + OTHER_V, "above half"),
    "s of n": (R + N + bytes([V]), "above half"),
    "zero r": (ZERO + S + bytes([V]), "r is zero"),
    "zero s": (R + ZERO + bytes([V]), "s is zero"),
    "r of n": (N + S + bytes([V]), "r is not below"),
    "r of all ones": (b"\xff" * 32 + S + bytes([V]), "r is not below"),
    "r on no point": ((5).to_bytes(32, "big") + S + bytes([V]), "recovers to no key"),
}


@given(st.integers(1, ORDER - 1), st.binary(min_size=32, max_size=32))
def test_signatures_are_those_of_eth_account(key: int, digest: bytes) -> None:
    private_key = key.to_bytes(32, "big")
    signer = Signer(private_key)
    theirs = PrivateKey(private_key)
    signature = signer.sign(digest)
    assert signer.address == theirs.public_key.to_canonical_address()
    assert signature == bytes(Account.unsafe_sign_hash(digest, private_key).signature)
    assert recover(digest, signature) == signer.address
    assert int.from_bytes(signature[32:64], "big") <= ORDER // 2
    assert signature[64] in {27, 28}


@pytest.mark.parametrize(("signature", "problem"), BAD_FORMS.values(), ids=BAD_FORMS)
def test_recover_refuses_what_the_chain_refuses_and_says_why(signature: bytes, problem: str) -> None:
    with pytest.raises(InvalidSignatureError, match=problem):
        recover(DIGEST, signature)
    with pytest.raises(InvalidSignatureError, match=problem):
        AuthorizerKey.recover(DIGEST, signature)


@pytest.mark.parametrize("signature", [form for form, _ in BAD_FORMS.values()], ids=BAD_FORMS)
def test_verify_refuses_what_the_chain_refuses(signature: bytes) -> None:
    assert not verified(AUTHORIZER, DIGEST, signature)
    assert not wrote(AUTHORIZER, DIGEST, signature)


def test_the_high_s_twin_is_valid_ecdsa_and_still_refused() -> None:
    # Without the rule it would recover to the signer: the test would otherwise prove nothing.
    twin = R + HIGH_S + OTHER_V
    assert Account._recover_hash(DIGEST, signature=twin).lower() == "0x" + SIGNER.address.hex()
    assert not verified(AUTHORIZER, DIGEST, twin)


def test_a_wrong_v_recovers_to_another_address_and_fails_verify() -> None:
    wrong = R + S + OTHER_V
    assert recover(DIGEST, wrong) != SIGNER.address
    assert not verified(AUTHORIZER, DIGEST, wrong)


def test_authorship_says_nothing_about_v_and_everything_about_the_signer() -> None:
    assert wrote(AUTHORIZER, DIGEST, R + S + OTHER_V)
    assert not wrote(AUTHORIZER, bytes(32), SIGNATURE)
    assert not wrote(AuthorizerKey.recover(DIGEST, Signer(b"\1" * 32).sign(DIGEST)), DIGEST, SIGNATURE)


def test_verify_takes_the_right_key_and_digest_only() -> None:
    other = Signer(b"\1" * 32)
    assert verified(AUTHORIZER, DIGEST, SIGNATURE)
    assert not verified(AUTHORIZER, bytes(32), SIGNATURE)
    assert not verified(AUTHORIZER, DIGEST, other.sign(DIGEST))
    assert AUTHORIZER.address == SIGNER.address


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33)])
def test_a_digest_of_another_length_is_refused_before_the_library_reads_it(digest: bytes) -> None:
    with pytest.raises(InvalidSignatureError, match="the digest has"):
        recover(digest, SIGNATURE)
    assert not verified(AUTHORIZER, digest, SIGNATURE)
    assert not wrote(AUTHORIZER, digest, SIGNATURE)


@given(st.integers(0, 519), st.integers(0, 64))
def test_any_flipped_bit_fails(bit: int, index: int) -> None:
    flipped = (int.from_bytes(SIGNATURE, "big") ^ (1 << bit)).to_bytes(65, "big")
    assert not verified(AUTHORIZER, DIGEST, flipped)
    assert not verified(AUTHORIZER, DIGEST, SIGNATURE[:index])


@given(st.binary(max_size=70), st.binary(min_size=30, max_size=34))
def test_junk_raises_nothing_but_invalid_signature(signature: bytes, digest: bytes) -> None:
    assert not verified(AUTHORIZER, digest, signature)
    with contextlib.suppress(InvalidSignatureError):
        assert recover(digest, signature) != SIGNER.address


def test_many_are_verified_each_for_itself_and_in_order() -> None:
    good = (AUTHORIZER, DIGEST, SIGNATURE)
    wrong_v = (AUTHORIZER, DIGEST, R + S + OTHER_V)
    junk = (AUTHORIZER, DIGEST, b"junk")
    assert verify_many([good, wrong_v, good, junk, good]) == [True, False, True, False, True]
    assert verify_authorship_many([good, wrong_v, good, junk, good]) == [True, True, True, False, True]
    assert verify_many([]) == verify_authorship_many([]) == []


def test_chunks_on_threads_answer_as_one_thread_does() -> None:
    digests = [i.to_bytes(32, "big") for i in range(256)]
    items = [(AUTHORIZER, d, SIGNER.sign(d if i % 3 else DIGEST)) for i, d in enumerate(digests)]
    expected = [bool(i % 3) for i in range(256)]
    with ThreadPoolExecutor(4) as pool:
        chunks = list(pool.map(verify_many, [items[i : i + 16] for i in range(0, 256, 16)]))
    assert [ok for chunk in chunks for ok in chunk] == expected


@pytest.mark.parametrize("key", [b"", bytes(32), N, b"\xff" * 32, b"\1" * 31, b"\1" * 33])
def test_what_is_no_private_key_is_refused_without_being_shown(key: bytes) -> None:
    with pytest.raises(MalformedError, match=r"^private key: got \d+ bytes") as caught:
        Signer(key)
    assert key.hex() not in str(caught.value) or not key


def test_a_signer_never_shows_serialises_or_copies_its_key() -> None:
    shown = f"{SIGNER} {SIGNER!r} {[SIGNER]}"
    assert KEY.hex() not in shown.lower()
    assert str(int.from_bytes(KEY, "big")) not in shown
    assert "0x70997970C51812dc3A010C7d01b50e0d17dc79C8" in shown
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never serialised"):
            attempt(SIGNER)
