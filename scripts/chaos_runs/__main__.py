"""`python -m chaos_runs intake|fleet|lies`: see scripts/chaos."""

import sys

from chaos_runs import fleet, intake, lies

COMMANDS = {"intake": intake.main, "fleet": fleet.main, "lies": lies.main}

if __name__ == "__main__":
    raise SystemExit(COMMANDS[sys.argv[1]](sys.argv[2:]))
