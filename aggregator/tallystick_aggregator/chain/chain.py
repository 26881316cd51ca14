"""One escrow on its network: node, escrow, tokens, sender and watcher put together. Implements `port.Chain`."""

import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Final

from tallystick.channels import ChannelConfig
from tallystick.hexadecimal import checksum
from tallystick_aggregator.chain import landings
from tallystick_aggregator.chain.bindings import binding_of
from tallystick_aggregator.chain.bundle_port import Bundles
from tallystick_aggregator.chain.escrow_port import EscrowBinding
from tallystick_aggregator.chain.network import EvmNetwork
from tallystick_aggregator.chain.node import Node, Receipt
from tallystick_aggregator.chain.permit2 import ProxiedToken, open_permit2
from tallystick_aggregator.chain.port import (
    Block,
    Call,
    ChainUnavailableError,
    DepositAuthorization,
    Landing,
    Send,
    Stake,
)
from tallystick_aggregator.chain.settings import ChainSettings, ConfigurationError, TokenSettings
from tallystick_aggregator.chain.token import Erc3009Token, open_token
from tallystick_aggregator.chain.watching.watcher import Watcher
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.store.port import (
    OutboundTransaction,
    Outbox,
    Payout,
    StoreUnavailableError,
    TransactionKind,
)
from tallystick_aggregator.tasks import PeriodicTask

_CLAIMING: Final = frozenset({TransactionKind.CLAIM, TransactionKind.REFUND})
"""What may leave something owed: a refund of a channel claims what is charged first."""


