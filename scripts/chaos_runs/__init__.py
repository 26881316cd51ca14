"""What `scripts/chaos` is made of: real processes, SIGKILL at random moments, and an audit of everybody's books."""

import argparse


def kill_count(text: str) -> int:
    """How often, as an argument: an audit after none would show nothing."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed 1 and more")
    return int(text)
