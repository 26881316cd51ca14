"""How a payment is decided (design.md §6): each rule is a function that refuses or is silent.

Pure: what time it is, what proofs hold and which payments were recalled from the journal is handed in; what is accepted
is recorded in the draft. Rules run in the design's order:

1. a known payment id gets its first answer again;
2. the payer must have meant this charge: an unused voucher, or a spend key's proof;
3. the ceiling (I1); 4. the funds (I2); 5. accepted.
"""

import hmac

from tallystick.quantities import ChannelTotals
from tallystick.reasons import Reason
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Done, Held, Refusal
from tallystick_aggregator.ledger.commands import Moment, ProvenPayment, Rules, SpendProof, VoucherProof
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import (
    Account,
    Channel,
    Payment,
    PaymentStatus,
    Reservation,
    SpendKey,
    payment_of_handle,
)


def charge(draft: Draft, payment: ProvenPayment, moment: Moment, rules: Rules) -> Accepted | Refusal:
    """Take a payment at once."""
    channel_id, payment_id, amount = payment.channel_id, payment.payment_id, payment.amount
    known = draft.payment(channel_id, payment_id)
    if known is not None:
        return replay_of_charge(known, amount, payment.request_hash)
    refusal = payment_id_is_in_time(draft, payment.payment_ms, moment, rules)
    if refusal is not None:
        return refusal
    accepted = _accept(draft, payment, moment, rules)
    if isinstance(accepted, Refusal):
        return accepted
    charged, used_ceiling, key_id = accepted
    draft.record(ev.Charged(channel_id, payment_id, amount, payment.request_hash, used_ceiling, key_id))
    return Accepted(amount, charged, replayed=False)


def reserve(
    draft: Draft, payment: ProvenPayment, handle: bytes, moment: Moment, rules: Rules
) -> Held | Accepted | Refusal:
    """Hold a payment's amount under `handle` (`state.reservation_handle`), whose secret the caller drew."""
    known = draft.payment(payment.channel_id, payment.payment_id)
    if known is not None:
        return replay_of_reservation(known, payment.amount, payment.request_hash)
    refusal = payment_id_is_in_time(draft, payment.payment_ms, moment, rules)
    if refusal is not None:
        return refusal
    channel = draft.channel(payment.channel_id)
    account = draft.account(channel.account_id) if channel is not None else None
    if account is not None and account.reservations >= rules.reservations_per_account_max:
        return Refusal(
            Reason.RESERVATION_LIMIT,
            "The account has too many open reservations; settle or release some.",
            "reservations",
            str(account.reservations + 1),
            f"at most {rules.reservations_per_account_max}",
        )
    accepted = _accept(draft, payment, moment, rules)
    if isinstance(accepted, Refusal):
        return accepted
    _, used_ceiling, key_id = accepted
    expires_at = moment.now_s + rules.reservation_s
    draft.record(
        ev.Reserved(
            payment.channel_id,
            payment.payment_id,
            payment.amount,
            payment.request_hash,
            used_ceiling,
            key_id,
            handle,
            expires_at,
        )
    )
    return Held(handle, expires_at, replayed=False)


def capture(draft: Draft, handle: bytes, amount: int, moment: Moment) -> Accepted | Refusal:
    """Charge a reservation, in full or less; after its expiry too, while ceiling and funds allow (threat 9)."""
    reservation = draft.reservation(handle)
    if reservation is None:
        return _capture_again(_settled_payment(draft, handle), amount)
    payment = draft.payment(reservation.channel_id, reservation.payment_id)
    channel = draft.channel(reservation.channel_id)
    assert payment is not None, "a reservation has a payment"
    assert channel is not None, "a reservation has a channel"
    if amount > reservation.amount:
        return Refusal(
            Reason.AMOUNT_ABOVE_AGREED,
            "A capture takes at most what was reserved.",
            "amount",
            str(amount),
            f"at most {reservation.amount}",
        )
    if payment.status is PaymentStatus.EXPIRED:
        refusal = _room_after_expiry(draft, channel, reservation.key_id, amount, moment)
    else:  # what is held has its room, unless the receiver claimed it by itself meanwhile (I1, threat 36)
        refusal = ceiling_allows(channel, channel.ceiling, amount - reservation.amount)
    if refusal is not None:
        return refusal
    charged = channel.charged + amount  # now: recording changes the channel if it is the draft's own
    draft.record(ev.Captured(handle, reservation.channel_id, reservation.payment_id, reservation.key_id, amount))
    return Accepted(amount, charged, replayed=False)


