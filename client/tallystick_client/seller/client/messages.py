"""What only a seller says or hears, as bytes and integers; the rest is the protocol's: `tallystick.charges`,
`tallystick.facilitator` and `tallystick.settlements`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tallystick.settlements import LeftOut, Settlement


@dataclass(frozen=True, slots=True)
class OtherPayment:
    """A payment of a scheme that only the aggregator reads: x402's PaymentPayload, as JSON."""

    payload: bytes = field(repr=False)


class PublishedResources(NamedTuple):
    """How many resources the aggregator lists, and what it dropped and why."""

    listed: int
    dropped: tuple[str, ...]


class SettledNow(list[Settlement]):
    """The claim transactions that `settle_now` brought about or found under way; `left_out`: what is owed and was not
    claimed.
    """

    def __init__(self, settlements: Iterable[Settlement] = (), left_out: Iterable[LeftOut] = ()) -> None:
        super().__init__(settlements)
        self.left_out = list(left_out)
