"""The table of refusals: each is used, and each use fills in the words of its sentence."""

import ast
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import tallystick_aggregator
from tallystick_aggregator.ledger.refusals import Text, Why, refuse

PACKAGE = Path(tallystick_aggregator.__path__[0])
TABLE = {name: text for name, text in vars(Why).items() if isinstance(text, Text)}
OWN = {"field", "totals", "retry_after_s", "transaction"}
"""What `refuse` takes beside the words of a sentence."""


def uses() -> Iterator[tuple[str, set[str]]]:
    """Yield each use's name in the table, and the words that it fills in."""
    for module in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "refuse":
                words = {keyword.arg or "" for keyword in node.keywords} - OWN
                for part in ast.walk(node.args[0]):
                    if isinstance(part, ast.Attribute):
                        yield part.attr, words


def test_each_refusal_is_used_and_filled_in() -> None:
    used = list(uses())
    assert {name for name, _ in used} == set(TABLE)
    for name, words in used:
        assert words == {word for _, word, _, _ in Formatter().parse(TABLE[name].text) if word} - OWN, name


def test_a_refusal_of_nothing_says_that_it_got_nothing() -> None:
    assert (refuse(Why.PERMIT_NONCE, 0, 1).got, refuse(Why.PERMIT_NONCE, 0, 1).allowed) == ("0", "1")


def test_a_refusal_says_what_it_got_and_what_is_allowed() -> None:
    refusal = refuse(Why.TOO_MANY_RESERVATIONS, 251, "at most 250", what="for this seller")
    assert refusal.message == "Too many reservations for this seller are open; settle or release some."
    assert (refusal.field, refusal.got, refusal.allowed) == ("reservations", "251", "at most 250")
