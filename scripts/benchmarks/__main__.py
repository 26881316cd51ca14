"""`python -m benchmarks intake|facilitator|gas|plot`: see scripts/bench."""

import sys

from benchmarks import facilitator, gas, intake, plot

COMMANDS = {"intake": intake.main, "facilitator": facilitator.main, "gas": gas.main, "plot": plot.main}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](sys.argv[2:])
