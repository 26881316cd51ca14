"""A price turned into the terms of a 402."""

from typing import Any

import pytest

from tallystick.errors import MalformedError
from tallystick.facilitator import Kind, Limits, Supported
from tallystick.tokens import Token
from tallystick_client.seller.paywall.offers import make_offers

PAY_TO = bytes([1] * 20)
BASE = "eip155:8453"


def asset(symbol: str = "USDC", decimals: int = 6) -> Token:
    return Token(bytes([2] * 20), symbol, decimals, "USD Coin", "2", 0)


def kind(scheme: str = "exact", network: str = BASE, *assets: Token) -> Kind:
    deferred = scheme == "deferred"
    address = bytes([3] * 20) if deferred else b""
    name, version = ("Tallystick Escrow", "1") if deferred else ("", "")
    return Kind(scheme, network, assets or (asset(),), address, name, version, address, 86_400 if deferred else 0)


def offers(*kinds: Kind, price: str = "0.001 USDC", network: str | None = None) -> Any:
    supported = Supported(kinds, Limits(64, 8, 60, 172_800), frozenset({PAY_TO}), frozenset({"charge"}))
    return make_offers(supported, price, pay_to=PAY_TO, network=network, timeout_s=60, field="rule '/a': price")


def test_deferred_comes_before_exact_and_other_schemes_are_left_out() -> None:
    made = offers(kind("exact"), kind("batch-settlement"), kind("deferred"))
    assert [offer.requirements.scheme for offer in made] == ["deferred", "exact"]


def test_an_aggregator_without_deferred_offers_exact_only() -> None:
    assert [offer.requirements.scheme for offer in offers(kind("exact"))] == ["exact"]


def test_no_minimum_deposit_is_not_mentioned() -> None:
    assert "minDeposit" not in offers(kind("deferred"))[0].requirements.extra


def test_the_amount_is_counted_in_the_tokens_own_decimals() -> None:
    made = offers(kind("exact", BASE, asset("USDC", 18)))
    assert made[0].requirements.amount == "1000000000000000"


def test_a_price_of_zero_makes_no_offer() -> None:
    assert offers(kind(), price="0 USDC") == ()


def test_an_unknown_token_is_told_with_those_that_are_taken() -> None:
    with pytest.raises(MalformedError) as caught:
        offers(kind(), kind("deferred"), price="1 EURC")
    assert str(caught.value) == (
        "rule '/a': price: got '1 EURC', allowed a token that the aggregator takes: USDC on eip155:8453"
    )


def test_a_network_that_does_not_take_the_token_is_told() -> None:
    with pytest.raises(MalformedError, match=r"a token that the aggregator takes on eip155:1: USDC on eip155:8453"):
        offers(kind(), network="eip155:1")


def test_an_aggregator_that_takes_nothing_is_told() -> None:
    with pytest.raises(MalformedError, match="it takes none"):
        offers()


def test_a_price_finer_than_the_token_is_told() -> None:
    with pytest.raises(MalformedError, match=r"rule '/a': price: got '0.0000001 USDC', allowed at most 6 digits"):
        offers(kind(), price="0.0000001 USDC")


def test_several_networks_need_a_choice() -> None:
    kinds = kind("exact", BASE), kind("deferred", "eip155:10")
    with pytest.raises(MalformedError, match=r"network: got none, allowed one of eip155:10, eip155:8453"):
        offers(*kinds)
    assert [offer.requirements.network for offer in offers(*kinds, network=BASE)] == [BASE]
