"""The wallet: grants, budgets, deposits, spend keys, refunds. Payments are charged by a fake aggregator."""

import asyncio
import dataclasses
from typing import Any

import pytest
from payer_buyer import REQUEST, Buyer, OpenWallet, account_of
from payer_fakes import DOMAIN, PRICE, FakeAggregator, FakeSeller, make_operator, until
from payer_fakes import RefusalError as FakeRefusal

from tallystick.errors import KeyReferenceError, MalformedError
from tallystick.reasons import Reason
from tallystick.signatures import Signer, recover
from tallystick.vouchers import voucher_digest
from tallystick_client import Budgets, DepositPolicy, Operator, Wallet
from tallystick_client.payer.errors import BookUnavailableError, BudgetExceededError
from tallystick_client.payer.wallet.grants import Payment
from tallystick_client.payer.wallet.schemes.deferred import DeferredScheme
from tallystick_client.payer.wallet.schemes.exact import ExactScheme
from tallystick_client.payer.wallet.timing import Timing
from tallystick_client.rpc import AggregatorUnavailableError

# Grants.


async def test_a_payment_carries_a_voucher_and_a_proof_that_hold(buyer: Buyer) -> None:
    payment = (await buyer.pay()).proof
    assert payment.spend is not None
    assert payment.spend.max_amount == PRICE
    digest = voucher_digest(DOMAIN.separator, payment.channel_id, payment.ceiling)
    assert recover(digest, payment.signature) == buyer.wallet.address


async def test_headroom_starts_at_one_request_and_doubles_to_its_maximum(
    open_wallet: OpenWallet, seller: FakeSeller
) -> None:
    buyer = Buyer(await open_wallet(max_headroom=8), seller)
    granted: list[int] = []
    for _ in range(40):
        payment = await buyer.buy()
        ceiling = payment.proof.ceiling // PRICE
        if not granted or granted[-1] != ceiling:
            granted.append(ceiling)
    assert granted == [1, 3, 7, 15, 23, 31, 39, 47]


async def test_what_is_in_flight_at_once_is_granted_at_once(buyer: Buyer) -> None:
    payments = await asyncio.gather(*(buyer.pay() for _ in range(300)))
    assert max(payment.proof.ceiling for payment in payments) == 300 * PRICE
    assert len({payment.proof.payment_id for payment in payments}) == 300


async def test_free_headroom_is_reused_before_a_ceiling_is_raised(buyer: Buyer) -> None:
    for _ in range(20):
        (await buyer.pay()).release()
    account = await account_of(buyer.wallet)
    assert account.channels[0].ceiling == PRICE
    assert account.charged == 0


async def test_a_partly_charged_payment_leaves_the_rest_to_the_next(buyer: Buyer, aggregator: FakeAggregator) -> None:
    for _ in range(4):
        payment = await buyer.pay()
        payment.settle(aggregator.charge(payment.proof, PRICE // 4, REQUEST))
    account = await account_of(buyer.wallet)
    assert account.charged == PRICE
    assert account.channels[0].ceiling == 3 * PRICE
    assert account.granted == 2 * PRICE


async def test_the_order_in_which_payments_arrive_does_not_matter(buyer: Buyer, aggregator: FakeAggregator) -> None:
    payments = [await buyer.pay() for _ in range(30)]
    for payment in reversed(payments):
        payment.settle(aggregator.charge(payment.proof, PRICE, REQUEST))
    assert (await account_of(buyer.wallet)).charged == 30 * PRICE


async def test_a_payment_whose_buyer_went_away_in_line_is_not_lost(buyer: Buyer, aggregator: FakeAggregator) -> None:
    aggregator.delay_s = 0.02
    tasks = [asyncio.create_task(buyer.pay()) for _ in range(10)]
    await until(lambda: bool(aggregator.calls))
    for task in tasks[:5]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, Payment) for result in results) == 5
    account = await account_of(buyer.wallet)
    assert account.unknown == 0
    assert account.granted <= 10 * PRICE


async def test_two_hosts_of_one_receiver_share_its_channel(buyer: Buyer, aggregator: FakeAggregator) -> None:
    offer = buyer.offer("a.example")
    for host in ("www.a.example", "a.example"):
        payment = await buyer.wallet.grants.pay(offer, host, REQUEST)
        payment.settle(aggregator.charge(payment.proof, PRICE, REQUEST))
    (channel,) = (await account_of(buyer.wallet)).channels
    assert channel.charged == 2 * PRICE


