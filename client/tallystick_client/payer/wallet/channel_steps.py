"""The steps of a channel with one seller alone: what a voucher is signed over, and what an answer makes of it. Pure.

A voucher is over what the seller has charged, as far as this wallet knows (`counted`), and the price. **What the seller
can take** is the highest voucher that was ever signed, whatever it says; that is what budgets count, and nothing of it
comes back.

Whose word moves `counted`:

- A receipt, by what it says was charged, at most the price; not where it tells another total than that makes.
- A corrective 402, to a total that vouchers **before** this payment cover: so a payment ended whose answer was lost, or
  the seller lost its books. The next step is signed over it.
- A corrective 402 with a total that only vouchers of **this** request cover: then the seller has charged it, whether
  its page came or not. It is not paid for again by itself. So no seller that names a low total first, and a high one
  then, gets two prices for one request.
- A corrective 402 beyond all vouchers of the book is believed only with a voucher that has this wallet's signature:
  then the book is older than the wallet. Else nothing is signed.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from tallystick.hexadecimal import to_hex
from tallystick.quantities import PaymentId
from tallystick.x402.batch_settlement import DepositPayload, RefundPayload, VoucherPayload
from tallystick_client.payer.errors import ChannelDisputedError
from tallystick_client.payer.wallet.book import Book
from tallystick_client.payer.wallet.rows import ChannelDeposit, SellerChannel

LOST_MAX: Final = 64
"""Payments of one channel without an answer that are remembered."""


class Lane:
    """A channel in this process: one payment at a time, and those whose outcome is not known."""

    def __init__(self, channel: SellerChannel) -> None:
        self.channel = channel
        self.turn = asyncio.Lock()
        self.users = 0
        """Who has the turn, or waits for it."""
        self.lost: deque[Step] = deque(maxlen=LOST_MAX)


@dataclass(slots=True, eq=False)
class Step:
    """One payment from a channel, which has its turn until it has ended.

    `base` is what its voucher is over beside `amount`; `covered` what vouchers for other requests allow. Amounts are
    in atomic units.
    """

    book: Book
    lane: Lane
    payload: DepositPayload | VoucherPayload | RefundPayload = field(repr=False)
    payment_id: PaymentId
    amount: int
    base: int
    covered: int
    deposit: ChannelDeposit | None = None
    is_charged: bool = False
    """Whether the seller is known to have charged it."""
    _has_turn: bool = True

    @property
    def ceiling(self) -> int:
        """What its voucher allows in all."""
        return self.base + self.amount

    def settle(self, charged: int, *, has_landed: bool) -> None:
        """Enter that so much was charged. `has_landed`: its deposit too, if it had one."""
        channel = self.lane.channel
        channel.counted = max(channel.counted, self.base + charged)
        self.is_charged = True
        if has_landed and self.deposit is not None and self.deposit.status == "pending":
            self.book.end_deposit(self.deposit, "landed")
        self._end()

    def give_back(self, amount: int) -> int:
        """Enter what a refund brought back, as the seller tells, before anybody else may pay from the channel.

        No more than was left counts, which is returned. What was seen missing meanwhile is taken for it.
        """
        channel = self.lane.channel
        amount = min(amount, channel.locked)
        channel.returned += amount
        channel.missing = max(0, channel.missing - amount)
        self._end()
        return amount

    def refuse(self) -> None:
        """Enter that the seller says it charged nothing. The next voucher allows it no more than this one."""
        self._end()

    def lose(self, *, is_sent_again: bool) -> None:
        """Enter that nobody knows what became of it."""
        self._end(keeps_open=is_sent_again)
        if self not in self.lane.lost and not self.is_charged:
            self.lane.lost.append(self)

    def correct(self, told: int, proven: int) -> bool:
        """Enter what a corrective 402 says was charged; whether another payment of this request is in order.

        `proven`: the ceiling of a voucher that came with it and has this wallet's signature, 0 where none did. Raises
        ChannelDisputedError.
        """
        channel, had_turn = self.lane.channel, self._has_turn
        self._end()
        if told > max(channel.signed, proven):
            raise ChannelDisputedError(to_hex(channel.id), told, channel.signed)
        # While it has the turn nobody else signs: a total that rises above what its request began with is its own, also
        # where a lower one was named in between, after an earlier payment of the request that allowed as much.
        most = channel.signed if had_turn else min(self.ceiling, channel.signed)
        is_own = max(channel.counted, self.covered) < told <= most
        if is_own:
            self.is_charged = True
        channel.signed = max(channel.signed, proven)
        if told > channel.counted or had_turn:
            for lost in [step for step in self.lane.lost if step.base < told]:
                lost.is_charged = True
                self.lane.lost.remove(lost)
            channel.counted = told
        self.book.changed(channel)
        return not self.is_charged

    def _end(self, *, keeps_open: bool = False) -> None:
        channel = self.lane.channel
        if channel.open_id == self.payment_id and not keeps_open:
            channel.open_id, channel.open_request, channel.open_amount = b"", b"", 0
        self.book.changed(channel)
        if self in self.lane.lost:
            self.lane.lost.remove(self)
        if self._has_turn:
            self._has_turn = False
            self.lane.turn.release()
