"""Outside of the schemes' own modules nobody of the seller's side tells schemes apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tallystick_client
from scheme_names import Schemes
from tallystick.facilitator import Kind, Limits, Supported
from tallystick.tokens import Token
from tallystick_client.seller.paywall.offers import make_offers
from tallystick_client.seller.paywall.schemes import SCHEMES, scheme_of
from tallystick_client.seller.paywall.schemes.exact import ExactScheme

PAYMENTS = {"DeferredCharge", "ExactAuthorization", "OtherPayment"}
"""What schemes' payments are made of; `client` sends them."""
SELLER = Schemes(
    Path(tallystick_client.__file__).parent,
    "seller.paywall.schemes",
    open_modules=("port",),
    closed_names={"seller/paywall/": PAYMENTS},
)


def test_nobody_of_the_sellers_side_tells_schemes_apart() -> None:
    assert SELLER.told_apart_in("seller") == []


@pytest.mark.parametrize(
    "source",
    [
        "if offer.terms.scheme == 'exact': pass",
        "from tallystick.x402 import SCHEME_DEFERRED",
        "from tallystick import x402\nx402.SCHEME_EXACT",
        "from tallystick_client.seller.paywall.schemes.exact import ExactScheme",
        "from tallystick_client.seller.client.messages import DeferredCharge",
    ],
)
def test_a_module_that_does_is_found(source: str) -> None:
    assert list(SELLER.told_apart("seller/paywall/new.py", source))


def test_offers_come_in_the_order_of_the_schemes_that_are_registered() -> None:
    class Barter(ExactScheme):
        name = "barter"

        def offer_extra(self, kind: Kind, asset: Token) -> dict[str, Any]:  # noqa: ARG002
            return {"for": "eggs"}

    def offered(schemes: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
        asset = Token(bytes(20), "USDC", 6, "USD Coin", "2", 0)
        kinds = [Kind(name, "eip155:1", (asset,), bytes(20), "", "", bytes(20), 0) for name in ("barter", "exact")]
        supported = Supported(tuple(kinds), Limits(1, 1, 1, 1), frozenset(), frozenset())
        offers = make_offers(
            supported, "1 USDC", pay_to=bytes(20), network=None, timeout_s=1, field="price", schemes=schemes
        )
        return [(offer.terms.scheme, offer.requirements.extra) for offer in offers]

    exact = ("exact", {"name": "USD Coin", "version": "2"})
    assert offered([Barter(), *SCHEMES]) == [("barter", {"for": "eggs"}), exact]
    assert offered(SCHEMES) == [exact], "the aggregator says nothing of what the offers of another carry"
    assert not scheme_of("barter").is_reserved
