"""`python -m tallystick_aggregator --config FILE` is `tallystick serve --config FILE`."""

from tallystick_aggregator.runtime.cli import serve

if __name__ == "__main__":
    serve()
