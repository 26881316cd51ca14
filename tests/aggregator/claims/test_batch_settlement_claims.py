"""Settlement as it is, over x402BatchSettlement: what cannot be claimed is left out, the rest lands and is paid."""

import asyncio

from batch_world import World, world

from _anvil import hexed
from anvil import Devnet, receiver
from batch_channels import DELAY_S, ESCROW, BatchChannel, call_data
from tallystick.hashing import keccak256
from tallystick_aggregator.claims.collecting import CHECK_S, FAILED_TRANSFERS, Collecting
from tallystick_aggregator.claims.service import ClaimService, SettlementSettings
from tallystick_aggregator.ledger.answers import Accepted
from tallystick_aggregator.store.port import OutboundTransaction, TransactionKind
from tallystick_aggregator.store.transactions import decode_outgoing
from tallystick_contracts.attribution import read_charge_counts, split_suffix
from waiting import until

NEVER = SettlementSettings(interval_s=10**9)
SHOPS = [receiver(number) for number in range(3)]
ROWS = 100


def drain_unseen(channel: BatchChannel) -> None:
    """Take a channel's money without an event: its row will revert, and nothing has told the mirror."""
    slot = keccak256(channel.id + bytes(32))  # `channels` is the contract's first variable
    channel.devnet.anvil.rpc("anvil_setStorageAt", hexed(ESCROW), hexed(slot), "0x" + "00" * 32)
    channel.devnet.anvil.mine()


def before_ours(channel: BatchChannel) -> None:
    """The receiver claims by itself; its transaction waits for the next block, and comes first in it."""
    anvil, receiver_ = channel.devnet.anvil, hexed(channel.config.receiver)
    anvil.set_ether(channel.config.receiver, 10**18)
    anvil.rpc("anvil_impersonateAccount", receiver_)
    data = hexed(call_data("claim", [channel.claim(100)]))
    price = hex(10**11)
    transaction = {"from": receiver_, "to": hexed(ESCROW), "data": data, "gas": hex(200_000), "gasPrice": price}
    anvil.rpc("eth_sendTransaction", transaction)


def sent(w: World, kind: TransactionKind) -> list[OutboundTransaction]:
    outgoing = [decode_outgoing(id_, body) for id_, body in w.side.disk.outbound.items()]
    return [outbound for outbound in outgoing if outbound.kind is kind]


def attested(w: World, claim: OutboundTransaction) -> dict[bytes, int]:
    """The charge counts of a mined claim by channel, as an indexer reads them."""
    mined = w.devnet.anvil.rpc("eth_getTransactionByHash", hexed(claim.attempts[-1].transaction_hash))
    assert mined["blockNumber"] is not None
    _, entries = split_suffix(bytes.fromhex(mined["input"][2:]))
    counts = read_charge_counts(entries)
    assert counts is not None
    return dict(zip(w.side.chain.escrow.claim_totals(claim.data), counts, strict=True))


async def collects_mined(w: World) -> int:
    """Wait for the payouts that were sent; how many there are."""
    collects = sent(w, TransactionKind.COLLECT)
    for outbound in collects:
        await w.side.chain.wait(outbound, final=True, timeout_s=10)
    return len(collects)


async def charged(w: World, count: int, amount: int = 100) -> list[BatchChannel]:
    channels = [await w.fund(SHOPS[at % len(SHOPS)], 10_000) for at in range(count)]
    for channel in channels:
        assert isinstance(await w.charge(channel, amount), Accepted)
    return channels


async def test_a_poisoned_row_is_left_out_and_all_others_land(devnet: Devnet) -> None:
    async with world(devnet) as w:
        settlement = ClaimService(w.side.chain, w.side.writer, w.side.outbox, NEVER)
        channels = await charged(w, 8)
        poisoned, claimed_by_itself, withdrawing = channels[:3]
        claimed_by_itself.send("claim", [claimed_by_itself.claim(100)], sender=SHOPS[1])
        withdrawing.initiate_withdraw(10_000)
        await w.side.mirrored()
        drain_unseen(poisoned)
        claims = await settlement.settle_now()
        assert len(claims) > 1, "the batch was halved until the row was found"
        assert [(one.channel_id, one.reason) for one in claims.left_out] == [(poisoned.id, "ClaimExceedsBalance()")]
        await w.side.mirrored()
        assert [channel.state[1] for channel in channels] == [0, *[100] * 7]
        await settlement.stop()


