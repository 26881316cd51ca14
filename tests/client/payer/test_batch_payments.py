"""Payments by `batch-settlement`: a channel for each seller, a step at a time, each charged once."""

import asyncio
import logging
import random
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from batch_seller import DEFAULTS, BatchBuyer, BatchSeller, lost, receipt, tell_held
from msgspec import structs
from payer_buyer import OpenWallet, die
from payer_fakes import DELAY_S, OPERATOR, PRICE, FakeAggregator, FakeSeller, no_sleep, until

from tallystick import eip712
from tallystick.channels import ChannelConfig
from tallystick.facilitator import Settled
from tallystick.hexadecimal import checksum
from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    PAYMENT_RESPONSE_HEADER,
    PaymentRequired,
    SettleResponse,
    encode_header,
)
from tallystick.x402.batch_settlement import BatchSettlementCode, DepositPayload, packed_refund_authorizer
from tallystick_client import Budgets, DepositPolicy, PayingTransport, Purchases, Wallet, payment_of
from tallystick_client.payer.errors import (
    BalanceTooLowError,
    BookUnavailableError,
    BudgetExceededError,
    ChannelDisputedError,
    DepositNotAllowedError,
    OfferNotAllowedError,
)
from tallystick_client.payer.http.purchase import AskWallet, payable_request
from tallystick_client.payer.policy.offers import choose, read_offers
from tallystick_client.payer.wallet.schemes.batch_settlement import BatchSettlementScheme
from tallystick_client.payer.wallet.schemes.port import Order
from tallystick_client.payer.wallet.schemes.standard import STANDARD_SCHEMES

THIEF = bytes([0x66] * 20)
MISMATCH = BatchSettlementCode.CUMULATIVE_AMOUNT_MISMATCH


@pytest.fixture
def shop() -> BatchSeller:
    return BatchSeller()


Open = Callable[..., Any]


@pytest.fixture
def open_buyer(open_wallet: OpenWallet, shop: BatchSeller) -> Open:
    async def open_(seller: BatchSeller = shop, **settings: Any) -> BatchBuyer:
        wallet = await open_wallet(**{**DEFAULTS, "schemes": (BatchSettlementScheme(sleep=no_sleep),), **settings})
        return BatchBuyer(wallet, seller, PayingTransport(wallet, seller, sleep=no_sleep))

    return open_


@pytest.fixture
async def buyer(open_buyer: Open) -> BatchBuyer:
    found: BatchBuyer = await open_buyer()
    return found


async def test_the_first_payment_deposits_what_the_seller_wishes(buyer: BatchBuyer, shop: BatchSeller) -> None:
    response = await buyer.get()
    assert (response.status_code, shop.kinds, shop.ceilings) == (200, ["deposit"], [PRICE])
    assert shop.facilitator.channel.balance == 50_000
    paid = payment_of(response)
    assert paid is not None
    assert (paid.scheme, paid.charged, paid.transaction != "") == ("batch-settlement", PRICE, True)
    config: ChannelConfig = shop.facilitator.channel.config
    assert config.payer == config.payer_authorizer == buyer.wallet.address
    assert (config.receiver, config.receiver_authorizer) == (shop.receiver("a.example"), OPERATOR)
    assert config.salt == bytes(32)


async def test_each_voucher_is_over_what_was_charged_and_the_price(buyer: BatchBuyer, shop: BatchSeller) -> None:
    shop.charge_less = 300
    for number in range(3):
        assert (await buyer.get(f"/{number}")).status_code == 200
    assert shop.ceilings == [1_000, 1_700, 2_400]
    assert shop.kinds == ["deposit", "voucher", "voucher"]
    assert (buyer.channel.counted, buyer.channel.signed, buyer.channel.spent) == (2_100, 2_400, 2_400)


async def test_a_deposit_without_a_wish_pays_for_ten(open_buyer: Open, shop: BatchSeller) -> None:
    shop.terms = replace(shop.terms, min_deposit=None)
    buyer = await open_buyer()
    await buyer.get()
    assert shop.facilitator.channel.balance == 10 * PRICE


async def test_a_channel_that_is_used_up_is_topped_up(buyer: BatchBuyer, shop: BatchSeller) -> None:
    shop.price = 30_000
    for number in range(3):
        assert (await buyer.get(f"/{number}")).status_code == 200
    assert shop.kinds == ["deposit", "deposit", "voucher"]
    assert shop.facilitator.channel.balance == 100_000


