"""`python -m benchmarks intake|gas|plot`: see scripts/bench."""

import sys

from benchmarks import gas, intake, plot

COMMANDS = {"intake": intake.main, "gas": gas.main, "plot": plot.main}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](sys.argv[2:])
