"""One wrong answer of an endpoint, once: it costs nobody anything, and it is noticed.

The whole way each time: payers, sellers, gRPC, the ledger, a real chain; the lie is told by a proxy in between.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from house import House, house

from anvil import DELAY_S, Devnet
from rpc_faults import Drop, Rule, lies
from trade import Customer, Stall
from waiting import until

DEPOSIT = 1_000_000
PRICE = 100_000


async def spend(customer: Customer, stall: Stall, amount: int, *, step: int = PRICE) -> int:
    """Try to spend so much; what was accepted."""
    before = customer.book.accepted[stall.receiver]
    for _ in range(amount // step):
        await customer.pay(stall, step)
    return customer.book.accepted[stall.receiver] - before


@pytest.mark.parametrize("endpoints", [1, 2])
@pytest.mark.parametrize("confirmations", [0, 3])
async def test_r7_events_left_out_once_hide_no_withdrawal(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture, endpoints: int, confirmations: int
) -> None:
    chain = {"confirmations": confirmations}
    async with house(devnet, tmp_path, caplog, *([[]] * endpoints), chain=chain) as home:
        customer = home.customer()
        customer.payer.deposit(DEPOSIT)
        devnet.anvil.mine(confirmations)
        await customer.funded(DEPOSIT)
        assert await spend(customer, home.stall, PRICE) == PRICE
        await home.books_agree()  # now no claim's event tells of the account again,
        devnet.anvil.mine(confirmations + 1)  # and the last one is final
        rule = home.lie(lies.empty_logs([customer.payer.account_id]))
        customer.payer.initiate_withdraw(DEPOSIT - PRICE)
        await home.told(rule)
        devnet.anvil.mine(confirmations + 1)  # the chain goes on
        await until(lambda: knows_withdrawal(customer))
        assert home.alarmed(), "an answer that left events out is told loudly"
        assert await spend(customer, home.stall, DEPOSIT) == 0, "what is being withdrawn is not charged"
        await home.books_agree()
        devnet.anvil.advance(DELAY_S + 1)
        customer.payer.finalize_withdraw()
        await home.books_agree()


@pytest.mark.parametrize("endpoints", [1, 2])
@pytest.mark.parametrize("confirmations", [0, 3])
async def test_r8_a_balance_told_too_high_once_is_no_credit(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture, endpoints: int, confirmations: int
) -> None:
    chain = {"confirmations": confirmations}
    async with house(devnet, tmp_path, caplog, *([[]] * endpoints), chain=chain) as home:
        customer = home.customer()
        customer.payer.deposit(PRICE)
        devnet.anvil.mine(confirmations)
        await customer.funded(PRICE)
        rule = home.lie(lies.inflated_balance(devnet.escrow, [customer.payer.account_id], 1_000 * DEPOSIT))
        customer.payer.deposit(PRICE)  # makes the aggregator read the account again
        await home.told(rule)
        devnet.anvil.mine(confirmations)
        state = await customer.funded(2 * PRICE)
        assert await spend(customer, home.stall, 20 * PRICE) == 2 * PRICE
        state = await customer.state()
        assert state is not None
        assert state.funds == 2 * PRICE
        if confirmations == 0:  # else the head's own balance contradicts it, and nothing was believed
            assert home.alarmed()
        await home.books_agree()


async def test_r8_what_was_paid_out_told_too_high_once_leaves_no_seller_unpaid(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(devnet, tmp_path, caplog, []) as home:
        customer = await home.depositor(DEPOSIT)
        assert await spend(customer, home.stall, 3 * PRICE) == 3 * PRICE
        channel = customer.payer.channel_id(home.stall.receiver)
        rule = home.lie(lies.inflated_claimed(devnet.escrow, [channel], 3 * PRICE))
        customer.payer.deposit(PRICE)
        await home.told(rule)
        await home.books_agree()
        assert home.alarmed()


async def test_r8_a_withdrawal_missing_from_one_reading_is_found_by_the_next(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(devnet, tmp_path, caplog, []) as home:
        customer = await home.depositor(DEPOSIT)
        rule = home.lie(lies.hidden_withdrawal(devnet.escrow, [customer.payer.account_id]))
        customer.payer.initiate_withdraw(DEPOSIT)
        await home.told(rule)
        await until(lambda: knows_withdrawal(customer))
        assert await spend(customer, home.stall, DEPOSIT) == 0
        assert home.alarmed()
        await home.books_agree()


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
async def test_r8_a_withdrawal_missing_from_the_only_answer_that_there_is_counts_all_the_same(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture, known: bool
) -> None:
    async with house(devnet, tmp_path, caplog, [], []) as home:
        customer = await home.depositor(DEPOSIT)
        assert await spend(customer, home.stall, PRICE) == PRICE
        await home.books_agree()
        if known:
            customer.payer.initiate_withdraw(DEPOSIT)
            await until(lambda: knows_withdrawal(customer))
        down = home.lie(Rule("down", Drop()), home.proxies[1])
        rule = home.lie(lies.hidden_withdrawal(devnet.escrow, [customer.payer.account_id]), home.proxies[0])
        if known:
            customer.payer.deposit(PRICE)  # makes the aggregator read the account again
        else:
            customer.payer.initiate_withdraw(DEPOSIT)
        await home.told(rule)
        await until(lambda: knows_withdrawal(customer))
        home.proxies[1].remove(down)
        assert await spend(customer, home.stall, DEPOSIT) <= (PRICE if known else 0)
        await home.books_agree()


@pytest.mark.parametrize(("endpoints", "drop"), [(1, False), (2, False), (2, True)])
async def test_r9_a_receipt_of_what_was_never_mined_pays_for_nothing(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture, endpoints: int, drop: bool
) -> None:
    async with house(devnet, tmp_path, caplog, *([[]] * endpoints)) as home:
        customer = home.customer()
        devnet.anvil.mint(devnet.token, customer.payer.signer.address, PRICE)
        rule = home.lie(lies.made_up_receipt(drop=drop), home.proxies[0])
        devnet.anvil.automine(on=False)
        paying = asyncio.create_task(customer.pay_exact(home.stall, PRICE))
        await home.told(rule)
        await until(lambda: alarmed(home))
        assert not paying.done(), "nothing has reached the seller yet"
        devnet.anvil.automine(on=True)
        devnet.anvil.mine()
        # A pool that has lost it is offered it again after a while.
        assert (await asyncio.wait_for(paying, 40)).accepted
        await home.books_agree()


async def test_r9_a_claim_that_one_endpoint_says_was_mined_is_paid_all_the_same(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(devnet, tmp_path, caplog, [], []) as home:
        customer = await home.depositor(DEPOSIT)
        assert await spend(customer, home.stall, 2 * PRICE) == 2 * PRICE
        rule = home.lie(lies.made_up_receipt(drop=False), home.proxies[0])
        devnet.anvil.automine(on=False)
        settling = asyncio.create_task(home.settle(home.stall))
        await home.told(rule)
        devnet.anvil.mine()
        devnet.anvil.automine(on=True)
        await settling
        await home.books_agree()
        assert home.alarmed()


@pytest.mark.parametrize("make", [lies.head_far_ahead, lies.forked_head])
async def test_r10_a_wrong_head_once_stops_nothing(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any
) -> None:
    async with house(devnet, tmp_path, caplog, []) as home:
        rule = home.lie(make())
        customer = await home.depositor(DEPOSIT)
        await home.told(rule)
        assert await spend(customer, home.stall, 2 * PRICE) == 2 * PRICE
        await home.books_agree()


@pytest.mark.parametrize("make", [lies.head_far_ahead, lies.forked_head])
@pytest.mark.parametrize("liar", [0, 1])
async def test_r10_an_endpoint_on_another_chain_stops_nothing_and_is_named(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any, liar: int
) -> None:
    async with house(devnet, tmp_path, caplog, [], []) as home:
        home.lie(lies.for_ever(make()), home.proxies[liar])
        customer = await home.depositor(DEPOSIT)
        assert await spend(customer, home.stall, 2 * PRICE) == 2 * PRICE
        await home.books_agree()
        await until(lambda: named(home.alarmed(), home.proxies[liar].url))


async def knows_withdrawal(customer: Customer) -> bool:
    state = await customer.state()
    return state is not None and state.withdrawing > 0


async def alarmed(home: House) -> bool:
    return bool(home.alarmed())


async def named(alarms: list[str], url: str) -> bool:
    """Whether an alarm names this endpoint: its host and port, never its path."""
    address = url.partition("://")[2].partition("/")[0]
    return any(address in alarm for alarm in alarms)
