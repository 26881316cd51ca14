"""What the ledger answers. A refusal carries what it got and what would have been allowed; whether it may be retried is
the reason's own property (tallystick.reasons).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from tallystick.quantities import ChannelTotals
from tallystick.reasons import Reason
from tallystick.values import Value

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Refusal(NamedTuple):
    """Nothing was changed, and why. `totals` are for the channel's own parties only.

    `retry_after_s`: when the same call may do better; 0 where that is not known. `transaction`: the hash of one that
    was sent, and whose outcome is not known yet or is that it reverted; `got` has it in hex. `code`, over HTTP only:
    the refusal's standard reason code where its scheme names one. `extra`: what the scheme tells beside it in x402's
    answer, JSON values.
    """

    reason: Reason
    message: str
    field: str = ""
    got: str = ""
    allowed: str = ""
    totals: ChannelTotals | None = None
    retry_after_s: int = 0
    code: str = ""
    transaction: bytes = b""
    extra: Mapping[str, Any] = NOTHING


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
