"""The mirror of the escrow in the ledger, on a real chain: deposits, withdrawals, reorganisations, restarts."""

from dataclasses import replace

import pytest
from harness import chain_side

from _anvil import function
from anvil import DELAY_S, Devnet, receiver
from tallystick.reasons import Reason
from tallystick_aggregator.chain.port import Send
from tallystick_aggregator.chain.settings import ChainLimits
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.invariants import check_invariants
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.store.port import TransactionKind, TransactionStatus
from waiting import until

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


async def test_c2_a_replaced_withdrawal_is_mirrored_with_its_new_amount_and_time(devnet: Devnet) -> None:
    thief, payer = devnet.payer(), devnet.payer()
    payer = replace(payer, config=replace(payer.config, payer_authorizer=thief.signer.address))
    seen: list[bool] = []
    async with chain_side(devnet) as side:
        side.chain.on_withdrawal(lambda: seen.append(True))
        payer.deposit(5_000_000)
        replace(payer, signer=thief.signer).initiate_withdraw(1)
        await side.mirrored()
        account = side.account(payer)
        assert (account.withdrawing, seen) == (1, [True])
        first_s = account.withdraw_finalizes_at
        devnet.anvil.advance(1_000)
        payer.initiate_withdraw(4_000_000)
        await side.mirrored()
        account = side.account(payer)
        assert account.withdrawing == 4_000_000
        assert account.withdraw_finalizes_at >= first_s + 1_000
        assert seen == [True, True]  # what was charged may now be out of reach: settlement has to look


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


async def test_a_refund_counts_until_its_nonce_has_passed_in_a_final_block(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with chain_side(devnet, confirmations=2) as side:
        payer.deposit(5_000_000)
        devnet.anvil.mine(2)
        await side.mirrored()

        def start(draft: Draft, _ledger: Ledger, moment: DecisionContext) -> object:
            return accounts.start_refund(draft, payer.account_id, b"\x01" * 32, 0, 2_000_000, moment)

        await side.writer.run(start)
        assert side.account(payer).available == 3_000_000
        call = side.chain.escrow.refund_call(payer.config, 2_000_000, 0)
        sent = await side.chain.send(Send(TransactionKind.REFUND, b"\x01" * 32, call))
        await side.chain.wait(sent, timeout_s=10)
        await side.mirrored()
        account = side.account(payer)
        assert (account.funds, account.refunding) == (3_000_000, 2_000_000)  # counted twice, rather than not at all
        devnet.anvil.mine(2)
        await side.mirrored()
        account = side.account(payer)
        assert (account.funds, account.refunding, account.available) == (3_000_000, 0, 3_000_000)
        assert devnet.balance(payer.signer.address) == 2_000_000


async def test_a_gasless_deposit_lands_once_whoever_sends_it(devnet: Devnet) -> None:
    payer = devnet.payer()
    devnet.anvil.mint(devnet.token, payer.signer.address, 5_000_000)
    authorization = payer.authorization(4_000_000)
    async with chain_side(devnet) as side:
        call = side.chain.escrow.deposit_call(authorization)
        nonce = side.chain.escrow.deposit_token_nonce(authorization)
        devnet.anvil.set_ether(receiver(9), 10**18)
        devnet.anvil.send(receiver(9), devnet.escrow, call.data)  # a stranger is first
        sent = await side.chain.send(Send(TransactionKind.DEPOSIT, nonce, call))
        assert (await side.chain.wait(sent, final=True, timeout_s=10)).status is TransactionStatus.FINAL
        await side.mirrored()
        assert side.account(payer).funds == 4_000_000
        head = await side.chain.head()
        token = side.chain.tokens[devnet.token]
        assert await token.authorization_used(payer.signer.address, nonce, head)
        assert await token.balance(payer.signer.address, head) == 1_000_000


async def test_the_mirror_goes_stale_when_nobody_answers_or_the_head_stands_still(devnet: Devnet) -> None:
    now = [float(int(devnet.anvil.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16))]
    async with chain_side(devnet, clock=lambda: now[0], poll_s=3_600, head_age_s_max=60) as side:
        assert not side.chain.stale()
        now[0] += 61
        assert side.chain.stale()
        devnet.anvil.advance(61)
        await side.mirrored()
        assert not side.chain.stale()
    async with chain_side(devnet, clock=lambda: now[0], poll_s=3_600) as side:
        now[0] += 900 / 4 + 1
        assert side.chain.stale()
        assert "last seen" in side.chain.problems()[0]


async def test_a_token_transfer_that_fails_is_told_loudly(devnet: Devnet, caplog: pytest.LogCaptureFixture) -> None:
    payer = devnet.payer()
    async with chain_side(devnet) as side:
        await side.fund(payer, 1_000_000, SELLER)
        devnet.anvil.send(devnet.sender.address, devnet.token, function("blacklist(address)", payer.signer.address))
        call = side.chain.escrow.refund_call(payer.config, 5, 0)
        await side.chain.wait(await side.chain.send(Send(TransactionKind.REFUND, b"r", call)), timeout_s=10)
        await side.mirrored()
    assert "the escrow keeps what it is owed" in caplog.text


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
        side.chain.track(payer.config)
        await until(lambda: payer.account_id in side.ledger.accounts)
        assert side.account(payer).funds == 1_000_000


async def test_many_accounts_are_taken_in_and_balance(devnet: Devnet) -> None:
    payers = [devnet.payer() for _ in range(11)]
    for number, payer in enumerate(payers):
        payer.deposit(10_000 + number)
    async with chain_side(devnet, limits=ChainLimits(accounts_per_decision=4, items_per_read=3)) as side:
        assert {side.account(payer).funds - number for number, payer in enumerate(payers)} == {10_000}
        check_invariants(side.ledger)
