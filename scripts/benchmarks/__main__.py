"""`python -m benchmarks batcher|gas|plot`: see scripts/bench."""

import sys

from benchmarks import batcher, gas, plot

COMMANDS = {"batcher": batcher.main, "gas": gas.main, "plot": plot.main}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](sys.argv[2:])
