"""One network: node, escrow, tokens, sender and watcher put together. Implements `port.Chain`."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tallystick.channels import ChannelConfig
from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum
from tallystick_aggregator.chain import escrow_calls
from tallystick_aggregator.chain.deferred_escrow import DeferredEscrow
from tallystick_aggregator.chain.node import CallReverted, Node, Receipt
from tallystick_aggregator.chain.port import Block, Call, ChainUnavailable, Reverted
from tallystick_aggregator.chain.reverts import describe
from tallystick_aggregator.chain.rpc import RpcNode
from tallystick_aggregator.chain.sender import Sender
from tallystick_aggregator.chain.settings import GAS_LIMIT_MAX, ChainSettings, ConfigurationError, TokenSettings
from tallystick_aggregator.chain.tasks import Repeating
from tallystick_aggregator.chain.token import TRANSFER_TOPIC, Erc3009Token, open_token, read_transfer
from tallystick_aggregator.chain.watcher import Watcher
from tallystick_aggregator.intake.port import Writer
from tallystick_aggregator.journal.port import (
    Outbox,
    Outgoing,
    Payout,
    StoreUnavailable,
    TransactionKind,
)
from tallystick_contracts import claim_batch

_ERC1271_MAGIC: Final = bytes.fromhex("1626ba7e")
_PROBE: Final = keccak256(b"Tallystick asks whether this key signs for the operator")


class EvmChain:
    """See `port.Chain`. `start` before use: it checks the configuration against the chain and catches up."""

    def __init__(
        self,
        settings: ChainSettings,
        outbox: Outbox,
        writer: Writer,
        *,
        node: Node | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`node`: another than the endpoints of the settings, for tests."""
        self.settings = settings
        self._node = node or RpcNode(
            settings.rpc_urls, timeout_s=settings.rpc_timeout_s, logs_range_blocks_max=settings.logs_range_blocks_max
        )
        self._escrow = DeferredEscrow(
            self._node, settings.chain_id, settings.escrow, settings.operator, settings.operator_signer
        )
        self._tokens: dict[bytes, Erc3009Token] = {}
        self._sender = Sender(settings, self._node, outbox, payouts_of=self._payouts_of, clock=clock)
        self._withdrawal_listeners: list[Callable[[], None]] = []
        self._owed_listeners: list[Callable[[bytes, bytes], None]] = []
        self._watcher = Watcher(
            settings, self._node, self._escrow, writer, on_withdrawal=self._withdrawal_seen, clock=clock
        )
        passing = (ChainUnavailable, StoreUnavailable)
        self._looking = Repeating(f"watching {settings.network}", self._watcher.look, settings.poll_s, passing=passing)
        self._sending = Repeating(f"sending on {settings.network}", self._tick, settings.poll_s, passing=passing)

    # Life.

    async def start(self) -> None:
        """Check the configuration, take up what the outbox holds, read all accounts, then go on by itself.

        The ledger's writer must be serving. Raises ConfigurationError, and ChainUnavailable if nobody answers.
        """
        await self.check()
        await self._sender.tick(await self._node.head())
        await self._watcher.look()
        self._looking.start()
        self._sending.start()

    async def stop(self) -> None:
        """End the background work and let the endpoints go; what was sent stays in the outbox."""
        await self._sending.stop()
        await self._looking.stop()
        await self._node.close()

    async def check(self) -> None:
        """Compare the configuration with the chain; opens the tokens."""
        settings, escrow = self.settings, self._escrow
        chain_id = await self._node.chain_id()
        if chain_id != settings.chain_id:
            raise ConfigurationError(f"{settings.network}: its endpoints are of the chain eip155:{chain_id}")
        head = await self._node.head()
        where = f"escrow {checksum(settings.escrow)} on {settings.network}"
        if not await self._node.code(settings.escrow):
            raise ConfigurationError(f"{where}: there is no contract at this address")
        if await self._domain_separator(head) != escrow.domain.separator:
            raise ConfigurationError(f"{where}: the contract at this address is not a Tallystick escrow")
        await self._check_operator(head)
        if not await escrow.may_claim(settings.sender.address, head):
            raise ConfigurationError(
                f"{where}: sender {checksum(settings.sender.address)} may not claim for operator"
                f" {checksum(settings.operator)}; let the operator call setSender first"
            )
        if not await self._node.balance(settings.sender.address):
            raise ConfigurationError(
                f"{settings.network}: sender {checksum(settings.sender.address)} has no ether to pay for gas"
            )
        self._tokens = {token.address: await open_token(self._node, chain_id, token, head) for token in settings.tokens}

    async def _domain_separator(self, head: Block) -> bytes:
        try:
            return await self._escrow.domain_separator(head)
        except ChainUnavailable as error:
            if isinstance(error.__cause__, CallReverted):
                return b""
            raise

    async def _check_operator(self, head: Block) -> None:
        """The signer must be able to sign for the operator: refunds and sellers' exit kits rest on it."""
        settings = self.settings
        who = f"operator_key: {checksum(settings.operator_signer.address)}"
        if settings.operator == settings.operator_signer.address:
            return
        if not await self._node.code(settings.operator):
            raise ConfigurationError(f"{who} is not the key of operator {checksum(settings.operator)}")
        question = escrow_calls.is_valid_signature(_PROBE, settings.operator_signer.sign(_PROBE))
        try:
            # As the escrow: Operator.sol answers none but its verifiers.
            answer = await self._node.call(settings.operator, question, head, from_=settings.escrow)
        except CallReverted:
            answer = b""
        if answer[:4] != _ERC1271_MAGIC:
            raise ConfigurationError(
                f"{who} is not an active signer of operator contract {checksum(settings.operator)}"
            )

    # What port.Chain asks for.

    @property
    def network(self) -> str:
        return self.settings.network

    @property
    def chain_id(self) -> int:
        return self.settings.chain_id

    @property
    def escrow(self) -> DeferredEscrow:
        return self._escrow

    @property
    def tokens(self) -> Mapping[bytes, Erc3009Token]:
        return self._tokens

    async def head(self) -> Block:
        return await self._node.head()

    async def final(self) -> Block:
        head = await self._node.head()
        block = await self._node.block(max(0, head.number - self.settings.confirmations))
        if block is None:
            raise ChainUnavailable(f"the newest final block of {self.network} is not there")
        return block

    async def simulate(self, call: Call, block: Block) -> None:
        try:
            await self._node.call(call.to, call.data, block, from_=self._sender.address)
        except CallReverted as reverted:
            raise Reverted(describe(reverted)) from reverted

    async def send(
        self,
        kind: TransactionKind,
        reference: bytes,
        call: Call,
        *,
        rows: int = 0,
        payouts: tuple[Payout, ...] = (),
        memo: bytes = b"",
        urgent: bool = False,
    ) -> Outgoing:
        outgoing = await self._sender.send(kind, reference, call, rows=rows, payouts=payouts, memo=memo, urgent=urgent)
        self._sending.wake()
        return outgoing

    async def wait(self, outgoing: Outgoing, *, final: bool = False, timeout_s: float) -> Outgoing:
        return await self._sender.wait(outgoing, final=final, timeout_s=timeout_s)

    async def mirrored(self, block_number: int, timeout_s: float) -> None:
        self._looking.wake()
        await self._watcher.mirrored(block_number, timeout_s)

    def introduce(self, account: ChannelConfig) -> None:
        self._watcher.introduce(account)
        self._looking.wake()

    def stale(self) -> bool:
        return self._watcher.stale()

    def problems(self) -> Sequence[str]:
        found = [self._watcher.staleness(), self._looking.problem, self._sending.problem, self._sender.problem]
        found += [f"{task.name} has stopped" for task in (self._looking, self._sending) if not task.alive]
        return [f"{self.network}: {problem}" for problem in found if problem]

    # What settlement asks for besides.

    def on_withdrawal(self, listener: Callable[[], None]) -> None:
        """Call this whenever an account begins to withdraw, right after the ledger knows."""
        self._withdrawal_listeners.append(listener)

    def on_owed(self, listener: Callable[[bytes, bytes], None]) -> None:
        """Call this with (to, token) whenever a claim of ours has left something owed; maybe more than once."""
        self._owed_listeners.append(listener)

    @property
    def token_settings(self) -> Mapping[bytes, TokenSettings]:
        """The tokens of the configuration, by address."""
        return {token.address: token for token in self.settings.tokens}

    async def cost_wei(self, call: Call) -> int:
        """What sending this would cost now. Raises Reverted if it would fail."""
        try:
            gas = await self._node.estimate_gas(self._sender.address, call.to, call.data, gas_max=GAS_LIMIT_MAX)
        except CallReverted as reverted:
            raise Reverted(describe(reverted)) from reverted
        fees = await self._node.fees()
        return gas * (fees.base_fee_per_gas_wei + fees.priority_fee_per_gas_wei)

    def _withdrawal_seen(self) -> None:
        for listener in self._withdrawal_listeners:
            listener()

    async def _tick(self) -> None:
        await self._sender.tick(await self._node.head())

    def _payouts_of(self, outgoing: Outgoing, receipt: Receipt) -> tuple[Payout, ...]:
        """What a claim transaction paid, by its events: rows may have been skipped or paid in part. What a failed
        transfer left with the escrow is the receiver's too.
        """
        token = claim_batch.decode(escrow_calls.batch_of_claim(outgoing.data)).token
        paid: Counter[bytes] = Counter()
        for address, log in receipt.logs:
            if address == token and log.topics[0] == TRANSFER_TOPIC:
                payer, receiver, amount = read_transfer(log)
                if payer == self._escrow.address:
                    paid[receiver] += amount
            elif address == self._escrow.address and log.topics[0] == escrow_calls.OWED_TOPIC:
                receiver, owed_in, amount = escrow_calls.read_owed(log)
                paid[receiver] += amount
                for listener in self._owed_listeners:
                    listener(receiver, owed_in)
        return tuple(Payout(receiver, token, amount) for receiver, amount in paid.items())
