"""What goes wrong, and when to raise what.

TallystickError            everything below; catch it at the outermost edge
├── MalformedError         an input is not of the form that is allowed: bad hex, a fractional amount, a missing
│   │                      field. Raised where the input enters. Also a ValueError.
│   └── KeyReferenceError  a key reference of a configuration does not lead to a usable key (module `keys`)
├── InvalidSignatureError  a well-formed signature that the chain would not take for this signer (I5)
└── RefusedError           a well-formed request that the rules say no to; carries one `Reason`

Each says what it got and what would have been allowed. None ever holds a key, a secret or a signature in full.
"""

from collections.abc import Mapping
from typing import Any, Final

from tallystick.quantities import ChannelTotals
from tallystick.reasons import Reason

GOT_CHARS_MAX: Final = 42
"""Up to here a text that was got is shown in full: an address fits; a key, a secret or a signature does not."""
_GOT_CHARS_CUT: Final = 16


class Described(str):
    """A description of what was got, to be shown as it is instead of quoted."""

    __slots__ = ()


class TallystickError(Exception):
    """The root of all errors of this project."""


class MalformedError(TallystickError, ValueError):
    """An input that is not of the form that is allowed.

    `got` may be the offending value itself: text is escaped and cut, bytes are told by their length only.
    For a field that holds a secret pass a `Described` instead of the value.
    """

    def __init__(self, field: str, got: object, allowed: str) -> None:
        self.field = field
        self.got = describe(got)
        self.allowed = allowed
        super().__init__(f"{field}: got {self.got}, allowed {allowed}")

    def within(self, field: str) -> "MalformedError":
        """The same, its field named as a part of this one."""
        return MalformedError(f"{field}.{self.field}", Described(self.got), self.allowed)


class KeyReferenceError(MalformedError):
    """A key reference that does not lead to a usable key; says why, and never holds the key."""


class InvalidSignatureError(TallystickError):
    """A signature that the chain would not take for this signer; `problem` says why."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"invalid signature: {problem}")


class RefusedError(TallystickError):
    """A well-formed request that the rules say no to.

    `state` are the channel's totals where the reason tells the payer to sign higher or deposit more, and only for the
    channel's own parties. `retry_after_s`: after how many seconds the same call may do better; 0 where that is not
    known. `extra`: what the scheme tells beside it in x402's answer, JSON values. `code`: x402's own code of it, where
    the scheme has one.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        field: str = "",
        got: str = "",
        allowed: str = "",
        state: ChannelTotals | None = None,
        retry_after_s: int = 0,
        extra: Mapping[str, Any] | None = None,
        code: str = "",
    ) -> None:
        self.reason = reason
        self.message = message
        self.field = field
        self.got = got
        self.allowed = allowed
        self.state = state
        self.retry_after_s = retry_after_s
        self.extra: Mapping[str, Any] = extra or {}
        self.code = code
        super().__init__(f"{reason.code}: {message}")

    @property
    def retry(self) -> bool:
        """Whether the same call may succeed later, unchanged or after the step that the reason advises."""
        return self.reason.retry


def describe(got: object) -> str:
    """What was got, in one printable ASCII line that gives no secret away."""
    if isinstance(got, Described):
        return str(got)
    if isinstance(got, str):
        return _quote(got)
    if isinstance(got, bytes | bytearray):
        return f"{len(got)} bytes"
    if isinstance(got, bool) or got is None:
        return {True: "true", False: "false", None: "nothing"}[got]
    if isinstance(got, int):
        return str(got) if got.bit_length() <= 256 else f"an integer of {got.bit_length()} bits"
    return f"a value of type {type(got).__name__}"


def _quote(text: str) -> str:
    """The text quoted and escaped; a long one as its first characters and its length."""
    if len(text) <= GOT_CHARS_MAX:
        return ascii(text)
    return f"{text[:_GOT_CHARS_CUT]!a}... ({len(text)} characters)"
