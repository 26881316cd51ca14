"""What the ledger answers. A refusal carries what it got and what would have been allowed; whether it may be retried is
the reason's own property (tallystick.reasons).
"""

from typing import Final, NamedTuple

from tallystick.quantities import ChannelTotals
from tallystick.reasons import Reason
from tallystick.values import Value

TRANSACTION_FIELD: Final = "transaction"
"""The field of a refusal that is about a transaction under way, or one that failed; `got` holds its hash."""


class Refusal(NamedTuple):
    """Nothing was changed, and why. `totals` are for the channel's own parties only.

    `retry_after_s`: when the same call may do better; 0 where that is not known.
    """

    reason: Reason
    message: str
    field: str = ""
    got: str = ""
    allowed: str = ""
    totals: ChannelTotals | None = None
    retry_after_s: int = 0

    @property
    def transaction(self) -> str:
        """The hash, in hex with 0x, of the transaction that the refusal is about; empty if there is none."""
        return self.got if self.field == TRANSACTION_FIELD else ""


class Accepted(Value, frozen=True, gc=False):
    """A charge that stands. `charged` is the channel's charged total right after it; `amount` what it took."""

    amount: int
    charged: int
    replayed: bool


class Held(NamedTuple):
    """A reservation that stands. A replayed one names no handle: its first caller has it."""

    handle: bytes
    expires_at: int
    replayed: bool


class Done(NamedTuple):
    """A release that stands."""

    replayed: bool
