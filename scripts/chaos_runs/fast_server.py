"""`tallystick serve` by a fast clock: python -m chaos_runs.fast_server CONFIG STARTED SHOWN SPEED."""

import sys
from pathlib import Path

from chaos_runs.fast_clock import FastClock
from tallystick_aggregator.runtime import serve


def main(config: str, started: str, shown: str, speed: str) -> int:
    """Serve until told to stop; the exit code is as of `tallystick serve`."""
    clock = FastClock(float(started), float(shown), float(speed))
    return serve.run(Path(config), lambda line: print(line, flush=True), clock=clock)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
