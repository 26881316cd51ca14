"""The pay-ahead extension: where a 402's price holds, so that payments for other pages there may be sent unasked.

The seller publishes it in the 402 where one rule with a fixed price covers more than the page that was asked for:

    "pay-ahead": {"info": {"path": "/articles/*", "methods": ["GET"]}, "schema": {...}}

`path` is compared with the percent-decoded path of the URL as the client sees it; `*` stands for any characters.
Without `methods` the price holds for all that can cost something. It is a promise about nothing: a page inside may have
become free, which its answer then says (`chargedAmount` "0"), or have another price, which a new 402 says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import unquote

from tallystick.errors import MalformedError
from tallystick.patterns import Pattern
from tallystick.x402.messages import as_object

PAY_AHEAD: Final = "pay-ahead"
_METHODS_MAX: Final = 16
_METHOD_CHARS_MAX: Final = 32
_FREE_METHODS: Final = frozenset({"HEAD", "OPTIONS", "TRACE", "CONNECT"})
_SCHEMA: Final = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "methods": {"type": "array", "items": {"type": "string"}}},
    "required": ["path"],
}


@dataclass(frozen=True, slots=True)
class PayAhead:
    """What a seller published: the pages that cost the same. `methods` is None where all do."""

    pattern: Pattern
    methods: frozenset[str] | None = None

    def covers(self, method: str, target: bytes) -> bool:
        """Whether a payment at this price may be sent ahead with a request; `target` is path and query as sent.

        False for methods that never cost anything, and for paths that can be read in two ways (dot segments, doubled
        slashes, what is no UTF-8): those are asked for first.
        """
        if method in _FREE_METHODS or (self.methods is not None and method not in self.methods):
            return False
        try:
            path = unquote(target.partition(b"?")[0].decode("ascii"), errors="strict")
        except UnicodeDecodeError:
            return False
        return path.startswith("/") and "//" not in path and "/." not in path and self.pattern.matches(path)


def pay_ahead_extension(path: str, methods: Sequence[str] | None) -> dict[str, Any]:
    """The `extensions` of a 402 whose price holds for these paths and methods (None: all)."""
    info = {"path": path} if methods is None else {"path": path, "methods": list(methods)}
    return {PAY_AHEAD: {"info": info, "schema": _SCHEMA}}


def read_pay_ahead(extensions: Mapping[str, Any] | None) -> PayAhead | None:
    """What a 402's extensions say of paying ahead; None where they say nothing, or nothing that can be read."""
    info = as_object(as_object((extensions or {}).get(PAY_AHEAD)).get("info"))
    methods = info.get("methods")
    try:
        pattern = Pattern(cast("str", info.get("path")), PAY_AHEAD)
    except MalformedError:
        return None
    if methods is None:
        return PayAhead(pattern)
    if not isinstance(methods, list):
        return None
    names = cast("list[object]", methods)[: _METHODS_MAX + 1]
    if len(names) > _METHODS_MAX or not all(isinstance(n, str) and 0 < len(n) <= _METHOD_CHARS_MAX for n in names):
        return None
    return PayAhead(pattern, frozenset(cast("list[str]", names)))
