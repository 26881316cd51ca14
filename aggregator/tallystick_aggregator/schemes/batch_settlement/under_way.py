"""Channels whose refund or deposit is sent, and not yet in what the ledger has read of the chain.

Until then the ledger counts what the channel had before: a voucher must not be held against money that is leaving. What
tells that it is over is the outbox, however long it takes; after a restart, refunds are found there again.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from tallystick.channels import ChannelConfig
from tallystick_aggregator.accounts.outcomes import NEVER_HAPPENED
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.schemes.batch_settlement.port import ChannelChain
from tallystick_aggregator.store.port import OutboundTransaction, Outbox, TransactionKind, TransactionStatus

FOLLOWED_MAX: Final = 65_536
"""Channels that are followed; each has cost the operator a transaction. The oldest is forgotten first."""


class Sent(NamedTuple):
    """A transaction of a channel, by its kind and reference; `bound`: the request that it is for, which may go on."""

    kind: TransactionKind
    reference: bytes
    bound: bytes


class UnderWay:
    """Follows them."""

    def __init__(self, chains: Mapping[EscrowRef, ChannelChain], outbox: Outbox, writer: Writer) -> None:
        self._chains = chains
        self._outbox = outbox
        self._writer = writer
        self._sent: dict[bytes, Sent] = {}
        self._before: dict[EscrowRef, list[OutboundTransaction]] = {}
        """Refunds that were open when this process first looked."""

    def follow(self, channel_id: bytes, sent: Sent) -> None:
        """Keep the channel from others until the ledger has read what this does, or it is known to do nothing."""
        self._sent.pop(channel_id, None)
        self._sent[channel_id] = sent
        if len(self._sent) > FOLLOWED_MAX:
            del self._sent[next(iter(self._sent))]

    def is_anothers(self, channel_id: bytes, bound: bytes) -> bool:
        """Whether a channel was followed for another request than this when it was last looked at."""
        sent = self._sent.get(channel_id)
        return sent is not None and sent.bound != bound

    async def refusal(
        self, escrow: EscrowRef, config: ChannelConfig, channel_id: bytes, bound: bytes
    ) -> Refusal | None:
        """Refuse a channel whose money another request moves. Raises StoreUnavailableError."""
        await self._find_before(escrow, config, channel_id)
        sent = self._sent.get(channel_id)
        if sent is None or sent.bound == bound:
            return None
        if await self._is_over(escrow, sent):
            if self._sent.get(channel_id) == sent:
                del self._sent[channel_id]
            before = self._before[escrow]
            self._before[escrow] = [one for one in before if (one.kind, one.reference) != (sent.kind, sent.reference)]
            return None
        return refuse(Why.CHANNEL_BUSY)

    async def _is_over(self, escrow: EscrowRef, sent: Sent) -> bool:
        found = await self._outbox.by_reference(sent.kind, sent.reference)
        if found is None or found.status in NEVER_HAPPENED:
            return True
        if found.status is TransactionStatus.PENDING:
            return False
        try:
            await self._chains[escrow].mirrored(found.block_number, 0)
        except TimeoutError:
            return False
        return True

    async def _find_before(self, escrow: EscrowRef, config: ChannelConfig, channel_id: bytes) -> None:
        if escrow not in self._before:
            open_ = await self._outbox.open(escrow.network)
            found = [one for one in open_ if one.kind is TransactionKind.REFUND]
            self._before.setdefault(escrow, found)
        before = self._before[escrow]
        if not before or channel_id in self._sent:
            return
        account = self._writer.ledger.account(channel_id)
        # The ledger counts its own refunds by itself.
        noted = account.refund.refund_id if account is not None and account.refund is not None else b""
        call_names = self._chains[escrow].escrow.call_names
        for one in before:  # it may claim of other channels too, which wait for it as well
            if one.to == escrow.address and one.reference != noted and call_names(one.data, config):
                self.follow(channel_id, Sent(one.kind, one.reference, one.reference))
                return
