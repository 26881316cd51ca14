"""The binding of the standard's x402BatchSettlement: a channel is an account with one receiver (docs/design.md §3).

What it does otherwise than Escrow.sol: claims only note what is owed, and `settle` pays it; a claim's bad row reverts
the whole batch; the contract keeps neither a channel's delay nor, in its events, a refund's nonce.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from tallystick import channels, eip712
from tallystick.channels import ChannelConfig
from tallystick.hexadecimal import checksum
from tallystick.signatures import Signer
from tallystick.vouchers import voucher_digest
from tallystick.x402.batch_settlement import DepositPayload, Erc3009Deposit, RefundPayload, VoucherClaim
from tallystick_aggregator.chain import batch_settlement_calls as calls
from tallystick_aggregator.chain.claim_plan import ClaimCosts, Group
from tallystick_aggregator.chain.escrow_calls import token_of
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
from tallystick_aggregator.chain.settings import ChainLimits, ConfigurationError
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import OutboundTransaction, Payout, TransactionKind
from tallystick_contracts import batch_settlement as contract
from tallystick_contracts.attribution import charge_counts_suffix
from tallystick_contracts.batch_settlement import Config

CLAIM_COSTS: Final = ClaimCosts(
    batch_gas_max=16_500_000,  # of the 16,777,216
    batch_bytes_max=125_700,  # the envelope takes less than 250 of the 126,000 (threat 40)
    fixed_gas=60_000,
    fixed_bytes=228 + 64,  # the function, its heads and one signature; the suffix without its counts
    account_gas=0,
    account_bytes=0,
    voucher_row_gas=28_000,
    voucher_row_bytes=480 + 3,  # a charge count has up to 3 bytes
    first_claim_gas=0,  # the total shares a slot with the balance
    receiver_gas=20_000,  # its first claim in this token
)
"""Upper estimates: measured on the stand-in of the tests, whose gas is not the original's, and rounded up."""

_NO_ACCOUNT: Final = EscrowAccount(0, 0, 0, 0, 0)
_COLLECTORS: Final = (eip712.ERC3009_DEPOSIT_COLLECTOR_ADDRESS, eip712.PERMIT2_DEPOSIT_COLLECTOR_ADDRESS)


