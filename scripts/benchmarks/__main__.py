"""`python -m benchmarks intake|facilitator|batch-settlement|gas|plot`: see scripts/bench."""

import sys

from benchmarks import batch_settlement, facilitator, gas, intake, plot

COMMANDS = {
    "intake": intake.main,
    "facilitator": facilitator.main,
    "batch-settlement": batch_settlement.main,
    "gas": gas.main,
    "plot": plot.main,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](sys.argv[2:])
