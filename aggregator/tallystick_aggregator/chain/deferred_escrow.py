"""The binding of the scheme `deferred`: Escrow.sol, one account for any number of receivers (docs/design.md §3, §4)."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from tallystick import channels, eip712
from tallystick.channels import ChannelConfig
from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum
from tallystick.signatures import Signer
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain.claim_plan import ClaimCosts, Group
from tallystick_aggregator.chain.contradictions import Answer, contradicted
from tallystick_aggregator.chain.escrow_events import EscrowEvent
from tallystick_aggregator.chain.node import CallRevertedError, Log, Node, RefusedError
from tallystick_aggregator.chain.port import (
    Block,
    Call,
    ChainUnavailableError,
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
from tallystick_chain.reverts import describe
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
_ERC1271_MAGIC: Final = bytes.fromhex("1626ba7e")
_PROBE: Final = keccak256(b"Tallystick asks whether this key signs for the operator")
ITEMS_PER_READ_MIN: Final = 8

Item = TypeVar("Item")


class DeferredEscrow:
    """Implements `port.EscrowBinding` for Escrow.sol."""

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
        self._items_per_read = items_per_read

    def account_id(self, config: ChannelConfig) -> bytes:
        return channels.account_id(self.domain, config)

    def channel_id(self, config: ChannelConfig) -> bytes:
        return channels.channel_id(self.domain, config)

    # What is sent.

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

    # What is read.

    async def accounts(
        self, account_ids: Sequence[bytes], block: Block, heard: Heard | None = None
    ) -> Sequence[EscrowAccount]:
        return await self._read_each(calls.ACCOUNTS, account_ids, block, calls.read_accounts, _NO_ACCOUNT, heard)

    async def claimed(self, channel_ids: Sequence[bytes], block: Block, heard: Heard | None = None) -> Sequence[int]:
        return await self._read_each(calls.CLAIMED, channel_ids, block, calls.read_claimed, 0, heard)

    async def block_logs(self, block: Block, heard: Heard) -> Sequence[Log]:
        return _emitted(await self._node.block_logs(self.address, block, heard), str(heard))

    async def owed(self, to: bytes, token: bytes, block: Block) -> int:
        return int.from_bytes(await self._read(calls.call_data("owed", to, token), block), "big")

    async def logs(self, first: int, last: Block) -> Sequence[Log]:
        return _emitted(await self._node.logs(self.address, first, last))

    async def opened(self, first: int, last: Block) -> Sequence[Log]:
        topics = [calls.event_topic("AccountOpened"), None, None, self.operator.rjust(32, b"\0")]
        return _emitted(await self._node.logs(self.address, first, last, topics))

    async def of_account(self, account_id: bytes, first: int, last: Block) -> Sequence[Log]:
        return _emitted(await self._node.logs(self.address, first, last, [None, account_id]))

    async def check(self, sender: bytes, block: Block) -> None:
        where = f"escrow {checksum(self.address)} on {self.ref.network}"
        if not await self._node.code(self.address):
            raise ConfigurationError(f"{where}: there is no contract at this address")
        if await self._domain_separator(block) != self.domain.separator:
            raise ConfigurationError(f"{where}: the contract at this address is not a Tallystick escrow")
        await self._check_operator(block)
        if sender != self.operator and not await self._is_sender(sender, block):
            raise ConfigurationError(
                f"{where}: sender {checksum(sender)} may not claim for operator {checksum(self.operator)};"
                " let the operator call setSender first"
            )

    async def _domain_separator(self, block: Block) -> bytes:
        """What the contract itself thinks its domain is; empty where it has none."""
        try:
            return await self._read(calls.call_data("domainSeparator"), block)
        except ChainUnavailableError as error:
            if isinstance(error.__cause__, CallRevertedError):
                return b""
            raise

    async def _is_sender(self, sender: bytes, block: Block) -> bool:
        return int.from_bytes(await self._read(calls.call_data("isSender", self.operator, sender), block), "big") == 1

    async def _check_operator(self, block: Block) -> None:
        """The signer must be able to sign for the operator: refunds and sellers' exit kits rest on it."""
        who = f"operator_key: {checksum(self._signer.address)}"
        if self.operator == self._signer.address:
            return
        if not await self._node.code(self.operator):
            raise ConfigurationError(f"{who} is not the key of operator {checksum(self.operator)}")
        question = calls.is_valid_signature(_PROBE, self._signer.sign(_PROBE))
        try:
            # As the escrow: Operator.sol answers none but its verifiers.
            answer = await self._node.call(self.operator, question, block, from_=self.address)
        except CallRevertedError:
            answer = b""
        if answer[:4] != _ERC1271_MAGIC:
            raise ConfigurationError(f"{who} is not an active signer of operator contract {checksum(self.operator)}")

    # Events.

    def read_event(self, log: Log) -> EscrowEvent:
        return calls.read_event(log)

    async def _read_each(
        self,
        function: str,
        ids: Sequence[bytes],
        block: Block,
        read: Callable[[bytes, int], list[Item]],
        nothing: Item,
        heard: Heard | None,
    ) -> list[Item]:
        """What a function that takes many ids says of each, in portions that the endpoints take."""
        found: list[Item] = []
        items = self._items_per_read
        while len(found) < len(ids):
            portion = ids[len(found) : len(found) + items]
            try:
                answer = await self._read(calls.words_query(function, portion), block, heard)
            except ChainUnavailableError as error:
                is_refused = isinstance(error, RefusedError) or isinstance(error.__cause__, CallRevertedError)
                if not is_refused or len(portion) <= ITEMS_PER_READ_MIN:
                    raise
                items = len(portion) // 2
                continue
            found += read(answer, len(portion)) if answer else [nothing] * len(portion)
        self._items_per_read = items
        return found

    async def _read(self, data: bytes, block: Block, heard: Heard | None = None) -> bytes:
        """What a view returns; nothing for a block before the escrow's deployment."""
        try:
            answer = await self._node.call(self.address, data, block, heard=heard)
        except CallRevertedError as reverted:
            # A view of ours never reverts: what answered is not the escrow, or it is starved of gas.
            raise ChainUnavailableError(f"the escrow cannot be read: {describe(reverted)}") from reverted
        if not answer and await self._node.code(self.address, block):
            raise ChainUnavailableError(f"an endpoint answers nothing for the escrow at block {block.number}")
        return answer


def account_claim(group: Group) -> AccountClaim:
    """A group as the encoding takes it."""
    config, by_approval = group.account.config, group.approval is not None
    rows = tuple(
        ClaimRow(row.receiver, row.total, row.ceiling, None if by_approval else row.signature) for row in group.rows
    )
    return AccountClaim(
        config.payer, config.payer_authorizer, config.withdraw_delay_s, config.salt, rows, group.approval
    )


def _emitted(logs: Sequence[Log], who: str = "the node") -> Sequence[Log]:
    """Leave out what the escrow cannot have emitted: a watcher that reads such an event fails, at every look."""
    found = [log for log in logs if calls.can_be_ours(log)]
    if len(found) < len(logs):
        contradicted(Answer.LOGS, who, f"made up {len(logs) - len(found)} events that the escrow cannot emit")
    return found
