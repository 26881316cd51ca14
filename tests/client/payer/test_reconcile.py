"""What becomes of payments whose answer was lost, of grants whose holder died, and of claims beyond the book."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from payer_buyer import Buyer, OpenWallet, account_of
from payer_fakes import PRICE, Account, FakeAggregator, FakeSeller, Steps, until
from payer_fakes import RefusalError as FakeRefusal

from tallystick.errors import RefusedError
from tallystick.reasons import Reason
from tallystick.signatures import Signer
from tallystick_client import Budgets, Wallet
from tallystick_client.payer.errors import ApprovalRefusedError, BudgetExceededError
from tallystick_client.payer.wallet.reconcile import judge


async def lose(buyer: Buyer, count: int, *, charged: int) -> None:
    """Pay so often, and never hear of it; so many of the payments are charged."""
    for index in range(count):
        payment = await buyer.pay()
        if index < charged:
            buyer.charge(payment)
        payment.lose()


async def test_lost_payments_are_told_apart_by_reconciliation(
    wallet: Wallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(wallet, seller)
    await buyer.buy()
    await lose(buyer, 10, charged=3)
    assert (await account_of(wallet)).unknown == 10 * PRICE
    result = await wallet.reconcile()
    assert (result.charged, result.freed, result.unknown, result.disputed) == (3 * PRICE, 7 * PRICE, 0, 0)
    account = await account_of(wallet)
    assert (account.charged, account.unknown) == (4 * PRICE, 0)
    assert account.spent_total == 4 * PRICE + account.granted
    assert all(key.revoked for key in aggregator.account.keys.values())


async def test_a_payment_of_a_revoked_key_is_worth_nothing_afterwards(wallet: Wallet, seller: FakeSeller) -> None:
    buyer = Buyer(wallet, seller)
    payment = await buyer.pay()
    payment.lose()
    await wallet.reconcile()
    with pytest.raises(Exception, match="no"):
        buyer.charge(payment)


async def test_paying_goes_on_while_books_are_compared(
    wallet: Wallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(wallet, seller)
    await buyer.buy()
    await lose(buyer, 5, charged=2)
    aggregator.delay_s = 0.01

    async def slow() -> None:
        payment = await buyer.pay()
        asked = len(aggregator.calls)
        await until(lambda: len(aggregator.calls) > asked or all(task.done() for task in comparing))
        payment.settle(buyer.charge(payment))

    async def traffic() -> None:
        for _ in range(10):
            await asyncio.gather(*(slow() for _ in range(5)))

    comparing = [asyncio.create_task(wallet.reconcile()) for _ in range(2)]
    await asyncio.gather(traffic(), *comparing)
    aggregator.delay_s = 0
    await wallet.reconcile()
    account = await account_of(wallet)
    assert account.charged == aggregator.account.committed == 53 * PRICE
    assert (account.unknown, account.disputed) == (0, 0)


async def test_what_a_former_run_left_open_counts_as_spent_until_it_is_reconciled(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    wallet = await open_wallet()
    buyer = Buyer(wallet, seller)
    for _ in range(8):
        await buyer.buy()
    payments = [await buyer.pay() for _ in range(5)]
    buyer.charge(payments[0])
    buyer.charge(payments[1])
    await wallet.close()
    wallet = await open_wallet()
    account = await account_of(wallet)
    assert (account.charged, account.unknown, account.granted) == (8 * PRICE, 5 * PRICE, 0)
    await wallet.reconcile()
    account = await account_of(wallet)
    assert (account.charged, account.unknown) == (10 * PRICE, 0) == (aggregator.account.committed, 0)
    assert account.spent_total == 10 * PRICE


async def test_a_wallet_reconciles_by_itself_when_it_is_opened(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    wallet = await open_wallet()
    payment = await Buyer(wallet, seller).pay()
    assert payment
    await wallet.close()
    wallet = await open_wallet(reconcile_every_s=600)
    await until(lambda: "RevokeSpendKey" in aggregator.calls and "GetAccount" in aggregator.calls[-1:])
    await until(lambda: not any(channel.unknown for channel in wallet._book.channels.values()))
    assert (await account_of(wallet)).unknown == 0
    assert (await account_of(wallet)).spent_total == 0


async def test_reserved_payments_stay_unknown(wallet: Wallet, seller: FakeSeller, aggregator: FakeAggregator) -> None:
    buyer = Buyer(wallet, seller)
    await lose(buyer, 4, charged=1)
    (channel,) = aggregator.account.channels.values()
    channel.reserved = 2 * PRICE
    result = await wallet.reconcile()
    assert (result.charged, result.freed, result.unknown) == (PRICE, PRICE, 2 * PRICE)
    channel.reserved = 0
    channel.charged += PRICE
    result = await wallet.reconcile()
    assert (result.charged, result.freed, result.unknown) == (PRICE, PRICE, 0)


async def test_a_seller_that_lies_about_releases_is_found_out_and_stopped_by_the_budget(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    wallet = await open_wallet(budgets=Budgets(per_host="0.02"), max_headroom=4)
    buyer = Buyer(wallet, seller)

    async def cheat() -> None:
        while True:
            payment = await buyer.pay()
            try:
                buyer.charge(payment)
            finally:
                payment.deny()

    for _ in range(50):
        try:
            await cheat()
        except BudgetExceededError:
            break
        except FakeRefusal as refusal:
            if not await wallet.recover_from(buyer.offer(), refusal.reason):
                break
    else:
        pytest.fail("nothing ever stopped it")
    await wallet.reconcile()
    account = await account_of(wallet)
    assert account.charged + account.disputed == aggregator.account.committed <= 20 * PRICE
    assert (account.unknown, account.granted) == (0, 0)


async def test_an_aggregator_that_claims_too_much_gains_nothing(
    wallet: Wallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(wallet, seller)
    await buyer.buy()
    (channel,) = aggregator.account.channels.values()
    channel.charged = channel.ceiling = 10**30
    await wallet.reconcile()
    account = await account_of(wallet)
    signed = account.channels[0].ceiling
    assert signed <= 3 * PRICE
    assert account.charged + account.disputed == signed
    payment = await buyer.pay()
    assert payment.proof.ceiling <= signed + 64 * PRICE


async def test_an_aggregator_that_forgot_charges_makes_nothing_free(
    wallet: Wallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(wallet, seller)
    for _ in range(3):
        await buyer.buy()
    (channel,) = aggregator.account.channels.values()
    channel.charged = 0
    await wallet.reconcile()
    assert (await account_of(wallet)).charged == 3 * PRICE


async def test_many_channels_are_read_page_by_page(
    wallet: Wallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(wallet, seller)
    for host in "abcdefg":
        (await buyer.pay(host)).lose()
    result = await wallet.reconcile()
    assert result.freed + result.unknown == 7 * PRICE
    assert aggregator.calls.count("GetAccount") > 1


async def test_comparing_and_approving_take_time_in_proportion_to_the_channels(
    open_wallet: OpenWallet, seller: FakeSeller, tmp_path: Path
) -> None:
    found: dict[int, list[int]] = {}
    for count in (15, 60):
        wallet = await open_wallet(path=tmp_path / f"{count}.db", key=Signer(bytes([count] * 32)))
        buyer = Buyer(wallet, seller)
        for number in range(count):
            await buyer.buy(f"{number}.example")
            (await buyer.pay(f"{number}.example")).lose()
        found[count] = []
        for work in (wallet.reconcile, wallet.approve_totals):
            with Steps() as steps:
                await work()
            found[count].append(steps.count)
    for few, many in zip(found[15], found[60], strict=True):
        assert 0 < many < 5 * few


async def test_lost_vouchers_stay_unknown_until_their_payment_ids_are_too_old(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    now = [1_800_000_000.0]
    aggregator.clock = lambda: now[0]
    wallet = await open_wallet(proof="voucher", clock=lambda: now[0])
    buyer = Buyer(wallet, seller)
    await buyer.buy()
    await lose(buyer, 4, charged=1)
    await wallet.reconcile()
    assert (await account_of(wallet)).unknown == 4 * PRICE
    now[0] += 200_000
    await wallet.reconcile()
    account = await account_of(wallet)
    assert (account.charged, account.unknown) == (2 * PRICE, 0)


# What the aggregator tells of its retention, and what is waited for: 0 is for one that does not know the field.
@pytest.mark.parametrize(("told_s", "retention_s"), [(864_000, 864_000), (3_600, 3_600), (0, 172_800)])
async def test_a_lost_voucher_is_given_up_when_the_aggregator_refuses_its_payment_id_for_its_age(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator, told_s: int, retention_s: int
) -> None:
    now = [1_800_000_000.0]
    aggregator.clock = lambda: now[0]
    aggregator.retention_s = told_s
    wallet = await open_wallet(proof="voucher", clock=lambda: now[0])
    await lose(Buyer(wallet, seller), 2, charged=1)
    await wallet.reconcile()
    now[0] += retention_s + 3_599
    await wallet.reconcile()
    assert (await account_of(wallet)).unknown == 2 * PRICE
    now[0] += 2
    await wallet.reconcile()
    account = await account_of(wallet)
    assert (account.charged, account.unknown) == (PRICE, 0)


@given(unknown=st.integers(0, 100), beyond=st.integers(0, 150), reserved=st.integers(0, 150), is_quiet=st.booleans())
def test_no_verdict_makes_more_of_what_is_unknown(unknown: int, beyond: int, reserved: int, *, is_quiet: bool) -> None:
    verdict = judge(unknown=unknown, beyond=beyond, reserved=reserved, is_quiet=is_quiet)
    assert min(verdict) >= 0
    assert sum(verdict) == min(unknown, beyond + reserved)
    assert verdict.charged <= beyond
    assert is_quiet or verdict.charged == 0


# Approvals.


async def test_totals_that_are_in_the_book_are_approved(
    wallet: Wallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(wallet, seller)
    for host in "aab":
        await buyer.buy(host)
    assert await wallet.approve_totals() == 2
    assert aggregator.account.approved == {seller.receiver("a"): 2 * PRICE, seller.receiver("b"): PRICE}


async def test_what_is_under_way_or_unknown_may_be_approved(
    wallet: Wallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(wallet, seller)
    payment = await buyer.pay()
    buyer.charge(payment)
    assert await wallet.approve_totals() == 1
    payment.lose()
    assert await wallet.approve_totals() == 1
    assert aggregator.account.approved == {seller.receiver("a.example"): PRICE}


@pytest.mark.parametrize("beyond", [1, 500, 10**20])
async def test_a_total_above_the_book_is_refused_by_name(
    wallet: Wallet, seller: FakeSeller, aggregator: FakeAggregator, beyond: int
) -> None:
    buyer = Buyer(wallet, seller)
    for host in "aaaabb":
        await buyer.buy(host)

    def inflate(account: Account) -> list[tuple[bytes, int]]:
        totals = [(channel.config.receiver, channel.charged) for channel in account.channels.values()]
        return [(receiver, total + beyond * (receiver == seller.receiver("a"))) for receiver, total in totals]

    aggregator.propose = inflate
    with pytest.raises(ApprovalRefusedError, match=f"got {4 * PRICE + beyond}, allowed {4 * PRICE}"):
        await wallet.approve_totals()
    assert "ApproveTotals" not in aggregator.calls


@pytest.mark.parametrize("receiver", [bytes(20), b"", bytes([1] * 20), bytes([1] * 32)])
async def test_a_total_for_a_stranger_is_refused(
    wallet: Wallet, seller: FakeSeller, aggregator: FakeAggregator, receiver: bytes
) -> None:
    await Buyer(wallet, seller).buy()
    aggregator.propose = lambda _: [(receiver, 1)]
    with pytest.raises(ApprovalRefusedError, match="got 1, allowed 0"):
        await wallet.approve_totals()


async def test_what_is_disputed_is_never_approved(
    wallet: Wallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(wallet, seller)
    for _ in range(2):
        await buyer.buy()
    (channel,) = aggregator.account.channels.values()
    channel.charged += PRICE // 2
    await wallet.reconcile()
    assert (await account_of(wallet)).disputed == PRICE // 2
    with pytest.raises(ApprovalRefusedError):
        await wallet.approve_totals()


async def test_totals_are_approved_from_time_to_time(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    wallet = await open_wallet(approve_every_s=0.02)
    await Buyer(wallet, seller).buy()
    await until(lambda: bool(aggregator.account.approved))


async def test_a_refusal_to_reconcile_is_told(wallet: Wallet, seller: FakeSeller, aggregator: FakeAggregator) -> None:
    await Buyer(wallet, seller).buy()
    aggregator.refuse["GetAccount"] = Reason.CALL_SIGNATURE
    with pytest.raises(RefusedError, match="call_signature"):
        await wallet.reconcile()
