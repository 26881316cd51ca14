"""Makes channels known to the ledger, each with its baseline read from the chain (I10).

A channel is opened once, however many payments wait for it. Opening costs a read of the chain, so it is limited in
number and in rate, and happens only for accounts that are known and funded, and only for whom the payer or the seller
proved to be: nobody opens channels for free, or in somebody else's account.
"""

from collections.abc import Mapping
from typing import Final

from tallystick.channels import ChannelConfig
from tallystick_aggregator.accounts.offers import Offers, channel_id_mismatch, config_is_served, find_offer
from tallystick_aggregator.accounts.outcomes import overloaded, unless_unavailable
from tallystick_aggregator.auth.limits import RateLimit
from tallystick_aggregator.chain.contradictions import read_claimed
from tallystick_aggregator.chain.port import Chain
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.commands import DecisionContext, Rules
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.state import Account, Ledger
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.tasks import SingleFlight

OPENINGS_MAX: Final = 256
"""Channels being opened at once."""
OPENINGS_PER_S: Final = 200.0


class Channels:
    """The one place where channels become known."""

    def __init__(self, chains: Mapping[EscrowRef, Chain], offers: Offers, writer: Writer, rules: Rules) -> None:
        self._chains = chains
        self._offers = offers
        self._writer = writer
        self._rules = rules
        self._opening = SingleFlight[bytes, Refusal | None]()
        self._rate = RateLimit(OPENINGS_PER_S, OPENINGS_MAX)

    def id_of(self, escrow: EscrowRef, config: ChannelConfig) -> bytes:
        """Return the channel's id in an escrow that is served."""
        return self._chains[escrow].escrow.channel_id(config)

    def escrow_of(self, network: str, config: ChannelConfig, channel_id: bytes) -> EscrowRef | Refusal:
        """Return the network's escrow in which the channel has this id, or why there is none."""
        offer = find_offer(self._offers, network)
        if isinstance(offer, Refusal):
            return offer
        ids = {self.id_of(escrow, config): escrow for escrow in self._offers if escrow.network == network}
        return ids.get(channel_id) or channel_id_mismatch(channel_id, self.id_of(offer.ref, config))

    def account_of(self, escrow: EscrowRef, config: ChannelConfig) -> Account | Refusal:
        """Return the account that a channel draws on, or why it opens none: it must be known and funded."""
        refusal = self._is_served(escrow, config)
        if refusal is not None:
            return refusal
        account = self._writer.ledger.account(self._chains[escrow].escrow.account_id(config))
        if account is None:
            return refuse(Why.ACCOUNT_UNKNOWN, field="config")
        if account.funds == 0:
            return refuse(Why.ACCOUNT_EMPTY, "0", "more than 0")
        return account

    async def open(self, escrow: EscrowRef, config: ChannelConfig) -> Refusal | None:
        """Make a channel known; None where it is, now or before. Its config has a receiver."""
        refusal = self._is_served(escrow, config)
        if refusal is not None:
            return refusal
        channel_id = self.id_of(escrow, config)
        if self._writer.ledger.channel(channel_id) is not None:
            return None
        if channel_id not in self._opening:
            account = self.account_of(escrow, config)
            refusal = account if isinstance(account, Refusal) else self._has_room()
            if refusal is not None:
                return refusal
        return await self._opening.run(channel_id, lambda: unless_unavailable(self._open(escrow, config, channel_id)))

    def _is_served(self, escrow: EscrowRef, config: ChannelConfig) -> Refusal | None:
        offer = find_offer(self._offers, *escrow)
        return offer if isinstance(offer, Refusal) else config_is_served(offer, config)

    def _has_room(self) -> Refusal | None:
        if len(self._opening) >= OPENINGS_MAX or not self._rate.take():
            return overloaded("channels being opened", OPENINGS_MAX)
        return None

    async def _open(self, escrow: EscrowRef, config: ChannelConfig, channel_id: bytes) -> Refusal | None:
        chain = self._chains[escrow]
        block = await chain.final()
        claimed = await read_claimed(chain.escrow, channel_id, block)
        account_id = chain.escrow.account_id(config)

        def decision(draft: Draft, _ledger: Ledger, _moment: DecisionContext) -> Refusal | None:
            return accounts.open_channel(draft, account_id, channel_id, config.receiver, claimed, self._rules)

        refusal = await self._writer.run(decision)
        if claimed and refusal is None:
            # Funds count what the known channels were paid: the account has more than was known before this one was.
            chain.track(chain.escrow.account_config(config))
        return refusal
