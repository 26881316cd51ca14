"""What all escrows of one network share: its node, and the one sender with its outbox and gas meter."""

import time
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from tallystick.signatures import Signer
from tallystick_aggregator.chain.node import Node, Receipt
from tallystick_aggregator.chain.port import ChainUnavailableError
from tallystick_aggregator.chain.rpc.endpoint import Endpoint
from tallystick_aggregator.chain.rpc.node import RpcNode
from tallystick_aggregator.chain.sending.bundles import BundleSender
from tallystick_aggregator.chain.sending.gas_meter import GasMeter, MeteredOutbox
from tallystick_aggregator.chain.sending.sender import Sender
from tallystick_aggregator.chain.settings import BundleSettings, ChainSettings
from tallystick_aggregator.store.port import OutboundTransaction, Outbox, Payout, StoreUnavailableError
from tallystick_aggregator.tasks import PeriodicTask

REST_S: Final = 0.05
"""Between two looks at all that was sent: everything that is sent asks for one."""


class StrangersMeans(NamedTuple):
    """What callers without a token spend: a sender of their own, and its count of gas."""

    gas: GasMeter
    outbox: MeteredOutbox
    sender: Sender


PayoutsOf = Callable[[OutboundTransaction, Receipt], tuple[Payout, ...]]


class EvmNetwork:
    """One network. It runs from its first escrow's start to its last escrow's stop."""

    def __init__(
        self,
        settings: ChainSettings,
        outbox: Outbox,
        *,
        node: Node | None = None,
        strangers: Signer | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`settings`: of any of its escrows. `node`: another than the endpoints of the settings, for tests.

        `strangers`: pays for what callers without a token make us send.
        """
        self.name = settings.network
        self.node = node or RpcNode(
            settings.rpc_urls, timeout_s=settings.rpc_timeout_s, logs_range_blocks_max=settings.logs_range_blocks_max
        )
        apart = strangers.address if strangers else b""
        bundled = settings.bundles.sender.address if settings.bundles else b""
        self.gas = GasMeter(clock, counts=lambda sent: sent.sender != apart)
        self.outbox = MeteredOutbox(outbox, self.gas)
        self.sender = Sender(
            settings,
            self.node,
            self.outbox,
            payouts_of=self._payouts_of,
            follows=lambda sent: sent.sender not in {apart, bundled},
            on_revert=self.gas.note_revert,
            clock=clock,
        )
        self.bundles = None if settings.bundles is None else self._for_bundles(settings, settings.bundles, clock)
        self.strangers = (
            None if strangers is None else self._for_strangers(replace(settings, sender=strangers), outbox, clock)
        )
        passing = (ChainUnavailableError, StoreUnavailableError)
        self.sending = PeriodicTask(
            f"sending on {self.name}", self.tick, settings.poll_s, passing=passing, rest_s=REST_S
        )
        self._payouts: dict[bytes, PayoutsOf] = {}
        """By escrow. Kept to the end: sending goes on for an escrow that has left while others have not."""
        self._served: set[bytes] = set()
        self._worth: dict[bytes, Mapping[int, int | None]] = {}
        self._is_caught_up = False

    def _for_strangers(self, settings: ChainSettings, outbox: Outbox, clock: Callable[[], float]) -> "StrangersMeans":
        """A sender beside the sellers': it shares the node and those who wait, and nothing else."""
        address = settings.sender.address
        gas = GasMeter(clock, counts=lambda sent: sent.sender == address)
        metered = MeteredOutbox(outbox, gas)
        sender = Sender(
            settings,
            self.node,
            metered,
            follows=lambda sent: sent.sender == address,
            on_revert=gas.note_revert,
            waiters=self.sender.waiters,
            clock=clock,
        )
        return StrangersMeans(gas, metered, sender)

    def _for_bundles(
        self, settings: ChainSettings, bundles: BundleSettings, clock: Callable[[], float]
    ) -> BundleSender:
        """A sender beside the sellers', within their gas budget."""
        return BundleSender(
            replace(settings, sender=bundles.sender),
            self.node,
            self.outbox,
            Endpoint(bundles.url, settings.rpc_timeout_s),
            on_revert=self.gas.note_revert,
            waiters=self.sender.waiters,
            clock=clock,
        )

    def join(self, escrow: bytes, payouts_of: PayoutsOf) -> None:
        """Serve the escrow with this address. `payouts_of`: what a mined transaction to it has moved."""
        self._payouts[escrow] = payouts_of
        self._served.add(escrow)

    async def leave(self, escrow: bytes) -> None:
        """Serve it no more; the last one lets the endpoints go. What was sent stays in the outbox."""
        self._served.discard(escrow)
        if not self._served:
            await self.sending.stop()
            await self.node.close()
            if self.bundles is not None:
                await self.bundles.close()

    async def catch_up(self) -> None:
        """Take up what the outbox holds, once for all escrows."""
        if not self._is_caught_up:
            await self.gas.load(self.outbox, self.name)
            if self.strangers is not None:
                await self.strangers.gas.load(self.strangers.outbox, self.name)
            await self.tick()
            self._is_caught_up = True

    def start_sending(self) -> None:
        """Send by itself from now on."""
        if not self.sending.alive:
            self.sending.start()

    async def tick(self) -> None:
        """Look after what was sent."""
        head = await self.node.head()
        try:
            await self.sender.tick(head)
        finally:
            for beside in (self.strangers.sender if self.strangers else None, self.bundles):
                if beside is not None:
                    await beside.tick(head)

    def hurry(self, escrow: bytes, worth: Mapping[int, int | None]) -> None:
        """Let these claims on an escrow, by id, bid more than usual for what they are worth in wei; no others of it."""
        self._worth[escrow] = worth
        if self.sender.hurry(dict(ChainMap(*map(dict, self._worth.values())))):
            self.sending.wake()

    def problems(self) -> Sequence[str]:
        """What keeps the network from being read; sentences."""
        found = [*self.node.problems()] if isinstance(self.node, RpcNode) else []
        if self.strangers is not None:
            sender = self.strangers.sender
            found += [f"strangers' sender: {told}" for told in (sender.problem, sender.capped, sender.late) if told]
        if self.bundles is not None and self.bundles.problem:
            found.append(f"bundles: {self.bundles.problem}")
        return found

    def sending_problems(self) -> Sequence[str]:
        """What keeps transactions from landing; sentences, empty ones among them."""
        return [self.sending.problem, self.sender.problem, self.sender.capped, self.sender.late]

    def _payouts_of(self, outbound: OutboundTransaction, receipt: Receipt) -> tuple[Payout, ...]:
        payouts_of = self._payouts.get(outbound.to)
        # None: its escrow is no longer configured.
        return outbound.payouts if payouts_of is None else payouts_of(outbound, receipt)
