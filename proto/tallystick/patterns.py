"""Patterns over URL paths, as price lists and the pay-ahead extension use them: `*` stands for any characters.

Matching never goes back: each literal part between two stars is looked for once, from where the one before ended. The
leftmost place is always right, because a star takes whatever lies between.
"""

from typing import Final

from tallystick.errors import MalformedError

PATTERN_CHARS_MAX: Final = 1_024
_NOWHERE_ELSE: Final = "\U0010ffff"
"""A character that stands in no pattern and no path: it is unassigned for good."""


class Pattern:
    """A text from "/" or "*" on that is compared with whole paths; `*` stands for any characters, slashes included."""

    __slots__ = ("_first", "_last", "_length_min", "_middle", "text")

    def __init__(self, text: str, field: str = "pattern") -> None:
        """Raises MalformedError, which names `field`, on a text of another form or of more than 1,024 characters."""
        allowed = f'a path from "/" on, of at most {PATTERN_CHARS_MAX} characters, in which * stands for any characters'
        if not isinstance(text, str) or not text.startswith(("/", "*")):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise MalformedError(field, text, allowed)
        if len(text) > PATTERN_CHARS_MAX or _NOWHERE_ELSE in text:
            raise MalformedError(field, text, allowed)
        self.text = text
        first, *rest = text.split("*")
        self._first = first
        self._last = rest[-1] if rest else None
        self._middle = tuple(part for part in rest[:-1] if part)
        self._length_min = len(first) + len(self._last or "")

    def matches(self, path: str) -> bool:
        """Whether the whole path fits. Takes a time that grows with the path's length, whatever the pattern."""
        if self._last is None:
            return path == self._first
        if len(path) < self._length_min or not (path.startswith(self._first) and path.endswith(self._last)):
            return False
        at, end = len(self._first), len(path) - len(self._last)
        for part in self._middle:
            found = path.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True

    def covers(self, other: "Pattern") -> bool:
        """Whether every path that fits the other pattern fits this one too."""
        # A star of the other may stand for a character that only a star of ours can take.
        return self.matches(other.text.replace("*", _NOWHERE_ELSE))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"
