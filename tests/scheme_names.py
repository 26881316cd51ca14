"""Who, outside of the places where schemes are written, knows one scheme from another."""

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tallystick.x402 import SCHEME_DEFERRED, SCHEME_EXACT
from tallystick.x402.terms import SCHEME_BATCH_SETTLEMENT

NAMES: Final = {SCHEME_DEFERRED, SCHEME_EXACT, SCHEME_BATCH_SETTLEMENT}


@dataclass(frozen=True)
class Schemes:
    """The schemes of one side: their package below the root package, and those who put them together.

    `registers` import the schemes' classes; they compare no name either. `open_modules` may be imported by all;
    `closed_names`, by the folder that may not, are what schemes' payments are made of.
    """

    root: Path
    package: str
    registers: Collection[str] = ()
    open_modules: Collection[str] = ("port",)
    closed_names: Mapping[str, Collection[str]] = field(default_factory=dict[str, Collection[str]])

    def told_apart_in(self, folder: str = "") -> list[str]:
        """What in the modules below a folder knows one scheme from another."""
        places = self.package.replace(".", "/") + "/"
        return [
            each
            for file in sorted((self.root / folder).rglob("*.py"))
            if not (path := file.relative_to(self.root).as_posix()).startswith(places)
            for each in self.told_apart(path, file.read_text())
        ]

    def told_apart(self, path: str, source: str) -> Iterator[str]:
        """What in this module does."""
        closed = {name for folder, names in self.closed_names.items() if path.startswith(folder) for name in names}
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and node.value in NAMES:
                yield f"{path}:{node.lineno}: the name {node.value!r}"
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                below = module.removeprefix(f"{self.root.name}.{self.package}.")
                if below not in {module, *self.open_modules} and path not in self.registers:
                    yield f"{path}:{node.lineno}: {module}"
                for name in node.names:
                    if name.name.startswith("SCHEME_") or name.name in closed:
                        yield f"{path}:{node.lineno}: {name.name}"
            elif isinstance(node, ast.Attribute) and _is_scheme_name(node.attr):
                yield f"{path}:{node.lineno}: {node.attr}"


def _is_scheme_name(attribute: str) -> bool:
    # SCHEME_UNSUPPORTED is a reason.
    return attribute.startswith("SCHEME_") and attribute != "SCHEME_UNSUPPORTED"