async def test_each_seller_has_a_channel(buyer: BatchBuyer, shop: BatchSeller) -> None:
    for host in ("a.example", "b.example"):
        assert (await buyer.get(host=host)).status_code == 200
    assert len(shop.facilitator.channels) == 2
    assert shop.kinds == ["deposit"] * 2


async def test_a_packed_salt_binds_the_sellers_key_for_refunds(open_buyer: Open, shop: BatchSeller) -> None:
    shop.terms = replace(shop.terms, refund_authorizer=THIEF)
    buyer = await open_buyer()
    await buyer.get()
    assert packed_refund_authorizer(shop.facilitator.channel.config.salt) == THIEF


# One at a time.


async def test_parallel_requests_wait_for_each_other_and_each_is_charged_once(
    open_buyer: Open, shop: BatchSeller
) -> None:
    shop.pattern = "/*"
    buyer = await open_buyer()
    responses = await asyncio.gather(*(buyer.get(f"/{number}") for number in range(20)))
    assert [response.status_code for response in responses] == [200] * 20
    assert shop.in_flight_max == 1
    assert shop.facilitator.channel.charged == 20 * PRICE == buyer.channel.counted
    assert len(shop.payments) == 20, "nobody was corrected"
    assert shop.kinds.count("deposit") == 1


async def test_one_who_gives_up_waiting_keeps_nobody_from_paying(open_buyer: Open, shop: BatchSeller) -> None:
    go_on = asyncio.Event()
    shop.delay = go_on.wait
    buyer = await open_buyer()
    first = asyncio.create_task(buyer.get("/1"))
    waiting = asyncio.create_task(buyer.get("/2"))
    last = asyncio.create_task(buyer.get("/3"))
    await until(lambda: shop.is_busy)
    waiting.cancel()
    go_on.set()
    assert (await first).status_code == (await last).status_code == 200
    assert shop.served == ["/1", "/3"]


async def test_a_payment_that_is_cancelled_in_flight_leaves_the_channel_to_the_next(
    open_buyer: Open, shop: BatchSeller
) -> None:
    go_on = asyncio.Event()
    shop.delay = go_on.wait
    buyer = await open_buyer()
    first = asyncio.create_task(buyer.get("/1"))
    await until(lambda: shop.is_busy)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    shop.delay = None
    assert (await buyer.get("/2")).status_code == 200


async def test_a_payment_that_cannot_be_written_leaves_the_channel_to_the_next(
    open_buyer: Open, shop: BatchSeller
) -> None:
    buyer = await open_buyer()
    response = shop.ask(httpx2.Request("GET", "https://a.example/1"), "pay")
    asked = read_offers(response.headers[PAYMENT_REQUIRED_HEADER])
    offer = choose(asked, buyer.wallet)

    def no_clock() -> float:
        raise RuntimeError("no clock")

    with pytest.raises(RuntimeError, match="no clock"):
        await BatchSettlementScheme().pay(buyer.wallet, offer, Order("a.example", bytes(32), no_clock))
    async with asyncio.timeout(5):
        assert (await buyer.get()).status_code == 200


async def test_a_payment_that_was_made_when_its_purchase_was_closed_leaves_the_channel_to_the_next(
    buyer: BatchBuyer, shop: BatchSeller
) -> None:
    purchase = Purchases(buyer.wallet).purchase(payable_request("GET", "https", "a.example", b"/1", {}, b""))
    purchase.start()
    purchase.received(402, shop.ask(httpx2.Request("GET", "https://a.example/1"), "pay").headers)
    step = purchase.resume()
    assert isinstance(step, AskWallet)
    made = await step.call()
    purchase.close()
    purchase.resume(made)
    async with asyncio.timeout(5):
        assert (await buyer.get("/2")).status_code == 200


async def test_a_busy_channel_is_tried_again(buyer: BatchBuyer, shop: BatchSeller) -> None:
    await buyer.get("/1")
    channel = shop.facilitator.channel

    def hold() -> None:
        channel.lock = ("somebody's", shop.facilitator.vouchers[0])

    def let_go() -> None:
        channel.lock = None

    shop.before = [hold, lambda: None, let_go]
    assert (await buyer.get("/2")).status_code == 200
    assert shop.ceilings[-3:] == [2_000] * 3, "the same step"
    assert channel.charged == 2_000


async def test_a_channel_that_stays_busy_is_the_callers_to_see(buyer: BatchBuyer, shop: BatchSeller) -> None:
    await buyer.get("/1")
    shop.facilitator.channel.lock = ("somebody's", shop.facilitator.vouchers[0])
    assert (await buyer.get("/2")).status_code == 402
    assert len(shop.payments) == 1 + 6
    assert max(shop.ceilings) == 2_000


