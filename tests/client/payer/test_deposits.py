"""Deposits and top-ups: how much, how often, and what the payer's balance has to say. A fake aggregator lands them."""

import asyncio
import dataclasses
from typing import Any

import pytest
from payer_buyer import Buyer, OpenWallet, account_of
from payer_fakes import PRICE, FakeAggregator, FakeSeller, make_operator, until

from tallystick.errors import RefusedError
from tallystick.hexadecimal import checksum
from tallystick.reasons import Reason
from tallystick_client import DepositPolicy
from tallystick_client.payer.errors import DepositNotAllowedError
from tallystick_client.payer.retries import RETRY_AFTER_S_MAX
from tallystick_client.payer.wallet.deposits import DEPOSIT_VALID_S
from tallystick_client.payer.wallet.rows import DEPOSIT_LATE_S
from tallystick_client.payer.wallet.timing import Timing
from tallystick_client.rpc import AggregatorUnavailableError


async def test_a_deposit_is_made_once_however_many_ask(buyer: Buyer, aggregator: FakeAggregator) -> None:
    aggregator.delay_s = 0.01
    await asyncio.gather(*(buyer.buy(host) for host in ("a", "b", "c", "d") for _ in range(25)))
    assert aggregator.calls.count("Deposit") == 1
    account = await account_of(buyer.wallet)
    assert (account.deposits, account.deposited) == (1, 1_000_000)


