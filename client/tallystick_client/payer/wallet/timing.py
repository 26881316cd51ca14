"""How long a wallet waits for things."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Timing:
    """In seconds.

    `flush_every_s`: how often the book on disk is brought up to date with what was charged; until then it counts as
    granted. `retry_pauses_s`: between attempts while an aggregator does not answer, or has too much to do. `drain_s`:
    how long payments under way are waited for before their key is revoked; if they take longer, it is not yet.
    `forget_keys_s`: how long closing waits for the aggregators to revoke the wallet's own keys.
    """

    flush_every_s: float = 1.0
    retry_pauses_s: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    drain_s: float = 30.0
    forget_keys_s: float = 3.0


TIMING: Final = Timing()