# Lost answers.


async def test_a_lost_answer_is_asked_for_by_the_same_payment(buyer: BatchBuyer, shop: BatchSeller) -> None:
    shop.faults = [lost]
    assert (await buyer.get()).status_code == 200
    assert shop.payments[0].payload == shop.payments[1].payload
    assert shop.payments[0].extensions == shop.payments[1].extensions
    assert shop.facilitator.channel.charged == PRICE == buyer.channel.counted
    assert shop.served == ["/1"]


async def test_a_seller_that_keeps_nothing_is_not_paid_twice_for_one_request(
    open_buyer: Open, shop: BatchSeller
) -> None:
    shop.keeps = False
    buyer = await open_buyer()
    await buyer.get("/1")
    shop.faults = [lost]
    response = await buyer.get("/2")
    assert response.status_code == 402, "it was charged, and its page is gone: the caller's to see"
    paid = payment_of(response)
    assert paid is not None
    assert paid.charged == PRICE
    assert shop.ceilings == [1_000, 2_000, 2_000], "nothing more was signed"
    assert buyer.channel.counted == shop.facilitator.channel.charged == 2_000
    assert (await buyer.get("/3")).status_code == 200
    assert len(shop.payments) == 4, "the next one knows"


async def test_a_request_beside_a_lost_one_is_corrected_and_paid(open_buyer: Open, shop: BatchSeller) -> None:
    shop.keeps = False
    buyer = await open_buyer()
    await buyer.get("/1")
    shop.faults = [lost] * 4
    with pytest.raises(httpx2.ReadError):
        await buyer.get("/2")
    assert shop.facilitator.channel.charged == 2_000
    assert (await buyer.get("/3")).status_code == 200
    assert shop.ceilings[-2:] == [2_000, 3_000], "the lost payment's voucher explains what the seller counts"
    assert shop.facilitator.channel.charged == 3_000 == buyer.channel.counted
    # The lost one is known to have been charged: its page is asked for once more, and not paid for again.
    assert (await buyer.get("/2")).status_code == 402
    assert shop.facilitator.channel.charged == 3_000


async def test_a_lost_request_that_never_arrived_is_paid_later(buyer: BatchBuyer, shop: BatchSeller) -> None:
    await buyer.get("/1")

    def break_off() -> None:
        raise httpx2.ReadError("gone")

    shop.before = [break_off] * 4
    with pytest.raises(httpx2.ReadError):
        await buyer.get("/2")
    assert (await buyer.get("/3")).status_code == 200
    assert (await buyer.get("/2")).status_code == 200, "its old voucher was used up by another page"
    assert shop.served == ["/1", "/3", "/2"]
    assert shop.facilitator.channel.charged == 3_000 == buyer.channel.counted


async def test_a_restart_between_sign_and_answer_sends_the_same_payment(open_buyer: Open, shop: BatchSeller) -> None:
    buyer = await open_buyer()
    await buyer.get("/1")
    shop.faults = [lost] * 4
    with pytest.raises(httpx2.ReadError):
        await buyer.get("/2")
    await die(buyer.wallet)
    again = await open_buyer()
    assert (again.channel.counted, again.channel.signed) in {(1_000, 2_000), (0, 2_000)}
    response = await again.get("/2")
    assert (response.status_code, response.text) == (200, "page")
    assert shop.payments[-1].payload["voucher"] == shop.payments[-2].payload["voucher"]
    assert shop.facilitator.channel.charged == 2_000
    assert shop.served == ["/1", "/2"]
    assert (await again.get("/3")).status_code == 200


async def test_a_restart_before_the_first_answer_sends_the_same_deposit(open_buyer: Open, shop: BatchSeller) -> None:
    buyer = await open_buyer()
    shop.faults = [lost] * 4
    with pytest.raises(httpx2.ReadError):
        await buyer.get()
    await die(buyer.wallet)
    again = await open_buyer()
    assert (await again.get()).status_code == 200
    assert shop.payments[0].payload == shop.payments[-1].payload
    assert shop.facilitator.channel.balance == 50_000 == again.channel.balance
    assert shop.served == ["/1"]


async def test_a_deposit_that_was_refused_is_sent_again_and_no_other_is_signed(
    buyer: BatchBuyer, shop: BatchSeller
) -> None:
    money, shop.facilitator.balance = shop.facilitator.balance, 0
    assert (await buyer.get()).status_code == 402
    shop.facilitator.balance = money
    assert (await buyer.get()).status_code == 200
    salts = {p.payload["deposit"]["authorization"]["erc3009Authorization"]["salt"] for p in shop.payments}
    assert len(salts) == 1