async def test_a_deposit_whose_answer_was_lost_is_sent_again_not_made_again(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    aggregator.lose_answers["Deposit"] = 2
    buyer = Buyer(await open_wallet(timing=Timing(retry_pauses_s=(0.01,))), seller)
    with pytest.raises(AggregatorUnavailableError):
        await buyer.buy()
    assert len((await account_of(buyer.wallet)).deposits_under_way) == 1
    await buyer.wallet.close()
    buyer = Buyer(await open_wallet(), seller)
    await buyer.buy()
    assert aggregator.calls.count("Deposit") == 3
    assert len(aggregator.account.deposits) == 1
    assert (await account_of(buyer.wallet)).deposits == 1


async def test_a_deposit_that_nears_its_end_is_topped_up(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(await open_wallet(deposit=DepositPolicy(low="0.005", high="0.02")), seller)
    for _ in range(16):
        await buyer.buy()
    await until(lambda: aggregator.calls.count("Deposit") == 2)
    await until(lambda: aggregator.account.funds > 30_000)
    for _ in range(10):
        await buyer.buy()
    account = await account_of(buyer.wallet)
    assert account.deposited <= 20_000 + account.charged


async def test_a_payment_above_the_policy_is_not_deposited_for(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(await open_wallet(deposit=DepositPolicy(low="0", high="0.0005")), seller)
    with pytest.raises(DepositNotAllowedError, match=r"deposit\.high: got 0.0005 USDC, allowed at least 0.001 USDC"):
        await buyer.buy()
    assert "Deposit" not in aggregator.calls


async def test_a_refused_deposit_is_told_and_not_repeated_for_ever(buyer: Buyer, aggregator: FakeAggregator) -> None:
    aggregator.refuse["Deposit"] = Reason.DEPOSIT_AUTHORIZATION
    with pytest.raises(RefusedError, match="deposit_authorization"):
        await buyer.buy()
    assert aggregator.calls.count("Deposit") == 1
    del aggregator.refuse["Deposit"]
    await buyer.buy()
    assert (await account_of(buyer.wallet)).deposits == 1


async def test_no_second_deposit_is_signed_while_a_refused_one_may_still_be_landed(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    now = [1_800_000_000.0]
    aggregator.clock = lambda: now[0]
    aggregator.refuse["Deposit"] = Reason.DEPOSIT_AUTHORIZATION
    buyer = Buyer(await open_wallet(clock=lambda: now[0]), seller)
    for _ in range(3):
        with pytest.raises(RefusedError, match=r"signs no other before 2027-01-15T09:10:00\+00:00") as caught:
            await buyer.buy()
        assert caught.value.reason is Reason.DEPOSIT_AUTHORIZATION
    await buyer.wallet.close()
    buyer = Buyer(await open_wallet(clock=lambda: now[0]), seller)
    for ask in (buyer.buy, buyer.wallet.deposit):
        now[0] += 1_800
        with pytest.raises(RefusedError, match="signs no other"):
            await ask()
    assert len(aggregator.salts) == 1
    assert len((await account_of(buyer.wallet)).deposits_under_way) == 1


async def test_a_refused_deposit_that_is_credited_after_all_is_paid_from(
    buyer: Buyer, aggregator: FakeAggregator
) -> None:
    aggregator.refuse["Deposit"] = Reason.DEPOSIT_AUTHORIZATION
    with pytest.raises(RefusedError):
        await buyer.buy()
    del aggregator.refuse["Deposit"]
    await buyer.buy()
    account = await account_of(buyer.wallet)
    assert (account.deposits, account.deposits_under_way, account.deposited) == (1, [], 1_000_000)
    assert (len(aggregator.salts), aggregator.account.funds) == (1, 1_000_000)


async def test_a_refused_deposit_that_nobody_can_land_any_more_is_followed_by_another(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    now = [1_800_000_000.0]
    aggregator.clock = lambda: now[0]
    aggregator.refuse["Deposit"] = Reason.DEPOSIT_AUTHORIZATION
    buyer = Buyer(await open_wallet(clock=lambda: now[0]), seller)
    with pytest.raises(RefusedError):
        await buyer.buy()
    now[0] += 3_600 + 600
    with pytest.raises(RefusedError):
        await buyer.buy()
    assert len(aggregator.salts) == 2
    del aggregator.refuse["Deposit"]
    await buyer.buy()
    assert (len(aggregator.salts), aggregator.account.funds) == (2, 1_000_000)


async def test_a_refused_top_up_does_not_keep_the_books_from_being_compared(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    wallet = await open_wallet(deposit=DepositPolicy(low="0", high="0.002"))
    buyer = Buyer(wallet, seller)
    await buyer.buy()
    (await buyer.pay()).lose()
    aggregator.refuse["Deposit"] = Reason.DEPOSIT_AUTHORIZATION
    with pytest.raises(RefusedError):
        await buyer.buy()
    assert len((await account_of(wallet)).deposits_under_way) == 1
    assert (await wallet.reconcile()).freed == PRICE


async def test_a_deposit_beyond_the_payers_balance_is_not_signed(buyer: Buyer, aggregator: FakeAggregator) -> None:
    aggregator.balance = PRICE - 1
    for _ in range(2):
        with pytest.raises(DepositNotAllowedError) as caught:
            await buyer.buy()
        assert str(caught.value) == (
            "deposit: got 0.001 USDC, allowed at most 0.000999 USDC; the aggregator sees 0.000999 USDC at "
            f"{checksum(buyer.wallet.address)} on eip155:31337; nothing was signed"
        )
    account = await account_of(buyer.wallet)
    assert (account.deposits, account.deposits_under_way, aggregator.salts) == (0, [], set())
    aggregator.balance = 1_000_000
    await buyer.buy()
    assert (await account_of(buyer.wallet)).deposits == 1


async def test_what_the_payer_holds_is_deposited_where_it_is_enough_for_the_payment(
    buyer: Buyer, aggregator: FakeAggregator
) -> None:
    aggregator.balance = PRICE
    await buyer.buy()
    assert (await account_of(buyer.wallet)).deposited == aggregator.account.funds == PRICE
    assert aggregator.balance == 0


async def test_a_balance_below_the_minimum_deposit_is_not_deposited(buyer: Buyer, aggregator: FakeAggregator) -> None:
    aggregator.balance = 99
    with pytest.raises(DepositNotAllowedError, match=r"got 0\.0001 USDC, allowed at most 0\.000099 USDC"):
        await buyer.buy(amount=50)
    assert not aggregator.salts


async def test_a_deposit_that_a_person_asks_for_is_made_in_full_or_not_at_all(
    buyer: Buyer, aggregator: FakeAggregator
) -> None:
    aggregator.balance = 999_999
    with pytest.raises(DepositNotAllowedError, match=r"got 1 USDC, allowed at most 0\.999999 USDC"):
        await buyer.wallet.deposit()
    assert not aggregator.salts
    aggregator.balance = 1_000_000
    await buyer.wallet.deposit()
    assert aggregator.account.funds == 1_000_000


async def test_a_top_up_deposits_what_there_is(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    aggregator.balance = 20_000 + 3 * PRICE
    buyer = Buyer(await open_wallet(deposit=DepositPolicy(low="0.005", high="0.02")), seller)
    for _ in range(16):
        await buyer.buy()
    await until(lambda: aggregator.account.funds == 20_000 + 3 * PRICE)
    assert aggregator.balance == 0


async def test_a_balance_that_is_told_too_high_makes_the_wallet_deposit_no_more(
    buyer: Buyer, aggregator: FakeAggregator
) -> None:
    aggregator.balance = 2**128 - 1
    await buyer.buy()
    assert aggregator.account.funds == 1_000_000


async def test_an_aggregator_that_tells_no_balance_is_deposited_with_as_before(
    buyer: Buyer, aggregator: FakeAggregator
) -> None:
    aggregator.balance = None
    await buyer.buy()
    assert aggregator.account.funds == 1_000_000


async def test_an_aggregator_that_is_asked_for_too_many_balances_is_asked_again_and_then_deposited_with(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(await open_wallet(timing=Timing(retry_pauses_s=(0.01, 0.01))), seller)
    aggregator.refuse["GetBalance"] = Reason.OVERLOADED
    await buyer.buy()
    assert (aggregator.calls.count("GetBalance"), aggregator.account.funds) == (3, 1_000_000)


async def test_a_refusal_that_says_when_to_come_again_is_waited_for_as_long(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    wallet = await open_wallet(timing=Timing(retry_pauses_s=(0.5, 1.0)))
    wallet._deposits._sleep = sleep
    aggregator.refuse["Deposit"], aggregator.retry_after_s = Reason.GAS_BUDGET_SPENT, 3
    with pytest.raises(RefusedError) as caught:
        await Buyer(wallet, seller).buy()
    assert (waited, caught.value.retry_after_s) == ([3, 3], 3)
    aggregator.retry_after_s = RETRY_AFTER_S_MAX + 1
    with pytest.raises(RefusedError) as caught:
        await Buyer(wallet, seller).buy()
    assert (waited, caught.value.retry_after_s) == ([3, 3], 6), "what takes longer is the caller's to wait for"


async def test_nothing_is_signed_while_the_balance_cannot_be_read(buyer: Buyer, aggregator: FakeAggregator) -> None:
    aggregator.refuse["GetBalance"] = Reason.CHAIN_UNAVAILABLE
    with pytest.raises(RefusedError, match="chain_unavailable") as caught:
        await buyer.buy()
    assert caught.value.retry
    assert (aggregator.salts, (await account_of(buyer.wallet)).deposits_under_way) == (set(), [])
    del aggregator.refuse["GetBalance"]
    await buyer.buy()


async def test_what_the_policy_forbids_is_refused_without_a_look_at_the_balance(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(await open_wallet(deposit=DepositPolicy(low="0", high="0.0005")), seller)
    with pytest.raises(DepositNotAllowedError):
        await buyer.buy()
    assert "GetBalance" not in aggregator.calls


async def test_a_payer_whose_balance_is_spent_meanwhile_keeps_its_authorization_for_later(
    buyer: Buyer, aggregator: FakeAggregator
) -> None:
    aggregator.refuse["Deposit"] = Reason.INSUFFICIENT_BALANCE
    for _ in range(2):
        with pytest.raises(
            RefusedError, match="insufficient_balance: no The deposit of 1 USDC may still be landed"
        ) as caught:
            await buyer.buy()
        assert caught.value.retry
    assert len((await account_of(buyer.wallet)).deposits_under_way) == 1
    del aggregator.refuse["Deposit"]
    await buyer.buy()
    assert len(aggregator.account.deposits) == 1


async def test_the_deposit_of_a_lost_book_is_found_again(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator, tmp_path: Any
) -> None:
    first = await open_wallet(path=tmp_path / "first.db")
    await first.deposit()
    await first.close()
    second = await open_wallet(path=tmp_path / "second.db")
    await Buyer(second, seller).buy()
    assert aggregator.calls.count("Deposit") == 1
    assert (await account_of(second)).deposited == 1_000_000


async def test_an_account_that_was_used_under_a_lost_book_is_only_emptied(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator, tmp_path: Any
) -> None:
    first = await open_wallet(path=tmp_path / "first.db")
    await Buyer(first, seller).buy()
    await first.close()
    second = await open_wallet(path=tmp_path / "second.db")
    payment = await Buyer(second, seller).buy()
    assert len(aggregator.accounts) == 2
    assert payment.proof.config.salt == (1).to_bytes(32, "big")
    refunds = await second.refund()
    assert sorted(refund.amount for refund in refunds) == [999_000, 999_000]


# What a deposit's failure means for others who wait, and for other deposits.


async def test_a_burst_of_an_empty_payer_asks_once_and_signs_nothing(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(await open_wallet(timing=Timing(retry_pauses_s=())), seller)
    aggregator.balance, aggregator.delay_s = 0, 0.01
    results = await asyncio.gather(*(buyer.buy(f"{n}.example") for n in range(50)), return_exceptions=True)
    assert all(isinstance(result, DepositNotAllowedError) for result in results)
    assert (aggregator.calls.count("GetBalance"), aggregator.salts) == (1, set())
    aggregator.balance = 1_000_000
    await buyer.buy()


async def test_who_needs_less_than_what_failed_is_asked_for(buyer: Buyer, aggregator: FakeAggregator) -> None:
    aggregator.balance, aggregator.delay_s = PRICE, 0.01
    dear, cheap = await asyncio.gather(
        buyer.buy("dear.example", 2 * PRICE), buyer.buy("cheap.example"), return_exceptions=True
    )
    assert isinstance(dear, DepositNotAllowedError)
    assert not isinstance(cheap, BaseException)


async def test_a_dear_page_does_not_keep_a_host_from_selling_cheap_ones(
    buyer: Buyer, aggregator: FakeAggregator
) -> None:
    aggregator.balance = PRICE
    dear, cheap = await asyncio.gather(buyer.buy(amount=2 * PRICE), buyer.buy(), return_exceptions=True)
    assert isinstance(dear, DepositNotAllowedError)
    assert not isinstance(cheap, BaseException)


async def test_a_fresh_wallet_asks_once_for_all_who_wait_too(buyer: Buyer, aggregator: FakeAggregator) -> None:
    aggregator.refuse["GetAccount"] = Reason.STORE_UNAVAILABLE
    aggregator.delay_s = 0.01
    results = await asyncio.gather(*(buyer.buy(f"{n}.example") for n in range(20)), return_exceptions=True)
    assert all(isinstance(result, RefusedError) for result in results)
    assert aggregator.calls.count("GetAccount") == 1
    del aggregator.refuse["GetAccount"]
    await buyer.buy()


async def test_an_account_below_zero_is_filled_again(buyer: Buyer, aggregator: FakeAggregator) -> None:
    (await buyer.pay()).lose()
    await buyer.wallet.refund()
    assert (await account_of(buyer.wallet)).free < 0
    await buyer.wallet.deposit()
    assert aggregator.account.funds == 1_000_000


async def test_a_person_gets_one_deposit_while_payments_go_on(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    wallet = await open_wallet(timing=Timing(flush_every_s=0.01), deposit=DepositPolicy(low="0", high="1"))
    buyer = Buyer(wallet, seller)
    await buyer.buy()

    async def go_on() -> None:
        while True:
            await buyer.buy()
            await asyncio.sleep(0)

    paying = asyncio.create_task(go_on())
    try:
        aggregator.delay_s = 0.05
        before = aggregator.calls.count("Deposit")
        await wallet.deposit()
        assert aggregator.calls.count("Deposit") - before <= 1
    finally:
        paying.cancel()
        await asyncio.wait([paying])


async def test_all_who_wait_hear_at_once_of_an_aggregator_that_does_not_answer(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(await open_wallet(timing=Timing(retry_pauses_s=(0.01,))), seller)
    await buyer.wallet.deposit()
    await buyer.wallet.refund()
    asked = aggregator.calls.count("GetBalance")
    aggregator.lose_answers["GetBalance"] = 1_000
    payments = (buyer.buy(f"{n}.example", PRICE * n) for n in range(20, 0, -1))
    results = await asyncio.gather(*payments, return_exceptions=True)
    assert all(isinstance(result, AggregatorUnavailableError) for result in results)
    assert aggregator.calls.count("GetBalance") - asked == 2


async def test_what_is_in_flight_beyond_the_policys_mark_is_deposited_in_steps_of_it(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(await open_wallet(deposit=DepositPolicy(low="0", high="0.01")), seller)
    for _ in range(50):
        await buyer.pay()
    assert sorted(aggregator.account.deposits.values()) == [10_000] * 5


async def test_a_top_up_that_does_not_reach_the_low_mark_is_not_made(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator, caplog: pytest.LogCaptureFixture
) -> None:
    aggregator.balance = 20_000 + 500
    buyer = Buyer(await open_wallet(deposit=DepositPolicy(low="0.005", high="0.02")), seller)
    for _ in range(16):
        await buyer.buy()
    await until(lambda: "topping up the account" in caplog.text)
    assert (len(aggregator.salts), aggregator.balance) == (1, 500)


async def test_an_account_that_is_emptied_while_its_top_up_asks_for_the_balance_gets_no_deposit(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    wallet = await open_wallet(deposit=DepositPolicy(low="0.005", high="0.02"))
    buyer = Buyer(wallet, seller)
    aggregator.hold["GetBalance"] = asyncio.Event()
    aggregator.hold["GetBalance"].set()
    for _ in range(15):
        await buyer.buy()
    aggregator.hold["GetBalance"].clear()
    asked = aggregator.calls.count("GetBalance")
    await buyer.buy()
    await until(lambda: aggregator.calls.count("GetBalance") > asked)
    await wallet.refund()
    aggregator.hold["GetBalance"].set()
    await asyncio.gather(*wallet._allocator._top_ups.values())
    assert len(aggregator.salts) == 1


async def test_one_balance_is_not_promised_to_two_operators(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    now = [1_800_000_000.0]
    second = FakeAggregator()
    aggregator.clock = second.clock = lambda: now[0]
    await second.start()
    try:
        other = dataclasses.replace(make_operator(second.target), operator=bytes([0x77] * 20))
        wallet = await open_wallet(operators=[seller.operator, other], clock=lambda: now[0])
        aggregator.balance = second.balance = 1_500_000
        aggregator.refuse["Deposit"] = Reason.INSUFFICIENT_BALANCE  # it stays under way
        with pytest.raises(RefusedError):
            await Buyer(wallet, seller).buy()
        with pytest.raises(
            DepositNotAllowedError,
            match=r"allowed at most 0\.5 USDC.* 1 USDC of it for deposits and transfers under way",
        ):
            await Buyer(wallet, FakeSeller(second, other)).buy(amount=600_000)
        assert not second.salts
        await Buyer(wallet, FakeSeller(second, other)).buy()
        assert second.account.funds == 500_000
        second.balance = 1_000_000
        now[0] += DEPOSIT_VALID_S + DEPOSIT_LATE_S  # what A never credited can be landed no more
        await Buyer(wallet, FakeSeller(second, other)).buy(amount=600_000)
        assert second.account.funds == 1_001_000
        await wallet.close()
    finally:
        await second.stop()
