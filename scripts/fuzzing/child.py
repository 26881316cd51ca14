"""One target under atheris: `python -m fuzzing.child TARGET [libFuzzer's options] CORPUS`."""

import sys

import atheris

with atheris.instrument_imports(
    include=[
        "tallystick",
        "tallystick_aggregator",
        "tallystick_chain",
        "tallystick_client",
        "tallystick_contracts",
        "fuzzing.targets",
    ]
):
    from fuzzing.targets import TARGETS


def main() -> None:
    """Fuzz until the time is over; libFuzzer ends the process."""
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