async def test_of_a_hundred_rows_only_those_that_cannot_be_claimed_are_left_out(devnet: Devnet) -> None:
    """A poisoned voucher, a drained channel, a receiver that claims first and a payer that withdraws, in one batch."""
    async with world(devnet) as w:
        settlement = ClaimService(w.side.chain, w.side.writer, w.side.outbox, NEVER)
        channels = await w.fund_many([SHOPS[at % len(SHOPS)] for at in range(ROWS)], 10_000)
        poisoned, drained, claimed_by_itself, withdrawing = channels[17], channels[42], channels[66], channels[99]
        for channel in channels:
            signature = channel.voucher(99).signature if channel is poisoned else b""  # of another voucher
            assert isinstance(await w.charge(channel, 100, signature=signature), Accepted)
        drain_unseen(drained)
        withdrawing.initiate_withdraw(10_000)
        await w.side.mirrored()
        devnet.anvil.automine(on=False)
        before_ours(claimed_by_itself)
        settling = asyncio.create_task(settlement.settle_now())
        await until(lambda: sum(one.rows for one in sent(w, TransactionKind.CLAIM)) == ROWS - 2)
        devnet.anvil.automine(on=True)
        devnet.anvil.mine()
        claims = await settling
        assert {one.channel_id: one.reason for one in claims.left_out} == {
            poisoned.id: "InvalidSignature()",
            drained.id: "ClaimExceedsBalance()",
        }
        assert sum(payout.amount for claim in claims for payout in claim.payouts) == 100 * (ROWS - 3)
        await w.side.mirrored()
        states = {channel.id: channel.state for channel in channels}
        assert states.pop(poisoned.id) == (10_000, 0)
        assert states.pop(drained.id) == (0, 0)
        assert [*states.values()] == [(10_000, 100)] * (ROWS - 2)
        devnet.anvil.advance(DELAY_S)
        withdrawing.finalize_withdraw()
        assert withdrawing.state == (100, 100), "the payer got what was not charged"
        again = await settlement.settle_now()
        assert again == []
        assert {one.channel_id for one in again.left_out} == {poisoned.id, drained.id}
        await settlement.stop()


async def test_what_was_claimed_is_paid_out_to_each_seller_once(devnet: Devnet) -> None:
    async with world(devnet) as w:
        settlement = ClaimService(w.side.chain, w.side.writer, w.side.outbox, NEVER)
        collecting = Collecting(w.side.chain, w.side.writer, w.side.outbox)
        await charged(w, 6, 600)
        (claim,) = await settlement.settle_now()
        assert claim.rows == 6
        await w.side.mirrored()
        assert [devnet.balance(shop) for shop in SHOPS] == [0, 0, 0]
        await collecting.check()
        assert await collects_mined(w) == len(SHOPS), "one for each seller, of all of its channels"
        assert [devnet.balance(shop) for shop in SHOPS] == [1_200, 1_200, 1_200]
        await settlement.stop()


async def test_each_claim_is_paid_out_at_the_next_check_for_many_sellers_at_once(devnet: Devnet) -> None:
    """Not after the pause that failed transfers get, nor a few at a time; what is too little waits for more."""
    async with world(devnet) as w:
        now = [1_000.0]
        settlement = ClaimService(w.side.chain, w.side.writer, w.side.outbox, NEVER)
        collecting = Collecting(w.side.chain, w.side.writer, w.side.outbox, clock=lambda: now[0])
        shops = [receiver(number) for number in range(FAILED_TRANSFERS.sends_per_check + 5)]
        channels = await w.fund_many(shops, 10_000)
        for amount, paid in ((500, 0), (500, 1_000), (1_000, 2_000)):
            for channel in channels:
                assert isinstance(await w.charge(channel, amount), Accepted)
            await settlement.settle_now()
            await w.side.mirrored()
            await collecting.check()
            await collects_mined(w)
            assert {devnet.balance(shop) for shop in shops} == {paid}
            now[0] += CHECK_S
        await settlement.stop()


async def test_the_claim_that_landed_attests_how_many_charges_each_row_stands_for(devnet: Devnet) -> None:
    """ERC-8021, read back from the transaction in its block; what is charged meanwhile is the next claim's."""
    async with world(devnet) as w:
        settlement = ClaimService(w.side.chain, w.side.writer, w.side.outbox, NEVER)
        channels = await charged(w, 3)
        for _ in range(2):
            assert isinstance(await w.charge(channels[1], 100), Accepted)
        (claim,) = await settlement.settle_now()
        assert attested(w, claim) == {channels[0].id: 1, channels[1].id: 3, channels[2].id: 1}
        assert isinstance(await w.charge(channels[1], 100), Accepted)
        await w.side.mirrored()
        assert [w.side.ledger.known_channel(channel.id).charge_count for channel in channels] == [0, 1, 0]
        *_, after = await settlement.settle_now()  # the first may still be under way to the sender
        assert attested(w, after) == {channels[1].id: 1}
        await settlement.stop()


async def test_a_withdrawal_is_answered_by_a_claim_at_once(devnet: Devnet) -> None:
    async with world(devnet) as w:
        settlement = ClaimService(w.side.chain, w.side.writer, w.side.outbox, NEVER)
        settlement.start()
        (channel,) = await charged(w, 1)
        channel.initiate_withdraw(10_000)
        await until(lambda: channel.state[1] == 100)
        devnet.anvil.advance(DELAY_S)
        channel.finalize_withdraw()
        assert channel.state == (100, 100), "the payer got what was not charged, and no more"
        await settlement.stop()


async def test_receivers_side_and_facilitator_may_claim_the_same_voucher(devnet: Devnet) -> None:
    async with world(devnet) as w:
        settlement = ClaimService(w.side.chain, w.side.writer, w.side.outbox, NEVER)
        (channel,) = await charged(w, 1)
        (claim,) = await settlement.settle_now()
        channel.send("claim", [channel.claim(100)], sender=SHOPS[0])
        await w.side.mirrored()
        assert channel.state == (10_000, 100)
        assert sum(payout.amount for payout in claim.payouts) == 100
        await settlement.stop()
