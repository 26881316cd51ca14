"""Channels of x402BatchSettlement in the ledger, by the mirror and the sender that other escrows have."""

from batch_world import world

from anvil import Devnet, receiver
from batch_channels import DELAY_S, batch_channel
from tallystick_aggregator.chain.port import DepositAuthorization, Send
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.store.port import Payout, TransactionKind

NEWS, MUSIC = receiver(1), receiver(2)


async def test_a_deposit_is_credited_and_charged_until_it_is_used_up(devnet: Devnet) -> None:
    async with world(devnet) as w:
        channel = await w.fund(NEWS, 1_000)
        assert w.account(channel).config == channel.config
        assert w.account(channel).funds == 1_000
        assert isinstance(await w.charge(channel, 600), Accepted)
        assert isinstance(await w.charge(channel, 401), Refusal)
        assert isinstance(await w.charge(channel, 400), Accepted)


async def test_a_claim_of_the_planners_is_sent_mirrored_and_then_settled(devnet: Devnet) -> None:
    async with world(devnet) as w:
        news, music = await w.fund(NEWS, 1_000), await w.fund(MUSIC, 2_000)
        owed: list[tuple[bytes, bytes]] = []
        w.side.chain.on_owed(lambda to, token: owed.append((to, token)))
        assert isinstance(await w.charge(news, 300), Accepted)
        assert isinstance(await w.charge(music, 200), Accepted)
        call = w.side.chain.escrow.claim_call(devnet.token, w.planned(news, music))
        sent = await w.side.chain.send(Send(TransactionKind.CLAIM, b"claim", call, rows=2))
        mined = await w.side.chain.wait(sent, final=True, timeout_s=10)
        assert set(mined.payouts) == {Payout(NEWS, devnet.token, 300), Payout(MUSIC, devnet.token, 200)}
        await w.side.mirrored()
        assert (w.channel(news).claimed, w.channel(music).claimed) == (300, 200)
        assert (w.account(news).funds, w.account(music).funds) == (1_000, 2_000)
        assert set(owed) == {(NEWS, devnet.token), (MUSIC, devnet.token)}, "all that is claimed is owed"
        for to, token in set(owed):
            collect = w.side.chain.escrow.collect_call(to, token)
            paid = await w.side.chain.send(Send(TransactionKind.COLLECT, to, collect))
            await w.side.chain.wait(paid, final=True, timeout_s=10)
        assert (news.received, music.received) == (300, 200)


async def test_a_receiver_that_claims_by_itself_is_seen(devnet: Devnet) -> None:
    async with world(devnet) as w:
        channel = await w.fund(NEWS, 1_000)
        assert isinstance(await w.charge(channel, 300), Accepted)
        channel.send("claim", [channel.claim(300)], sender=NEWS)
        await w.side.mirrored()
        assert (w.channel(channel).claimed, w.account(channel).funds) == (300, 1_000)
        assert isinstance(await w.charge(channel, 700), Accepted)
        assert isinstance(await w.charge(channel, 1), Refusal)


async def test_a_withdrawal_is_seen_and_its_end_too(devnet: Devnet) -> None:
    async with world(devnet) as w:
        channel = await w.fund(NEWS, 1_000)
        began: list[bool] = []
        w.side.chain.on_withdrawal(lambda: began.append(True))
        started = channel.initiate_withdraw(400)
        at = int(devnet.anvil.rpc("eth_getBlockByHash", started["blockHash"], False)["timestamp"], 16)
        await w.side.mirrored()
        assert (w.account(channel).withdrawing, w.account(channel).withdraw_finalizes_at) == (400, at + DELAY_S)
        assert began
        devnet.anvil.advance(DELAY_S)
        channel.finalize_withdraw()
        await w.side.mirrored()
        assert (w.account(channel).withdrawing, w.account(channel).funds) == (0, 600)


async def test_a_refund_of_ours_is_mirrored(devnet: Devnet) -> None:
    async with world(devnet) as w:
        channel = await w.fund(NEWS, 1_000)
        call = w.side.chain.escrow.refund_call(channel.config, 250, 0)
        sent = await w.side.chain.send(Send(TransactionKind.REFUND, b"refund", call))
        mined = await w.side.chain.wait(sent, final=True, timeout_s=10)
        assert mined.payouts == (Payout(channel.payer.address, devnet.token, 250),)
        await w.side.mirrored()
        assert w.account(channel).funds == 750


async def test_a_deposit_that_somebody_else_landed_is_found(devnet: Devnet) -> None:
    async with world(devnet) as w:
        channel = batch_channel(devnet, NEWS)
        devnet.anvil.mint(devnet.token, channel.payer.address, 1_000)
        signed = channel.erc3009(1_000)
        terms = (signed.valid_after, signed.valid_before, signed.salt, signed.signature)
        deposit = DepositAuthorization(channel.config, 1_000, *terms)
        channel.send_data(w.side.chain.escrow.deposit_call(deposit).data)
        await w.side.mirrored()
        landing = await w.side.chain.deposit_landing(deposit)
        assert landing is not None
        assert landing.amount == 1_000


async def test_after_a_restart_with_an_empty_memory_the_chain_tells_all(devnet: Devnet) -> None:
    async with world(devnet) as w:
        channel = await w.fund(NEWS, 5_000)
        channel.send("claim", [channel.claim(300)], sender=NEWS)
        await w.side.mirrored()
    async with world(devnet, put=False) as w:
        assert w.account(channel).config == channel.config
        await w.open(channel)
        assert (w.channel(channel).claimed, w.channel(channel).charged) == (300, 300), "the chain's total is the start"
        assert w.account(channel).funds == 5_000


async def test_channels_of_other_facilitators_are_none_of_our_business(devnet: Devnet) -> None:
    async with world(devnet) as w:
        other = batch_channel(devnet, NEWS, receiver_authorizer=MUSIC)
        other.deposit(1_000)
        ours = await w.fund(NEWS, 1_000)
        assert other.id not in w.side.ledger.accounts
        assert w.account(ours).funds == 1_000
