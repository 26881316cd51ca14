"""What all escrows of one network share: its node, and the one sender with its outbox and gas meter."""

import time
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence

from tallystick_aggregator.chain.node import Node, Receipt
from tallystick_aggregator.chain.port import ChainUnavailableError
from tallystick_aggregator.chain.rpc.node import RpcNode
from tallystick_aggregator.chain.sending.gas_meter import GasMeter, MeteredOutbox
from tallystick_aggregator.chain.sending.sender import Sender
from tallystick_aggregator.chain.settings import ChainSettings
from tallystick_aggregator.store.port import OutboundTransaction, Outbox, Payout, StoreUnavailableError
from tallystick_aggregator.tasks import PeriodicTask

PayoutsOf = Callable[[OutboundTransaction, Receipt], tuple[Payout, ...]]


class EvmNetwork:
    """One network. It runs from its first escrow's start to its last escrow's stop."""

    def __init__(
        self,
        settings: ChainSettings,
        outbox: Outbox,
        *,
        node: Node | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`settings`: of any of its escrows. `node`: another than the endpoints of the settings, for tests."""
        self.name = settings.network
        self.node = node or RpcNode(
            settings.rpc_urls, timeout_s=settings.rpc_timeout_s, logs_range_blocks_max=settings.logs_range_blocks_max
        )
        self.gas = GasMeter(clock)
        self.outbox = MeteredOutbox(outbox, self.gas)
        self.sender = Sender(settings, self.node, self.outbox, payouts_of=self._payouts_of, clock=clock)
        passing = (ChainUnavailableError, StoreUnavailableError)
        self.sending = PeriodicTask(f"sending on {self.name}", self.tick, settings.poll_s, passing=passing)
        self._payouts: dict[bytes, PayoutsOf] = {}
        """By escrow. Kept to the end: sending goes on for an escrow that has left while others have not."""
        self._served: set[bytes] = set()
        self._worth: dict[bytes, Mapping[int, int | None]] = {}
        self._is_caught_up = False

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

    async def catch_up(self) -> None:
        """Take up what the outbox holds, once for all escrows."""
        if not self._is_caught_up:
            await self.gas.load(self.outbox, self.name)
            await self.tick()
            self._is_caught_up = True

    def start_sending(self) -> None:
        """Send by itself from now on."""
        if not self.sending.alive:
            self.sending.start()

    async def tick(self) -> None:
        """Look after what was sent."""
        await self.sender.tick(await self.node.head())

    def hurry(self, escrow: bytes, worth: Mapping[int, int | None]) -> None:
        """Let these claims on an escrow, by id, bid more than usual for what they are worth in wei; no others of it."""
        self._worth[escrow] = worth
        if self.sender.hurry(dict(ChainMap(*map(dict, self._worth.values())))):
            self.sending.wake()

    def problems(self) -> Sequence[str]:
        """What keeps the network from being read; sentences."""
        return self.node.problems() if isinstance(self.node, RpcNode) else ()

    def sending_problems(self) -> Sequence[str]:
        """What keeps transactions from landing; sentences, empty ones among them."""
        return [self.sending.problem, self.sender.problem, self.sender.capped, self.sender.late]

    def _payouts_of(self, outbound: OutboundTransaction, receipt: Receipt) -> tuple[Payout, ...]:
        payouts_of = self._payouts.get(outbound.to)
        # None: its escrow is no longer configured.
        return outbound.payouts if payouts_of is None else payouts_of(outbound, receipt)
