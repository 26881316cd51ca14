"""One network: node, escrow, tokens, sender and watcher put together. Implements `port.Chain`."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from tallystick.channels import ChannelConfig
from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum
from tallystick_aggregator.chain import escrow_calls, landings
from tallystick_aggregator.chain.deferred_escrow import DeferredEscrow
from tallystick_aggregator.chain.node import CallRevertedError, Node, Receipt
from tallystick_aggregator.chain.periodic import PeriodicTask
from tallystick_aggregator.chain.port import (
    GAS_LIMIT_MAX,
    Block,
    Call,
    ChainUnavailableError,
    DepositAuthorization,
    Landing,
    Stake,
)
from tallystick_aggregator.chain.reverts import as_reverted
from tallystick_aggregator.chain.rpc.node import RpcNode
from tallystick_aggregator.chain.sending.gas_meter import GasMeter, MeteredOutbox, payer_of
from tallystick_aggregator.chain.sending.sender import Sender
from tallystick_aggregator.chain.settings import ChainSettings, ConfigurationError, TokenSettings
from tallystick_aggregator.chain.token import TRANSFER_TOPIC, Erc3009Token, open_token, read_transfer
from tallystick_aggregator.chain.watching.watcher import Watcher
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.store.port import (
    OutboundTransaction,
    Outbox,
    Payout,
    StoreUnavailableError,
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
            self._node,
            settings.chain_id,
            settings.escrow,
            settings.operator,
            settings.operator_signer,
            items_per_read=settings.limits.items_per_read,
        )
        self._tokens: dict[bytes, Erc3009Token] = {}
        self.gas = GasMeter(clock)
        self._outbox = MeteredOutbox(outbox, self.gas)
        self._sender = Sender(settings, self._node, self._outbox, payouts_of=self._payouts_of, clock=clock)
        self._withdrawal_listeners: list[Callable[[], None]] = []
        self._owed_listeners: list[Callable[[bytes, bytes], None]] = []
        self._watcher = Watcher(
            settings, self._node, self._escrow, writer, on_withdrawal=self._withdrawal_seen, clock=clock
        )
        passing = (ChainUnavailableError, StoreUnavailableError)
        self._looking = PeriodicTask(
            f"watching {settings.network}", self._watcher.look, settings.poll_s, passing=passing
        )
        self._sending = PeriodicTask(f"sending on {settings.network}", self._tick, settings.poll_s, passing=passing)

    # Life.

    async def start(self) -> None:
        """Check the configuration, take up what the outbox holds, read all accounts, then go on by itself.

        The ledger's writer must be serving. Raises ConfigurationError, and ChainUnavailableError if nobody answers.
        """
        try:
            await self.check()
        except ConfigurationError:
            await self.check()  # one wrong answer is no reason not to start
        await self.gas.load(self._outbox, self.network)
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
        except ChainUnavailableError as error:
            if isinstance(error.__cause__, CallRevertedError):
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
        except CallRevertedError:
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
            raise ChainUnavailableError(f"the newest final block of {self.network} is not there")
        return block

    async def code(self, address: bytes, block: Block) -> bytes:
        return await self._node.code(address, block)

    async def gas_affordable(self) -> int:
        return await self._sender.gas_affordable()

    async def simulate(self, call: Call, block: Block, *, gas_max: int) -> None:
        try:
            await self._node.call(call.to, call.data, block, from_=self._sender.address, gas=gas_max)
        except CallRevertedError as reverted:
            raise as_reverted(reverted) from reverted

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
        gas_max: int = GAS_LIMIT_MAX,
    ) -> OutboundTransaction:
        outbound = await self._sender.send(
            kind, reference, call, rows=rows, payouts=payouts, memo=memo, urgent=urgent, gas_max=gas_max
        )
        self._sending.wake()
        return outbound

    async def wait(
        self, outbound: OutboundTransaction, *, final: bool = False, timeout_s: float
    ) -> OutboundTransaction:
        return await self._sender.wait(outbound, final=final, timeout_s=timeout_s)

    async def deposit_landing(self, deposit: DepositAuthorization) -> Landing | None:
        escrow, account = self._escrow, deposit.account
        nonce, account_id = escrow.deposit_token_nonce(deposit), escrow.account_id(account)
        search = partial(
            landings.find_deposit,
            self._node,
            escrow.address,
            account.token,
            account.payer,
            nonce,
            account_id,
            deposit.amount,
            await self.final(),
        )
        landing = await search()
        # Who hears that nothing was deposited signs another deposit: one wrong answer must not say it.
        return landing if landing is not None and landing.amount else await search()

    async def refund_landing(self, account_id: bytes, nonce: int) -> Landing | None:
        return await landings.find_refund(self._node, self._escrow.address, account_id, nonce, await self.final())

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
        found += [*self._watcher.problems(), *(self._node.problems() if isinstance(self._node, RpcNode) else ())]
        found += [f"{task.name} has stopped" for task in (self._looking, self._sending) if not task.alive]
        return [*(f"{self.network}: {problem}" for problem in found if problem), *self.sending_problems()]

    def sending_problems(self) -> Sequence[str]:
        """Those that keep transactions from landing."""
        found = [self._sending.problem, self._sender.problem, self._sender.capped, self._sender.late]
        return [f"{self.network}: {problem}" for problem in found if problem]

    # What settlement asks for besides.

    def on_withdrawal(self, listener: Callable[[], None]) -> None:
        """Call this whenever an account begins to withdraw, right after the ledger knows."""
        self._withdrawal_listeners.append(listener)

    def hurry(self, stakes: Mapping[int, Stake]) -> None:
        """These transactions, by id, must land before a withdrawal ends, and may bid more than usual for what they
        save; all others may not (any more).
        """
        worth = {
            id_: self._tokens[stake.token].settings.worth_wei(stake.amount) if stake.token in self._tokens else None
            for id_, stake in stakes.items()
        }
        if self._sender.hurry(worth):
            self._sending.wake()

    def on_owed(self, listener: Callable[[bytes, bytes], None]) -> None:
        """Call this with (to, token) whenever a claim of ours has left something owed; maybe more than once."""
        self._owed_listeners.append(listener)

    @property
    def token_settings(self) -> Mapping[bytes, TokenSettings]:
        """The tokens of the configuration, by address."""
        return {token.address: token for token in self.settings.tokens}

    async def cost_wei(self, call: Call) -> int:
        """What sending this would cost now. Raises RevertedError if it would fail."""
        gas = await self._sender.estimate(call)
        fees = await self._node.fees()
        return gas * (fees.base_fee_per_gas_wei + fees.priority_fee_per_gas_wei)

    def _withdrawal_seen(self) -> None:
        for listener in self._withdrawal_listeners:
            listener()

    async def _tick(self) -> None:
        await self._sender.tick(await self._node.head())

    def _payouts_of(self, outbound: OutboundTransaction, receipt: Receipt) -> tuple[Payout, ...]:
        """What a transaction moved in fact, by its events. A deposit may be there already, a refund be paid in part.

        Of a claim, rows may have been skipped or paid in part. What a failed transfer left with the escrow is the
        receiver's too.
        """
        if outbound.kind is TransactionKind.DEPOSIT:
            amount = landings.credited(receipt.logs, self._escrow.address)
            return (Payout(self._escrow.address, escrow_calls.token_of(outbound.data), amount),)
        if outbound.kind is TransactionKind.REFUND:
            amount = landings.refunded(receipt.logs, self._escrow.address)
            return (Payout(payer_of(outbound), escrow_calls.token_of(outbound.data), amount),)
        token = claim_batch.decode(escrow_calls.batch_of_claim(outbound.data)).token
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