async def test_a_page_without_a_receipt_leaves_open_what_it_cost(buyer: BatchBuyer, shop: BatchSeller) -> None:
    await buyer.get("/1")
    shop.faults = [lambda _request, _response: httpx2.Response(200, text="page")]
    response = await buyer.get("/2")
    assert response.status_code == 200
    paid = payment_of(response)
    assert paid is not None
    assert paid.charged is None
    assert (await buyer.get("/3")).status_code == 200
    assert shop.ceilings == [1_000, 2_000, 2_000, 3_000], "the open payment's voucher explains what the seller counts"
    assert buyer.channel.counted == shop.facilitator.channel.charged == 3_000


async def test_a_receipt_of_no_success_costs_no_second_step(buyer: BatchBuyer, shop: BatchSeller) -> None:
    await buyer.get("/1")
    failed = encode_header(SettleResponse(success=False, error_reason="no", transaction="", network="eip155:31337"))

    def fail(_request: httpx2.Request, _response: httpx2.Response) -> httpx2.Response:
        shop.facilitator.channel.charged = 1_000
        return httpx2.Response(500, headers={PAYMENT_RESPONSE_HEADER: failed})

    shop.faults = [fail]
    assert (await buyer.get("/2")).status_code == 500
    assert (await buyer.get("/3")).status_code == 200
    assert shop.ceilings == [1_000, 2_000, 2_000]


