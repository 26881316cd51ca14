"""All that is particular to one kind of escrow contract, as the rest of the aggregator asks for it.

`deferred_escrow` binds Escrow.sol, `batch_settlement_escrow` the standard's contract.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from tallystick.channels import ChannelConfig
from tallystick.eip712 import Domain
from tallystick_aggregator.chain.claim_plan import ClaimCosts, Group
from tallystick_aggregator.chain.escrow_events import EscrowEvent
from tallystick_aggregator.chain.port import Block, Call, DepositAuthorization, EscrowAccount, Heard, RevertedError
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import OutboundTransaction, Payout

if TYPE_CHECKING:
    from tallystick_aggregator.chain.node import Log


class EscrowBinding(Protocol):
    """All that is particular to one kind of escrow contract (docs/design.md §3); nobody else knows its encoding.

    Made for Escrow.sol (one account, many receivers) so that the standard's contract fits too. There a channel is an
    account with one receiver, so both ids are the channel's; only vouchers authorize; paying out is a call of its own.
    """

    @property
    def ref(self) -> EscrowRef:
        """How the ledger names it."""
        ...

    @property
    def address(self) -> bytes: ...
    @property
    def domain(self) -> Domain: ...
    @property
    def operator(self) -> bytes: ...

    def account_id(self, config: ChannelConfig) -> bytes:
        """The account that a channel draws on; `account_config` is what names it."""
        ...

    def account_config(self, config: ChannelConfig) -> ChannelConfig: ...
    def channel_id(self, config: ChannelConfig) -> bytes: ...

    # What is sent.

    @property
    def deposit_recipient(self) -> bytes:
        """Whom a deposit's authorization is to: the escrow, or who collects for it."""
        ...

    def deposit_call(self, deposit: DepositAuthorization) -> Call: ...

    def deposit_token_nonce(self, deposit: DepositAuthorization) -> bytes:
        """keccak256(abi.encode(accountId, salt)): the nonce that the payer's authorization must carry."""
        ...

    def refund_call(self, account: ChannelConfig, amount: int, nonce: int) -> Call:
        """The refund, signed by the operator."""
        ...

    @property
    def claim_costs(self) -> ClaimCosts:
        """What a batch costs and weighs; how large it may be."""
        ...

    def claim_call(self, token: bytes, groups: Sequence[Group]) -> Call:
        """A batch of claims in one token. Raises ValueError for rows that the encoding cannot hold.

        A row that the chain does not take pays less or nothing, and its event says why (`EscrowEvent.skipped`); or it
        reverts the whole batch, which is then halved until the row is found. Both are planned again.
        """
        ...

    def claim_totals(self, call_data: bytes) -> Mapping[bytes, int]:
        """What a claim's calldata would raise `claimed` to, by channel id."""
        ...

    def blames_sender(self, reverted: RevertedError) -> bool:
        """Whether a claim was refused because of who sends it, so that it is of no use to look for a bad row."""
        ...

    @property
    def pays_on_claim(self) -> bool:
        """Whether a claim pays out; else it only notes what is owed, and every claim is followed by `collect_call`."""
        ...

    def collect_call(self, to: bytes, token: bytes) -> Call:
        """Pay `to` what the escrow owes it: what a failed transfer has left there. Anybody may send it.

        Of `batch-settlement` it is `settle(receiver, token)`, since its claims only note what is owed.
        """
        ...

    def payouts(self, outbound: OutboundTransaction, logs: "Iterable[tuple[bytes, Log]]") -> tuple[Payout, ...]:
        """What a deposit, a refund or a claim has moved, by its receipt's events and the contracts they came from.

        What is owed to a receiver after a claim counts as paid to it. One payout, of 0, where a deposit or a refund
        has moved nothing.
        """
        ...

    def debts(self, claim: OutboundTransaction, logs: "Iterable[tuple[bytes, Log]]") -> Iterable[tuple[bytes, bytes]]:
        """To whom, in which token, a claim has left something owed, by its receipt's events."""
        ...

    # What is read.

    async def accounts(
        self, account_ids: Sequence[bytes], block: Block, heard: Heard | None = None
    ) -> Sequence[EscrowAccount]: ...

    async def claimed(self, channel_ids: Sequence[bytes], block: Block, heard: Heard | None = None) -> Sequence[int]:
        """What channels were paid. `heard`: who answered; one made by `Heard.again` asks somebody else."""
        ...

    async def owed(self, to: bytes, token: bytes, block: Block) -> int:
        """What `collect_call` would pay, in atomic units."""
        ...

    async def check(self, sender: bytes, block: Block) -> None:
        """Raise ConfigurationError unless this escrow is at the address, and the operator's keys may do their work:
        sign refunds, and land claims as `sender`.
        """
        ...

    # Its events. Those that it cannot have emitted are left out, with an alarm.

    @property
    def event_topics(self) -> Sequence[bytes]:
        """The first topic of each event that it knows: by these a block's bloom filter is asked."""
        ...

    def read_event(self, log: "Log") -> EscrowEvent:
        """What an event means."""
        ...

    async def block_logs(self, block: Block, heard: Heard) -> "Sequence[Log]":
        """All events in this very block."""
        ...

    async def logs(self, first: int, last: Block) -> "Sequence[Log]":
        """All events in these blocks."""
        ...

    async def opened(self, first: int, last: Block) -> "Sequence[Log]":
        """The first events of our operator's accounts in these blocks."""
        ...

    async def of_account(self, account_id: bytes, first: int, last: Block) -> "Sequence[Log]":
        """All events of one account in these blocks."""
        ...
