"""Decisions about accounts: what the chain says, channels, spend keys, refunds. Pure, like `decide`."""

import hmac
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from tallystick.channels import ChannelConfig
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.commands import DecisionContext, Rules
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.state import Channel, Ledger, SpendKey
from tallystick_aggregator.ledger.values import EscrowRef

SPEND_KEYS_KEPT: Final = 8
"""For each spend key that an account may have, so many are kept: expired ones prove payments that are sent again."""


class AccountAtBlock(NamedTuple):
    """An account as the escrow holds it at one block. `claimed` by channel id, for the channels that were asked."""

    balance: int
    claimed: Mapping[bytes, int]


class AccountOnChain(NamedTuple):
    """An account at the newest final block and at the head; the pending withdrawal is the head's.

    `left_since_final` is what went back to the payer in the blocks between them: without it a deposit in those blocks
    would hide a withdrawal in them, and both may not stay.

    `confirmed`: the account was read twice, separately, and both answers agree. `explained` is what the escrow's events
    say that the funds are at the final block; None where the chain's own word is the baseline (I10).
    """

    account_id: bytes
    final: AccountAtBlock
    head: AccountAtBlock
    withdrawing: int
    withdraw_finalizes_at: int
    left_since_final: int = 0
    confirmed: bool = True
    explained: int | None = None


class Overclaim(NamedTuple):
    """The chain has paid more than was charged here: an alarm (I1; possible on the canonical escrow only)."""

    channel_id: bytes
    charged: int
    claimed: int


def open_account(draft: Draft, account_id: bytes, escrow: EscrowRef, config: ChannelConfig) -> None:
    """Make an account known; does nothing where it is."""
    if draft.account(account_id) is None:
        draft.record(ev.AccountOpened(account_id, escrow, config))


def mirror(draft: Draft, ledger: Ledger, seen: AccountOnChain) -> list[Overclaim]:
    """Take over what the chain says of an account: increases when final, decreases at first sight (docs/design.md §6).

    `funds` is the balance plus all that the account's known channels were paid, at either block, whichever is less.
    What would raise credit counts only as `credited` has it; what is not confirmed raises no `claimed` either, because
    that only grows.
    """
    account = draft.account(seen.account_id)
    assert account is not None, "an account is opened before it is mirrored"
    alarms: list[Overclaim] = []
    channels = [draft.channel(known.id) or known for known in ledger.channels_of(seen.account_id)]
    funds = credited(account.funds, seen, funds_at(seen.final, channels), funds_at(seen.head, channels))
    for channel in channels if seen.confirmed else ():
        claimed = seen.final.claimed.get(channel.id, channel.claimed)
        if claimed > channel.charged:
            alarms.append(Overclaim(channel.id, channel.charged, claimed))
        if claimed > channel.claimed:
            draft.record(ev.ChannelClaimed(channel.id, claimed))
    withdrawing, finalizes_at = seen.withdrawing, seen.withdraw_finalizes_at
    if not seen.confirmed and account.withdraw_finalizes_at:
        # The end of a withdrawal raises credit, too.
        withdrawing = max(withdrawing, account.withdrawing)
        finalizes_at = min(finalizes_at or account.withdraw_finalizes_at, account.withdraw_finalizes_at)
    mirrored = (funds, withdrawing, finalizes_at)
    if mirrored != (account.funds, account.withdrawing, account.withdraw_finalizes_at):
        draft.record(ev.AccountMirrored(seen.account_id, *mirrored))
    return alarms


def credited(counted: int, seen: AccountOnChain, final_funds: int, head_funds: int) -> int:
    """Return the funds that count from now on, after `counted`: down at once, up only where nothing speaks against it.

    An increase needs an account that two separate answers tell alike, and no more than the escrow's events explain, to
    the unit. So one wrong answer raises nothing, whichever it is.
    """
    funds = max(0, min(final_funds - seen.left_since_final, head_funds))
    if seen.confirmed and (seen.explained is None or final_funds <= seen.explained):
        return funds
    return min(counted, funds)


def funds_at(at: AccountAtBlock, channels: Iterable[Channel]) -> int:
    """Return the account's funds at a block: its balance, and what its known channels were paid by then."""
    return at.balance + sum(at.claimed.get(channel.id, channel.claimed) for channel in channels)


def open_channel(
    draft: Draft, account_id: bytes, channel_id: bytes, receiver: bytes, claimed: int, rules: Rules
) -> Refusal | None:
    """Make a channel known with its baseline from the chain (I10); does nothing where it is."""
    if draft.channel(channel_id) is not None:
        return None
    account = draft.account(account_id)
    if account is None:
        return refuse(Why.ACCOUNT_UNKNOWN, field="config")
    if account.channels >= rules.channels_per_account_max:
        return refuse(Why.TOO_MANY_CHANNELS, account.channels + 1, f"at most {rules.channels_per_account_max}")
    draft.record(ev.ChannelOpened(channel_id, account_id, receiver, claimed))
    return None


