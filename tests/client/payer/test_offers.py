"""Forged 402s: none makes the wallet sign for an escrow, operator, token, delay or network of its choosing."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from payer_fakes import PRICE, FakeAggregator, FakeSeller, Paying, make_operator

from tallystick.errors import MalformedError
from tallystick.hexadecimal import checksum
from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    SCHEME_DEFERRED,
    SCHEME_EXACT,
    PaymentRequired,
    PaymentRequirements,
    encode_header,
)
from tallystick_client import Budgets, Operator, PayingTransport, Wallet
from tallystick_client.payer.errors import BudgetExceededError, OfferNotAllowedError
from tallystick_client.payer.policy.offers import choose, read_offers

THIEF = checksum(bytes([0xBA] * 20))
OPERATOR = make_operator("127.0.0.1:1")
SELLER = FakeSeller(None, OPERATOR)  # type: ignore[arg-type]


def deferred(**changes: Any) -> PaymentRequirements:
    return structs.replace(SELLER.offer(SCHEME_DEFERRED, "a.example", PRICE), **changes)


def exact(**changes: Any) -> PaymentRequirements:
    return structs.replace(SELLER.offer(SCHEME_EXACT, "a.example", PRICE), **changes)


def with_extra(offer: PaymentRequirements, **changes: Any) -> PaymentRequirements:
    return structs.replace(offer, extra={**offer.extra, **changes})


def without_extra(offer: PaymentRequirements, name: str) -> PaymentRequirements:
    return structs.replace(offer, extra={key: value for key, value in offer.extra.items() if key != name})


def take(*offers: PaymentRequirements, can_defer: bool = True, allow_exact: bool = True) -> Any:
    required = PaymentRequired(accepts=list(offers))
    return choose(required, Paying(OPERATOR, has_deposit=can_defer, allows_exact=allow_exact))


FORGED: dict[str, PaymentRequirements] = {
    "escrow": with_extra(deferred(), escrow=THIEF),
    "receiverAuthorizer": with_extra(deferred(), receiverAuthorizer=THIEF),
    "withdrawDelay": with_extra(deferred(), withdrawDelay=2_592_000),
    "withdrawDelay as text": with_extra(deferred(), withdrawDelay="86400"),
    "withdrawDelay as bool": with_extra(deferred(), withdrawDelay=True),
    "name": with_extra(deferred(), name="Tallystick Escrow "),
    "version": with_extra(deferred(), version="2"),
    "voucherManager": with_extra(deferred(), voucherManager="server"),
    "asset": deferred(asset=THIEF),
    "network": deferred(network="eip155:1"),
    "network form": deferred(network="eip155:031337"),
    "scheme": deferred(scheme="batch-settlement"),
    "payTo zero": deferred(pay_to=checksum(bytes(20))),
    "payTo escrow": deferred(pay_to=checksum(OPERATOR.escrow)),
    "payTo token": deferred(pay_to=checksum(OPERATOR.tokens[0].address)),
    "payTo checksum": deferred(pay_to="0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD"[:-1] + "E"),
    "amount zero": deferred(amount="0"),
    "amount negative": deferred(amount="-1"),
    "amount fraction": deferred(amount="1.5"),
    "amount huge": deferred(amount=str(2**128)),
    "amount leading zero": deferred(amount="01"),
    "amount unicode": deferred(amount="\u0661"),
    "no escrow": without_extra(deferred(), "escrow"),
    "no extra": deferred(extra={}),
    "exact asset": exact(asset=THIEF),
    "exact name": with_extra(exact(), name="USD Coin\u200b"),
    "exact version": with_extra(exact(), version="1"),
    "exact permit2": with_extra(exact(), assetTransferMethod="permit2"),
    "exact network": exact(network="eip155:8453"),
    "exact payTo token": exact(pay_to=checksum(OPERATOR.tokens[0].address)),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_offer_is_not_taken(name: str) -> None:
    with pytest.raises(OfferNotAllowedError, match=r"accepts\[0\]"):
        take(FORGED[name])


def test_the_offers_that_the_forgeries_start_from_are_taken() -> None:
    assert take(deferred()).terms.scheme == SCHEME_DEFERRED
    assert take(exact()).terms.scheme == SCHEME_EXACT


def test_one_good_offer_among_forged_ones_is_taken() -> None:
    assert take(*FORGED.values(), deferred()).terms.amount == PRICE


def test_deferred_comes_before_exact_in_any_order() -> None:
    assert take(exact(), deferred()).terms.scheme == SCHEME_DEFERRED


def test_exact_is_taken_where_there_is_no_deposit() -> None:
    assert take(deferred(), exact(), can_defer=False).terms.scheme == SCHEME_EXACT
    with pytest.raises(OfferNotAllowedError, match="does not pay by exact"):
        take(deferred(), exact(), can_defer=False, allow_exact=False)


def test_no_offers_at_all_are_refused() -> None:
    with pytest.raises(OfferNotAllowedError, match="it makes none"):
        take()


def test_what_a_corrective_402_added_is_not_repeated() -> None:
    offer = take(with_extra(deferred(), channelState={"x": 1}, voucherState={}, minDeposit="5", theirs="kept"))
    assert offer.accepted.extra == {**deferred().extra, "minDeposit": "5", "theirs": "kept"}


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_402_makes_the_wallet_sign_nothing(
    name: str, wallet: Wallet, aggregator: FakeAggregator, operator: Operator
) -> None:
    assert operator.escrow == OPERATOR.escrow
    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        header = encode_header(PaymentRequired(accepts=[FORGED[name]]))
        return httpx2.Response(402, headers={PAYMENT_REQUIRED_HEADER: header})

    async with httpx2.AsyncClient(transport=PayingTransport(wallet, httpx2.MockTransport(answer))) as http:
        with pytest.raises(OfferNotAllowedError):
            await http.get("https://a.example/1")
    assert len(sent) == 1
    assert not aggregator.calls
    assert not (await wallet.status()).accounts


async def test_a_huge_amount_is_stopped_by_every_budget(
    open_wallet: Callable[..., Any], seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    seller.price = 2**127
    wallet = await open_wallet(budgets=Budgets(total="5"))
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller)) as http:
        with pytest.raises(BudgetExceededError, match="total"):
            await http.get("https://a.example/1")
    assert not aggregator.calls
    assert not seller.paid_requests


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
extras = st.dictionaries(
    st.sampled_from(
        ["escrow", "receiverAuthorizer", "withdrawDelay", "name", "version", "voucherManager", "minDeposit"]
    ),
    json_like,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(extra=extras, scheme=st.sampled_from([SCHEME_DEFERRED, SCHEME_EXACT]) | st.text(max_size=10))
def test_no_extra_makes_a_forged_offer_good(extra: dict[str, Any], scheme: str) -> None:
    offer = deferred(scheme=scheme, extra={**deferred().extra, "escrow": THIEF, **extra})
    with pytest.raises(OfferNotAllowedError):
        take(offer)


@settings(deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: __import__("base64").b64encode(data).decode()))
def test_no_header_is_read_with_another_error_than_malformed(header: str) -> None:
    with pytest.raises(MalformedError):
        read_offers(header)
