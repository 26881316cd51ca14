from dataclasses import replace
from typing import Any

import pytest

from tallystick.channels import (
    WITHDRAW_DELAY_S_MAX,
    WITHDRAW_DELAY_S_MIN,
    ChannelConfig,
    account_id,
    channel_id,
)
from tallystick.eip712 import batch_settlement_domain, escrow_domain
from tallystick.errors import MalformedError

CONFIG = ChannelConfig(
    payer=b"\1" * 20,
    payer_authorizer=b"\2" * 20,
    receiver=b"\3" * 20,
    receiver_authorizer=b"\4" * 20,
    token=b"\5" * 20,
    withdraw_delay_s=86_400,
    salt=b"\6" * 32,
)
DOMAIN = escrow_domain(31337, b"\7" * 20)


def test_channels_of_one_account_share_its_id_and_nothing_else_does() -> None:
    other = CONFIG.channel(b"\x33" * 20)
    assert account_id(DOMAIN, CONFIG) == account_id(DOMAIN, other) == account_id(DOMAIN, CONFIG.account())
    assert channel_id(DOMAIN, CONFIG) != channel_id(DOMAIN, other)
    assert account_id(DOMAIN, CONFIG) not in {channel_id(DOMAIN, CONFIG), channel_id(DOMAIN, other)}


def test_account_has_no_receiver_and_channels_come_from_it() -> None:
    assert CONFIG.account().is_account
    assert not CONFIG.is_account
    assert CONFIG.account().channel(CONFIG.receiver) == CONFIG


def test_an_account_has_no_channel_id() -> None:
    with pytest.raises(MalformedError, match=r"^receiver: got '0x0{40}', allowed an address that is not zero"):
        channel_id(DOMAIN, CONFIG.account())


@pytest.mark.parametrize(
    "change",
    [
        {"payer": b"\x11" * 20},
        {"payer_authorizer": b"\x11" * 20},
        {"receiver_authorizer": b"\x11" * 20},
        {"token": b"\x11" * 20},
        {"withdraw_delay_s": 86_401},
        {"salt": bytes(32)},
    ],
)
def test_every_field_of_an_account_is_bound_by_its_id(change: dict[str, Any]) -> None:
    assert account_id(DOMAIN, replace(CONFIG, **change)) != account_id(DOMAIN, CONFIG)


def test_ids_bind_chain_and_contract() -> None:
    domains = [DOMAIN, escrow_domain(1, b"\7" * 20), escrow_domain(31337, b"\x17" * 20), batch_settlement_domain(31337)]
    assert len({channel_id(domain, CONFIG) for domain in domains}) == 4


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"payer": b"\1" * 19}, "payer"),
        ({"payer": bytes(20)}, "payer"),
        ({"payer_authorizer": b""}, "payerAuthorizer"),
        ({"payer_authorizer": bytes(20)}, "payerAuthorizer"),
        ({"receiver": b"\1" * 21}, "receiver"),
        ({"receiver_authorizer": bytes(20)}, "receiverAuthorizer"),
        ({"token": bytes(20)}, "token"),
        ({"salt": b"\1" * 31}, "salt"),
        ({"withdraw_delay_s": WITHDRAW_DELAY_S_MIN - 1}, "withdrawDelay"),
        ({"withdraw_delay_s": WITHDRAW_DELAY_S_MAX + 1}, "withdrawDelay"),
        ({"withdraw_delay_s": -1}, "withdrawDelay"),
        ({"withdraw_delay_s": 2**4000}, "withdrawDelay"),
    ],
)
def test_a_field_out_of_bounds_is_refused_by_its_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(MalformedError, match=rf"^{field}: got .*, allowed "):
        replace(CONFIG, **change)


@pytest.mark.parametrize("delay_s", [WITHDRAW_DELAY_S_MIN, WITHDRAW_DELAY_S_MAX])
def test_the_bounds_of_the_withdraw_delay_are_allowed(delay_s: int) -> None:
    assert replace(CONFIG, withdraw_delay_s=delay_s).withdraw_delay_s == delay_s
