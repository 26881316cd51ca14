"""`python -m chaos_runs intake|fleet`: see scripts/chaos."""

import sys

from chaos_runs import fleet, intake

COMMANDS = {"intake": intake.main, "fleet": fleet.main}

if __name__ == "__main__":
    raise SystemExit(COMMANDS[sys.argv[1]](sys.argv[2:]))
