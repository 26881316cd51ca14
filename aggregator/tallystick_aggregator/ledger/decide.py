"""How a payment is decided (docs/design.md §6).

Pure: what time it is, what proofs hold and which payments were recalled from the journal is handed in; what is accepted
is recorded in the draft. The rules (`rules`) run in the design's order:

1. a known payment id gets its first answer again;
2. the payer must have meant this charge: an unused voucher, or a spend key's proof;
3. the ceiling (I1); 4. the funds (I2); 5. accepted.
"""

import hmac

from tallystick.charges import Charge
from tallystick.reasons import Reason
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Done, Held, Refusal
from tallystick_aggregator.ledger.commands import (
    DecisionContext,
    ProvenPayment,
    Rules,
    SpendProof,
    VoucherProof,
    WatermarkProof,
)
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.payments import Payment, PaymentStatus
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.rules import (
    account_is_not_short,
    ceiling_allows,
    exposure_allows,
    funds_allow,
    key_may_spend,
    mirror_is_fresh,
    no_withdrawal_is_near,
    payment_id_is_in_time,
    reservations_allow,
    spend_key_may_prove,
    totals_of,
    voucher_may_prove,
    watermark_is_met,
    watermark_is_next,
)
from tallystick_aggregator.ledger.state import Channel, Reservation, payment_of_handle


def charge(draft: Draft, payment: ProvenPayment, moment: DecisionContext, rules: Rules) -> Accepted | Refusal:
    """Take a payment at once."""
    channel_id, payment_id, amount = payment.channel_id, payment.payment_id, payment.amount
    known = draft.payment(channel_id, payment_id)
    if known is not None:
        return replay_of_charge(known, amount, payment.request_hash)
    refusal = payment_id_is_in_time(draft, payment.payment_id, moment, rules)
    if refusal is not None:
        return refusal
    accepted = _accept(draft, payment, moment, rules)
    if isinstance(accepted, Refusal):
        return accepted
    charged, used_ceiling, key_id = accepted
    draft.record(ev.Charged(channel_id, payment_id, amount, payment.request_hash, used_ceiling, key_id))
    return Accepted(amount, charged, replayed=False)


def reserve(
    draft: Draft, payment: ProvenPayment, handle: bytes, moment: DecisionContext, rules: Rules
) -> Held | Accepted | Refusal:
    """Hold a payment's amount under `handle` (`state.reservation_handle`), whose secret the caller drew."""
    known = draft.payment(payment.channel_id, payment.payment_id)
    if known is not None:
        return replay_of_reservation(known, payment.amount, payment.request_hash)
    refusal = payment_id_is_in_time(draft, payment.payment_id, moment, rules)
    if refusal is not None:
        return refusal
    channel = draft.channel(payment.channel_id)
    refusal = None if channel is None else reservations_allow(draft, channel, payment.amount, rules)
    if refusal is not None:
        return refusal
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


def capture(
    draft: Draft, handle: bytes, amount: int, moment: DecisionContext, rules: Rules, *, in_step: bool = False
) -> Accepted | Refusal:
    """Charge a reservation, in full or less; after its expiry too, while there is room for it (threat 9).

    `in_step`: it is counted, for claims to attest.
    """
    reservation = draft.reservation(handle)
    if reservation is None:
        return _capture_again(_settled_payment(draft, handle), amount)
    payment = draft.payment(reservation.channel_id, reservation.payment_id)
    channel = draft.channel(reservation.channel_id)
    assert payment is not None, "a reservation has a payment"
    assert channel is not None, "a reservation has a channel"
    if amount > reservation.amount:
        return refuse(Why.CAPTURE_ABOVE_RESERVED, amount, f"at most {reservation.amount}")
    if payment.status is PaymentStatus.EXPIRED:
        refusal = _room_after_expiry(draft, channel, reservation.key_id, amount, moment, rules)
    else:  # what is held has its room, unless the receiver claimed it by itself meanwhile (I1, threat 36)
        account = draft.account_of(channel)
        refusal = account_is_not_short(account) or ceiling_allows(channel, channel.ceiling, amount - reservation.amount)
    if refusal is not None:
        return refusal
    charged = channel.charged + amount  # now: recording changes the channel if it is the draft's own
    captured = ev.CapturedInStep if in_step else ev.Captured
    draft.record(captured(handle, reservation.channel_id, reservation.payment_id, reservation.key_id, amount))
    return Accepted(amount, charged, replayed=False)