def release(draft: Draft, handle: bytes) -> Done | Refusal:
    """Give a reservation back; final."""
    if draft.reservation(handle) is None:
        known = _settled_payment(draft, handle)
        if known is None:
            return _unknown_reservation()
        if known.status is PaymentStatus.RELEASED:
            return Done(replayed=True)
        return Refusal(Reason.PAYMENT_ID_REUSED, "The reservation was captured already; a charge is final.", "handle")
    draft.record(ev.Released(handle))
    return Done(replayed=False)


def expire(draft: Draft, reservation: Reservation) -> None:
    """Give back what a reservation holds whose time ran out; a late capture stays possible."""
    draft.record(ev.Expired(reservation.handle))


# Rule 1: known payment ids, and ids out of time.


def replay_of_charge(known: Payment, amount: int, request_hash: bytes) -> Accepted | Refusal:
    """The first answer again for the same payment; anything different is refused (I4)."""
    if known.status is PaymentStatus.RELEASED:
        return _released()
    same = known.request_hash == request_hash and amount in (known.amount, known.captured)
    if not same or known.status is not PaymentStatus.CHARGED:
        return _reused(known, amount, request_hash)
    return Accepted(known.captured, known.charged, replayed=True)


def replay_of_reservation(known: Payment, amount: int, request_hash: bytes) -> Held | Accepted | Refusal:
    """The first answer again, without the handle: whoever got it first settles it, and nothing new is paid for."""
    if known.status is PaymentStatus.RELEASED:
        return _released()
    if known.request_hash != request_hash or known.amount != amount:
        return _reused(known, amount, request_hash)
    if known.status is PaymentStatus.CHARGED:
        return Accepted(known.captured, known.charged, replayed=True)
    return Held(b"", 0, replayed=True)


def payment_id_is_in_time(draft: Draft, payment_ms: int, moment: Moment, rules: Rules) -> Refusal | None:
    """An id that may have been pruned is never charged anew; one from the future could outlive its pruning."""
    oldest_ms = moment.now_ms - rules.payment_id_retention_s * 1000
    if payment_ms < oldest_ms or payment_ms < draft.payments_forgotten_ms:
        oldest_ms = max(oldest_ms, draft.payments_forgotten_ms)
        return Refusal(
            Reason.PAYMENT_ID_EXPIRED,
            "The payment id is older than payment ids are kept; make a new one.",
            "payment_id",
            f"time {payment_ms} ms",
            f"at or after {oldest_ms} ms",
        )
    newest_ms = moment.now_ms + rules.payment_id_skew_s * 1000
    if payment_ms > newest_ms:
        return Refusal(
            Reason.PAYMENT_ID_INVALID,
            "The payment id's time lies in the future; set the clock that made it.",
            "payment_id",
            f"time {payment_ms} ms",
            f"at or before {newest_ms} ms",
        )
    return None


# Rules 2 to 4.


def _accept(draft: Draft, payment: ProvenPayment, moment: Moment, rules: Rules) -> tuple[int, int, bytes] | Refusal:
    """Run rules 2 to 4; return what the channel's charged total would become, and the proof's used ceiling and key id.

    Records the raised ceiling.
    """
    channel = draft.channel(payment.channel_id)
    if channel is None:
        return Refusal(Reason.CHANNEL_UNKNOWN, "The channel is not known here; open it first.", "channel_id")
    account = draft.account(channel.account_id)
    assert account is not None, "a channel has an account"
    proof = payment.proof
    if isinstance(proof, VoucherProof):
        refusal = voucher_may_prove(account, channel, proof.ceiling)
        used_ceiling, key_id = proof.ceiling, b""
    else:
        refusal = spend_key_may_prove(draft, account, payment.amount, proof, moment)
        used_ceiling, key_id = 0, proof.key_id
    if refusal is not None:
        return refusal
    voucher, ceiling = proof.raised, channel.ceiling
    if voucher is not None and voucher.max_claimable_amount > ceiling:
        ceiling = voucher.max_claimable_amount
    refusal = (
        ceiling_allows(channel, ceiling, payment.amount)
        or mirror_is_fresh(account, moment)
        or no_withdrawal_is_near(account, moment, rules)
        or funds_allow(account, channel, payment.amount)
        or exposure_allows(draft, account, channel, payment.amount, rules)
    )
    if refusal is not None:
        return refusal
    if ceiling != channel.ceiling:
        assert voucher is not None
        draft.record(ev.CeilingRaised(channel.id, ceiling, voucher.signature))
    return channel.charged + payment.amount, used_ceiling, key_id