async def test_nothing_is_sent_that_is_not_on_disk(
    buyer: BatchBuyer, shop: BatchSeller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await buyer.get("/1")

    async def full(_statements: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(buyer.wallet._store, "write", full)
        with pytest.raises(BookUnavailableError, match="disk I/O error"):
            await buyer.get("/2")
    assert len(shop.payments) == 1
    with pytest.raises(BookUnavailableError):  # and nobody waits for a turn that is never given back
        await buyer.get("/3")


# Whose word counts.


def says(total: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A corrective 402 with another total, and no voucher."""

    def lie(extra: dict[str, Any]) -> dict[str, Any]:
        state = {**extra.get("channelState", {}), "chargedCumulativeAmount": str(total)}
        return {"channelState": state} if "channelState" in extra else extra

    return lie


async def test_a_seller_that_counts_more_than_was_signed_gets_nothing_more(
    buyer: BatchBuyer, shop: BatchSeller
) -> None:
    await buyer.get("/1")
    shop.facilitator.channel.charged = 40_000
    shop.lie = says(40_000)
    with pytest.raises(ChannelDisputedError, match=r"got 40000 as what was charged, allowed at most 2000"):
        await buyer.get("/2")
    assert max(shop.ceilings) == 2_000
    assert shop.ceilings == [1_000, 2_000]


async def test_a_voucher_that_somebody_else_signed_proves_nothing(buyer: BatchBuyer, shop: BatchSeller) -> None:
    await buyer.get("/1")
    shop.facilitator.channel.charged = 40_000
    forged = {"signedMaxClaimable": "40000", "signature": "0x" + "11" * 64 + "1b"}
    shop.lie = lambda extra: {**says(40_000)(extra), "voucherState": forged}
    with pytest.raises(ChannelDisputedError):
        await buyer.get("/2")
    assert max(shop.ceilings) == 2_000


async def test_a_voucher_of_another_channel_proves_nothing(buyer: BatchBuyer, shop: BatchSeller) -> None:
    for _ in range(5):
        await buyer.get(host="b.example")
    await buyer.get("/1")
    other = max(shop.facilitator.vouchers, key=lambda voucher: voucher.max_claimable_amount)
    mine = next(c for c in shop.facilitator.channels.values() if c.config.receiver == shop.receiver("a.example"))
    mine.charged = 5_000
    foreign = {"signedMaxClaimable": "5000", "signature": "0x" + other.signature.hex()}
    shop.lie = lambda extra: {**says(5_000)(extra), "voucherState": foreign}
    with pytest.raises(ChannelDisputedError):
        await buyer.get("/2")


async def test_what_is_said_of_another_channel_counts_for_nothing(buyer: BatchBuyer, shop: BatchSeller) -> None:
    await buyer.get("/1")
    shop.facilitator.channel.charged = 500
    shop.lie = lambda extra: {
        **extra, "channelState": {**extra["channelState"], "channelId": "0x" + "77" * 32}
    }  # fmt: skip
    assert (await buyer.get("/2")).status_code == 402
    assert buyer.channel.counted == 1_000


async def test_a_correction_is_found_among_several_offers(buyer: BatchBuyer, shop: BatchSeller) -> None:
    await buyer.get("/1")
    shop.facilitator.channel.charged = 600
    elsewhere = structs.replace(shop.offer(httpx2.Request("GET", "https://a.example/1")), network="eip155:1")
    shop.more_offers = [elsewhere]
    assert (await buyer.get("/2")).status_code == 200
    assert shop.ceilings[-2:] == [2_000, 1_600]


async def test_an_old_state_that_is_replayed_gets_no_more_than_was_signed(buyer: BatchBuyer, shop: BatchSeller) -> None:
    for number in range(3):
        await buyer.get(f"/{number}")
    shop.facilitator.channel.charged = 1_000
    assert (await buyer.get("/4")).status_code == 200
    assert max(shop.ceilings) == 4_000, "only the voucher that the 402 refused"
    assert shop.ceilings[-1] == 2_000
    assert buyer.channel.spent == 4_000, "counted once, whatever the seller counts"


async def test_a_seller_that_lost_its_books_is_paid_from_what_it_knows(buyer: BatchBuyer, shop: BatchSeller) -> None:
    for number in range(3):
        await buyer.get(f"/{number}")
    shop.facilitator.claim(next(iter(shop.facilitator.channels)))
    await buyer.get("/4")
    shop.facilitator.forget(next(iter(shop.facilitator.channels)))
    assert (await buyer.get("/5")).status_code == 200
    assert shop.ceilings[-2:] == [5_000, 4_000]


async def test_a_seller_that_charges_and_refuses_gets_one_step_and_no_second(
    buyer: BatchBuyer, shop: BatchSeller
) -> None:
    await buyer.get("/1")

    def take(request: httpx2.Request, _response: httpx2.Response) -> httpx2.Response:
        state = shop.facilitator.state(next(iter(shop.facilitator.channels)))
        return shop.ask(request, MISMATCH, {"channelState": state.extra()})

    shop.faults = [take]
    response = await buyer.get("/2")
    assert response.status_code == 402
    assert shop.ceilings == [1_000, 2_000]
    assert buyer.channel.counted == 2_000


async def test_a_new_price_does_not_make_a_charged_request_paid_twice(buyer: BatchBuyer, shop: BatchSeller) -> None:
    await buyer.get("/1")

    def take(request: httpx2.Request, _response: httpx2.Response) -> httpx2.Response:
        shop.price = 900
        state = shop.facilitator.state(next(iter(shop.facilitator.channels)))
        return shop.ask(request, MISMATCH, {"channelState": state.extra()})

    shop.faults = [take]
    assert (await buyer.get("/2")).status_code == 402
    assert shop.ceilings == [1_000, 2_000]


async def test_a_price_that_has_changed_is_paid_within_the_same_step(buyer: BatchBuyer, shop: BatchSeller) -> None:
    shop.pattern = "/*"
    await buyer.get("/1")
    shop.price = 1_500
    assert (await buyer.get("/2")).status_code == 200
    assert shop.ceilings == [1_000, 2_000, 2_500]
    assert shop.facilitator.channel.charged == 2_500
    assert buyer.channel.spent == 2_500, "the refused voucher is covered by the other"


@pytest.mark.parametrize(
    "said",
    [{"chargedAmount": "1001"}, {"chargedAmount": "-1"}, {"chargedAmount": 5}, {"chargedAmount": "10"}],
)
async def test_a_receipt_that_contradicts_itself_changes_nothing(
    buyer: BatchBuyer, shop: BatchSeller, said: dict[str, Any]
) -> None:
    await buyer.get("/1")

    def lie(_request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        assert response.status_code == 200
        extra = {"channelState": shop.facilitator.state(next(iter(shop.facilitator.channels))).extra()}
        header = receipt(Settled(b"", 0, extra=extra), **said)
        return httpx2.Response(200, headers={PAYMENT_RESPONSE_HEADER: header}, text="page")

    shop.faults = [lie]
    assert (await buyer.get("/2")).status_code == 200
    assert (buyer.channel.counted, buyer.channel.signed) == (1_000, 2_000)
    assert (await buyer.get("/3")).status_code == 200
    assert buyer.channel.counted == shop.facilitator.channel.charged == 3_000


async def test_a_book_that_is_older_than_the_wallet_believes_its_own_signature(
    open_buyer: Open, shop: BatchSeller, tmp_path: Any
) -> None:
    buyer = await open_buyer()
    for number in range(3):
        await buyer.get(f"/{number}")
    await buyer.wallet.close()
    tell = await open_buyer(path=tmp_path / "new.db")
    assert (await tell.get("/4")).status_code == 200
    assert shop.ceilings[-2:] == [1_000, 4_000]
    assert tell.channel.spent == 2_000, "what was signed before is not this book's to count"
    assert (await tell.get("/5")).status_code == 200


async def test_a_new_book_learns_what_the_channel_holds(
    open_buyer: Open, shop: BatchSeller, aggregator: FakeAggregator, tmp_path: Any
) -> None:
    buyer = await open_buyer()
    tell_held(aggregator, shop, buyer.wallet.address)
    await buyer.get("/1")
    await buyer.wallet.close()
    anew = await open_buyer(path=tmp_path / "new.db")
    assert (await anew.get("/2")).status_code == 200
    assert shop.kinds == ["deposit", "voucher", "voucher"]
    assert anew.channel.balance == 50_000


async def test_what_is_missing_in_a_channel_is_learned_from_the_chain_and_deposited(
    buyer: BatchBuyer, shop: BatchSeller, aggregator: FakeAggregator
) -> None:
    tell_held(aggregator, shop, buyer.wallet.address)
    await buyer.get("/1")
    shop.facilitator.channel.balance = 1_000
    assert (await buyer.get("/2")).status_code == 200
    assert shop.kinds[-2:] == ["voucher", "deposit"]
    assert buyer.channel.missing == 49_000
    assert buyer.channel.balance == shop.facilitator.channel.balance == 51_000


async def test_a_seller_that_says_too_little_is_there_is_not_believed(buyer: BatchBuyer, shop: BatchSeller) -> None:
    await buyer.get("/1")

    def deny(request: httpx2.Request, _response: httpx2.Response) -> httpx2.Response:
        return shop.ask(request, BatchSettlementCode.CUMULATIVE_EXCEEDS_BALANCE)

    shop.faults = [deny] * 3
    assert (await buyer.get("/2")).status_code == 402
    assert shop.kinds == ["deposit", "voucher"]


# What the wallet may do.


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"receiver_authorizer": THIEF}, r"extra.receiverAuthorizer: got '0x6{40}', allowed 0x09"),
        ({"withdraw_delay_s": DELAY_S + 1}, r"extra.withdrawDelay: got 86401, allowed 900 to 86400 seconds"),
        ({"withdraw_delay_s": 899}, "extra.withdrawDelay: got 899"),
        ({"name": "USDC"}, "extra.name: got 'USDC', allowed USD Coin"),
        ({"version": "1"}, "extra.version"),
        ({"asset_transfer_method": "permit2"}, "extra.assetTransferMethod: got 'permit2', allowed eip3009"),
    ],
)
async def test_a_forged_offer_makes_the_wallet_sign_nothing(
    open_buyer: Open, shop: BatchSeller, change: dict[str, Any], problem: str
) -> None:
    shop.terms = replace(shop.terms, **change)
    buyer = await open_buyer()
    with pytest.raises(OfferNotAllowedError, match=problem):
        await buyer.get()
    assert shop.payments == []
    assert not buyer.wallet._book.seller_channels


async def test_the_contract_is_no_seller(open_buyer: Open, shop: BatchSeller) -> None:
    shop.receiver = lambda _: shop.facilitator.domain.verifying_contract  # type: ignore[method-assign]
    buyer = await open_buyer()
    with pytest.raises(OfferNotAllowedError, match="payTo: got the contract of the scheme"):
        await buyer.get()


async def test_another_escrow_in_an_offer_changes_nothing(open_buyer: Open, shop: BatchSeller) -> None:
    """The contract is the standard's: what an offer says beside it moves no deposit."""
    real = shop.offer

    def offer(request: httpx2.Request) -> Any:
        made = real(request)
        made.extra["escrow"] = checksum(THIEF)
        return made

    shop.offer = offer  # type: ignore[method-assign]
    buyer = await open_buyer()
    assert (await buyer.get()).status_code == 200
    assert shop.facilitator.channel.balance == 50_000, "the authorization was to the standard's collector"


async def test_any_authorizer_is_taken_by_a_scheme_that_says_so(open_buyer: Open, shop: BatchSeller) -> None:
    shop.terms = replace(shop.terms, receiver_authorizer=THIEF)
    shop.facilitator.authorizer = THIEF
    buyer = await open_buyer(schemes=(BatchSettlementScheme(any_authorizer=True),))
    assert (await buyer.get()).status_code == 200
    shop.terms = replace(shop.terms, receiver_authorizer=bytes(20))
    with pytest.raises(OfferNotAllowedError, match=r"extra.receiverAuthorizer: got zero"):
        await buyer.get("/2")


async def test_a_server_that_manages_its_vouchers_is_paid_alike(open_buyer: Open, shop: BatchSeller) -> None:
    shop.terms = replace(shop.terms, voucher_manager="server", refund_authorizer=THIEF)
    shop.facilitator.managed = "server"
    buyer = await open_buyer()
    for path in ("/1", "/2"):
        assert (await buyer.get(path)).status_code == 200
    assert shop.facilitator.channel.config.salt == bytes(32), "salts are packed for facilitators alone"


async def test_channels_together_lock_no_more_than_the_policy(open_buyer: Open) -> None:
    buyer = await open_buyer(deposit=DepositPolicy(low=0, high="0.12"))
    for host in ("a.example", "b.example"):
        assert (await buyer.get(host=host)).status_code == 200
    with pytest.raises(OfferNotAllowedError, match=r"deposit.high: got 0.12 USDC, of which channels lock 0.098 USDC"):
        await buyer.get(host="c.example")


async def test_without_a_policy_nothing_is_deposited(open_buyer: Open, shop: BatchSeller) -> None:
    buyer = await open_buyer(deposit=None)
    with pytest.raises(OfferNotAllowedError, match="there is no policy to make a deposit"):
        await buyer.get()
    assert shop.payments == []


async def test_no_deposit_is_signed_beyond_the_payers_balance(
    open_buyer: Open, shop: BatchSeller, aggregator: FakeAggregator
) -> None:
    aggregator.balance = 49_999
    buyer = await open_buyer()
    with pytest.raises(BalanceTooLowError, match=r"deposit: got 0.05 USDC, allowed at most 0.049999 USDC"):
        await buyer.get()
    assert shop.payments == []
    assert not buyer.wallet._book.channel_deposits


@pytest.mark.parametrize("budget", ["per_request", "per_host", "per_day", "total"])
async def test_budgets_hold(open_buyer: Open, shop: BatchSeller, budget: str) -> None:
    limit = PRICE - 1 if budget == "per_request" else 3 * PRICE
    buyer = await open_buyer(budgets=Budgets(**{budget: limit}))
    if budget != "per_request":
        for number in range(3):
            await buyer.get(f"/{number}")
    with pytest.raises(BudgetExceededError, match=budget):
        await buyer.get("/4")
    assert max(shop.ceilings, default=0) <= limit


async def test_a_budget_counts_what_was_signed_and_not_what_sellers_say(open_buyer: Open, shop: BatchSeller) -> None:
    shop.charge_less = PRICE
    buyer = await open_buyer(budgets=Budgets(total=PRICE))
    for number in range(5):
        assert (await buyer.get(f"/{number}")).status_code == 200
    assert set(shop.ceilings) == {PRICE}


async def test_a_deposit_under_way_that_is_too_little_is_not_doubled(open_buyer: Open, shop: BatchSeller) -> None:
    buyer = await open_buyer(deposit=DepositPolicy(low=0, high="1"))
    shop.facilitator.balance = 0
    await buyer.get("/1")
    shop.facilitator.balance = 10**9
    shop.price = 60_000
    with pytest.raises(DepositNotAllowedError, match=r"a deposit of 0.05 USDC .* is under way"):
        await buyer.get("/2")


async def test_a_deposit_that_can_land_no_more_is_replaced(
    open_buyer: Open, shop: BatchSeller, aggregator: FakeAggregator
) -> None:
    now_s = 1_900_000_000.0
    aggregator.clock = lambda: now_s
    buyer = await open_buyer(clock=aggregator.clock)
    shop.facilitator.balance = 0
    await buyer.get("/1")
    now_s += 3_600 + 600
    shop.facilitator.balance = 10**9
    assert (await buyer.get("/2")).status_code == 200
    authorizations = [p.payload["deposit"]["authorization"]["erc3009Authorization"]["salt"] for p in shop.payments]
    assert len(set(authorizations)) == 2


async def test_a_late_deposit_that_was_taken_is_not_replaced_though_the_aggregator_has_no_such_channel(
    open_buyer: Open, shop: BatchSeller, aggregator: FakeAggregator
) -> None:
    now_s = 1_900_000_000.0
    aggregator.clock = lambda: now_s
    landed: list[DepositPayload] = []
    shop.facilitator.on_land = landed.append
    shop.terms = replace(shop.terms, receiver_authorizer=THIEF, min_deposit=150_000)
    shop.facilitator.authorizer = THIEF
    any_authorizer = BatchSettlementScheme(any_authorizer=True, sleep=no_sleep)
    buyer = await open_buyer(clock=aggregator.clock, schemes=(any_authorizer,))
    shop.faults = [lost] * 4
    with pytest.raises(httpx2.ReadError):
        await buyer.get("/1")
    (deposit,) = landed
    aggregator.held = dict
    aggregator.landed.add(eip712.deposit_nonce(deposit.voucher.channel_id, deposit.authorization.salt))
    now_s += 3_600 + 600
    assert (await buyer.get("/2")).status_code == 200
    assert len(landed) == 1
    assert shop.kinds[-1] == "voucher"
    assert buyer.channel.deposited == 150_000


# Which scheme, and why.


async def test_deferred_is_preferred_and_the_reason_is_told(
    open_wallet: OpenWallet, shop: BatchSeller, seller: FakeSeller, caplog: pytest.LogCaptureFixture
) -> None:
    wallet = await open_wallet(schemes=STANDARD_SCHEMES)
    offers = [seller.offer("exact", "a.example", PRICE), seller.offer("deferred", "a.example", PRICE)]
    request = httpx2.Request("GET", "https://a.example/1")
    taken = wallet.choose(PaymentRequired(accepts=[*offers, shop.offer(request)]))
    assert taken.terms.scheme == "deferred"
    assert taken.instead_of == ("batch-settlement",)
    shop.more_offers = offers
    with caplog.at_level(logging.INFO, "tallystick.payer"):
        transport = PayingTransport(wallet, shop, sleep=no_sleep)
        await transport.handle_async_request(request)
    assert (
        "a.example is paid by deferred rather than batch-settlement: one deposit pays every seller of the "
        "operator, and requests need not wait for each other"
    ) in caplog.text


async def test_it_is_preferred_to_a_transfer(open_wallet: OpenWallet, shop: BatchSeller, seller: FakeSeller) -> None:
    wallet = await open_wallet(schemes=STANDARD_SCHEMES)
    exact, ours = seller.offer("exact", "a.example", PRICE), shop.offer(httpx2.Request("GET", "https://a.example/1"))
    assert wallet.choose(PaymentRequired(accepts=[exact, ours])).terms.scheme == "batch-settlement"


async def test_a_wallet_that_makes_no_deposits_pays_by_a_transfer(
    open_wallet: OpenWallet, shop: BatchSeller, seller: FakeSeller
) -> None:
    wallet: Wallet = await open_wallet(schemes=STANDARD_SCHEMES, deposit=None)
    exact, ours = seller.offer("exact", "a.example", PRICE), shop.offer(httpx2.Request("GET", "https://a.example/1"))
    assert wallet.choose(PaymentRequired(accepts=[ours, exact])).terms.scheme == "exact"


# Whatever happens on the way.


@pytest.mark.parametrize("seed", range(8))
async def test_no_page_is_charged_twice_and_no_voucher_runs_ahead(
    open_buyer: Open, shop: BatchSeller, seed: int
) -> None:
    """Answers and requests are lost, wallets die, others are in the way: each page is bought until it is there."""
    chance = random.Random(seed)
    buyer = await open_buyer(deposit=DepositPolicy(low=0, high="5"))

    def break_off() -> None:
        raise httpx2.ReadError("the request broke")

    for number in range(40):
        path = f"/{number}"
        shop.charge_less = chance.choice([0, 0, 300, 999])
        for _ in range(chance.choice([0, 0, 1, 4, 5])):
            chance.choice([lambda: shop.faults.append(lost), lambda: shop.before.append(break_off)])()
        while True:
            try:
                response = await buyer.get(path)
            except httpx2.ReadError:
                if chance.random() < 0.3:
                    await die(buyer.wallet)
                    buyer = await open_buyer(deposit=DepositPolicy(low=0, high="5"))
            else:
                assert response.status_code == 200
                break
        shop.faults.clear()
        shop.before.clear()
    assert shop.served == [f"/{number}" for number in range(40)]
    most = 0
    for ceiling in shop.ceilings:
        assert ceiling <= most + PRICE
        most = max(most, ceiling)
    buyer.wallet._book.check()
    assert buyer.channel.signed == buyer.channel.spent == most
    assert shop.facilitator.channel.charged <= most <= shop.facilitator.channel.charged + PRICE
