"""What the scripts' command lines have in common."""

import argparse
from pathlib import Path


def output_file(text: str) -> Path:
    """A file to write when a run has ended; raises ArgumentTypeError before it begins if that cannot be."""
    path = Path(text)
    new = not path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        problem = f"got {text!r}, which cannot be written ({error.strerror}); allowed a file in a folder that is there"
        raise argparse.ArgumentTypeError(problem) from None
    if new:
        path.resolve().unlink()  # not a link to it
    return path


def checkout(text: str) -> Path:
    """A folder with another checkout of the project; raises ArgumentTypeError on any other."""
    path = Path(text).resolve()
    if not (path / "scripts" / "benchmarks").is_dir():
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed the folder of another checkout of this project")
    return path


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add --json FILE; see `_figures.write`."""
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the figures here")
