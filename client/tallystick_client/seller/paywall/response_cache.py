"""Answers that are kept for a while, so that a payer whose connection broke gets what it paid for.

Without it a lost response costs the payer its money: the payment id is charged, and pays for nothing new. In memory of
one process, bounded in bytes and in age; what is not kept any more is answered 409.

What belongs to a person is not kept: cookies that the answer sets, answers that must not be stored, and answers to
requests that came with a login.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from tallystick.facilitator import Attempt
from tallystick.x402 import PaymentTerms
from tallystick_client.seller.paywall.schemes.port import Held
from tallystick_client.seller.paywall.steps import Headers, Part

AGE_S: Final = 300.0
"""How long an answer is kept."""
_SHARE: Final = 8
"""One answer takes at most this part of all the room."""
_OVERHEAD_BYTES: Final = 512

_PERSONAL: Final = frozenset(
    {b"set-cookie", b"set-cookie2", b"authentication-info", b"proxy-authentication-info", b"www-authenticate"}
)
"""Headers of an answer that are for one connection or session, and not for who asks again."""
_LOGINS: Final = frozenset({b"authorization", b"proxy-authorization", b"cookie"})


def is_logged_in(headers: Headers) -> bool:
    """Whether a request says more about who asks than its payment does. Names are in lower case."""
    return any(bytes(name) in _LOGINS for name, _ in headers)


def keepable(headers: Headers) -> Headers | None:
    """What may be kept of an answer's headers; None where nothing of the answer may."""
    for name, value in headers:
        directives = [directive.strip().lower() for directive in value.split(b",")]
        if name.lower() == b"cache-control" and b"no-store" in directives:
            return None
    return [(name, value) for name, value in headers if name.lower() not in _PERSONAL]


@dataclass(slots=True)
class Answer:
    """A whole response of the application, and how it is paid for."""

    status: int
    headers: Headers
    body: bytes
    terms: PaymentTerms
    """What is taken for it."""
    payment: Held
    receipt: str | None = None
    """The value of PAYMENT-RESPONSE; None while it is not known whether the payment was taken, or nobody was there."""
    attempt: Attempt | None = None
    """Of an exact payment: the attempt that it is settled for."""
    payer: bytes = b""

    @property
    def size(self) -> int:
        """About how many bytes of memory this takes."""
        return _OVERHEAD_BYTES + len(self.body) + sum(len(name) + len(value) for name, value in self.headers)


class ResponseCache:
    """Answers by the payment that paid for them, the oldest dropped first."""

    def __init__(self, bytes_max: int, *, age_s: float = AGE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.answer_bytes_max = bytes_max // _SHARE
        self._bytes_max = bytes_max
        self._age_s = age_s
        self._clock = clock
        self._answers: OrderedDict[Hashable, tuple[float, Answer]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: Hashable) -> Answer | None:
        """The answer that this payment paid for, or is going to."""
        self._drop_old()
        found = self._answers.get(key)
        return None if found is None else found[1]

    def keep(self, key: Hashable, answer: Answer) -> bool:
        """Keep an answer; False where it is too large."""
        if answer.size > self.answer_bytes_max:
            return False
        self.forget(key)
        self._answers[key] = (self._clock(), answer)
        self._bytes += answer.size
        self._drop_old()
        return True

    def forget(self, key: Hashable) -> None:
        """Drop an answer, if there is one."""
        found = self._answers.pop(key, None)
        if found is not None:
            self._bytes -= found[1].size

    def _drop_old(self) -> None:
        oldest_allowed = self._clock() - self._age_s
        while self._answers:
            key, (kept_at, _) = next(iter(self._answers.items()))
            if self._bytes <= self._bytes_max and kept_at >= oldest_allowed:
                return
            self.forget(key)


class Recording:
    """Collects a streamed body while it goes out, up to a size."""

    def __init__(self, bytes_max: int) -> None:
        self._room = bytes_max
        self._chunks: list[bytes] | None = []

    def take(self, part: Part) -> bytes | None:
        """The whole body once `part` was its last; None before that, and for good once it cannot be kept."""
        if self._chunks is None:
            return None
        self._room -= len(part.body or b"")
        if part.body is None or self._room < 0:
            self._chunks = None
            return None
        self._chunks.append(part.body)
        return b"".join(self._chunks) if part.is_last else None