def voucher_may_prove(account: Account, channel: Channel, ceiling: int) -> Refusal | None:
    """Rule 2a, but for the signature: may a voucher of this ceiling prove a charge, and this one alone?"""
    if account.takes_spend_proofs_only:
        return Refusal(
            Reason.SPEND_KEY_REQUIRED,
            "The account has a spend key, so its vouchers prove no charge; send a spend proof.",
            "spend_proof",
            "none",
            "a proof under a registered spend key",
        )
    if channel.has_used(ceiling):
        return Refusal(
            Reason.VOUCHER_USED,
            "Another charge of the channel has used this voucher's ceiling; sign a new one for each charge.",
            "ceiling",
            str(ceiling),
            f"an unused amount above {channel.used_ceilings_floor}",
            totals_of(channel),
        )
    return None


def spend_key_may_prove(
    draft: Draft, account: Account, amount: int, proof: SpendProof, moment: Moment
) -> Refusal | None:
    """Rule 2b, but for the HMAC: may this key pay this much, now?"""
    key = draft.spend_key(account.id, proof.key_id)
    if key is None:
        return Refusal(Reason.SPEND_KEY_UNKNOWN, "The account has no such spend key.", "key_id")
    if key.revoked:
        return Refusal(Reason.SPEND_KEY_REVOKED, "The spend key was revoked.", "key_id")
    if moment.now_ms >= key.expires_at * 1000:
        return Refusal(
            Reason.SPEND_KEY_EXPIRED, "The spend key has expired.", "expires_at", str(key.expires_at), "a later time"
        )
    if amount > proof.max_amount:
        return Refusal(
            Reason.AMOUNT_ABOVE_AGREED,
            "The payer agreed to less for this request.",
            "amount",
            str(amount),
            f"at most {proof.max_amount}",
        )
    return cap_allows(key, amount)


def cap_allows(key: SpendKey, amount: int) -> Refusal | None:
    """What a key spends, charged and reserved, stays within the cap that its payer gave it."""
    if key.spent + amount <= key.cap:
        return None
    return Refusal(
        Reason.SPEND_KEY_EXHAUSTED,
        "The charge would exceed the spend key's cap.",
        "amount",
        str(amount),
        f"at most {key.cap - key.spent}",
    )


def ceiling_allows(channel: Channel, ceiling: int, amount: int) -> Refusal | None:
    """Rule 3, I1: `charged + reserved + amount <= ceiling`."""
    needed = channel.charged + channel.reserved + amount
    if needed <= ceiling:
        return None
    return Refusal(
        Reason.INSUFFICIENT_CEILING,
        "The payer has not signed enough for this channel; sign a higher voucher.",
        "ceiling",
        str(ceiling),
        f"at least {needed}",
        totals_of(channel),
    )


def mirror_is_fresh(account: Account, moment: Moment) -> Refusal | None:
    """I9: no charge on a mirror that has not reached the chain's head, or not for too long."""
    if account.network not in moment.stale_networks:
        return None
    return Refusal(Reason.CHAIN_STALE, f"The view of {account.network} is not up to date; try again soon.")


def no_withdrawal_is_near(account: Account, moment: Moment, rules: Rules) -> Refusal | None:
    """I9: no charge when a withdrawal may finalise before the charge is claimed."""
    if account.withdraw_finalizes_at and moment.now_s + rules.withdraw_margin_s >= account.withdraw_finalizes_at:
        return Refusal(
            Reason.WITHDRAWING,
            "The account is being withdrawn; cancel the withdrawal to pay from it.",
            "withdraw_finalizes_at",
            str(account.withdraw_finalizes_at),
            f"later than {moment.now_s + rules.withdraw_margin_s}",
        )
    return None