def release(draft: Draft, handle: bytes) -> Done | Refusal:
    """Give a reservation back; final."""
    if draft.reservation(handle) is None:
        known = _settled_payment(draft, handle)
        if known is None:
            return refuse(Why.RESERVATION_UNKNOWN)
        if known.status is PaymentStatus.RELEASED:
            return Done(replayed=True)
        return refuse(Why.CAPTURED_ALREADY)
    draft.record(ev.Released(handle))
    return Done(replayed=False)


def find_payment(draft: Draft, payment: Charge) -> Payment | Refusal | None:
    """This very payment, as its first use left it; None where its id is not known. Refuses another one's id.

    Its reservation's handle is for callers only whose token stands for the receiver.
    """
    known = draft.payment(payment.channel_id, payment.payment_id)
    if known is None or (known.request_hash == payment.request_hash and known.amount == payment.amount):
        return known
    return _reused(known, payment.amount, payment.request_hash)


def capture_payment(
    draft: Draft, payment: Charge, amount: int, moment: DecisionContext, rules: Rules
) -> Accepted | Refusal | None:
    """Charge the reservation of this payment as `capture` does; None where it was never held nor charged."""
    known = find_payment(draft, payment)
    if known is None or isinstance(known, Refusal):
        return known
    return capture(draft, known.handle, amount, moment, rules) if known.handle else _capture_again(known, amount)


def capture_in_step(
    draft: Draft, payment: Charge, amount: int, moment: DecisionContext, rules: Rules
) -> Accepted | Refusal:
    """Charge the reservation of a payment that a `WatermarkProof` proved, while its voucher is still the next step.

    The standard has no second answer: what was captured is refused as any voucher that is behind. A reservation that
    expired may have let another request in between: then too.
    """
    known, channel = find_payment(draft, payment), draft.channel(payment.channel_id)
    if isinstance(known, Refusal) or known is None or channel is None:
        return refuse(Why.RESERVATION_OF_ANOTHER_VOUCHER)
    refusal = watermark_is_met(channel, payment.ceiling, payment.amount)
    if refusal is not None:
        return refusal
    if known.status in _SETTLED:
        return refuse(Why.RESERVATION_OF_ANOTHER_VOUCHER)
    if known.status is PaymentStatus.EXPIRED and draft.open_reservations(channel.id):
        return refuse(Why.CHANNEL_BUSY, totals=totals_of(channel))
    return capture(draft, known.handle, amount, moment, rules, in_step=True)


def hold_in_step(
    draft: Draft, payment: ProvenPayment, handle: bytes, moment: DecisionContext, rules: Rules, before: Charge | None
) -> Held | Refusal:
    """Hold a channel that `before` may hold already: then it goes on holding it, and the answer is `replayed`.

    What was settled or given back holds it never again; what expired, or is not known any more, is held anew.
    """
    known = None if before is None else find_payment(draft, before)
    if isinstance(known, Refusal):
        return refuse(Why.RESERVATION_OF_ANOTHER_VOUCHER)
    if known is not None and known.status in _SETTLED:
        return refuse(Why.RESERVATION_OF_ANOTHER_VOUCHER)
    if known is not None and known.status is PaymentStatus.RESERVED:
        return Held(known.handle, 0, replayed=True)
    held = reserve(draft, payment, handle, moment, rules)
    assert not isinstance(held, Accepted), "a payment id of our own is new"
    if isinstance(held, Refusal) and held.reason is Reason.CHANNEL_BUSY and before is not None:
        return refuse(Why.RESERVATION_OF_ANOTHER_VOUCHER)
    return held


def charge_in_step(
    draft: Draft,
    payment: ProvenPayment,
    amount: int,
    handle: bytes,
    moment: DecisionContext,
    rules: Rules,
    lock: Charge | None = None,
) -> Accepted | Refusal:
    """Take a payment that a `WatermarkProof` proves at once: its amount is the most, `amount` what is charged.

    `lock`: what held the channel until now for this request. It is given free, whatever is decided. `handle` is the
    reservation's in between.
    """
    known = None if lock is None else find_payment(draft, lock)
    if isinstance(known, Payment) and known.status is PaymentStatus.RESERVED:
        draft.record(ev.Released(known.handle))
    if amount > payment.amount:
        return refuse(Why.CAPTURE_ABOVE_RESERVED, amount, f"at most {payment.amount}")
    held = reserve(draft, payment, handle, moment, rules)
    if not isinstance(held, Held):
        return held
    captured = capture(draft, handle, amount, moment, rules, in_step=True)
    if isinstance(captured, Refusal):
        draft.record(ev.Released(handle))
    return captured


