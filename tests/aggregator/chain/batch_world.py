"""A chain side over the stand-in of x402BatchSettlement, and payers whose channels are charged.

A channel there is an account with one channel, and both have the channel's id.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from harness import RULES, Side, chain_side

from anvil import CHAIN_ID, Devnet
from batch_channels import AUTHORIZER, DELAY_S, ESCROW, BatchChannel, batch_channel, put_batch_settlement
from tallystick.payment_ids import new_payment_id
from tallystick.vouchers import Voucher
from tallystick_aggregator.chain.batch_settlement_escrow import CLAIM_COSTS, BatchSettlementEscrow
from tallystick_aggregator.chain.claim_plan import Group
from tallystick_aggregator.chain.node import Node
from tallystick_aggregator.charging.writer import system_clock_ms
from tallystick_aggregator.claims.planner import EVERYTHING, pack, plan_account
from tallystick_aggregator.ledger import accounts, decide
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.commands import DecisionContext, ProvenPayment, WatermarkProof
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Account, Channel, Ledger, reservation_handle
from tallystick_aggregator.store.memory import MemoryDisk


@dataclass
class World:
    """A chain side over the canonical contract."""

    devnet: Devnet
    side: Side

    def account(self, channel: BatchChannel) -> Account:
        return self.side.ledger.accounts[channel.id]

    def channel(self, channel: BatchChannel) -> Channel:
        return self.side.ledger.channels[channel.id]

    async def fund(self, to: bytes, amount: int) -> BatchChannel:
        """Deposit, wait for it, open the account's one channel."""
        (channel,) = await self.fund_many([to], amount)
        return channel

    async def fund_many(self, receivers: Sequence[bytes], amount: int) -> list[BatchChannel]:
        """A channel to each receiver, of as many payers."""
        channels = [batch_channel(self.devnet, to) for to in receivers]
        for channel in channels:
            channel.deposit(amount)
        await self.side.mirrored()
        await self.open(*channels)
        return channels

    async def open(self, *channels: BatchChannel) -> None:
        head = await self.side.chain.head()
        claimed = await self.side.chain.escrow.claimed([channel.id for channel in channels], head)
        for channel, total in zip(channels, claimed, strict=True):

            def decision(
                draft: Draft,
                _ledger: Ledger,
                _moment: DecisionContext,
                channel: BatchChannel = channel,
                total: int = total,
            ) -> Refusal | None:
                return accounts.open_channel(draft, channel.id, channel.id, channel.config.receiver, total, RULES)

            assert await self.side.writer.run(decision) is None
            self.side.chain.track(channel.config)
        self.devnet.anvil.mine()
        await self.side.mirrored()

    async def charge(self, channel: BatchChannel, amount: int, *, signature: bytes = b"") -> Accepted | Refusal:
        """Charge by the next voucher; `signature` stands in for the payer's where its check is passed by."""
        voucher = channel.voucher(self.channel(channel).charged + amount)
        if signature:
            voucher = Voucher(channel.id, voucher.max_claimable_amount, signature)
        payment = ProvenPayment(
            self.channel(channel).id,
            new_payment_id(system_clock_ms(), voucher.signature[:10]),
            amount,
            bytes(32),
            WatermarkProof(voucher.max_claimable_amount, voucher),
        )

        handle = reservation_handle(payment.channel_id, payment.payment_id, bytes(16))

        def decision(draft: Draft, _ledger: Ledger, moment: DecisionContext) -> Accepted | Refusal:
            return decide.charge_in_step(draft, payment, amount, handle, moment, RULES)

        return await self.side.writer.run(decision)

    def planned(self, *channels: BatchChannel) -> list[Group]:
        """What the planner makes of these channels: one batch."""
        groups = [
            group
            for one in channels
            for group in plan_account(
                self.account(one), self.side.ledger.channels_of(self.account(one).id), {}, EVERYTHING, CLAIM_COSTS
            )
        ]
        (batch,) = pack(self.devnet.token, groups, CLAIM_COSTS)
        return [*batch.groups]


@asynccontextmanager
async def world(devnet: Devnet, disk: MemoryDisk | None = None, *, put: bool = True) -> AsyncIterator[World]:
    if put:
        put_batch_settlement(devnet.anvil)

    def bind(node: Node) -> BatchSettlementEscrow:
        return BatchSettlementEscrow(node, CHAIN_ID, AUTHORIZER.address, AUTHORIZER, DELAY_S)

    async with chain_side(
        devnet, disk=disk, bind=bind, escrow=ESCROW, operator=AUTHORIZER.address, operator_signer=AUTHORIZER
    ) as side:
        yield World(devnet, side)
