"""The binding of the scheme `deferred`: Escrow.sol, one account for any number of receivers (docs/design.md §3, §4)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from tallystick import channels, eip712
from tallystick.channels import ChannelConfig
from tallystick.eip712 import Domain
from tallystick.signatures import Signer
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain.contradictions import Answer, contradicted
from tallystick_aggregator.chain.node import CallRevertedError, Log, Node, RefusedError
from tallystick_aggregator.chain.port import (
    Block,
    Call,
    ChainUnavailableError,
    DepositAuthorization,
    EscrowAccount,
    Heard,
)
from tallystick_aggregator.chain.reverts import describe
from tallystick_aggregator.chain.settings import ChainLimits
from tallystick_contracts import claim_batch
from tallystick_contracts.claim_batch import AccountClaim, ClaimBatch

_NO_ACCOUNT: Final = EscrowAccount(0, 0, 0, 0, 0)
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
        *,
        items_per_read: int = ChainLimits().items_per_read,
    ) -> None:
        self._node = node
        self._address = address
        self._operator = operator
        self._signer = operator_signer
        self._domain = eip712.escrow_domain(chain_id, address)
        self._items_per_read = items_per_read

    @property
    def address(self) -> bytes:
        return self._address

    @property
    def domain(self) -> Domain:
        return self._domain

    @property
    def operator(self) -> bytes:
        return self._operator

    def account_id(self, config: ChannelConfig) -> bytes:
        return channels.account_id(self._domain, config)

    def channel_id(self, config: ChannelConfig) -> bytes:
        return channels.channel_id(self._domain, config)

    # What is sent.

    def deposit_call(self, deposit: DepositAuthorization) -> Call:
        return Call(self._address, calls.deposit_with_authorization(deposit))

    def deposit_token_nonce(self, deposit: DepositAuthorization) -> bytes:
        return eip712.deposit_nonce(self.account_id(deposit.account), deposit.salt)

    def refund_call(self, account: ChannelConfig, amount: int, nonce: int) -> Call:
        digest = eip712.digest(self._domain, eip712.hash_refund(self.account_id(account), nonce, amount))
        return Call(self._address, calls.refund_with_signature(account, amount, nonce, self._signer.sign(digest)))

    def claim_call(self, token: bytes, accounts: Sequence[AccountClaim]) -> Call:
        batch = ClaimBatch(self._operator, token, tuple(accounts))
        return Call(self._address, calls.claim(claim_batch.encode(batch)))

    def collect_call(self, to: bytes, token: bytes) -> Call:
        """Pay out what a failed transfer has left owed to `to`."""
        return Call(self._address, calls.collect(to, token))

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

    # What is read.

    async def accounts(
        self, account_ids: Sequence[bytes], block: Block, heard: Heard | None = None
    ) -> Sequence[EscrowAccount]:
        return await self._read_each(calls.ACCOUNTS, account_ids, block, calls.read_accounts, _NO_ACCOUNT, heard)

    async def claimed(self, channel_ids: Sequence[bytes], block: Block, heard: Heard | None = None) -> Sequence[int]:
        return await self._read_each(calls.CLAIMED, channel_ids, block, calls.read_claimed, 0, heard)

    async def block_logs(self, block: Block, heard: Heard) -> Sequence[Log]:
        """All events of the escrow in this very block."""
        return _emitted(await self._node.block_logs(self._address, block, heard), str(heard))

    async def owed(self, to: bytes, token: bytes, block: Block) -> int:
        """What failed transfers have left owed to `to`, in atomic units."""
        return int.from_bytes(await self._read(calls.owed_to(to, token), block), "big")

    async def logs(self, first: int, last: Block) -> Sequence[Log]:
        """All events of the escrow in these blocks."""
        return _emitted(await self._node.logs(self._address, first, last))

    async def opened(self, first: int, last: Block) -> Sequence[Log]:
        """The AccountOpened events of our operator's accounts in these blocks."""
        topics = [calls.ACCOUNT_OPENED_TOPIC, None, None, self._operator.rjust(32, b"\0")]
        return _emitted(await self._node.logs(self._address, first, last, topics))

    async def of_account(self, account_id: bytes, first: int, last: Block) -> Sequence[Log]:
        """All events of one account in these blocks."""
        return _emitted(await self._node.logs(self._address, first, last, [None, account_id]))

    async def may_claim(self, sender: bytes, block: Block) -> bool:
        """Whether this address may land the operator's claims."""
        if sender == self._operator:
            return True
        return int.from_bytes(await self._read(calls.is_sender(self._operator, sender), block), "big") == 1

    async def domain_separator(self, block: Block) -> bytes:
        """What the contract itself thinks its domain is."""
        return await self._read(calls.selector(calls.DOMAIN_SEPARATOR), block)

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
            answer = await self._node.call(self._address, data, block, heard=heard)
        except CallRevertedError as reverted:
            # A view of ours never reverts: what answered is not the escrow, or it is starved of gas.
            raise ChainUnavailableError(f"the escrow cannot be read: {describe(reverted)}") from reverted
        if not answer and await self._node.code(self._address, block):
            raise ChainUnavailableError(f"an endpoint answers nothing for the escrow at block {block.number}")
        return answer


def _emitted(logs: Sequence[Log], who: str = "the node") -> Sequence[Log]:
    """Leave out what the escrow cannot have emitted: a watcher that reads such an event fails, at every look."""
    found = [log for log in logs if calls.can_be_ours(log)]
    if len(found) < len(logs):
        contradicted(Answer.LOGS, who, f"made up {len(logs) - len(found)} events that the escrow cannot emit")
    return found