def funds_allow(account: Account, channel: Channel, amount: int) -> Refusal | None:
    """Rule 4, I2: everything promised on the account, and this, is covered by its funds."""
    if account.committed + account.withdrawing + account.refunding + amount <= account.funds:
        return None
    return Refusal(
        Reason.INSUFFICIENT_FUNDS,
        "The account's deposit does not cover this; top it up.",
        "amount",
        str(amount),
        f"at most {account.available}",
        totals_of(channel),
    )


def exposure_allows(draft: Draft, account: Account, channel: Channel, amount: int, rules: Rules) -> Refusal | None:
    """What sellers would lose to an empty escrow stays bounded, per account and per seller."""
    most = rules.exposure_per_account_max
    if most and account.exposure + account.reserved + amount > most:
        return Refusal(
            Reason.EXPOSURE_LIMIT,
            "Too much of the account awaits settlement; try again after the next one.",
            "amount",
            str(amount),
            f"at most {max(0, most - account.exposure - account.reserved)}",
        )
    most = rules.exposure_per_receiver_max
    if most and draft.exposure(channel.receiver, account.config.token) + amount > most:
        return Refusal(
            Reason.EXPOSURE_LIMIT,
            "Too much of the seller's income awaits settlement; try again after the next one.",
            "amount",
            str(amount),
            f"at most {max(0, most - draft.exposure(channel.receiver, account.config.token))}",
        )
    return None


def totals_of(channel: Channel) -> ChannelTotals:
    """The channel's totals, as an answer carries them."""
    return ChannelTotals(
        channel.id, channel.receiver, channel.ceiling, channel.charged, channel.reserved, channel.claimed
    )


def _room_after_expiry(draft: Draft, channel: Channel, key_id: bytes, amount: int, moment: Moment) -> Refusal | None:
    account = draft.account(channel.account_id)
    assert account is not None, "a channel has an account"
    key = draft.spend_key(account.id, key_id)
    return (
        mirror_is_fresh(account, moment)
        or (None if key is None else cap_allows(key, amount))
        or ceiling_allows(channel, channel.ceiling, amount)
        or funds_allow(account, channel, amount)
    )


_SETTLED = PaymentStatus.CHARGED, PaymentStatus.RELEASED


def _settled_payment(draft: Draft, handle: bytes) -> Payment | None:
    """Return the payment whose reservation had this handle and is gone: captured or released."""
    known = draft.payment(*payment_of_handle(handle))
    if known is None or known.status not in _SETTLED or not hmac.compare_digest(known.handle, handle):
        return None
    return known


def _capture_again(known: Payment | None, amount: int) -> Accepted | Refusal:
    if known is None:
        return _unknown_reservation()
    if known.status is PaymentStatus.RELEASED:
        return _released()
    if known.captured != amount:
        return Refusal(
            Reason.PAYMENT_ID_REUSED,
            "The reservation was captured already with another amount.",
            "amount",
            str(amount),
            str(known.captured),
        )
    return Accepted(known.captured, known.charged, replayed=True)


def _released() -> Refusal:
    return Refusal(Reason.RESERVATION_RELEASED, "This payment was released; make a new payment id.", "payment_id")


def _unknown_reservation() -> Refusal:
    return Refusal(Reason.RESERVATION_UNKNOWN, "No reservation has this handle.", "handle")


def _reused(known: Payment, amount: int, request_hash: bytes) -> Refusal:
    if known.amount != amount:
        return Refusal(
            Reason.PAYMENT_ID_REUSED,
            "The payment id stands for another payment.",
            "amount",
            str(amount),
            str(known.amount),
        )
    if known.request_hash != request_hash:
        return Refusal(
            Reason.PAYMENT_ID_REUSED, "The payment id paid for another request.", "request_hash", "another request"
        )
    return Refusal(
        Reason.PAYMENT_ID_REUSED, "The payment id is held by a reservation; settle that.", "payment_id", "reserved"
    )
