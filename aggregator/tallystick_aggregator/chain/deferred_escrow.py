"""The binding of the scheme `deferred`: Escrow.sol, one account for any number of receivers (docs/design.md §3, §4)."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tallystick import channels, eip712
from tallystick.channels import ChannelConfig
from tallystick.hexadecimal import checksum
from tallystick.signatures import Signer
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain.claim_plan import ClaimCosts, Group
from tallystick_aggregator.chain.escrow_events import EscrowEvent
from tallystick_aggregator.chain.escrow_reads import EscrowReads, emitted
from tallystick_aggregator.chain.node import Log, Node
from tallystick_aggregator.chain.port import (
    Block,
    Call,
    DepositAuthorization,
    EscrowAccount,
    Heard,
    RevertedError,
)
from tallystick_aggregator.chain.sending.gas_meter import payer_of
from tallystick_aggregator.chain.settings import ChainLimits, ConfigurationError
from tallystick_aggregator.chain.token import read_transfer
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import OutboundTransaction, Payout, TransactionKind
from tallystick_contracts import claim_batch
from tallystick_contracts.claim_batch import AccountClaim, ClaimBatch, ClaimRow

CLAIM_COSTS: Final = ClaimCosts(
    batch_gas_max=16_500_000,  # of the 16,777,216: a further one costs 21,000 and a transfer for each seller
    batch_bytes_max=125_700,  # the envelope takes less than 250 of the 126,000 (threat 40)
    fixed_gas=355_000,
    fixed_bytes=claim_batch.HEADER_BYTES + claim_batch.COUNT_BYTES,
    account_gas=9_000,
    account_bytes=claim_batch.ACCOUNT_BYTES,
    voucher_row_gas=11_700,
    voucher_row_bytes=claim_batch.VOUCHER_ROW_BYTES,
    first_claim_gas=17_100,  # a storage slot that was zero
    receiver_gas=30_000,
    receiver_bytes=claim_batch.RECEIVER_BYTES,
    reserve_gas=325_000,  # the escrow insists on 320,000 being left before each transfer
    takes_approvals=True,
    approval_gas=6_000,
    approval_bytes=claim_batch.APPROVAL_BYTES,
    approval_row_gas=7_900,
    approval_row_bytes=claim_batch.APPROVAL_ROW_BYTES,
    stale_row_gas=6_000,
)
"""With a token like USDC behind its proxy, by today's rules of Ethereum. A test holds them against Anvil."""

_NO_ACCOUNT: Final = EscrowAccount(0, 0, 0, 0, 0)


