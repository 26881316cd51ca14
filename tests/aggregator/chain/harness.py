"""An aggregator's chain side without edges: a ledger with its writer, an outbox, an EvmChain on a devnet."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from anvil import Devnet, Payer
from tallystick import eip712
from tallystick.payment_ids import new_payment_id
from tallystick.signatures import Signer
from tallystick_aggregator.chain.chain import EvmChain
from tallystick_aggregator.chain.claim_plan import ClaimCosts
from tallystick_aggregator.chain.deferred_escrow import CLAIM_COSTS
from tallystick_aggregator.chain.escrow_port import EscrowBinding
from tallystick_aggregator.chain.network import EvmNetwork
from tallystick_aggregator.chain.node import Node
from tallystick_aggregator.charging.writer import LedgerWriter, system_clock_ms
from tallystick_aggregator.ledger import accounts, approvals, decide
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.commands import DecisionContext, ProvenPayment, Rules, VoucherProof
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Account, Channel, Ledger
from tallystick_aggregator.store.memory import MemoryDisk, MemoryJournal, MemoryOutbox
from tallystick_aggregator.store.port import Outbox

RULES = Rules()


@dataclass
class Side:
    """What a test works with."""

    devnet: Devnet
    disk: MemoryDisk
    writer: LedgerWriter
    outbox: Outbox
    chain: EvmChain

    @property
    def ledger(self) -> Ledger:
        return self.writer.ledger

    def account(self, payer: Payer) -> Account:
        return self.ledger.accounts[payer.account_id]

    def channel(self, payer: Payer, to: bytes) -> Channel:
        return self.ledger.channels[payer.channel_id(to)]

    async def mirrored(self) -> None:
        """Wait until the ledger has everything that the chain has."""
        await self.chain.mirrored((await self.chain.head()).number, 10)

    async def fund(self, payer: Payer, amount: int, *receivers: bytes) -> None:
        """Deposit, wait for it, open channels."""
        payer.deposit(amount)
        await self.mirrored()
        for to in receivers:
            await self.open_channel(payer, to)

    async def open_channel(self, payer: Payer, to: bytes) -> None:
        def decision(draft: Draft, _ledger: Ledger, _moment: DecisionContext) -> Refusal | None:
            return accounts.open_channel(draft, payer.account_id, payer.channel_id(to), to, 0, RULES)

        assert await self.writer.run(decision) is None

    async def charge(self, payer: Payer, to: bytes, amount: int) -> Accepted | Refusal:
        """Charge by a voucher whose ceiling is just enough."""
        channel = self.channel(payer, to)
        voucher = payer.voucher(to, channel.charged + channel.reserved + amount)
        payment = ProvenPayment(
            channel.id,
            new_payment_id(system_clock_ms(), sha_bytes()),
            amount,
            bytes(32),
            VoucherProof(voucher.max_claimable_amount, voucher),
        )

        def decision(draft: Draft, _ledger: Ledger, moment: DecisionContext) -> Accepted | Refusal:
            return decide.charge(draft, payment, moment, RULES)

        return await self.writer.run(decision)

    async def must_charge(self, payer: Payer, to: bytes, amount: int) -> None:
        """Charge, and expect it to be accepted."""
        assert isinstance(await self.charge(payer, to, amount), Accepted)

    async def approve(self, payer: Payer, sellers: Sequence[bytes]) -> None:
        """Have the payer approve what these sellers have charged so far."""
        totals = tuple((seller, self.channel(payer, seller).charged) for seller in sellers)
        digest = eip712.digest(self.devnet.domain, eip712.hash_totals_approval(payer.account_id, totals))
        signature = payer.signer.sign(digest)

        def decision(draft: Draft, ledger: Ledger, _moment: DecisionContext) -> None:
            assert approvals.approve_totals(draft, ledger, payer.account_id, totals, signature) is None

        await self.writer.run(decision)


def sha_bytes() -> bytes:
    """Ten bytes that no other payment id has."""
    global _drawn  # noqa: PLW0603
    _drawn += 1
    return _drawn.to_bytes(10, "big")


_drawn = 0


@contextlib.asynccontextmanager
async def chain_side(
    devnet: Devnet,
    *,
    disk: MemoryDisk | None = None,
    node: Node | None = None,
    start: bool = True,
    claim_costs: ClaimCosts = CLAIM_COSTS,
    clock: Callable[[], float] | None = None,
    outbox: Outbox | None = None,
    strangers: Signer | None = None,
    bind: Callable[[Node], EscrowBinding] | None = None,
    **changes: Any,
) -> AsyncIterator[Side]:
    """A chain side that runs; leaving the context stops it. The same disk again is a restart.

    `bind` makes the binding of another escrow than ours, which `changes` have to name.
    """
    settings = devnet.settings(**changes)
    disk = disk or MemoryDisk()
    journal, outbox = MemoryJournal(disk), outbox or MemoryOutbox(disk)
    chain: EvmChain | None = None

    def stale() -> frozenset[str]:
        return frozenset({settings.escrow_ref}) if chain is None or chain.stale() else frozenset()

    writer = LedgerWriter(await journal.load(), journal, stale_escrows=stale)
    serving = asyncio.create_task(writer.serve())
    keywords: dict[str, Any] = {"clock": clock} if clock else {}
    network = EvmNetwork(settings, outbox, node=node, strangers=strangers, **keywords)
    chain = EvmChain(settings, outbox, writer, network=network, bind=bind, **keywords)
    if bind is None:
        chain.escrow.claim_costs = claim_costs
    try:
        if start:
            await chain.start()
        yield Side(devnet, disk, writer, outbox, chain)
    finally:
        await chain.stop()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
