import hmac
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.errors import MalformedError
from tallystick.spend_keys import SpendKey, SpendProof, SpendProver, key_hash

words = st.binary(min_size=32, max_size=32)
ids = st.binary(min_size=16, max_size=16)
amounts = st.integers(0, 2**128 - 1)

SECRET = bytes(range(32))
CHARGE = (b"\1" * 32, b"\2" * 16, 1000, b"\3" * 32)


@given(words, words, ids, amounts, words)
def test_the_proof_is_hmac_over_the_documented_layout(
    secret: bytes, channel_id: bytes, payment_id: bytes, max_amount: int, request_hash: bytes
) -> None:
    message = channel_id + payment_id + max_amount.to_bytes(16, "big") + request_hash
    expected = hmac.new(secret, message, "sha256").digest()
    prover = SpendProver(secret)
    assert prover.mac(channel_id, payment_id, max_amount, request_hash) == expected
    assert prover.check(channel_id, payment_id, max_amount, request_hash, expected)


def test_a_proof_is_for_one_channel_payment_amount_and_request() -> None:
    prover = SpendProver(SECRET)
    mac = prover.mac(*CHARGE)
    channel_id, payment_id, max_amount, request_hash = CHARGE
    others = [
        (b"\x11" * 32, payment_id, max_amount, request_hash),
        (channel_id, b"\x11" * 16, max_amount, request_hash),
        (channel_id, payment_id, max_amount + 1, request_hash),
        (channel_id, payment_id, max_amount, b"\x11" * 32),
    ]
    assert not any(prover.check(*other, mac) for other in others)
    assert not SpendProver(bytes(32)).check(*CHARGE, mac)


@pytest.mark.parametrize("mac", [b"", bytes(31), bytes(32), bytes(33), b"\xff" * 64])
def test_a_junk_proof_fails_without_an_error(mac: bytes) -> None:
    assert not SpendProver(SECRET).check(*CHARGE, mac)


@pytest.mark.parametrize("changed", [0, 1, 3])
@pytest.mark.parametrize("by", [-1, 1])
def test_a_field_of_another_length_is_never_proven(changed: int, by: int) -> None:
    # Or bytes could move from one field into the next, and two charges would share a message.
    fields = [CHARGE[0], CHARGE[1], CHARGE[2], CHARGE[3]]
    value = fields[changed]
    assert isinstance(value, bytes)
    fields[changed] = value[:by] if by < 0 else value + b"\0"
    with pytest.raises(ValueError, match="32 bytes of channel id"):
        SpendProver(SECRET).mac(*fields)


@pytest.mark.parametrize("max_amount", [-1, 2**128])
def test_what_is_no_amount_is_never_proven(max_amount: int) -> None:
    with pytest.raises(OverflowError):
        SpendProver(SECRET).mac(CHARGE[0], CHARGE[1], max_amount, CHARGE[3])


def test_one_prover_serves_many_proofs() -> None:
    prover = SpendProver(SECRET)
    assert prover.mac(*CHARGE) == prover.mac(*CHARGE)


def test_key_hash_is_sha256() -> None:
    assert key_hash(SECRET) == sha256(SECRET).digest()


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33)])
def test_a_secret_of_another_length_is_refused(secret: bytes) -> None:
    with pytest.raises(MalformedError, match=r"^spend key secret: got \d+ bytes, allowed 32 bytes"):
        SpendProver(secret)
    with pytest.raises(MalformedError, match=r"^spend key secret"):
        SpendKey(bytes(32), secret)
    with pytest.raises(MalformedError, match=r"^spend key id"):
        SpendKey(secret, bytes(32))


def test_no_secret_is_ever_shown() -> None:
    key = SpendKey(b"\7" * 32, SECRET)
    proof = SpendProof(b"\7" * 32, 5, SpendProver(SECRET).mac(*CHARGE))
    for shown in (repr(key), str(key), repr(SpendProver(SECRET)), repr(proof)):
        assert SECRET.hex() not in shown
        assert repr(SECRET)[2:-1] not in shown
        assert "secret" not in shown
        assert "mac" not in shown
