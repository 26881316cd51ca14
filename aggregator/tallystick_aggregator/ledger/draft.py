"""Applies events to copies of what they touch; `adopt` puts the copies in place once the journal has the events.

The same code runs when a charge is decided and when the journal is replayed, so that replay equals memory by
construction. A draft that is dropped leaves no trace.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from msgspec.structs import replace

from tallystick.payment_ids import payment_id_ms
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.overlay import Overlay
from tallystick_aggregator.ledger.payments import Payment, PaymentStatus, pack_charged, pack_payment
from tallystick_aggregator.ledger.state import (
    Account,
    Approval,
    Attested,
    ChainHead,
    Channel,
    PendingRefund,
    Reservation,
    SpendKey,
    payment_key,
    spend_key_name,
)


class Draft(Overlay):
    """A set of changes to a ledger that nobody else sees yet."""

    # What a decision does.

    def record(self, event: ev.Event) -> None:
        """Apply an event and keep it for the journal."""
        self._apply[type(event)](self, event)
        self.events.append(event)

    def record_run(self, keys: Sequence[bytes], events: Sequence[ev.Charged]) -> list[int]:
        """Apply and keep charges of one channel, by one spend key or by vouchers, as `record` does one by one.

        `keys` are their payments' (`payment_key`); returns the channel's charged total after each.
        """
        key_id = events[0].key_id
        channel = self._own_channel(events[0].channel_id)
        account = self._own_account(channel.account_id)
        charged = before = channel.charged
        payments = self._payments
        totals: list[int] = []
        for key, event in zip(keys, events, strict=True):
            amount = event.amount
            charged += amount
            payments[key] = pack_charged(amount, event.request_hash, charged)
            totals.append(charged)
        if key_id:
            self._own_spend_key(account.id, key_id).spent += charged - before
        else:
            channel.used = channel.used.plus(*[event.used_ceiling for event in events])
        channel.charged = charged
        account.committed += charged - before
        self._expose(account, channel, charged - before)
        self.events += events
        return totals

    def replay(self, events: Iterable[ev.Event]) -> None:
        """Apply events that the journal has already."""
        for event in events:
            self._apply[type(event)](self, event)

    # What each event does.

    def _account_opened(self, event: ev.AccountOpened) -> None:
        self._accounts[event.account_id] = Account(event.account_id, event.escrow, event.config)  # type: ignore[arg-type]

    def _account_mirrored(self, event: ev.AccountMirrored) -> None:
        account = self._own_account(event.account_id)
        account.funds = event.funds
        account.withdrawing = event.withdrawing
        account.withdraw_finalizes_at = event.withdraw_finalizes_at

    def _channel_opened(self, event: ev.ChannelOpened) -> None:
        account = self._own_account(event.account_id)
        channel = Channel(event.channel_id, account.id, event.receiver)  # type: ignore[arg-type]
        channel.charged = channel.claimed = event.claimed
        self._channels[event.channel_id] = channel
        account.channels += 1
        account.committed += event.claimed
        account.claimed += event.claimed

    def _channel_claimed(self, event: ev.ChannelClaimed) -> None:
        channel = self._own_channel(event.channel_id)
        account = self._own_account(channel.account_id)
        before, exposed = channel.committed, channel.charged - channel.claimed
        account.claimed += event.claimed - channel.claimed
        channel.claimed = event.claimed
        channel.charged = max(channel.charged, event.claimed)  # I1: on the canonical escrow the chain may run ahead
        if channel.attesting:
            channel.attesting = tuple(attested for attested in channel.attesting if attested.total > event.claimed)
        account.committed += channel.committed - before
        self._expose(account, channel, channel.charged - channel.claimed - exposed)

    def _ceiling_raised(self, event: ev.CeilingRaised) -> None:
        channel = self._own_channel(event.channel_id)
        channel.ceiling = event.ceiling
        channel.signature = event.signature

    def _charged(self, event: ev.Charged) -> None:
        channel_id, amount, key_id = event.channel_id, event.amount, event.key_id
        channel = self._channels.get(channel_id) or self._own_channel(channel_id)
        account_id = channel.account_id
        account = self._accounts.get(account_id) or self._own_account(account_id)
        charged = channel.charged = channel.charged + amount
        account.committed += amount
        self._expose(account, channel, amount)
        if key_id:
            self._own_spend_key(account_id, key_id).spent += amount
        else:
            channel.used = channel.used.plus(event.used_ceiling)
        self._payments[event.payment_id + channel_id] = pack_charged(amount, event.request_hash, charged)

    def _reserved(self, event: ev.Reserved) -> None:
        channel = self._own_channel(event.channel_id)
        account = self._own_account(channel.account_id)
        self._hold(account, channel, event.amount, 1)
        self._use_proof(channel, event.used_ceiling, event.key_id, event.amount)
        key = payment_key(event.channel_id, event.payment_id)
        reserved = Payment(event.amount, event.request_hash, PaymentStatus.RESERVED, 0, channel.charged, event.handle)
        self._payments[key] = pack_payment(key, reserved)
        self._reservations[event.handle] = Reservation(
            event.handle, channel.id, event.payment_id, event.amount, event.key_id, event.expires_at
        )

    def _captured(self, event: ev.Captured | ev.CapturedInStep) -> None:
        channel = self._own_channel(event.channel_id)
        account = self._own_account(channel.account_id)
        payment = self.payment(event.channel_id, event.payment_id)
        assert payment is not None, "a capture follows its reservation"
        if payment.status is PaymentStatus.RESERVED:
            self._hold(account, channel, -payment.amount, -1)
            self._spend(channel, event.key_id, event.amount - payment.amount)
        else:
            self._spend(channel, event.key_id, event.amount)
        channel.charged += event.amount
        account.committed += event.amount
        self._expose(account, channel, event.amount)
        key = payment_key(event.channel_id, event.payment_id)
        captured = replace(payment, status=PaymentStatus.CHARGED, captured=event.amount, charged=channel.charged)
        self._payments[key] = pack_payment(key, captured)
        self._reservations[event.handle] = None

    def _captured_in_step(self, event: ev.CapturedInStep) -> None:
        self._captured(event)
        self._own_channel(event.channel_id).charges += 1

    def _charges_attested(self, event: ev.ChargesAttested) -> None:
        channel = self._own_channel(event.channel_id)
        charges = channel.to_attest(event.before)
        standing = [attested for attested in channel.attesting if attested.total <= event.before]
        channel.charges = charges - event.charges
        channel.attesting = (*standing, Attested(event.total, event.charges))

    def _released(self, event: ev.Released) -> None:
        reservation = self._give_back(event.handle, PaymentStatus.RELEASED)
        self._reservations[reservation.handle] = None

    def _expired(self, event: ev.Expired) -> None:
        reservation = self._give_back(event.handle, PaymentStatus.EXPIRED)
        self._reservations[reservation.handle] = reservation._replace(expires_at=0)

    def _give_back(self, handle: bytes, status: PaymentStatus) -> Reservation:
        reservation = self.reservation(handle)
        assert reservation is not None, "only what is reserved is given back"
        channel = self._own_channel(reservation.channel_id)
        payment = self.payment(reservation.channel_id, reservation.payment_id)
        assert payment is not None, "a reservation has a payment"
        if payment.status is PaymentStatus.RESERVED:
            self._hold(self._own_account(channel.account_id), channel, -reservation.amount, -1)
            self._spend(channel, reservation.key_id, -reservation.amount)
        key = payment_key(reservation.channel_id, reservation.payment_id)
        self._payments[key] = pack_payment(key, replace(payment, status=status))
        return reservation

    def _hold(self, account: Account, channel: Channel, amount: int, count: int) -> None:
        channel.reserved += amount
        account.reserved += amount
        account.committed += amount
        account.reservations += count
        for of in (channel.id, channel.receiver):
            self._open_reservations[of] = self.open_reservations(of) + count
        self._expose(account, channel, amount)

    def _use_proof(self, channel: Channel, used_ceiling: int, key_id: bytes, amount: int) -> None:
        if key_id:
            self._spend(channel, key_id, amount)
            return
        channel.used = channel.used.plus(used_ceiling)

    def _spend(self, channel: Channel, key_id: bytes, amount: int) -> None:
        # One that was forgotten has nothing left to count: what it held is given back to nobody.
        if key_id and self.spend_key(channel.account_id, key_id) is not None:
            self._own_spend_key(channel.account_id, key_id).spent += amount

    def _spend_key_registered(self, event: ev.SpendKeyRegistered) -> None:
        if self.spend_key(event.account_id, event.key_id) is not None:
            # Registered again: its cap was raised, and all that it has spent stands.
            self._own_spend_key(event.account_id, event.key_id).cap = event.cap
            return
        self._own_account(event.account_id).takes_spend_proofs_only = True
        key = SpendKey(event.account_id, event.key_id, event.secret, event.cap, event.expires_at)  # type: ignore[arg-type]
        self._spend_keys[spend_key_name(event.account_id, event.key_id)] = key

    def _spend_key_revoked(self, event: ev.SpendKeyRevoked) -> None:
        self._own_spend_key(event.account_id, event.key_id).revoked = True

    def _spend_key_forgotten(self, event: ev.SpendKeyForgotten) -> None:
        self._spend_keys[spend_key_name(event.account_id, event.key_id)] = None

    def _refund_started(self, event: ev.RefundStarted) -> None:
        account = self._own_account(event.account_id)
        account.refund = PendingRefund(event.refund_id, event.nonce, event.amount)
        account.refunding += event.amount

    def _refund_ended(self, event: ev.RefundEnded) -> None:
        account = self._own_account(event.account_id)
        if account.refund is not None and account.refund.refund_id == event.refund_id:
            account.refunding -= account.refund.amount
            account.refund = None

    def _totals_approved(self, event: ev.TotalsApproved) -> None:
        self._own_account(event.account_id).approval = Approval(event.totals, event.signature)  # type: ignore[arg-type]

    def _chain_advanced(self, event: ev.ChainAdvanced) -> None:
        self._heads[event.escrow] = ChainHead(event.number, event.block_hash)

    def _payments_forgotten(self, event: ev.PaymentsForgotten) -> None:
        self.payments_forgotten_ms = event.before_ms
        held = self._ledger.reservations | self._reservations
        for handle, reservation in held.items():
            if (
                reservation is not None
                and reservation.expires_at == 0
                and payment_id_ms(reservation.payment_id) < event.before_ms
            ):
                self._reservations[handle] = None  # its payment is gone, and with it the late capture

    _apply: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        ev.AccountOpened: _account_opened,
        ev.AccountMirrored: _account_mirrored,
        ev.ChannelOpened: _channel_opened,
        ev.ChannelClaimed: _channel_claimed,
        ev.CeilingRaised: _ceiling_raised,
        ev.Charged: _charged,
        ev.Reserved: _reserved,
        ev.Captured: _captured,
        ev.CapturedInStep: _captured_in_step,
        ev.ChargesAttested: _charges_attested,
        ev.Released: _released,
        ev.Expired: _expired,
        ev.SpendKeyRegistered: _spend_key_registered,
        ev.SpendKeyRevoked: _spend_key_revoked,
        ev.SpendKeyForgotten: _spend_key_forgotten,
        ev.RefundStarted: _refund_started,
        ev.RefundEnded: _refund_ended,
        ev.TotalsApproved: _totals_approved,
        ev.ChainAdvanced: _chain_advanced,
        ev.PaymentsForgotten: _payments_forgotten,
    }
