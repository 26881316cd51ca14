"""A ledger with changes that nobody else sees yet: copies of what they touch, put in place by `adopt`."""

from collections.abc import Sequence

from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.payments import PAYMENT_KEY_BYTES, PackedPayment, Payment, PaymentKey, unpack_payment
from tallystick_aggregator.ledger.state import (
    Account,
    ChainHead,
    Channel,
    Ledger,
    Reservation,
    SpendKey,
    exposure_key,
    payment_key,
    spend_key_name,
)
from tallystick_aggregator.ledger.values import EscrowRef


class Overlay:
    """What a draft reads and changes; one that is dropped leaves no trace. Only `Draft` changes it, by events."""

    def __init__(self, ledger: Ledger) -> None:
        """Start from the ledger's state; nothing is copied before it is touched."""
        self._ledger = ledger
        self.events: list[ev.Event] = []
        self._accounts: dict[bytes, Account] = {}
        self._channels: dict[bytes, Channel] = {}
        self._spend_keys: dict[bytes, SpendKey | None] = {}
        self._payments: dict[PaymentKey, PackedPayment] = {}
        self._recalled: dict[PaymentKey, PackedPayment] = {}
        self._reservations: dict[bytes, Reservation | None] = {}
        self._exposure: dict[bytes, int] = {}
        self._open_reservations: dict[bytes, int] = {}
        self._heads: dict[EscrowRef, ChainHead] = {}
        self.payments_forgotten_ms = ledger.payments_forgotten_ms
        """Payment ids from before this time are refused as expired."""

    # What a decision reads. Callers treat what they get as read-only.

    def account(self, account_id: bytes) -> Account | None:
        """Return the account as this draft leaves it."""
        return self._accounts.get(account_id) or self._ledger.accounts.get(account_id)

    def account_of(self, channel: Channel) -> Account:
        """Return the account that a channel draws on, as this draft leaves it."""
        return self._accounts.get(channel.account_id) or self._ledger.accounts[channel.account_id]

    def channel(self, channel_id: bytes) -> Channel | None:
        """Return the channel as this draft leaves it."""
        return self._channels.get(channel_id) or self._ledger.channels.get(channel_id)

    def spend_key(self, account_id: bytes, key_id: bytes) -> SpendKey | None:
        """Return the spend key as this draft leaves it."""
        name = account_id + key_id  # `spend_key_name`, without the call
        return self._spend_keys[name] if name in self._spend_keys else self._ledger.spend_keys.get(name)

    def spend_keys_of(self, account_id: bytes) -> list[SpendKey]:
        """Return all spend keys of an account as this draft leaves them."""
        known: dict[bytes, SpendKey | None] = {
            spend_key_name(account_id, key.key_id): key for key in self._ledger.spend_keys_of(account_id)
        }
        known |= {name: key for name, key in self._spend_keys.items() if name.startswith(account_id)}
        return [key for key in known.values() if key is not None]

    def payment(self, channel_id: bytes, payment_id: bytes) -> Payment | None:
        """Return what this payment id stands for, if it is known here or was recalled."""
        key = payment_id + channel_id  # `payment_key`, without the call
        known = self._payments.get(key) or self._ledger.payments.get(key) or self._recalled.get(key)
        return None if known is None else unpack_payment(key, known)

    def knows_any(self, keys: Sequence[bytes]) -> bool:
        """Return whether a payment with any of these keys (`payment_key`) is known, or one stands here twice."""
        return not (
            len(set(keys)) == len(keys)
            and self._payments.keys().isdisjoint(keys)
            and self._ledger.payments.keys().isdisjoint(keys)
            and self._recalled.keys().isdisjoint(keys)
        )

    def reservation(self, handle: bytes) -> Reservation | None:
        """Return the reservation, unless it was captured or released."""
        if handle in self._reservations:
            return self._reservations[handle]
        return self._ledger.reservations.get(handle)

    def exposure(self, receiver: bytes, token: bytes) -> int:
        """Return what was charged or is reserved for this seller in this token and not yet claimed."""
        key = exposure_key(receiver, token)
        known = self._exposure.get(key)
        return self._ledger.receiver_exposure.get(key, 0) if known is None else known

    def open_reservations(self, of: bytes) -> int:
        """Return how many reservations are open on this channel (its id), or for this seller (its address)."""
        known = self._open_reservations.get(of)
        return self._ledger.open_reservations.get(of, 0) if known is None else known

    def recall(self, channel_id: bytes, payment_id: bytes, payment: PackedPayment) -> None:
        """Make a payment known that is no longer in memory."""
        self._recalled[payment_key(channel_id, payment_id)] = payment

    # What becomes of it.

    def adopt(self) -> None:
        """Put the changes in place. To be called once, after the journal has the events."""
        ledger = self._ledger
        # Loops, not set differences: those walk all of the ledger, and lose the order of opening.
        for account_id in self._accounts:
            if account_id not in ledger.accounts:
                ledger.channel_ids.setdefault(account_id, [])
        for channel_id, channel in self._channels.items():
            if channel_id not in ledger.channels:
                ledger.channel_ids.setdefault(channel.account_id, []).append(channel_id)
        for name, key in self._spend_keys.items():
            if key is not None:
                if name not in ledger.spend_keys:
                    ledger.spend_key_names.setdefault(key.account_id, {})[name] = None
                ledger.spend_keys[name] = key
            elif (forgotten := ledger.spend_keys.pop(name, None)) is not None:
                del ledger.spend_key_names[forgotten.account_id][name]
        ledger.accounts.update(self._accounts)
        ledger.channels.update(self._channels)
        ledger.payments.update(self._payments)
        ledger.receiver_exposure.update(self._exposure)
        ledger.heads.update(self._heads)
        for of, count in self._open_reservations.items():
            if count:
                ledger.open_reservations[of] = count
            else:
                ledger.open_reservations.pop(of, None)
        for handle, reservation in self._reservations.items():
            if reservation is None:
                ledger.reservations.pop(handle, None)
            else:
                ledger.reservations[handle] = reservation
        ledger.payments_forgotten_ms = self.payments_forgotten_ms
        self._note_changes()

    def _note_changes(self) -> None:
        changes = self._ledger.changes
        changes.accounts.update(self._accounts)
        changes.channels.update(self._channels)
        changes.spend_keys.update(self._spend_keys)
        if self._payments:
            changes.payments.append(self._payments)
        changes.reservations.update(self._reservations)
        for handle, reservation in self._reservations.items():
            if reservation is not None:
                key = handle[:PAYMENT_KEY_BYTES]
                changes.reserved[key] = self._payments[key]
        if self.events:
            self._ledger.commits += 1

    # Copies on first touch.

    def _own_account(self, account_id: bytes) -> Account:
        own = self._accounts.get(account_id)
        if own is None:
            own = self._accounts[account_id] = self._ledger.accounts[account_id].copy()
        return own

    def _own_channel(self, channel_id: bytes) -> Channel:
        own = self._channels.get(channel_id)
        if own is None:
            own = self._channels[channel_id] = self._ledger.channels[channel_id].copy()
        return own

    def _own_spend_key(self, account_id: bytes, key_id: bytes) -> SpendKey:
        name = account_id + key_id
        own = self._spend_keys.get(name)
        if own is None:
            assert name not in self._spend_keys, "a forgotten spend key is not spent"
            own = self._spend_keys[name] = self._ledger.spend_keys[name].copy()
        return own

    def _expose(self, account: Account, channel: Channel, amount: int) -> None:
        key = channel.receiver + account.config.token  # `exposure_key`, without the call
        known = self._exposure.get(key)
        if known is None:
            known = self._ledger.receiver_exposure.get(key, 0)
        self._exposure[key] = known + amount
