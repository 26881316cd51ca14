"""Requests with something wrong in them: well-formed ones, changed by a seeded generator."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any, Final

from http_twin import Json

_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**64,
    10**400,
    "",
    "0x",
    "-1",
    "1" * 90,
    "0x" + "ff" * 20,
    "0x" + "ff" * 5_000,
    "eip155:0",
    "eip155:99999999999999999999999",
    "solana:x",
    "\x00\u202e",
    "deferred",
    "exact",
    [],
    {},
    [[[[]]]],
    {"a": {"b": {}}},
)
_BYTES: Final = (
    b"\x00",
    b"\xff",
    b'"',
    b"{",
    b"[",
    b"}",
    b"\\",
    b"\\ud800",
    b"1e999",
    b"NaN",
    b"null",
    b",",
    b" " * 99,
)
_HEADERS: Final = (
    (b"authorization", b"Bearer \xff"),
    (b"authorization", b""),
    (b"content-length", b"x"),
    (b"content-length", b"9" * 30),
    (b"content-encoding", b"gzip"),
    (b"content-type", b"text/plain; charset=\xff"),
    (b"x-payment", b"{}"),
)
_PATHS: Final = (
    "/verify",
    "/settle",
    "/verify",
    "/settle",
    "/supported",
    "/discovery/resources",
    "/",
    "/verify/",
    "/\ud7ff",
)


class Mutator:
    """Endless mutated requests: path, method, headers and body."""

    def __init__(self, seed: int, bodies: list[Json], token: bytes) -> None:
        self._random = random.Random(seed)
        self._bodies = bodies
        self._token = token

    def __iter__(self) -> Iterator[tuple[str, str, list[tuple[bytes, bytes]], bytes]]:
        draw = self._random
        while True:
            is_usual = draw.random() < 0.9
            path = draw.choice(_PATHS[:2]) if is_usual else draw.choice(_PATHS)
            method = "POST" if is_usual else draw.choice(("GET", "POST", "HEAD", "PUT", "OPTIONS"))
            headers = [(b"authorization", self._token)]
            if draw.random() < 0.05:
                headers = [*headers[draw.randrange(2) :], draw.choice(_HEADERS)]
            yield path, method, headers, self._body()

    def _body(self) -> bytes:
        draw = self._random
        body: Json = json.loads(json.dumps(draw.choice(self._bodies)))
        for _ in range(draw.choice((0, 1, 1, 2, 5))):
            self._change(body)
        data = json.dumps(body).encode()
        for _ in range(draw.choice((0, 0, 0, 1, 4))):
            data = self._damage(data)
        return data

    def _change(self, body: Json) -> None:
        """Put another value in some place, or take the place away."""
        draw, place = self._random, body
        while True:
            if not place:
                return
            key = draw.choice(list(place))
            below = place[key]
            if isinstance(below, dict) and draw.random() < 0.85:
                place = below
                continue
            if draw.random() < 0.15:
                del place[key]
            else:
                place[key] = copy.deepcopy(draw.choice(_VALUES))
            return

    def _damage(self, data: bytes) -> bytes:
        """Cut something out, repeat it, or put some bytes in."""
        draw = self._random
        at, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        match draw.randrange(4):
            case 0:
                return data[:at] + data[end:]
            case 1:
                return data[:end] + data[at:]
            case 2:
                return data[:at] + draw.choice(_BYTES) + data[at:]
            case _:
                return data[:at] + bytes((draw.randrange(256),)) + data[at + 1 :]
