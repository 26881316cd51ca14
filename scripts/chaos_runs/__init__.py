"""What `scripts/chaos` is made of: real processes, SIGKILL at random moments, and an audit of everybody's books.

The package cannot be named as the command is: both stand in scripts/.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import textwrap
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _arguments import add_json_option
from _figures import write


def parser_of(name: str, description: str | None, quick: str) -> argparse.ArgumentParser:
    """The command line of `scripts/chaos <name>`, with what all runs have; `quick` says what --quick does.

    Of the description, paragraphs that are indented keep their lines.
    """
    paragraphs = (description or "").split("\n\n")
    parser = argparse.ArgumentParser(
        prog=f"scripts/chaos {name}",
        description="\n\n".join(text if text.startswith(" ") else textwrap.fill(text, 79) for text in paragraphs),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of all that is left to chance (1)")
    parser.add_argument("--quick", action="store_true", help=quick)
    add_json_option(parser)
    return parser


def kill_count(text: str) -> int:
    """How often, as an argument: an audit after none would show nothing."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed 1 and more")
    return int(text)


def carry_out(
    options: argparse.Namespace,
    run: Callable[[Path], Awaitable[Mapping[str, Any]]],
    is_clean: Callable[[Mapping[str, Any]], bool],
) -> int:
    """Run in a folder of its own, print the figures, write them if asked to; 0 if all is as it must be.

    Standard output has the figures alone, as JSON.
    """

    async def ended(folder: str) -> Mapping[str, Any]:
        return await run(Path(folder))

    with tempfile.TemporaryDirectory(prefix="tallystick-chaos-") as folder:
        result = asyncio.run(ended(folder))
    print(json.dumps(result, indent=2))
    write(options.json, result)
    clean = is_clean(result)
    print("All is as it must be." if clean else "WRONG: not all is as it must be; see the figures.", file=sys.stderr)
    return 0 if clean else 1


def is_true_of(result: Mapping[str, Any], none: Sequence[str], some: Sequence[str]) -> bool:
    """Whether all of `none` are zero or empty, and none of `some` is."""
    return not any(result[key] for key in none) and all(result[key] for key in some)
