"""Endpoints as ordinary plans have them: limited, incomplete, rate limited, forgetful. Everything works all the same.

The whole way each time: deposits, payments by spend key and by voucher, an exact one, settlement, equal books.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
from house import House, house

from anvil import DELAY_S, Devnet, Payer
from rpc_faults import Delay, Drop, Duplicate, Rule, limits
from tallystick.hexadecimal import to_hex
from trade import Customer
from waiting import until

DEPOSIT = 1_000_000
PRICE = 10_000
OLD_BLOCKS = 120
SENDS = frozenset({"eth_sendRawTransaction"})


async def market_day(home: House) -> None:
    """A day at the market: a payer of each kind, and whoever sells is paid to the unit."""
    by_voucher, by_key = await home.depositor(DEPOSIT), await home.depositor(DEPOSIT, by_key=True)
    for customer in (by_voucher, by_key):
        for _ in range(3):
            await customer.pay(home.stall, PRICE, patience_s=20)
        assert customer.book.accepted[home.stall.receiver] == 3 * PRICE
    exact = home.customer()
    home.devnet.anvil.mint(home.devnet.token, exact.payer.signer.address, PRICE)
    assert (await exact.pay_exact(home.stall, PRICE)).accepted
    await home.books_agree()


def pending_account(devnet: Devnet) -> Payer:
    """An account that was opened before the aggregator ever started, many blocks ago."""
    payer = devnet.payer()
    payer.deposit(DEPOSIT)
    devnet.anvil.mine(OLD_BLOCKS)
    return payer


@pytest.mark.parametrize(
    ("blocks", "provider"),
    [
        (500, "infura"),
        (50, "publicnode"),
        (50, "ankr"),
        (50, "drpc"),
        (10, "alchemy"),
        (10, "quicknode"),
        (10, "cloudflare"),
    ],
)
async def test_r1_a_limited_range_of_events_is_kept_to(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture, blocks: int, provider: str
) -> None:
    payer = pending_account(devnet)
    devnet.anvil.mine(5 * blocks)
    async with house(devnet, tmp_path, caplog, [limits.limited_ranges(blocks, provider)]) as home:
        known = Customer(payer, home.customer().account.operator)
        home.customers.append(known)
        assert (await known.funded(DEPOSIT)).funds == DEPOSIT
        asked_in_vain = len(home.proxies[0].journal)
        devnet.anvil.mine(3 * blocks)
        await market_day(home)
        assert len(home.proxies[0].journal) <= asked_in_vain + 2, "what is too wide is remembered"


async def test_r1_each_endpoint_is_asked_for_what_it_allows(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pending_account(devnet)
    rules = [
        [limits.limited_ranges(10, "alchemy"), limits.rate_limited(share=0.1)],
        [limits.limited_ranges(50, "drpc")],
    ]
    async with house(devnet, tmp_path, caplog, *rules) as home:
        await market_day(home)


async def test_r2_a_node_without_a_priority_fee_of_its_own_is_no_hindrance(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(devnet, tmp_path, caplog, [limits.without("eth_maxPriorityFeePerGas")]) as home:
        await market_day(home)


async def test_r4_a_node_that_takes_no_block_hashes_is_asked_by_number(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(devnet, tmp_path, caplog, [limits.without_block_hashes()], chain={"confirmations": 2}) as home:
        customer = home.customer()
        customer.payer.deposit(DEPOSIT)
        devnet.anvil.mine(2)
        await customer.funded(DEPOSIT)
        await customer.pay(home.stall, PRICE, patience_s=20)
        assert customer.book.accepted[home.stall.receiver] == PRICE
        await home.books_agree()


async def test_r1_r2_and_r4_at_once(devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pending_account(devnet)
    rules = [
        limits.limited_ranges(10, "quicknode"),
        limits.without("eth_maxPriorityFeePerGas"),
        limits.without_block_hashes(),
    ]
    async with house(devnet, tmp_path, caplog, rules) as home:
        await market_day(home)


async def test_r12_a_passing_gas_error_sets_no_claim_aside(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(devnet, tmp_path, caplog, []) as home:
        customer = await home.depositor(DEPOSIT)
        await customer.pay(home.stall, PRICE)
        rule = home.lie(limits.passing_gas_error())
        first = await home.settle(home.stall)
        await home.told(rule)
        assert first or first.left_out, "an empty list alone would say that nothing was owed"
        await home.books_agree(10)


async def test_r12_a_passing_gas_error_delays_no_withdrawals_claim(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(devnet, tmp_path, caplog, []) as home:
        customer = await home.depositor(DEPOSIT)
        await home.books_agree()
        await customer.pay(home.stall, PRICE)
        claims = to_hex(devnet.escrow)
        rule = home.lie(limits.passing_gas_error(when=lambda question: question.params[0]["to"] == claims))
        customer.payer.initiate_withdraw(DEPOSIT)
        await home.told(rule)

        async def paid() -> bool:
            return home.claimed(customer, home.stall) == PRICE

        await until(paid, timeout_s=20)
        devnet.anvil.advance(DELAY_S + 1)
        customer.payer.finalize_withdraw()
        await home.books_agree()


@pytest.mark.parametrize("text", [False, True], ids=["json", "words"])
async def test_endpoints_that_refuse_a_tenth_of_all_questions_are_enough(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: bool
) -> None:
    rules = [[limits.rate_limited(share=0.1, text=text)], [limits.rate_limited(share=0.1, text=text)]]
    async with house(devnet, tmp_path, caplog, [], []) as home:
        for proxy, of_one in zip(home.proxies, rules, strict=True):
            proxy.add(*of_one)
        await market_day(home)


@pytest.mark.parametrize(
    "rules",
    [
        [Rule("lost question", Drop(), share=0.05)],
        [Rule("lost transaction", Drop(), SENDS, times=2)],
        [Rule("lost reply", Drop(reaches_node=True), SENDS, times=2)],
        [Rule("twice", Duplicate(), share=0.3)],
        [Rule("slow", Delay(0.1), share=0.5)],
        [Rule("too slow", Delay(3), share=0.1, times=4)],
    ],
    ids=lambda rules: rules[0].kind,
)
async def test_what_is_lost_doubled_or_late_costs_nobody_anything(
    devnet: Devnet, tmp_path: Path, caplog: pytest.LogCaptureFixture, rules: Sequence[Rule]
) -> None:
    fresh = [Rule(rule.kind, rule.effect, rule.methods, times=rule.times, share=rule.share) for rule in rules]
    async with house(devnet, tmp_path, caplog, [], []) as home:
        home.proxies[0].add(*fresh)
        await market_day(home)
        assert fresh[0].count