class BatchSettlementEscrow:
    """Implements `escrow_port.EscrowBinding` for the contract at x402's canonical address.

    Both ids of a ChannelConfig are the channel's. `operator` is the receiverAuthorizer whose key we have.
    """

    def __init__(
        self,
        node: Node,
        chain_id: int,
        operator: bytes,
        operator_signer: Signer,
        withdraw_delay_s: int = channels.WITHDRAW_DELAY_S_MIN,
        claim_costs: ClaimCosts = CLAIM_COSTS,
        *,
        items_per_read: int = ChainLimits().items_per_read,
    ) -> None:
        """`withdraw_delay_s`: the shortest of the channels that are served. The contract does not tell a channel's own,
        so none of them is taken to end later than it may.
        """
        self._node = node
        self.claim_costs = claim_costs
        self.event_topics = contract.TOPICS
        self.address = eip712.BATCH_SETTLEMENT_ADDRESS
        self.operator = operator
        self._signer = operator_signer
        self._withdraw_delay_s = withdraw_delay_s
        self.domain = eip712.batch_settlement_domain(chain_id)
        self.ref = EscrowRef(f"eip155:{chain_id}", self.address)
        self._reads = EscrowReads(node, self.address, items_per_read)

    def account_id(self, config: ChannelConfig) -> bytes:
        return channels.channel_id(self.domain, config)

    def channel_id(self, config: ChannelConfig) -> bytes:
        return channels.channel_id(self.domain, config)

    def account_config(self, config: ChannelConfig) -> ChannelConfig:
        return config

    # What is sent.

    @property
    def deposit_recipient(self) -> bytes:
        """The ERC-3009 collector; Permit2's moves tokens without being named."""
        return eip712.ERC3009_DEPOSIT_COLLECTOR_ADDRESS

    def deposit_call(self, deposit: DepositAuthorization) -> Call:
        authorization = Erc3009Deposit(deposit.valid_after, deposit.valid_before, deposit.salt, deposit.signature)
        return Call(self.address, calls.deposit_call(deposit.account, deposit.amount, authorization))

    def deposit_payload_call(self, payload: DepositPayload) -> Call:
        """The deposit of a payload, by either collector; a permit that came along is landed with it."""
        return Call(self.address, calls.deposit_call(payload.config, payload.amount, payload.authorization))

    def deposit_token_nonce(self, deposit: DepositAuthorization) -> bytes:
        return eip712.deposit_nonce(self.account_id(deposit.account), deposit.salt)

    def refund_call(self, account: ChannelConfig, amount: int, nonce: int) -> Call:
        return Call(self.address, self._refund(account, amount, nonce))

    def claim_call(self, token: bytes, groups: Sequence[Group]) -> Call:
        """A batch of claims, of any sellers at once; it attests how many charges each row stands for."""
        rows = [claim for group in groups for claim in voucher_claims(group)]
        charge_counts = [row.charges for group in groups for row in group.rows]
        if any(row.config.token != token for row in rows):
            raise ValueError("a batch of claims is in one token")
        return Call(self.address, self._claim(rows) + _attestation(charge_counts, rows))

    def claim_and_refund_call(
        self,
        claims: Sequence[VoucherClaim],
        account: ChannelConfig,
        amount: int,
        nonce: int,
        charge_counts: Sequence[int] = (),
    ) -> Call:
        """A refund that claims first, in one transaction, as servers complete it ("Cooperative refund flow").

        `charge_counts`: what each of the claims attests, or nothing.
        """
        refund = self._refund(account, amount, nonce)
        if not claims:
            return Call(self.address, refund)
        return Call(self.address, calls.multicall([self._claim(claims), refund]) + _attestation(charge_counts, claims))

    def claim_rows_call(self, rows: Sequence[VoucherClaim], signature: bytes | None) -> Call:
        """The claim that a server asks for: over its receiverAuthorizer's signature, or ours where it is None."""
        return Call(self.address, self._claim(rows, signature))

    def refund_rows_call(self, payload: RefundPayload) -> Call:
        """The refund that a server has completed, with its claims before; what it did not sign is signed by us."""
        amount, nonce = payload.amount or 0, payload.refund_nonce or 0
        refund = self._refund(payload.config, amount, nonce, payload.refund_authorizer_signature)
        if not payload.claims:
            return Call(self.address, refund)
        claim = self._claim(payload.claims, payload.claim_authorizer_signature)
        return Call(self.address, calls.multicall([claim, refund]))

    def call_names(self, call_data: bytes, config: ChannelConfig) -> bool:
        """Whether a call of the contract is about this channel, alone or among others."""
        return calls.config_words(config) in call_data

    @property
    def pays_on_claim(self) -> bool:
        return False

    def collect_call(self, to: bytes, token: bytes) -> Call:
        return Call(self.address, calls.SETTLE.call(to, token))

    def claim_totals(self, call_data: bytes) -> Mapping[bytes, int]:
        totals: dict[bytes, int] = {}
        for row in calls.claimed_rows(call_data):
            channel_id = self._id_of(row.config)
            totals[channel_id] = max(row.total, totals.get(channel_id, 0))
        return totals

    def blames_sender(self, reverted: RevertedError) -> bool:
        """Anybody may land what the operator signed."""
        del reverted
        return False

    def payouts(self, outbound: OutboundTransaction, logs: Iterable[tuple[bytes, Log]]) -> tuple[Payout, ...]:
        mine = [calls.decode(log) for source, log in logs if source == self.address]
        if outbound.kind is TransactionKind.DEPOSIT:
            credited = sum(event.amount for event in mine if isinstance(event, contract.Deposited))
            return (Payout(self.address, token_of(outbound.data), credited),)
        if outbound.kind is TransactionKind.REFUND:
            refunded = sum(event.amount for event in mine if isinstance(event, contract.Refunded))
            config = calls.refunded_config(outbound.data)
            return (Payout(config.payer, config.token, refunded),)
        if outbound.kind is TransactionKind.COLLECT:
            return tuple(
                Payout(event.receiver, event.token, event.amount)
                for event in mine
                if isinstance(event, contract.Settled)
            )
        # What is claimed is owed to the receiver, and counts as paid: a later `settle` moves it, whoever sends it.
        return tuple(
            Payout(receiver, token, amount) for (receiver, token), amount in self._owed_by(outbound, mine).items()
        )

    def debts(self, claim: OutboundTransaction, logs: Iterable[tuple[bytes, Log]]) -> Iterable[tuple[bytes, bytes]]:
        """All that a claim pays is owed until `settle`."""
        return self._owed_by(claim, [calls.decode(log) for source, log in logs if source == self.address])

    def _owed_by(self, outbound: OutboundTransaction, events: Iterable[contract.Event]) -> Counter[tuple[bytes, bytes]]:
        """What a claim's events have added to what is owed, by receiver and token."""
        configs = {self._id_of(row.config): row.config for row in calls.claimed_rows(outbound.data)}
        owed: Counter[tuple[bytes, bytes]] = Counter()
        for event in events:
            if isinstance(event, contract.Claimed) and event.channel_id in configs:
                config = configs[event.channel_id]
                owed[config.receiver, config.token] += event.amount
        return owed

    def _claim(self, rows: Sequence[VoucherClaim], signature: bytes | None = None) -> bytes:
        entries = [(self.channel_id(row.config), row.max_claimable_amount, row.total_claimed) for row in rows]
        digest = eip712.digest(self.domain, eip712.hash_claim_batch(entries))
        return calls.claim_call(rows, self._signer.sign(digest) if signature is None else signature)

    def _refund(self, account: ChannelConfig, amount: int, nonce: int, signature: bytes | None = None) -> bytes:
        digest = eip712.digest(self.domain, eip712.hash_refund(self.account_id(account), nonce, amount))
        return calls.refund_call(account, amount, nonce, self._signer.sign(digest) if signature is None else signature)

    def _id_of(self, config: Config) -> bytes:
        return eip712.digest(self.domain, eip712.hash_channel_config(*config))

    # What is read.

    async def accounts(
        self, account_ids: Sequence[bytes], block: Block, heard: Heard | None = None
    ) -> Sequence[EscrowAccount]:
        """`balance` is what is not claimed, as with other escrows; `withdraw_nonce` does not exist here."""
        read = partial(calls.read_accounts, withdraw_delay_s=self._withdraw_delay_s)
        return await self._reads.each(calls.accounts_query, account_ids, block, read, _NO_ACCOUNT, heard)

    async def claimed(self, channel_ids: Sequence[bytes], block: Block, heard: Heard | None = None) -> Sequence[int]:
        return await self._reads.each(calls.claimed_query, channel_ids, block, calls.read_claimed, 0, heard)

    async def owed(self, to: bytes, token: bytes, block: Block) -> int:
        claimed, settled = await self.receiver_totals(to, token, block)
        return claimed - settled

    async def receiver_totals(self, to: bytes, token: bytes, block: Block) -> tuple[int, int]:
        """What was ever claimed for a receiver, and what of it was paid to it, in atomic units."""
        answer = await self._reads.one(calls.RECEIVERS.call(to, token), block)
        return int.from_bytes(answer[:32], "big"), int.from_bytes(answer[32:64], "big")

    async def check(self, sender: bytes, block: Block) -> None:
        """Any sender may land claims, so only the operator's key and the contracts are looked at."""
        del sender
        where = f"x402BatchSettlement {checksum(self.address)} on {self.ref.network}"
        if not await self._node.code(self.address):
            raise ConfigurationError(f"{where}: there is no contract at this address")
        # Its domain, as it uses it: a voucher over nothing.
        digest = await self._reads.hash_of(calls.GET_VOUCHER_DIGEST.call(bytes(32), 0), block)
        if digest != voucher_digest(self.domain.separator, bytes(32), 0):
            raise ConfigurationError(f"{where}: the contract at this address has another EIP-712 domain")
        for collector in _COLLECTORS:
            if not await self._node.code(collector):
                raise ConfigurationError(f"{where}: there is no collector of deposits at {checksum(collector)}")
        await self._reads.check_operator(self.operator, self._signer, block)

    # Events.

    def read_event(self, log: Log) -> EscrowEvent:
        return calls.read_event(log)

    async def block_logs(self, block: Block, heard: Heard) -> Sequence[Log]:
        return emitted(await self._node.block_logs(self.address, block, heard), calls.can_be_its, str(heard))

    async def logs(self, first: int, last: Block) -> Sequence[Log]:
        return emitted(await self._node.logs(self.address, first, last), calls.can_be_its)

    async def opened(self, first: int, last: Block) -> Sequence[Log]:
        """The event does not index the receiverAuthorizer: those of all facilitators are read, and ours kept."""
        created = await self._node.logs(self.address, first, last, [contract.CREATED_TOPIC])
        return [log for log in emitted(created, calls.can_be_its) if self._is_ours(log)]

    async def of_account(self, account_id: bytes, first: int, last: Block) -> Sequence[Log]:
        return emitted(await self._node.logs(self.address, first, last, [None, account_id]), calls.can_be_its)

    def _is_ours(self, log: Log) -> bool:
        event = calls.decode(log)
        return isinstance(event, contract.ChannelCreated) and event.config.receiver_authorizer == self.operator


def _attestation(charge_counts: Sequence[int], rows: Sequence[VoucherClaim]) -> bytes:
    """The suffix of a claim's calldata; nothing where no charge is attested. Zeros among others keep their places."""
    if charge_counts and len(charge_counts) != len(rows):
        raise ValueError(f"{len(charge_counts)} charge counts for {len(rows)} rows")
    return charge_counts_suffix(charge_counts) if any(charge_counts) else b""


def voucher_claims(group: Group) -> list[VoucherClaim]:
    """A group's rows as the contract takes them. Raises ValueError for rows that it cannot take."""
    if group.approval is not None:
        raise ValueError("this contract takes no approvals of totals")
    config = group.account.config
    if any(row.receiver != config.receiver for row in group.rows):
        raise ValueError("a channel of this contract has one receiver")
    return [VoucherClaim(config, row.ceiling, row.signature, row.total) for row in group.rows]
