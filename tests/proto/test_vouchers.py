from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.eip712 import digest, escrow_domain
from tallystick.errors import InvalidSignatureError
from tallystick.signatures import Signer
from tallystick.vouchers import UncheckedVoucher, Voucher, check_voucher, sign_voucher, voucher_digest
from typed_data import hash_voucher

SIGNER = Signer(b"\1" * 32)
DOMAIN = escrow_domain(31337, b"\7" * 20)
CHANNEL = b"\x09" * 32


def unchecked(voucher: Voucher) -> UncheckedVoucher:
    return UncheckedVoucher(voucher.channel_id, voucher.max_claimable_amount, voucher.signature)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**128 - 1))
def test_the_fast_digest_is_the_plain_one(channel_id: bytes, amount: int) -> None:
    assert voucher_digest(DOMAIN.separator, channel_id, amount) == digest(DOMAIN, hash_voucher(channel_id, amount))


@pytest.mark.parametrize("amount", [-1, 2**128])
def test_what_is_no_amount_is_never_signed(amount: int) -> None:
    with pytest.raises(OverflowError):
        sign_voucher(SIGNER, DOMAIN, CHANNEL, amount)


@given(st.integers(0, 2**128 - 1))
def test_a_signed_voucher_checks(amount: int) -> None:
    voucher = sign_voucher(SIGNER, DOMAIN, CHANNEL, amount)
    assert check_voucher(DOMAIN, unchecked(voucher), SIGNER.address) == voucher


def test_a_voucher_of_somebody_else_is_refused_and_both_are_named() -> None:
    voucher = sign_voucher(Signer(b"\2" * 32), DOMAIN, CHANNEL, 5)
    with pytest.raises(InvalidSignatureError, match=r"signed by 0x\w{40}, not by 0x\w{40}"):
        check_voucher(DOMAIN, unchecked(voucher), SIGNER.address)


@pytest.mark.parametrize(
    "change", [{"max_claimable_amount": 6}, {"channel_id": b"\x08" * 32}, {"signature": bytes(65)}]
)
def test_a_changed_voucher_is_refused(change: dict[str, object]) -> None:
    voucher = unchecked(sign_voucher(SIGNER, DOMAIN, CHANNEL, 5))
    with pytest.raises(InvalidSignatureError):
        check_voucher(DOMAIN, replace(voucher, **change), SIGNER.address)


def test_a_voucher_means_nothing_on_another_chain_or_contract() -> None:
    voucher = unchecked(sign_voucher(SIGNER, DOMAIN, CHANNEL, 5))
    for domain in (escrow_domain(1, b"\7" * 20), escrow_domain(31337, b"\x17" * 20)):
        with pytest.raises(InvalidSignatureError):
            check_voucher(domain, voucher, SIGNER.address)


def test_checked_and_unchecked_are_different_types() -> None:
    voucher = sign_voucher(SIGNER, DOMAIN, CHANNEL, 5)
    assert not isinstance(unchecked(voucher), Voucher)
    assert unchecked(voucher) != voucher


def test_a_signature_is_not_shown_in_full() -> None:
    voucher = sign_voucher(SIGNER, DOMAIN, CHANNEL, 5)
    for shown in (repr(voucher), repr(unchecked(voucher))):
        assert repr(voucher.signature)[2:-1] not in shown
        assert voucher.signature.hex() not in shown
