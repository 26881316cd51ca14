"""What is done about a seller's refusal of a payment: never what the seller says, always what the aggregator does.

A 402 is a seller's word. That a spend key is not known any more is asked of the aggregator, and only a key that it does
not take is replaced. Both asking and replacing are limited, so that no seller, and no aggregator either, makes a wallet
register keys without end.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from tallystick.reasons import Reason
from tallystick_client.payer.policy.offers import Seller
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.recent import Recent
from tallystick_client.payer.wallet.accounts import AccountClient, KeyState
from tallystick_client.payer.wallet.deposits import Deposits
from tallystick_client.payer.wallet.grants import Clock
from tallystick_client.payer.wallet.reconcile import Reconciler
from tallystick_client.payer.wallet.rows import Account
from tallystick_client.payer.wallet.spend_keys import SELF, SpendKeys

REGISTER_AGAIN: Final = frozenset(
    {
        Reason.SPEND_KEY_UNKNOWN,
        Reason.SPEND_KEY_EXPIRED,
        Reason.SPEND_KEY_REVOKED,
        Reason.SPEND_KEY_EXHAUSTED,
        Reason.SPEND_KEY_REQUIRED,
    }
)
"""Refusals after which the aggregator is asked for the key, and another is registered if it does not take this one."""
COMPARE_BOOKS: Final = frozenset(
    {Reason.INSUFFICIENT_CEILING, Reason.INSUFFICIENT_FUNDS, Reason.VOUCHER_USED, Reason.ACCOUNT_UNKNOWN}
)
"""Refusals after which the book is compared with the aggregator's."""
PER_HOST_MAX: Final = 6
"""Refusals of one host about which something is done, in an hour."""
NEW_KEYS_MAX: Final = 32
"""Keys of one holder and account that are replaced after a refusal, in an hour."""
HOUR_S: Final = 3_600.0
_COUNTED_MAX: Final = 4_096

_log = logging.getLogger("tallystick.payer")


class HourlyLimit:
    """Allows so much of each thing in an hour. Bounded: what was not counted for longest is forgotten."""

    def __init__(self, most: int, clock: Clock) -> None:
        self._most = most
        self._clock = clock
        self._counted: Recent[object, tuple[float, int]] = Recent(_COUNTED_MAX)

    def take(self, thing: object) -> bool:
        """Count one more; False where that is too many."""
        now_s = self._clock()
        since_s, count = self._counted.get(thing) or (now_s, 0)
        if not since_s <= now_s < since_s + HOUR_S:
            since_s, count = now_s, 0
        if count >= self._most:
            return False
        self._counted.put(thing, (since_s, count + 1))
        return True


class Remedies:
    """Mends what a refusal is about, or says that there is nothing to mend."""

    def __init__(
        self,
        clients: Mapping[Operator, AccountClient],
        deposits: Deposits,
        keys: SpendKeys,
        reconciler: Reconciler,
        retire: Callable[[bytes], None],
        clock: Clock = time.time,
    ) -> None:
        """`retire`: pays no more from the present grants of an account in this process."""
        self._clients = clients
        self._deposits = deposits
        self._keys = keys
        self._reconciler = reconciler
        self._retire = retire
        self._clock = clock
        self._asked = HourlyLimit(PER_HOST_MAX, clock)
        self._replaced = HourlyLimit(NEW_KEYS_MAX, clock)

    async def recover_from(self, seller: Seller, holder: str, reason: Reason, key_id: bytes, amount: int) -> bool:
        """Do what can be done about the refusal of a payment of `amount` atomic units that `key_id` proved.

        Returns whether it is worth another try. Raises AggregatorUnavailableError, and RefusedError where the
        aggregator does not take the calls.
        """
        account = self._deposits.known_account(seller.operator, seller.token)
        if account is None:
            return False
        if reason in REGISTER_AGAIN:
            return await self._mend_key(account, seller, holder, key_id, amount)
        if reason not in COMPARE_BOOKS or not self._asked.take(seller.host):
            return False
        if holder == SELF:
            # What the present grants hold is not what the aggregator has; the next ones start from the compared book.
            self._retire(account.id)
        await self._reconciler.reconcile(account, seller.operator, rotate=False)
        return True

    async def _mend_key(self, account: Account, seller: Seller, holder: str, key_id: bytes, amount: int) -> bool:
        live = self._keys.live(account, holder)
        if key_id and (live is None or live.key.key_id != key_id):
            return True  # it was replaced since the payment was made
        if live is None or not self._asked.take(seller.host):
            return False
        state = await self._clients[seller.operator].spend_key(account.id, live.key.key_id)
        if self._takes(state, amount):
            _log.warning("%s refuses a spend key that the aggregator takes", seller.host)
            return False
        if self._keys.live(account, holder) is not live:
            return True
        if not self._replaced.take((account.id, holder)):
            return False
        self._keys.drop(account, holder)
        if holder == SELF:
            self._retire(account.id)
        return True

    def _takes(self, state: KeyState | None, amount: int) -> bool:
        """Whether the aggregator would take a payment of `amount` by this key."""
        if state is None or state.revoked or self._clock() >= state.expires_at:
            return False
        return state.spent + amount <= state.cap
