"""`tallystick serve` by a clock that runs faster than the wall's, for everybody in a run alike.

python -m chaos_runs.fast_server CONFIG STARTED SHOWN SPEED
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tallystick_aggregator.runtime import serve


class FastClock(NamedTuple):
    """Tells `shown` at `started` (both in seconds since the epoch), and from then on `speed` seconds a second."""

    started: float
    shown: float
    speed: float
    wall: Callable[[], float] = time.time

    def __call__(self) -> float:
        """The time now, in seconds since the epoch."""
        return self.shown + (self.wall() - self.started) * self.speed


def main(config: str, started: str, shown: str, speed: str) -> int:
    """Serve until told to stop; the exit code is as of `tallystick serve`."""
    clock = FastClock(float(started), float(shown), float(speed))
    return serve.run(Path(config), lambda line: print(line, flush=True), clock=clock)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