class DeferredEscrow:
    """Implements `escrow_port.EscrowBinding` for Escrow.sol."""

    def __init__(
        self,
        node: Node,
        chain_id: int,
        address: bytes,
        operator: bytes,
        operator_signer: Signer,
        claim_costs: ClaimCosts = CLAIM_COSTS,
        *,
        items_per_read: int = ChainLimits().items_per_read,
    ) -> None:
        self._node = node
        self.claim_costs = claim_costs
        self.event_topics = calls.TOPICS
        self.address = address
        self.operator = operator
        self._signer = operator_signer
        self.domain = eip712.escrow_domain(chain_id, address)
        self.ref = EscrowRef(f"eip155:{chain_id}", address)
        self._reads = EscrowReads(node, address, items_per_read)

    def account_id(self, config: ChannelConfig) -> bytes:
        return channels.account_id(self.domain, config)

    def channel_id(self, config: ChannelConfig) -> bytes:
        return channels.channel_id(self.domain, config)

    def account_config(self, config: ChannelConfig) -> ChannelConfig:
        return config.account()

    # What is sent.

    @property
    def deposit_recipient(self) -> bytes:
        return self.address

    def deposit_call(self, deposit: DepositAuthorization) -> Call:
        return Call(self.address, calls.deposit_with_authorization(deposit))

    def deposit_token_nonce(self, deposit: DepositAuthorization) -> bytes:
        return eip712.deposit_nonce(self.account_id(deposit.account), deposit.salt)

    def refund_call(self, account: ChannelConfig, amount: int, nonce: int) -> Call:
        digest = eip712.digest(self.domain, eip712.hash_refund(self.account_id(account), nonce, amount))
        return Call(
            self.address, calls.call_data("refundWithSignature", account, amount, nonce, self._signer.sign(digest))
        )

    def claim_call(self, token: bytes, groups: Sequence[Group]) -> Call:
        batch = ClaimBatch(self.operator, token, tuple(map(account_claim, groups)))
        return Call(self.address, calls.call_data("claim", claim_batch.encode(batch)))

    @property
    def pays_on_claim(self) -> bool:
        return True

    def collect_call(self, to: bytes, token: bytes) -> Call:
        return Call(self.address, calls.call_data("collect", to, token))

    def claim_totals(self, call_data: bytes) -> Mapping[bytes, int]:
        batch = claim_batch.decode(calls.batch_of_claim(call_data))
        totals: dict[bytes, int] = {}
        for account in batch.accounts:
            for row in account.rows:
                channel = ChannelConfig(
                    account.payer,
                    account.payer_authorizer,
                    row.receiver,
                    batch.operator,
                    batch.token,
                    account.withdraw_delay_s,
                    account.salt,
                )
                channel_id = self.channel_id(channel)
                totals[channel_id] = max(row.total_claimed, totals.get(channel_id, 0))
        return totals

    def blames_sender(self, reverted: RevertedError) -> bool:
        return reverted.reason.startswith("NotOperatorOrSender")

    def payouts(self, outbound: OutboundTransaction, logs: Iterable[tuple[bytes, Log]]) -> tuple[Payout, ...]:
        mine = [self.read_event(log) for source, log in logs if source == self.address]
        if outbound.kind is TransactionKind.DEPOSIT:
            credited = sum(event.moved for event in mine if event.moved > 0)
            return (Payout(self.address, calls.token_of(outbound.data), credited),)
        if outbound.kind is TransactionKind.REFUND:
            refunded = -sum(event.moved for event in mine if event.refund_nonce is not None)
            return (Payout(payer_of(outbound), calls.token_of(outbound.data), refunded),)
        # Rows may have been skipped or paid in part: the transfers tell, and what failed transfers have left.
        token = claim_batch.decode(calls.batch_of_claim(outbound.data)).token
        paid: Counter[bytes] = Counter()
        for source, log in logs:
            if source == token and (transfer := read_transfer(log)) is not None:
                payer, receiver, amount = transfer
                if payer == self.address:
                    paid[receiver] += amount
        for event in mine:
            if event.owed is not None:
                paid[event.owed.to] += event.owed.amount
        return tuple(Payout(receiver, token, amount) for receiver, amount in paid.items())

    def debts(self, claim: OutboundTransaction, logs: Iterable[tuple[bytes, Log]]) -> Iterable[tuple[bytes, bytes]]:
        del claim
        for source, log in logs:
            owed = self.read_event(log).owed if source == self.address else None
            if owed is not None:
                yield owed.to, owed.token

    # What is read.

    async def accounts(
        self, account_ids: Sequence[bytes], block: Block, heard: Heard | None = None
    ) -> Sequence[EscrowAccount]:
        return await self._reads.each(calls.accounts_query, account_ids, block, calls.read_accounts, _NO_ACCOUNT, heard)

    async def claimed(self, channel_ids: Sequence[bytes], block: Block, heard: Heard | None = None) -> Sequence[int]:
        return await self._reads.each(calls.claimed_query, channel_ids, block, calls.read_claimed, 0, heard)

    async def block_logs(self, block: Block, heard: Heard) -> Sequence[Log]:
        return emitted(await self._node.block_logs(self.address, block, heard), calls.can_be_ours, str(heard))

    async def owed(self, to: bytes, token: bytes, block: Block) -> int:
        return int.from_bytes(await self._reads.one(calls.call_data("owed", to, token), block), "big")

    async def logs(self, first: int, last: Block) -> Sequence[Log]:
        return emitted(await self._node.logs(self.address, first, last), calls.can_be_ours)

    async def opened(self, first: int, last: Block) -> Sequence[Log]:
        topics = [calls.event_topic("AccountOpened"), None, None, self.operator.rjust(32, b"\0")]
        return emitted(await self._node.logs(self.address, first, last, topics), calls.can_be_ours)

    async def of_account(self, account_id: bytes, first: int, last: Block) -> Sequence[Log]:
        return emitted(await self._node.logs(self.address, first, last, [None, account_id]), calls.can_be_ours)

    async def check(self, sender: bytes, block: Block) -> None:
        where = f"escrow {checksum(self.address)} on {self.ref.network}"
        if not await self._node.code(self.address):
            raise ConfigurationError(f"{where}: there is no contract at this address")
        if await self._reads.hash_of(calls.call_data("domainSeparator"), block) != self.domain.separator:
            raise ConfigurationError(f"{where}: the contract at this address is not a Tallystick escrow")
        await self._reads.check_operator(self.operator, self._signer, block)
        if sender != self.operator and not await self._is_sender(sender, block):
            raise ConfigurationError(
                f"{where}: sender {checksum(sender)} may not claim for operator {checksum(self.operator)};"
                " let the operator call setSender first"
            )

    async def _is_sender(self, sender: bytes, block: Block) -> bool:
        answer = await self._reads.one(calls.call_data("isSender", self.operator, sender), block)
        return int.from_bytes(answer, "big") == 1

    # Events.

    def read_event(self, log: Log) -> EscrowEvent:
        return calls.read_event(log)


def account_claim(group: Group) -> AccountClaim:
    """A group as the encoding takes it."""
    config, by_approval = group.account.config, group.approval is not None
    rows = tuple(
        ClaimRow(row.receiver, row.total, row.ceiling, None if by_approval else row.signature) for row in group.rows
    )
    return AccountClaim(
        config.payer, config.payer_authorizer, config.withdraw_delay_s, config.salt, rows, group.approval
    )
