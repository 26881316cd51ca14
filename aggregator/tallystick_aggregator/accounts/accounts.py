"""What payers ask of their accounts: to read them, to register and revoke spend keys, to approve totals, to open
channels. Every call is signed by the account's payerAuthorizer; see `signed_calls`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from tallystick import eip712
from tallystick.channels import ChannelConfig
from tallystick.quantities import AccountId, ChannelTotals
from tallystick.spend_keys import key_hash
from tallystick_aggregator.accounts.channels import Channels
from tallystick_aggregator.accounts.offers import Offers, find_offer
from tallystick_aggregator.accounts.outcomes import unless_unavailable
from tallystick_aggregator.accounts.signed_calls import SignedCall, call_is_signed, signature_is
from tallystick_aggregator.chain.port import Chain
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.ledger import accounts, approvals
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.approvals import Totals
from tallystick_aggregator.ledger.commands import DecisionContext, Rules
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.rules import totals_of
from tallystick_aggregator.ledger.state import Account, Ledger, SpendKey
from tallystick_aggregator.ledger.values import EscrowRef

CHANNELS_PER_PAGE: Final = 1_000
APPROVAL_ROWS_MAX: Final = 250
"""Totals in one approval at most. Its one signature covers all rows, so they have to fit into one transaction."""


@dataclass(frozen=True, slots=True)
class AccountPage:
    """An account and a page of its channels, in the order in which they were opened."""

    account: Account
    channels: Sequence[ChannelTotals]
    more: bool
    spend_keys: Sequence[SpendKey]
    payment_id_retention_s: int


class Accounts:
    """The payers' calls that need no transaction."""

    def __init__(
        self,
        chains: Mapping[EscrowRef, Chain],
        offers: Offers,
        channels: Channels,
        writer: Writer,
        rules: Rules,
        clock_s: Callable[[], int],
        *,
        channels_per_page: int = CHANNELS_PER_PAGE,
    ) -> None:
        self._chains = chains
        self._offers = offers
        self._channels = channels
        self._writer = writer
        self._rules = rules
        self._clock_s = clock_s
        self._per_page = channels_per_page

    def signed(
        self, account_id: bytes, struct_hash: bytes, call: SignedCall, *, to_read: bool = False
    ) -> Account | Refusal:
        """Return the account whose payerAuthorizer signed this call, or the refusal.

        What is only `to_read` may be in an escrow that is not offered: a channel of `batch-settlement`.
        """
        account = self._writer.ledger.account(account_id)
        if account is None or not (to_read or account.escrow in self._offers):
            return refuse(Why.ACCOUNT_UNKNOWN)
        domain = self._chains[account.escrow].escrow.domain
        refusal = call_is_signed(domain, struct_hash, call, account.config.payer_authorizer, self._clock_s())
        return refusal or account

    def min_deposit(self, account: Account) -> int:
        """Return the least that is worth a transaction of ours in the account's token, in atomic units."""
        return self._offers[account.escrow].tokens[account.config.token].min_deposit

    def read(self, account_id: bytes, call: SignedCall, after_channel_id: bytes = b"") -> AccountPage | Refusal:
        """Return the account and its channels after that one; from the first if it is empty."""
        account = self.signed(account_id, eip712.hash_read_account(account_id, call.deadline), call, to_read=True)
        if isinstance(account, Refusal):
            return account
        ledger = self._writer.ledger
        channels = ledger.channels_after(account_id, after_channel_id, self._per_page + 1)
        if channels is None:
            return refuse(Why.PAGE_UNKNOWN)
        return AccountPage(
            account,
            [totals_of(channel) for channel in channels[: self._per_page]],
            len(channels) > self._per_page,
            list(ledger.spend_keys_of(account_id)),
            self._rules.payment_id_retention_s,
        )

    async def open_channel(
        self, network: str, config: ChannelConfig, call: SignedCall | None, escrow: bytes = b""
    ) -> ChannelTotals | Refusal:
        """Make a channel known. `call` None: the caller holds the credential of the channel's receiver.

        `escrow` empty: the network's first.
        """
        offer = find_offer(self._offers, network, escrow)
        if isinstance(offer, Refusal):
            return offer
        channel_id = self._channels.id_of(offer.ref, config)
        if call is not None:
            struct_hash = eip712.hash_open_channel(channel_id, call.deadline)
            domain = self._chains[offer.ref].escrow.domain
            refusal = call_is_signed(domain, struct_hash, call, config.payer_authorizer, self._clock_s())
            if refusal is not None:
                return refusal
        refusal = await self._channels.open(offer.ref, config)
        return refusal or totals_of(self._writer.ledger.known_channel(channel_id))

    async def register_spend_key(
        self, account_id: bytes, key_id: bytes, secret: bytes, cap: int, expires_at: int, call: SignedCall
    ) -> SpendKey | Refusal:
        """Register a spend key; from the first one on the account takes spend proofs only."""
        struct_hash = eip712.hash_register_spend_key(
            account_id, key_id, key_hash(secret), cap, expires_at, call.deadline
        )
        account = self.signed(account_id, struct_hash, call)
        if isinstance(account, Refusal):
            return account
        key = SpendKey(AccountId(account_id), key_id, secret, cap, expires_at)

        def decision(draft: Draft, _: Ledger, moment: DecisionContext) -> SpendKey | Refusal:
            return accounts.register_spend_key(draft, account_id, key, moment, self._rules)

        return await unless_unavailable(self._writer.run(decision))

    async def revoke_spend_key(self, account_id: bytes, key_id: bytes, call: SignedCall) -> SpendKey | Refusal:
        """Revoke a spend key, at once and for good."""
        account = self.signed(account_id, eip712.hash_revoke_spend_key(account_id, key_id, call.deadline), call)
        if isinstance(account, Refusal):
            return account

        def decision(draft: Draft, _ledger: Ledger, _moment: DecisionContext) -> SpendKey | Refusal:
            return accounts.revoke_spend_key(draft, account_id, key_id)

        return await unless_unavailable(self._writer.run(decision))

    def totals_to_approve(self, account_id: bytes, call: SignedCall) -> Totals | Refusal:
        """Return what the payer may approve for the next claim: the totals that are charged and not claimed.

        Those that are owed most, at most APPROVAL_ROWS_MAX.
        """
        account = self.signed(account_id, eip712.hash_read_account(account_id, call.deadline), call)
        if isinstance(account, Refusal):
            return account
        owed = [c for c in self._writer.ledger.channels_of(account_id) if c.charged > c.claimed]
        approved = {receiver for receiver, _ in approvals.unpaid_totals(account, self._writer.ledger)}
        # What was approved and is not paid yet has to be in the next approval too, which takes the place of this one.
        owed.sort(key=lambda channel: (channel.receiver in approved, channel.charged - channel.claimed), reverse=True)
        return tuple((channel.receiver, channel.charged) for channel in islice(owed, APPROVAL_ROWS_MAX))

    async def approve_totals(self, account_id: bytes, totals: Totals, signature: bytes) -> Refusal | None:
        """Keep a payer's approval. Its signature is its own proof; it may approve nothing that was not charged."""
        account = self._writer.ledger.account(account_id)
        if account is None or account.escrow not in self._offers:
            return refuse(Why.ACCOUNT_UNKNOWN)
        if not 0 < len(totals) <= APPROVAL_ROWS_MAX:
            return refuse(Why.APPROVAL_SIZE, f"{len(totals)} totals", f"1 to {APPROVAL_ROWS_MAX}")
        digest = eip712.digest(
            self._chains[account.escrow].escrow.domain, eip712.hash_totals_approval(account_id, totals)
        )
        refusal = signature_is(account.config.payer_authorizer, digest, signature, "signature")
        if refusal is not None:
            return refusal

        def decision(draft: Draft, ledger: Ledger, _: DecisionContext) -> Refusal | None:
            return approvals.approve_totals(draft, ledger, account_id, totals, signature)

        return await unless_unavailable(self._writer.run(decision))
