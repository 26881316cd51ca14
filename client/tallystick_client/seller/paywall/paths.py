"""The paths that one request may stand for, so that no rule is evaded by writing a path in another way.

An application does not see what stood on the request line. Servers decode it and may put a prefix in front
(`root_path`); frameworks take the prefix away, each in its own way; some merge slashes, decode twice, or cut off what
follows a `;`. Two kinds of readings are told apart:

- **Plain readings** differ in what stands in front: the path with and without `root_path`, or with a part of it. An
  honest request has several, so the price list decides between them (`rules`).
- **Odd readings** come from what honest requests do without: dot segments, doubled slashes, escapes that are still
  there after decoding, backslashes, control characters, the prefix in another place than in front. Where one of them
  leads to another rule, the request is refused.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from posixpath import normpath
from typing import Any, Final
from unicodedata import normalize
from urllib.parse import unquote, unquote_to_bytes

from tallystick.errors import Described, MalformedError

ODD_CHARS_MAX: Final = 4_096
"""A path with something odd in it is read in all its ways up to this length."""
ODD_READINGS_MAX: Final = 64
READINGS_MAX: Final = 1_024
"""Plain and odd together."""
_ROOT_SEGMENTS_MAX: Final = 9
_WRAPPERS_MAX: Final = 64
_APPS_MAX: Final = 1_000
"""Applications that are looked into for a `root_path` of their own."""

_ODD: Final = re.compile(r"//|/\.|[. ](?:/|$)|[%\\;?#\x00-\x1f\x7f]|[^\x00-\x7f]|\A(?!/)")
_SLASHES: Final = re.compile(r"//+")
_PARAMETERS: Final = re.compile(r";[^/]*")
_SEGMENT_ENDS: Final = re.compile(r"(?<=[^/. ])[. ]+(?=/|\Z)")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")
_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*")
_OVERLONG: Final = re.compile(rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f][\x80-\xbf]|\xf0[\x80-\x8f][\x80-\xbf]{2}")


@dataclass(frozen=True, slots=True)
class Paths:
    """The plain readings of a request's path, and its odd ones, each with plain readings of its own.

    `own` is the path as the application routes it: without `root_path`. `others` are its other plain readings.
    """

    own: str
    others: tuple[str, ...]
    odd: tuple["Paths", ...] = ()

    def __iter__(self) -> Iterator[str]:
        """All plain readings, `own` first."""
        yield self.own
        yield from self.others


@dataclass(frozen=True, slots=True)
class Roots:
    """The prefixes that applications were told to live under; `first` is that of the outermost, if it has one."""

    first: str = ""
    all: frozenset[str] = frozenset()


def read_paths(path: str, raw_path: bytes = b"", root_path: str = "", roots: Roots | None = None) -> Paths:
    """The paths that a request may stand for: of its decoded path, and of its line if `raw_path` tells that.

    `root_path` is the server's prefix, `roots` what `find_roots` found. Raises MalformedError on a path that can be
    read in too many ways.
    """
    roots = roots or Roots()
    told = _trimmed(root_path)
    prefixes = _Prefixes(roots.first or told, (told, *roots.all))
    path = _origin_form(path)
    starts = [path]
    if raw_path and raw_path != path.encode("utf-8", "surrogatepass"):
        on_line = _origin_form(raw_path.partition(b"?")[0].decode("latin-1"))
        starts += [unquote(on_line, errors="replace"), on_line]
    plain = prefixes.plain(starts)
    decoded = starts[:2]
    unusual = [rest for start in decoded for rest in prefixes.anywhere(start)]
    if not unusual and not any(_ODD.search(reading) for reading in decoded):
        return plain
    unusual += [rest for start in decoded for rest in prefixes.without(start)]
    if raw_path:
        unusual += _other_encodings(unquote_to_bytes(raw_path))
    decoded += unusual
    odd = [prefixes.plain([reading]) for reading in sorted(_closure(decoded) - {path})]
    if sum(len(paths.others) for paths in odd) > READINGS_MAX:
        raise MalformedError("path", path, "one that cannot be read in so many ways")
    return Paths(plain.own, plain.others, tuple(odd))


def fold(path: str) -> str:
    """The path as a file system takes it that tells neither the case of letters nor ways to compose them apart."""
    return path.lower() if path.isascii() else normalize("NFKC", path).casefold()


def find_roots(app: Any) -> Roots:
    """The `root_path` of the application and of all that can be seen to be mounted in it (`.app`, `.routes`).

    FastAPI puts its own in place of the server's, and a middleware in front of it cannot know.
    """
    first = ""
    at = app
    for _ in range(_WRAPPERS_MAX):
        first = first or _root_of(at)
        at = getattr(at, "app", None)
    found: set[str] = set()
    seen: set[int] = set()
    waiting: list[Any] = [app]
    while waiting and len(seen) < _APPS_MAX:
        at = waiting.pop()
        if at is None or id(at) in seen:
            continue
        seen.add(id(at))
        found.add(_root_of(at))
        waiting.append(getattr(at, "app", None))
        routes = getattr(at, "routes", None)
        if isinstance(routes, list | tuple):
            waiting.extend(getattr(route, "app", None) for route in routes)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return Roots(first, frozenset(found - {""}))


def _root_of(app: Any) -> str:
    root = getattr(app, "root_path", "")
    return _trimmed(root) if isinstance(root, str) else ""


def _trimmed(root: str) -> str:
    return root.rstrip("/")


class _Prefixes:
    """What may stand in front of a path: `own` is what the application takes away before it routes."""

    def __init__(self, own: str, all_of_them: Iterable[str]) -> None:
        self._own = own
        self._wholes = {prefix for prefix in all_of_them if prefix}
        # Of "/a/b" also "/b": an application mounted in another one knows only its own part.
        self._endings: set[str] = set()
        for prefix in self._wholes:
            segments = prefix.split("/")
            if len(segments) > _ROOT_SEGMENTS_MAX:
                got = Described(f"{len(segments)} segments")
                raise MalformedError("root_path", got, f"at most {_ROOT_SEGMENTS_MAX}")
            self._endings |= {"/".join(["", *segments[index:]]) for index in range(1, len(segments))} or {prefix}

    def plain(self, starts: Sequence[str]) -> Paths:
        """The plain readings of a path, which comes first, and of what else the request line says."""
        readings: dict[str, None] = {}
        for start in starts:
            for base in (start, *self.without(start)):
                stem = _origin_form(base)
                rooted = stem if stem.startswith("/") else "/" + stem
                readings[stem] = readings[rooted] = None
                for ending in self._endings:
                    readings[ending + rooted] = None
        path, root = starts[0], self._own
        own = (path[len(root) :] or "/") if _begins(path, root) else path
        readings.pop(own, None)
        return Paths(own, tuple(readings))

    def without(self, path: str) -> list[str]:
        """The path without its prefix, or a part of it, where that is whole segments."""
        return [path[len(ending) :] for ending in self._endings if _begins(path, ending)]

    def anywhere(self, path: str) -> list[str]:
        """What some frameworks take for the path: all that follows the prefix as a text, wherever it stands."""
        return [path.partition(whole)[2] for whole in self._wholes if whole in path and not _begins(path, whole)]


def _begins(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}


def _origin_form(path: str) -> str:
    """The path of an absolute URI, which some servers pass on as the path."""
    absolute = _ABSOLUTE.match(path)
    return path if absolute is None else path[absolute.end() :]


def _closure(starts: list[str]) -> set[str]:
    """What a path may become by steps that one application or another takes, in any order."""
    seen = set(starts)
    waiting = list(starts)
    while waiting:
        path = waiting.pop()
        if len(path) > ODD_CHARS_MAX:
            got = Described(f"{len(path)} characters, some that can be read in several ways")
            raise MalformedError("path", got, f"at most {ODD_CHARS_MAX} of them")
        for step in _STEPS:
            changed = step(path)
            if changed not in seen:
                seen.add(changed)
                waiting.append(changed)
        if len(seen) > ODD_READINGS_MAX:
            raise MalformedError("path", path, "one that cannot be read in so many ways")
    return seen


def _resolve(path: str) -> str:
    """The path with dot segments and doubled slashes resolved."""
    resolved = normpath("/" + path.lstrip("/"))
    keeps_slash = path.endswith(("/", "/.", "/..")) and resolved != "/"
    return resolved + "/" if keeps_slash else resolved


def _other_encodings(path: bytes) -> list[str]:
    """Bytes that are no UTF-8, as one application or another may decode them: as Latin-1, or overlong forms too.

    Empty where they are UTF-8.
    """
    try:
        path.decode()
    except UnicodeDecodeError:
        pass
    else:
        return []

    def shortest(found: re.Match[bytes]) -> bytes:
        code = 0
        for index, byte in enumerate(found[0]):
            code = code << 6 | (byte & 0x3F if index else byte & (0x1F, 0x0F, 0x07)[len(found[0]) - 2])
        return chr(code).encode()

    return [path.decode("latin-1"), _OVERLONG.sub(shortest, path).decode(errors="replace")]


_STEPS: Final[tuple[Callable[[str], str], ...]] = (
    _resolve,
    lambda path: _SLASHES.sub("/", path),
    lambda path: unquote(path, errors="replace"),
    lambda path: path.replace("\\", "/"),
    lambda path: _PARAMETERS.sub("", path),
    lambda path: path.partition("?")[0],
    lambda path: path.partition("#")[0],
    lambda path: path.partition("\0")[0],
    lambda path: _CONTROLS.sub("", path),
    # Windows does not tell "a" from "a." and "a ".
    lambda path: _SEGMENT_ENDS.sub("", path),
    lambda path: path if path.isascii() else normalize("NFKC", path),
)
