"""Outside of schemes/ nobody tells schemes apart: neither by name nor by what they are made of."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tallystick_aggregator
from tallystick.x402 import SCHEME_DEFERRED, SCHEME_EXACT
from tallystick.x402.terms import SCHEME_BATCH_SETTLEMENT

ROOT = Path(tallystick_aggregator.__file__).parent
NAMES = {SCHEME_DEFERRED, SCHEME_EXACT, SCHEME_BATCH_SETTLEMENT}
REGISTERS = {"runtime/app.py"}
"""Puts the schemes together, so it imports their classes; it compares no name either."""


def tells_schemes_apart(path: str, source: str) -> Iterator[str]:
    """What in this module knows one scheme from another."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value in NAMES:
            yield f"{path}:{node.lineno}: the name {node.value!r}"
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            is_scheme = module.startswith("tallystick_aggregator.schemes.") and not module.endswith(".schemes.port")
            if is_scheme and path not in REGISTERS:
                yield f"{path}:{node.lineno}: {module}"
            for name in node.names:
                if name.name.startswith("SCHEME_"):
                    yield f"{path}:{node.lineno}: {name.name}"
        elif isinstance(node, ast.Attribute) and node.attr.startswith("SCHEME_") and node.attr != "SCHEME_UNSUPPORTED":
            yield f"{path}:{node.lineno}: {node.attr}"


def test_nobody_outside_of_schemes_tells_schemes_apart() -> None:
    found = [
        each
        for file in sorted(ROOT.rglob("*.py"))
        if not (path := file.relative_to(ROOT).as_posix()).startswith("schemes/")
        for each in tells_schemes_apart(path, file.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "if terms.scheme == 'exact': pass",
        "{'deferred': 1}[terms.scheme]",
        "from tallystick.x402 import SCHEME_EXACT",
        "from tallystick import x402\nx402.SCHEME_DEFERRED",
        "from tallystick_aggregator.schemes.exact import ExactPayments",
    ],
)
def test_a_module_that_does_is_found(source: str) -> None:
    assert list(tells_schemes_apart("api/grpc/new.py", source))
