"""What answers tell of a channel: the ledger's totals, and its refund nonce, which only the chain knows.

The nonce is read once for each channel, and again when its funds have changed, as a refund changes them. It is for
clients to look at; whoever signs a refund reads it anew.
"""

from collections.abc import Mapping
from typing import Final

from tallystick.x402.batch_settlement import ChannelState, VoucherState
from tallystick_aggregator.accounts.offers import Offers
from tallystick_aggregator.chain.port import Chain, ChainUnavailableError
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.ledger.values import EscrowRef

NONCES_MAX: Final = 65_536
"""Channels whose refund nonce is kept; the oldest is forgotten first."""


class Snapshots:
    """Channels as answers show them; each must be known to the ledger."""

    def __init__(self, chains: Mapping[EscrowRef, Chain], offers: Offers, writer: Writer) -> None:
        self._chains = chains
        self._offers = offers
        self._writer = writer
        self._nonces: dict[bytes, tuple[int, int]] = {}
        """By channel: its funds when it was read, and its refund nonce."""

    async def refresh(self, channel_id: bytes) -> None:
        """Read the channel's refund nonce if it may have changed; without the chain the old one is shown."""
        account = self._writer.ledger.account(channel_id)
        if account is None or self._nonces.get(channel_id, (-1, 0))[0] == account.funds:
            return
        chain = self._chains[account.escrow]
        try:
            (held,) = await chain.escrow.accounts([channel_id], await chain.head())
        except ChainUnavailableError:
            return
        self._nonces.pop(channel_id, None)
        self._nonces[channel_id] = (account.funds, held.refund_nonce)
        if len(self._nonces) > NONCES_MAX:
            del self._nonces[next(iter(self._nonces))]

    def of(self, channel_id: bytes) -> ChannelState:
        """The channel's state now."""
        ledger = self._writer.ledger
        account, channel = ledger.known_account(channel_id), ledger.known_channel(channel_id)
        # Every withdrawal is taken to last as long as the shortest delay that is served.
        shortest_s = self._offers[account.escrow].withdraw_delay_s_min
        return ChannelState(
            channel_id=channel_id,
            balance=account.funds,
            total_claimed=channel.claimed,
            withdraw_requested_at=max(0, account.withdraw_finalizes_at - shortest_s),
            refund_nonce=self._nonces.get(channel_id, (0, 0))[1],
            charged=channel.charged,
        )

    def charge_count(self, channel_id: bytes) -> int:
        """Charges since the channel's last confirmed claim."""
        return self._writer.ledger.known_channel(channel_id).charge_count

    def newest_voucher(self, channel_id: bytes) -> VoucherState | None:
        """The highest voucher that the payer has signed; None while there is none."""
        channel = self._writer.ledger.known_channel(channel_id)
        return VoucherState(channel.ceiling, channel.signature) if channel.signature else None