def attest_charges(draft: Draft, channel_id: bytes, total: int, before: int, charges: int) -> None:
    """Note that a claim up to `total` attests so many of the channel's charges, before it is journaled.

    `before`: as in `Channel.to_attest`. Does nothing where the chain has that total already: then the claim is void.
    """
    channel = draft.channel(channel_id)
    if channel is None or total <= channel.claimed:
        return
    attested = min(charges, channel.to_attest(before))
    if attested:
        draft.record(ev.ChargesAttested(channel_id, total, before, attested))


def register_spend_key(
    draft: Draft, account_id: bytes, key: SpendKey, moment: DecisionContext, rules: Rules
) -> SpendKey | Refusal:
    """Register a key, raise its cap, or answer with it where this very key is registered already.

    The payer signed the higher cap as it signed the first one; a lower one, such as a call that is sent again late, is
    refused as another key's.
    """
    if draft.account(account_id) is None:
        return refuse(Why.ACCOUNT_UNKNOWN)
    known = draft.spend_key(account_id, key.key_id)
    if known is not None:
        same = hmac.compare_digest(known.secret, key.secret) and known.expires_at == key.expires_at
        if same and known.cap == key.cap:
            return known
        if same and known.cap < key.cap:
            return _raise_cap(draft, known, key.cap, moment)
        return refuse(Why.SPEND_KEY_TAKEN)
    if key.expires_at <= moment.now_s:
        return refuse(Why.SPEND_KEY_TOO_SHORT, key.expires_at, f"later than {moment.now_s}")
    # Only keys that can still pay count: short runs revoke theirs. What a payer registers and takes back again is
    # bounded below, by what is kept.
    known_keys = draft.spend_keys_of(account_id)
    live = sum(old.expires_at > moment.now_s and not old.revoked for old in known_keys)
    if live >= rules.spend_keys_per_account_max:
        return refuse(Why.TOO_MANY_LIVE_KEYS, live + 1, f"at most {rules.spend_keys_per_account_max}")
    # Until its payments are forgotten, one that is sent again is proven by its key, expired or not (I4).
    forgotten = [
        old for old in known_keys if (old.expires_at + rules.payment_id_skew_s) * 1000 < draft.payments_forgotten_ms
    ]
    kept = len(known_keys) - len(forgotten)
    if kept >= SPEND_KEYS_KEPT * rules.spend_keys_per_account_max:
        return refuse(
            Why.TOO_MANY_KEYS,
            kept + 1,
            f"at most {SPEND_KEYS_KEPT * rules.spend_keys_per_account_max}, expired ones included",
        )
    for old in forgotten:
        draft.record(ev.SpendKeyForgotten(account_id, old.key_id))
    draft.record(ev.SpendKeyRegistered(account_id, key.key_id, key.secret, key.cap, key.expires_at))
    registered = draft.spend_key(account_id, key.key_id)
    assert registered is not None
    return registered


def _raise_cap(draft: Draft, known: SpendKey, cap: int, moment: DecisionContext) -> SpendKey | Refusal:
    """Let a key spend more, as long as it may spend at all; what it has spent stands."""
    if known.revoked:
        return refuse(Why.KEY_TO_RAISE_REVOKED)
    if known.expires_at <= moment.now_s:
        return refuse(Why.KEY_TO_RAISE_EXPIRED)
    draft.record(ev.SpendKeyRegistered(known.account_id, known.key_id, known.secret, cap, known.expires_at))
    raised = draft.spend_key(known.account_id, known.key_id)
    assert raised is not None
    return raised


def revoke_spend_key(draft: Draft, account_id: bytes, key_id: bytes) -> SpendKey | Refusal:
    """Revoke a key, at once and for good; revoking it again answers alike."""
    key = draft.spend_key(account_id, key_id)
    if key is None:
        return refuse(Why.SPEND_KEY_UNKNOWN)
    if not key.revoked:
        draft.record(ev.SpendKeyRevoked(account_id, key_id))
    revoked = draft.spend_key(account_id, key_id)
    assert revoked is not None
    return revoked


def start_refund(
    draft: Draft, account_id: bytes, refund_id: bytes, nonce: int, amount: int, moment: DecisionContext
) -> ev.RefundStarted | Refusal:
    """Set aside what will be refunded, before anything is signed; amount 0 asks for all that is available."""
    account = draft.account(account_id)
    if account is None:
        return refuse(Why.ACCOUNT_TO_REFUND_UNKNOWN)
    if account.refund is not None:
        return refuse(Why.REFUND_PENDING)
    if account.escrow in moment.stale_escrows:
        return refuse(Why.CHAIN_STALE, network=account.network)
    amount = amount or account.available
    if amount == 0 or amount > account.available:
        return refuse(Why.REFUND_TOO_LARGE, amount, f"at most {account.available}")
    started = ev.RefundStarted(account_id, refund_id, nonce, amount)
    draft.record(started)
    return started


def end_refund(draft: Draft, account_id: bytes, refund_id: bytes) -> None:
    """Stop counting a refund whose nonce has passed in a final block."""
    account = draft.account(account_id)
    if account is not None and account.refund is not None and account.refund.refund_id == refund_id:
        draft.record(ev.RefundEnded(account_id, refund_id))
