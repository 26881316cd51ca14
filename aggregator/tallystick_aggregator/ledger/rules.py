"""The rules of docs/design.md §6, one function each: it refuses, or is silent. `decide` runs them in their order."""

from tallystick.payment_ids import payment_id_ms
from tallystick.quantities import ChannelTotals
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.commands import DecisionContext, Rules, SpendProof
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.state import Account, Channel, SpendKey


def times_of_payment_ids(draft: Draft, moment: DecisionContext, rules: Rules) -> tuple[int, int]:
    """The oldest and the newest time (ms) that a payment id may have.

    One that may have been pruned is never charged anew; one from the future could outlive its pruning.
    """
    oldest_ms = max(moment.now_ms - rules.payment_id_retention_s * 1000, draft.payments_forgotten_ms)
    return oldest_ms, moment.now_ms + rules.payment_id_skew_s * 1000


def payment_id_is_in_time(draft: Draft, payment_id: bytes, moment: DecisionContext, rules: Rules) -> Refusal | None:
    """The payment id's time is within `times_of_payment_ids`."""
    payment_ms = payment_id_ms(payment_id)
    oldest_ms, newest_ms = times_of_payment_ids(draft, moment, rules)
    if payment_ms < oldest_ms:
        return refuse(Why.PAYMENT_ID_EXPIRED, f"time {payment_ms} ms", f"at or after {oldest_ms} ms")
    if payment_ms > newest_ms:
        return refuse(Why.PAYMENT_ID_TOO_NEW, f"time {payment_ms} ms", f"at or before {newest_ms} ms")
    return None


def voucher_may_prove(account: Account, channel: Channel, ceiling: int) -> Refusal | None:
    """Rule 2a, but for the signature: may a voucher of this ceiling prove a charge, and this one alone?"""
    own_account: bytes = account.id
    if channel.id == own_account:  # of the canonical escrow: rule 2c
        return refuse(Why.IN_STEP_ONLY, totals=totals_of(channel))
    if account.takes_spend_proofs_only:
        return refuse(Why.SPEND_PROOF_REQUIRED, "none", "a proof under a registered spend key")
    if channel.has_used(ceiling):
        return refuse(
            Why.VOUCHER_USED, ceiling, f"an unused amount above {channel.used.floor}", totals=totals_of(channel)
        )
    return None


def watermark_is_next(draft: Draft, channel: Channel, ceiling: int, amount: int) -> Refusal | None:
    """Rule 2c, but for the signature: is the voucher over what was charged and this amount, and the channel free?"""
    if draft.open_reservations(channel.id):
        return refuse(Why.CHANNEL_BUSY, totals=totals_of(channel))
    return watermark_is_met(channel, ceiling, amount)


def watermark_is_met(channel: Channel, ceiling: int, amount: int) -> Refusal | None:
    """The voucher is over what was charged on the channel and `amount`, neither more nor less."""
    if ceiling == channel.charged + amount:
        return None
    return refuse(Why.WATERMARK_MISSED, ceiling, channel.charged + amount, totals=totals_of(channel))


def spend_key_may_prove(
    draft: Draft, account: Account, amount: int, proof: SpendProof, moment: DecisionContext
) -> Refusal | None:
    """Rule 2b, but for the HMAC: may this key pay this much, now?"""
    if amount > proof.max_amount:
        return refuse(Why.AMOUNT_ABOVE_AGREED, amount, f"at most {proof.max_amount}")
    return key_may_spend(draft, account, proof.key_id, amount, moment)


def key_may_spend(
    draft: Draft, account: Account, key_id: bytes, amount: int, moment: DecisionContext
) -> Refusal | None:
    """The key is known, live, and has this much left of its cap."""
    key = draft.spend_key(account.id, key_id)
    if key is None:
        return refuse(Why.SPEND_KEY_UNKNOWN)
    return key_is_live(key, moment) or cap_allows(key, amount)


def key_is_live(key: SpendKey, moment: DecisionContext) -> Refusal | None:
    """A key that was revoked or has expired charges nothing any more: its payer counts on that."""
    if key.revoked:
        return refuse(Why.SPEND_KEY_REVOKED)
    if moment.now_ms >= key.expires_at * 1000:
        return refuse(Why.SPEND_KEY_EXPIRED, key.expires_at, "a later time")
    return None