async def test_a_payment_by_voucher_uses_each_ceiling_once(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(await open_wallet(proof="voucher"), seller)
    payments = await asyncio.gather(*(buyer.pay() for _ in range(20)))
    payments[3].release()
    for payment in reversed(payments):
        if payment is not payments[3]:
            payment.settle(aggregator.charge(payment.proof, PRICE, REQUEST))
    for _ in range(20):
        await buyer.buy()
    assert "RegisterSpendKey" not in aggregator.calls
    account = await account_of(buyer.wallet)
    assert account.charged == 39 * PRICE == aggregator.account.committed
    assert len({payment.proof.ceiling for payment in payments}) == 20


# Budgets.


@pytest.mark.parametrize(
    ("budgets", "name"),
    [
        (Budgets(per_host="0.01"), r"per_host \(a.example\)"),
        (Budgets(per_day="0.01"), "per_day"),
        (Budgets(total="0.01"), "total"),
        (Budgets(total=10_000), "total"),
    ],
)
async def test_no_budget_is_exceeded(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator, budgets: Budgets, name: str
) -> None:
    buyer = Buyer(await open_wallet(budgets=budgets), seller)
    results = await asyncio.gather(*(buyer.buy() for _ in range(30)), return_exceptions=True)
    assert sum(isinstance(result, Payment) for result in results) == 10
    assert all(isinstance(result, Payment | BudgetExceededError) for result in results)
    with pytest.raises(BudgetExceededError, match=name):
        await buyer.buy()
    assert aggregator.account.committed == 10_000
    assert max(channel.ceiling for channel in (await account_of(buyer.wallet)).channels) == 10_000


async def test_a_budget_counts_over_hosts_and_calls_idle_headroom_back(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(await open_wallet(budgets=Budgets(total="0.02")), seller)
    for host in "abcdefghij":
        await buyer.buy(host)
        await buyer.buy(host)
    with pytest.raises(BudgetExceededError):
        await buyer.buy("k")
    assert aggregator.account.committed == 20 * PRICE


async def test_a_host_over_its_budget_does_not_stop_others(open_wallet: OpenWallet, seller: FakeSeller) -> None:
    buyer = Buyer(await open_wallet(budgets=Budgets(per_host="0.001")), seller)
    await buyer.buy("a")
    with pytest.raises(BudgetExceededError):
        await buyer.buy("a")
    await buyer.buy("b")


async def test_who_asks_for_less_is_served_where_more_is_refused(open_wallet: OpenWallet, seller: FakeSeller) -> None:
    buyer = Buyer(await open_wallet(budgets=Budgets(total="0.0015")), seller)
    dear, cheap = await asyncio.gather(buyer.buy(amount=2_000), buyer.buy(amount=1_000), return_exceptions=True)
    assert isinstance(dear, BudgetExceededError)
    assert isinstance(cheap, Payment)


async def test_a_new_day_has_a_new_budget(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    now = [1_800_000_000.0]
    aggregator.clock = lambda: now[0]
    buyer = Buyer(await open_wallet(budgets=Budgets(per_day="0.002"), clock=lambda: now[0]), seller)
    for _ in range(2):
        await buyer.buy()
    with pytest.raises(BudgetExceededError, match="per_day"):
        await buyer.buy()
    now[0] += 86_400
    for _ in range(2):
        await buyer.buy()
    with pytest.raises(BudgetExceededError, match="per_day"):
        await buyer.buy()


async def test_a_budget_survives_a_restart(open_wallet: OpenWallet, seller: FakeSeller) -> None:
    for expected in (1, 0):
        wallet = await open_wallet(budgets=Budgets(total="0.001"))
        results = await asyncio.gather(Buyer(wallet, seller).buy(), return_exceptions=True)
        assert sum(isinstance(result, Payment) for result in results) == expected
        await wallet.close()


@pytest.mark.parametrize(
    "budgets",
    [
        Budgets(total="1.0000001"),
        Budgets(total="-1"),
        Budgets(per_day="1e3"),
        Budgets(per_host=1.5),  # type: ignore[arg-type]
        Budgets(per_request=-1),
        Budgets(per_request=True),
        Budgets(per_request=2**128),
        Budgets(total=""),
        Budgets(total="0.1 USDC"),
    ],
)
async def test_a_budget_of_another_form_is_refused_at_start(open_wallet: OpenWallet, budgets: Budgets) -> None:
    with pytest.raises(MalformedError, match=r"budgets\."):
        await open_wallet(budgets=budgets)


@pytest.mark.parametrize(("low", "high"), [("2", "1"), ("0", "0"), ("0.0000001", "1")])
async def test_a_deposit_policy_that_cannot_work_is_refused_at_start(
    open_wallet: OpenWallet, low: str, high: str
) -> None:
    with pytest.raises(MalformedError, match="deposit"):
        await open_wallet(deposit=DepositPolicy(low, high))


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ({"max_headroom": 0}, "max_headroom: got 0, allowed at least 1 request"),
        ({"key_ttl_s": 300}, "key_ttl_s: got 300, allowed more than 300 s"),
        ({"proof": "promise"}, "proof: got 'promise', allowed spend_key or voucher"),
    ],
)
async def test_a_setting_that_cannot_work_is_told(open_wallet: OpenWallet, setting: Any, problem: str) -> None:
    with pytest.raises(MalformedError) as caught:
        await open_wallet(**setting)
    assert str(caught.value) == problem


# Spend keys.


async def test_a_key_is_replaced_before_its_cap_is_reached(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    buyer = Buyer(await open_wallet(deposit=DepositPolicy(low="0", high="0.01"), max_headroom=4), seller)
    for _ in range(35):
        await buyer.buy()
    keys = aggregator.account.keys
    assert len(keys) == 4
    assert all(key.cap <= 10_000 and key.spent <= key.cap for key in keys.values())


async def test_a_key_is_replaced_before_it_expires(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    now = [1_800_000_000.0]
    aggregator.clock = lambda: now[0]
    buyer = Buyer(await open_wallet(key_ttl_s=1_000, clock=lambda: now[0]), seller)
    for second, keys in ((0, 1), (690, 1), (701, 2), (1_390, 2), (1_402, 3)):
        now[0] = 1_800_000_000.0 + second
        await buyer.buy()
        assert len(aggregator.account.keys) == keys


@pytest.mark.parametrize("reason", [Reason.SPEND_KEY_REVOKED, Reason.SPEND_KEY_UNKNOWN, Reason.SPEND_KEY_EXHAUSTED])
async def test_a_key_that_is_refused_is_replaced(buyer: Buyer, aggregator: FakeAggregator, reason: Reason) -> None:
    await buyer.buy()
    (key,) = aggregator.account.keys.values()
    key.revoked = True
    payment = await buyer.pay()
    with pytest.raises(FakeRefusal):
        aggregator.charge(payment.proof, PRICE, REQUEST)
    payment.release()
    assert await buyer.wallet.recover_from(buyer.offer(), reason)
    await buyer.buy()
    assert len(aggregator.account.keys) == 2


@pytest.mark.parametrize("reason", [Reason.UNSPECIFIED, Reason.PAYMENT_ID_REUSED, Reason.WITHDRAWING])
async def test_there_is_no_remedy_for_the_rest(buyer: Buyer, reason: Reason) -> None:
    await buyer.buy()
    assert not await buyer.wallet.recover_from(buyer.offer(), reason)


# Refunds.


async def test_a_refund_brings_everything_back_that_is_not_owed(buyer: Buyer, aggregator: FakeAggregator) -> None:
    for _ in range(5):
        await buyer.buy()
    (refund,) = await buyer.wallet.refund()
    assert refund.amount == 1_000_000 - 5 * PRICE
    account = await account_of(buyer.wallet)
    assert account.deposited == account.charged + account.returned
    assert (account.free, account.granted) == (0, 0)
    assert aggregator.account.funds == 5 * PRICE


async def test_a_refund_whose_answer_was_lost_is_asked_for_again_not_twice(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    wallet = await open_wallet(timing=Timing(retry_pauses_s=()))
    await Buyer(wallet, seller).buy()
    aggregator.lose_answers["RequestRefund"] = 1
    with pytest.raises(AggregatorUnavailableError):
        await wallet.refund()
    await wallet.close()
    wallet = await open_wallet()
    await wallet.reconcile()
    account = await account_of(wallet)
    assert account.returned == 999_000
    assert len(aggregator.account.refunds) == 1
    assert [refund.amount for refund in await wallet.refund()] == [0]


async def test_after_a_refund_the_next_payment_deposits_again(buyer: Buyer, aggregator: FakeAggregator) -> None:
    await buyer.buy()
    await buyer.wallet.refund()
    await buyer.buy()
    assert len(aggregator.account.deposits) == 2


async def looked_after_twice(wallet: Wallet) -> None:
    """As it does every second; what it tops up then has ended."""
    for _ in range(2):
        await wallet.flush()
        await asyncio.gather(*wallet._allocator._top_ups.values())


async def test_an_account_that_was_emptied_is_not_filled_again_by_itself(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    wallet = await open_wallet()
    await Buyer(wallet, seller).buy()
    await wallet.refund()
    await looked_after_twice(wallet)
    await wallet.close()
    wallet = await open_wallet()
    await looked_after_twice(wallet)
    assert (await account_of(wallet)).free == 0
    assert aggregator.calls.count("Deposit") == 1


@pytest.mark.parametrize(
    ("schemes", "got"), [((), "none"), ((DeferredScheme(), ExactScheme()) * 2, "deferred, exact, deferred, exact")]
)
async def test_schemes_have_a_name_of_their_own_each(open_wallet: OpenWallet, schemes: Any, got: str) -> None:
    with pytest.raises(MalformedError, match=f"schemes: got {got}, allowed at least one"):
        await open_wallet(schemes=schemes)


# The file.


async def test_a_second_process_is_refused_in_one_sentence(open_wallet: OpenWallet, wallet: Wallet) -> None:
    assert wallet.address
    with pytest.raises(BookUnavailableError, match=r"wallet\.db is in use by another process; only one may open it$"):
        await open_wallet()


async def test_the_file_can_be_opened_again_after_it_was_closed(open_wallet: OpenWallet, wallet: Wallet) -> None:
    await wallet.close()
    assert (await open_wallet()).address == wallet.address


async def test_a_wallet_of_another_payer_is_refused(open_wallet: OpenWallet, wallet: Wallet) -> None:
    await wallet.close()
    with pytest.raises(BookUnavailableError, match="its payer is 0x"):
        await open_wallet(key=Signer(bytes([0x12] * 32)))


async def test_a_file_that_is_no_wallet_is_refused(open_wallet: OpenWallet, tmp_path: Any) -> None:
    (tmp_path / "letter.db").write_text("Dear Sir or Madam, " * 100)
    with pytest.raises(BookUnavailableError, match="cannot be used"):
        await open_wallet(path=tmp_path / "letter.db")
    with pytest.raises(BookUnavailableError, match="cannot be opened"):
        await open_wallet(path=tmp_path)


async def test_the_file_is_the_owners_alone(wallet: Wallet, tmp_path: Any) -> None:
    assert wallet.address
    assert (tmp_path / "wallet.db").stat().st_mode & 0o077 == 0


async def test_a_key_reference_that_leads_nowhere_is_told(open_wallet: OpenWallet) -> None:
    with pytest.raises(KeyReferenceError, match="TALLYSTICK_TEST_NO_SUCH_KEY"):
        await open_wallet(key="env:TALLYSTICK_TEST_NO_SUCH_KEY")


async def test_no_secret_is_in_the_file(buyer: Buyer, aggregator: FakeAggregator, tmp_path: Any) -> None:
    await buyer.buy()
    await buyer.wallet.close()
    (key,) = aggregator.account.keys.values()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for secret in (key.secret, bytes([0x11] * 32)):
        assert secret not in content
        assert secret.hex().encode() not in content


async def test_an_operator_that_is_no_longer_allowed_is_not_paid(
    open_wallet: OpenWallet, seller: FakeSeller, operator: Operator
) -> None:
    wallet = await open_wallet()
    await Buyer(wallet, seller).buy()
    await wallet.close()
    other = dataclasses.replace(operator, operator=bytes([0x0A] * 20))
    wallet = await open_wallet(operators=[other])
    assert (await wallet.status()).accounts == []


async def test_an_aggregator_that_is_away_is_told_and_waited_for_no_longer_than_needed(
    open_wallet: OpenWallet, seller: FakeSeller
) -> None:
    wallet = await open_wallet(timing=Timing(retry_pauses_s=(0.01, 0.01)), operators=[make_operator("127.0.0.1:1")])
    with pytest.raises(AggregatorUnavailableError):
        await Buyer(wallet, seller).buy()