def release_payment(draft: Draft, payment: Charge) -> Done | Refusal | None:
    """Give the reservation of this payment back as `release` does; None where it was never held nor charged."""
    known = find_payment(draft, payment)
    if known is None or isinstance(known, Refusal):
        return known
    return release(draft, known.handle) if known.handle else refuse(Why.CAPTURED_ALREADY)


def expire(draft: Draft, reservation: Reservation) -> None:
    """Give back what a reservation holds whose time ran out; a late capture stays possible."""
    draft.record(ev.Expired(reservation.handle))


# Rule 1: known payment ids, and ids out of time.


def replay_of_charge(known: Payment, amount: int, request_hash: bytes) -> Accepted | Refusal:
    """The first answer again for the same payment; anything different is refused (I4)."""
    if known.status is PaymentStatus.RELEASED:
        return refuse(Why.RESERVATION_RELEASED)
    same = known.request_hash == request_hash and amount in (known.amount, known.captured)
    if not same or known.status is not PaymentStatus.CHARGED:
        return _reused(known, amount, request_hash)
    return Accepted(known.captured, known.charged, replayed=True)


def replay_of_reservation(known: Payment, amount: int, request_hash: bytes) -> Held | Accepted | Refusal:
    """The first answer again, without the handle: whoever got it first settles it, and nothing new is paid for."""
    if known.status is PaymentStatus.RELEASED:
        return refuse(Why.RESERVATION_RELEASED)
    if known.request_hash != request_hash or known.amount != amount:
        return _reused(known, amount, request_hash)
    if known.status is PaymentStatus.CHARGED:
        return Accepted(known.captured, known.charged, replayed=True)
    return Held(b"", 0, replayed=True)


# Rules 2 to 4.


def _accept(
    draft: Draft, payment: ProvenPayment, moment: DecisionContext, rules: Rules
) -> tuple[int, int, bytes] | Refusal:
    """Run rules 2 to 4; return what the channel's charged total would become, and the proof's used ceiling and key id.

    Records the raised ceiling.
    """
    channel = draft.channel(payment.channel_id)
    if channel is None:
        return refuse(Why.CHANNEL_UNKNOWN)
    account = draft.account_of(channel)
    proof = payment.proof
    used_ceiling, key_id = 0, b""
    match proof:
        case VoucherProof():
            refusal = voucher_may_prove(account, channel, proof.ceiling)
            used_ceiling = proof.ceiling
        case WatermarkProof():
            refusal = watermark_is_next(draft, channel, proof.ceiling, payment.amount)
        case SpendProof():
            refusal = spend_key_may_prove(draft, account, payment.amount, proof, moment)
            key_id = proof.key_id
    if refusal is not None:
        return refusal
    voucher, ceiling = proof.raised, channel.ceiling
    if voucher is not None and voucher.max_claimable_amount > ceiling:
        ceiling = voucher.max_claimable_amount
    # `Channel.has_used` looks no further above the channel's ceiling: what is used must never lie there.
    assert used_ceiling <= ceiling, "a voucher that proves a charge is verified, or below one that is"
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


def _room_after_expiry(
    draft: Draft, channel: Channel, key_id: bytes, amount: int, moment: DecisionContext, rules: Rules
) -> Refusal | None:
    account = draft.account_of(channel)
    return (
        mirror_is_fresh(account, moment)
        or (key_may_spend(draft, account, key_id, amount, moment) if key_id else None)
        or exposure_allows(draft, account, channel, amount, rules)
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
        return refuse(Why.RESERVATION_UNKNOWN)
    if known.status is PaymentStatus.RELEASED:
        return refuse(Why.RESERVATION_RELEASED)
    if known.captured != amount:
        return refuse(Why.CAPTURED_ANOTHER_AMOUNT, amount, known.captured)
    return Accepted(known.captured, known.charged, replayed=True)


def _reused(known: Payment, amount: int, request_hash: bytes) -> Refusal:
    if known.amount != amount:
        return refuse(Why.PAYMENT_ID_OF_ANOTHER_PAYMENT, amount, known.amount)
    if known.request_hash != request_hash:
        return refuse(Why.PAYMENT_ID_OF_ANOTHER_REQUEST, "another request")
    return refuse(Why.PAYMENT_ID_RESERVED, "reserved")
