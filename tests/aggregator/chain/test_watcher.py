"""The mirror of the escrow in the ledger, on a real chain: deposits, withdrawals, reorganisations, restarts."""

from dataclasses import replace

import pytest
from harness import chain_side, until

from anvil import DELAY_S, Devnet, receiver
from tallystick.reasons import Reason
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.invariants import check_invariants

SELLER = receiver(1)


async def test_a_deposit_opens_the_account_and_counts(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with chain_side(devnet) as side:
        await side.fund(payer, 5_000_000, SELLER)
        assert side.account(payer).funds == 5_000_000
        assert side.account(payer).config == payer.config
        assert isinstance(await side.charge(payer, SELLER, 7), Accepted)


async def test_a_deposit_counts_after_its_confirmations_and_not_before(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with chain_side(devnet, confirmations=3) as side:
        await side.fund(payer, 5_000_000, SELLER)
        assert side.account(payer).funds == 0
        devnet.anvil.mine(2)
        await side.mirrored()
        assert side.account(payer).funds == 0
        refusal = await side.charge(payer, SELLER, 7)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.INSUFFICIENT_FUNDS
        devnet.anvil.mine(1)
        await side.mirrored()
        assert side.account(payer).funds == 5_000_000


async def test_a_reorganisation_takes_back_a_deposit(devnet: Devnet) -> None:
    payer = devnet.payer()
    devnet.anvil.mine(5)
    async with chain_side(devnet) as side:
        await side.fund(payer, 5_000_000)
        assert side.account(payer).funds == 5_000_000
        devnet.anvil.reorg(1)
        await until(lambda: side.account(payer).funds == 0)
        payer.deposit(2_000_000)
        await side.mirrored()
        assert side.account(payer).funds == 2_000_000


async def test_a_reorganisation_while_nobody_looks_is_seen_at_the_next_start(devnet: Devnet) -> None:
    payer, other = devnet.payer(), devnet.payer()
    devnet.anvil.mine(5)
    async with chain_side(devnet) as side:
        await side.fund(payer, 5_000_000)
        disk = side.disk
    devnet.anvil.reorg(3)
    other.deposit(3_000_000)
    async with chain_side(devnet, disk=disk) as side:
        assert side.account(payer).funds == 0
        assert side.account(other).funds == 3_000_000


async def test_everything_is_read_again_before_a_restart_serves(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with chain_side(devnet) as side:
        await side.fund(payer, 5_000_000, SELLER)
        disk = side.disk
    payer.initiate_withdraw(1_000_000)
    other = devnet.payer()
    other.deposit(1_000_000)
    async with chain_side(devnet, disk=disk, start=False) as side:
        assert side.chain.stale()
        refusal = await side.charge(payer, SELLER, 1)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.CHAIN_STALE
        await side.chain.start()
        assert not side.chain.stale()
        assert side.account(payer).withdrawing == 1_000_000
        assert side.account(other).funds == 1_000_000


async def test_a_withdrawal_is_seen_at_first_sight_and_its_end_too(devnet: Devnet) -> None:
    payer = devnet.payer()
    seen: list[bool] = []
    async with chain_side(devnet, confirmations=2) as side:
        side.chain.on_withdrawal(lambda: seen.append(True))
        payer.deposit(5_000_000)
        devnet.anvil.mine(2)
        await side.mirrored()
        payer.initiate_withdraw(2**128 - 1)
        await side.mirrored()
        account = side.account(payer)
        assert (account.funds, account.withdrawing) == (5_000_000, 5_000_000)
        assert account.available == 0
        assert seen == [True]
        devnet.anvil.advance(DELAY_S + 1)
        payer.finalize_withdraw()
        await side.mirrored()
        account = side.account(payer)
        assert (account.funds, account.withdrawing, account.withdraw_finalizes_at) == (0, 0, 0)
        devnet.anvil.mine(3)
        await side.mirrored()
        assert side.account(payer).funds == 0


async def test_a_cancelled_withdrawal_frees_the_funds(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with chain_side(devnet) as side:
        await side.fund(payer, 5_000_000)
        payer.initiate_withdraw(5_000_000)
        await side.mirrored()
        assert side.account(payer).available == 0
        payer.cancel_withdraw()
        await side.mirrored()
        assert side.account(payer).available == 5_000_000


async def test_a_deposit_does_not_hide_a_withdrawal_of_the_same_moment(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with chain_side(devnet, confirmations=4) as side:
        payer.deposit(5_000_000)
        payer.initiate_withdraw(3_000_000)
        devnet.anvil.mine(4)
        devnet.anvil.advance(DELAY_S + 1)
        await side.mirrored()
        payer.finalize_withdraw()
        payer.deposit(3_000_000)
        await side.mirrored()
        assert side.account(payer).funds == 2_000_000  # the new deposit is not final, and the old one is gone
        devnet.anvil.mine(4)
        await side.mirrored()
        assert side.account(payer).funds == 5_000_000


async def test_accounts_of_others_tokens_and_delays_are_left_alone(devnet: Devnet) -> None:
    mine, small = devnet.payer(), devnet.payer()
    foreign = replace(mine, config=replace(mine.config, receiver_authorizer=bytes(19) + b"\x01"))
    hasty = replace(mine, config=replace(mine.config, withdraw_delay_s=900))
    async with chain_side(devnet, withdraw_delay_s_min=3_600) as side:
        for payer in (mine, foreign, hasty):
            payer.deposit(1_000_000)
        small.deposit(999)
        await side.mirrored()
        assert set(side.ledger.accounts) == {mine.account_id}
        small.deposit(1)  # now it is worth the minimum deposit
        await side.mirrored()
        assert side.account(small).funds == 1_000


async def test_an_introduced_account_is_read_although_its_opening_was_never_seen(devnet: Devnet) -> None:
    payer = devnet.payer()
    payer.deposit(1_000_000)
    async with chain_side(devnet, escrow_block=devnet.anvil.block_number + 1) as side:
        assert payer.account_id not in side.ledger.accounts
        side.chain.introduce(payer.config)
        await until(lambda: payer.account_id in side.ledger.accounts)
        assert side.account(payer).funds == 1_000_000


async def test_many_accounts_are_taken_in_and_balance(devnet: Devnet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick_aggregator.chain.watcher.ACCOUNTS_PER_DECISION", 4)
    monkeypatch.setattr("tallystick_aggregator.chain.deferred_escrow.ITEMS_PER_READ", 3)
    payers = [devnet.payer() for _ in range(11)]
    for number, payer in enumerate(payers):
        payer.deposit(10_000 + number)
    async with chain_side(devnet) as side:
        assert {side.account(payer).funds - number for number, payer in enumerate(payers)} == {10_000}
        check_invariants(side.ledger)