def cap_allows(key: SpendKey, amount: int) -> Refusal | None:
    """What a key spends, charged and reserved, stays within the cap that its payer gave it."""
    if key.spent + amount <= key.cap:
        return None
    return refuse(Why.SPEND_KEY_EXHAUSTED, amount, f"at most {key.cap - key.spent}")


def ceiling_allows(channel: Channel, ceiling: int, amount: int) -> Refusal | None:
    """Rule 3, I1: `charged + reserved + amount <= ceiling`."""
    needed = channel.charged + channel.reserved + amount
    if needed <= ceiling:
        return None
    return refuse(Why.CEILING_TOO_LOW, ceiling, f"at least {needed}", totals=totals_of(channel))


def mirror_is_fresh(account: Account, moment: DecisionContext) -> Refusal | None:
    """I9: no charge on a mirror that has not reached the chain's head, or not for too long."""
    if not moment.stale_escrows or account.escrow not in moment.stale_escrows:
        return None
    return refuse(Why.CHAIN_STALE, network=account.network)


def no_withdrawal_is_near(account: Account, moment: DecisionContext, rules: Rules) -> Refusal | None:
    """I9: no charge when a withdrawal may finalise before the charge is claimed."""
    if account.withdraw_finalizes_at and moment.now_s + rules.withdraw_margin_s >= account.withdraw_finalizes_at:
        return refuse(
            Why.WITHDRAWING, account.withdraw_finalizes_at, f"later than {moment.now_s + rules.withdraw_margin_s}"
        )
    return None


def funds_allow(account: Account, channel: Channel, amount: int) -> Refusal | None:
    """Rule 4, I2: everything promised on the account, and this, is covered by its funds."""
    if account.committed + account.withdrawing + account.refunding + amount <= account.funds:
        return None
    return account_is_not_short(account) or refuse(
        Why.FUNDS_TOO_LOW, amount, f"at most {account.available}", totals=totals_of(channel)
    )


def account_is_not_short(account: Account) -> Refusal | None:
    """I11: nothing is charged or captured while more is committed on the account than the chain has of it.

    Either the chain took back what was final, or somebody who told us of it was wrong: the figures cannot both hold.
    """
    if not account.is_short:
        return None
    return refuse(Why.ACCOUNT_SHORT, account.committed, f"at most {account.funds}")


def exposure_allows(draft: Draft, account: Account, channel: Channel, amount: int, rules: Rules) -> Refusal | None:
    """What sellers would lose to an empty escrow stays bounded, per account and per seller."""
    most = rules.exposure_per_account_max
    if most and account.exposure + account.reserved + amount > most:
        return refuse(Why.ACCOUNT_EXPOSED, amount, f"at most {max(0, most - account.exposure - account.reserved)}")
    most = rules.exposure_per_receiver_max
    if most and draft.exposure(channel.receiver, account.config.token) + amount > most:
        return refuse(
            Why.RECEIVER_EXPOSED,
            amount,
            f"at most {max(0, most - draft.exposure(channel.receiver, account.config.token))}",
        )
    return None


def reservations_allow(draft: Draft, channel: Channel, amount: int, rules: Rules) -> Refusal | None:
    """Threat 37: what is held and never settled is bounded, first for each seller, then for the account.

    A seller's own share is a small part of the account's: one that verifies and never settles blocks itself alone.
    """
    account = draft.account_of(channel)
    for what, held, most in (
        ("of this account for this seller", draft.open_reservations(channel.id), rules.reservations_per_channel_max),
        ("for this seller", draft.open_reservations(channel.receiver), rules.reservations_per_receiver_max),
        ("of this account", account.reservations, rules.reservations_per_account_max),
    ):
        if held >= most:
            return refuse(Why.TOO_MANY_RESERVATIONS, held + 1, f"at most {most}", what=what)
    most = rules.reserved_per_channel_max
    if most and channel.reserved + amount > most:
        return refuse(Why.TOO_MUCH_RESERVED, amount, f"at most {max(0, most - channel.reserved)}")
    return None


def totals_of(channel: Channel) -> ChannelTotals:
    """The channel's totals, as an answer carries them."""
    return ChannelTotals(
        channel.id, channel.receiver, channel.ceiling, channel.charged, channel.reserved, channel.claimed
    )
