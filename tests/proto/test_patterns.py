"""Patterns of paths: `*` stands for any characters, and no path makes matching slow."""

import re
from typing import Any, SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.errors import MalformedError
from tallystick.patterns import PATTERN_CHARS_MAX, Pattern

few = st.text(alphabet="/ab*", max_size=8)
patterns = st.builds(lambda first, rest: first + rest, st.sampled_from("/*"), few)


def as_regex(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)


class Counted(str):
    """A path that counts how many of its characters are looked at."""

    __slots__ = ("looks", "seen")

    def find(self, sub: str, start: SupportsIndex | None = None, end: SupportsIndex | None = None) -> int:
        self.looks = getattr(self, "looks", 0) + 1
        found = str.find(self, sub, start, end)
        stop = len(self) if found < 0 else found + len(sub)
        self.seen = getattr(self, "seen", 0) + stop - int(start or 0)
        return found


@given(patterns, st.text(alphabet="/ab\n", max_size=12))
def test_p2_a_pattern_means_what_the_regular_expression_means(pattern: str, path: str) -> None:
    assert Pattern(pattern).matches(path) is (as_regex(pattern).fullmatch(path) is not None)


@pytest.mark.parametrize("pattern", ["*/a/*/b/*/c", "*a*a*a*a*a*b", "/*" * 400, "*" * 1_000, "*/a*/a*/a*/x*"])
def test_p2_no_character_of_a_path_is_looked_at_twice(pattern: str) -> None:
    path: Any = Counted("/a/b" * 20_000)
    Pattern(pattern).matches(path)
    assert getattr(path, "seen", 0) <= len(path)
    assert getattr(path, "looks", 0) <= pattern.count("*")


@given(patterns, patterns, st.text(alphabet="/ab", max_size=10))
def test_what_fits_a_pattern_fits_every_one_that_covers_it(wide: str, narrow: str, path: str) -> None:
    if Pattern(wide).covers(Pattern(narrow)) and Pattern(narrow).matches(path):
        assert Pattern(wide).matches(path)


@pytest.mark.parametrize(
    ("wide", "narrow", "covers"),
    [
        ("*", "/a/*", True),
        ("/a/*", "/a/b", True),
        ("/a/*", "/a/*/c", True),
        ("/a/*", "/a*", False),
        ("/a", "/a", True),
        ("/a", "/a*", False),
        ("*.pdf", "/books/*.pdf", True),
        ("/*b*", "/a*b", True),
    ],
)
def test_one_pattern_may_cover_another(wide: str, narrow: str, covers: bool) -> None:
    assert Pattern(wide).covers(Pattern(narrow)) is covers


@pytest.mark.parametrize("text", ["", "a", 5, None, "/" + "a" * PATTERN_CHARS_MAX, "/\U0010ffff"])
def test_what_is_no_pattern_is_told_so(text: Any) -> None:
    with pytest.raises(MalformedError, match=r'^rule: got .*, allowed a path from "/" on'):
        Pattern(text, "rule")
