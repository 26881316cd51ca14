"""Reads the journal as it is on disk, event by event, and holds the numbered invariants against each.

It keeps a ledger of its own from the events, so at any time it says what a process that starts now would know.
"""

from doubles import DOMAIN

from tallystick.signatures import recover
from tallystick.vouchers import voucher_digest
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.invariants import check_invariants
from tallystick_aggregator.ledger.payments import PaymentStatus, status_of
from tallystick_aggregator.ledger.state import Account, Channel, Ledger, payment_key
from tallystick_aggregator.store.events import decode_entry
from tallystick_aggregator.store.memory import MemoryDisk


class Auditor:
    """The ledger according to the disk, and every charge that ever was, by payment key."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.ledger = Ledger()
        self.charges: dict[bytes, int] = {}
        self.events = 0
        self._disk = disk
        self._read = 0

    def read(self) -> None:
        """Read what was written since, and check it."""
        while self._read < len(self._disk.entries):
            for event in decode_entry(self._disk.entries[self._read]):
                self._take(event)
                self.events += 1
            self._read += 1

    def compare(self, ledger: Ledger) -> None:
        """A running process must know what the disk knows: no less, and above all no more."""
        self.read()
        check_invariants(ledger)
        assert ledger.accounts == self.ledger.accounts
        assert ledger.channels == self.ledger.channels
        assert ledger.channel_ids == self.ledger.channel_ids
        assert ledger.spend_keys == self.ledger.spend_keys
        assert ledger.reservations == self.ledger.reservations
        assert ledger.receiver_exposure == self.ledger.receiver_exposure
        assert ledger.heads == self.ledger.heads
        assert ledger.payments_forgotten_ms == self.ledger.payments_forgotten_ms
        for key, payment in ledger.payments.items():
            assert self.ledger.payments[key] == payment

    def _take(self, event: ev.Event) -> None:
        self._check_before(event)
        draft = Draft(self.ledger)
        draft.replay([event])
        draft.adopt()
        self._check_after(event)

    def _check_before(self, event: ev.Event) -> None:
        channels = self.ledger.channels
        match event:
            case ev.Charged(channel_id, payment_id) | ev.Reserved(channel_id, payment_id):
                assert payment_key(channel_id, payment_id) not in self.ledger.payments, "I4"
            case ev.CeilingRaised(channel_id, ceiling, signature):
                assert ceiling > channels[channel_id].ceiling, "I1: a ceiling only grows"
                authorizer = self._account(channels[channel_id]).config.payer_authorizer
                assert recover(voucher_digest(DOMAIN.separator, channel_id, ceiling), signature) == authorizer, "I5"
            case ev.ChannelClaimed(channel_id, claimed):
                assert channels[channel_id].claimed < claimed <= channels[channel_id].charged, "I1"
            case ev.Captured(_, channel_id, payment_id):
                status = status_of(self.ledger.payments[payment_key(channel_id, payment_id)])
                assert status in (PaymentStatus.RESERVED, PaymentStatus.EXPIRED), "I4"
                if status is PaymentStatus.EXPIRED:
                    account = self._account(channels[channel_id])
                    assert self._promised(account) + event.amount <= account.funds, "I2"
            case _:
                pass

    def _check_after(self, event: ev.Event) -> None:
        match event:
            case ev.Charged(channel_id, payment_id):
                self._count(payment_key(channel_id, payment_id), event.amount)
                self._check_promises(self.ledger.channels[channel_id])
            case ev.Reserved(channel_id):
                self._check_promises(self.ledger.channels[channel_id])
            case ev.Captured(_, channel_id, payment_id):
                self._count(payment_key(channel_id, payment_id), event.amount)
                channel = self.ledger.channels[channel_id]
                assert channel.charged + channel.reserved <= channel.ceiling, "I1"
            case ev.RefundStarted(account_id):
                account = self.ledger.accounts[account_id]
                assert self._promised(account) <= account.funds, "I2"
            case _:
                pass

    def _count(self, key: bytes, amount: int) -> None:
        assert key not in self.charges, "I4"
        self.charges[key] = amount

    def _check_promises(self, channel: Channel) -> None:
        assert channel.charged + channel.reserved <= channel.ceiling, "I1"
        account = self._account(channel)
        assert self._promised(account) <= account.funds, "I2"

    def _promised(self, account: Account) -> int:
        channels = self.ledger.channels_of(account.id)
        committed = sum(max(channel.charged, channel.claimed) + channel.reserved for channel in channels)
        return committed + account.withdrawing + account.refunding

    def _account(self, channel: Channel) -> Account:
        return self.ledger.accounts[channel.account_id]
