"""Payments as they are packed: each comes back as it was, and what has no form is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick_aggregator.ledger.payments import (
    PACKED_PAYMENT_BYTES,
    Payment,
    PaymentStatus,
    is_open,
    pack_charged,
    pack_payment,
    status_of,
    unpack_payment,
)

KEY, PAGE = b"i" * 16 + b"c" * 32, b"p" * 32
SECRET = b"s" * 16
AMOUNT = st.sampled_from([0, 1, 2**64 - 1, 2**64, 2**128 - 1]) | st.integers(0, 2**128 - 1)
STATUS = st.sampled_from(PaymentStatus)


@given(AMOUNT, AMOUNT, AMOUNT, STATUS, st.sampled_from([b"", KEY + SECRET, KEY + bytes(16)]))
def test_a_payment_comes_back(amount: int, captured: int, charged: int, status: PaymentStatus, handle: bytes) -> None:
    payment = Payment(amount, PAGE, status, captured, charged, handle)
    packed = pack_payment(KEY, payment)
    assert len(packed) == PACKED_PAYMENT_BYTES
    assert unpack_payment(KEY, packed) == payment
    assert status_of(packed) is status


@given(AMOUNT, AMOUNT)
def test_a_direct_charge_is_packed_the_same_in_one_step(amount: int, charged: int) -> None:
    charge = Payment(amount, PAGE, PaymentStatus.CHARGED, amount, charged, b"")
    assert pack_charged(amount, PAGE, charged) == pack_payment(KEY, charge)


@pytest.mark.parametrize(
    ("status", "handle", "open_"),
    [
        (PaymentStatus.CHARGED, b"", False),
        (PaymentStatus.CHARGED, KEY + SECRET, False),
        (PaymentStatus.RELEASED, KEY + SECRET, False),
        (PaymentStatus.RESERVED, b"", True),
        (PaymentStatus.EXPIRED, b"", True),
        (PaymentStatus.RESERVED, KEY + SECRET, True),
        (PaymentStatus.EXPIRED, KEY + SECRET, True),
    ],
)
def test_a_payment_is_open_while_a_capture_may_change_it(status: PaymentStatus, handle: bytes, open_: bool) -> None:
    assert is_open(pack_payment(KEY, Payment(1, PAGE, status, 0, 1, handle))) is open_


def test_a_byte_that_is_no_status_says_none() -> None:
    assert status_of(bytes(PACKED_PAYMENT_BYTES)) is None


@pytest.mark.parametrize("request_hash", [b"", PAGE[:-1], PAGE + b"p"])
def test_a_request_hash_of_another_length_has_no_form(request_hash: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        pack_charged(1, request_hash, 1)


@pytest.mark.parametrize("handle", [b"x" * 64, KEY + SECRET[:-1], KEY + SECRET + b"s", KEY])
def test_a_handle_that_is_not_the_payments_own_has_no_form(handle: bytes) -> None:
    with pytest.raises(ValueError, match="begins with its key"):
        pack_payment(KEY, Payment(1, PAGE, PaymentStatus.RESERVED, 0, 0, handle))


@pytest.mark.parametrize("amount", [-1, 2**128])
def test_an_amount_out_of_range_has_no_form(amount: int) -> None:
    with pytest.raises(OverflowError):
        pack_charged(amount, PAGE, 1)
    with pytest.raises(OverflowError):
        pack_charged(1, PAGE, amount)
