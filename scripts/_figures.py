"""How scripts tell what they measured: figures as JSON, rows as tables."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write a run's figures as JSON, if a file was named."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns, the first one to the left and the others to the right; the first row names them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in cells)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The same as a table in Markdown."""
    head, *body = (f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in row)}|" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])