class EvmChain:
    """See `port.Chain`. `start` before use: it checks the configuration against the chain and catches up."""

    def __init__(
        self,
        settings: ChainSettings,
        outbox: Outbox,
        writer: Writer,
        *,
        node: Node | None = None,
        network: EvmNetwork | None = None,
        clock: Callable[[], float] = time.time,
        bind: Callable[[Node], EscrowBinding] | None = None,
    ) -> None:
        """`network`: the one that it shares with other escrows; else it has its own, over `node` if one is given.
        `bind` makes another binding than the escrow's own, for tests.
        """
        self.settings = settings
        self.network = settings.network
        self.chain_id = settings.chain_id
        self.sender: bytes = settings.sender.address
        self._shared = network or EvmNetwork(settings, outbox, node=node, clock=clock)
        self._shared.join(settings.escrow, self._payouts_of)
        self._node, self._sender, self._sending = self._shared.node, self._shared.sender, self._shared.sending
        self._trial = self._sender.trial
        self.gas = self._shared.gas
        self.escrow: EscrowBinding = binding_of(settings, self._node) if bind is None else bind(self._node)
        self.bundles: Bundles | None = self._shared.bundles
        self.tokens: Mapping[bytes, Erc3009Token] = {}
        self.permit2_tokens: Mapping[bytes, ProxiedToken] = {}
        self._withdrawal_listeners: list[Callable[[], None]] = []
        self._owed_listeners: list[Callable[[bytes, bytes], None]] = []
        self._watcher = Watcher(
            settings, self._node, self.escrow, writer, on_withdrawal=self._withdrawal_seen, clock=clock
        )
        passing = (ChainUnavailableError, StoreUnavailableError)
        self._looking = PeriodicTask(
            f"watching {settings.network}", self._watcher.look, settings.poll_s, passing=passing
        )

    def for_strangers(self) -> "EvmChain | None":
        """The same chain, but what is sent is paid for by the strangers' own sender; None where there is none.

        To be asked after the start. It is a view: it is neither started nor stopped.
        """
        means = self._shared.strangers
        if means is None:
            return None
        view = copy(self)
        view.gas, view.sender, view.bundles = means.gas, means.sender.address, None
        view._sender, view._trial = means.sender, means.sender.trial  # noqa: SLF001 - our own copy
        return view

    # Life.

    async def start(self) -> None:
        """Check the configuration, take up what the outbox holds, read all accounts, then go on by itself.

        The ledger's writer must be serving. Raises ConfigurationError, and ChainUnavailableError if nobody answers.
        """
        try:
            await self.check()
        except ConfigurationError:
            await self.check()  # one wrong answer is no reason not to start
        await self._shared.catch_up()
        await self._watcher.look()
        self._looking.start()
        self._shared.start_sending()

    async def stop(self) -> None:
        """End the background work and let the endpoints go; what was sent stays in the outbox."""
        await self._looking.stop()
        await self._shared.leave(self.settings.escrow)

    async def check(self) -> None:
        """Compare the configuration with the chain; opens the tokens."""
        settings, escrow = self.settings, self.escrow
        chain_id = await self._node.chain_id()
        if chain_id != settings.chain_id:
            raise ConfigurationError(f"{settings.network}: its endpoints are of the chain eip155:{chain_id}")
        head = await self._node.head()
        await escrow.check(settings.sender.address, head)
        if not await self._node.balance(settings.sender.address):
            raise ConfigurationError(
                f"{settings.network}: sender {checksum(settings.sender.address)} has no ether to pay for gas"
            )
        if settings.bundles is not None and not await self._node.balance(settings.bundles.sender.address):
            address = checksum(settings.bundles.sender.address)
            raise ConfigurationError(f"{settings.network}: the sender of bundles {address} has no ether to pay for gas")
        self.tokens = {token.address: await open_token(self._node, chain_id, token, head) for token in settings.tokens}
        self.permit2_tokens = await open_permit2(self._node, settings, head)

    # What port.Chain asks for.

    async def head(self, *, fresh: bool = True) -> Block:
        return await self._node.head(fresh=fresh)

    async def final(self) -> Block:
        head = await self._node.head()
        block = await self._node.block(max(0, head.number - self.settings.confirmations))
        if block is None:
            raise ChainUnavailableError(f"the newest final block of {self.network} is not there")
        return block

    async def code(self, address: bytes, block: Block) -> bytes:
        return await self._node.code(address, block)

    async def gas_affordable(self) -> int:
        return await self._trial.gas_affordable()

    async def simulate(self, call: Call, block: Block, *, gas_max: int, at_s: int = 0) -> None:
        await self._trial.simulate(call, block, gas_max=gas_max, at_s=at_s)

    async def send(self, send: Send) -> OutboundTransaction:
        outbound = await self._sender.send(send)
        self._sending.wake()
        return outbound

    async def wait(
        self, outbound: OutboundTransaction, *, final: bool = False, timeout_s: float
    ) -> OutboundTransaction:
        return await self._sender.waiters.wait(outbound, final=final, timeout_s=timeout_s)

    async def deposit_landing(self, deposit: DepositAuthorization) -> Landing | None:
        search = partial(landings.find_deposit, self._node, self.escrow, deposit, await self.final())
        landing = await search()
        # Who hears that nothing was deposited signs another deposit: one wrong answer must not say it.
        return landing if landing is not None and landing.amount else await search()

    async def refund_landing(self, account_id: bytes, nonce: int) -> Landing | None:
        return await landings.find_refund(self._node, self.escrow, account_id, nonce, await self.final())

    async def mirrored(self, block_number: int, timeout_s: float) -> None:
        self._looking.wake()
        await self._watcher.mirrored(block_number, timeout_s)

    def track(self, account: ChannelConfig) -> None:
        self._watcher.track(account)
        self._looking.wake()

    def is_held_back(self, account_id: bytes) -> bool:
        return self._watcher.is_held_back(account_id)

    def stale(self) -> bool:
        return self._watcher.stale()

    def problems(self) -> Sequence[str]:
        found = [self._watcher.staleness(), self._looking.problem]
        found += [*self._watcher.problems(), *self._shared.problems()]
        found += [f"{task.name} has stopped" for task in (self._looking, self._sending) if not task.alive]
        return [*(f"{self.network}: {problem}" for problem in found if problem), *self.sending_problems()]

    def sending_problems(self) -> Sequence[str]:
        """Those that keep transactions from landing."""
        return [f"{self.network}: {problem}" for problem in self._shared.sending_problems() if problem]

    # What settlement asks for besides.

    def on_withdrawal(self, listener: Callable[[], None]) -> None:
        """Call this whenever an account begins to withdraw, right after the ledger knows."""
        self._withdrawal_listeners.append(listener)

    def hurry(self, stakes: Mapping[int, Stake]) -> None:
        """These transactions, by id, must land before a withdrawal ends, and may bid more than usual for what they
        save; all others of this escrow may not (any more).
        """
        worth = {
            id_: self.tokens[stake.token].settings.worth_wei(stake.amount) if stake.token in self.tokens else None
            for id_, stake in stakes.items()
        }
        self._shared.hurry(self.settings.escrow, worth)

    def on_owed(self, listener: Callable[[bytes, bytes], None]) -> None:
        """Call this with (to, token) whenever a claim of ours has left something owed; maybe more than once."""
        self._owed_listeners.append(listener)

    @property
    def token_settings(self) -> Mapping[bytes, TokenSettings]:
        """The tokens of the configuration, by address."""
        return {token.address: token for token in self.settings.tokens}

    async def cost_wei(self, call: Call) -> int:
        """What sending this would cost now. Raises RevertedError if it would fail."""
        gas = await self._trial.estimate(call)
        fees = await self._node.fees()
        return gas * (fees.base_fee_per_gas_wei + fees.priority_fee_per_gas_wei)

    def _withdrawal_seen(self) -> None:
        for listener in self._withdrawal_listeners:
            listener()

    def _payouts_of(self, outbound: OutboundTransaction, receipt: Receipt) -> tuple[Payout, ...]:
        """What a transaction to this escrow moved, by its events; what is owed since is told to those who listen."""
        if outbound.kind in _CLAIMING:
            for to, token in self.escrow.debts(outbound, receipt.logs):
                for listener in self._owed_listeners:
                    listener(to, token)
        return self.escrow.payouts(outbound, receipt.logs)
