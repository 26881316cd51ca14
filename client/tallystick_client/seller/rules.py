"""Which requests cost what: rules by path, method and user agent, checked when they are written down.

A path is matched as the application will see it (percent-decoded). An application that resolves dot segments or doubled
slashes by itself could be led around a rule by `/free/../articles/1`; where the two readings of such a path do not come
to the same rule, the request is refused.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from posixpath import normpath
from typing import Any, Final, cast

from tallystick.amounts import parse_price
from tallystick.errors import MalformedError

ALWAYS_FREE_METHODS: Final = frozenset({"HEAD", "OPTIONS"})
"""They carry no page: HEAD tells a crawler that a page exists, OPTIONS is what browsers ask before they may ask."""
_ROBOTS: Final = "/robots.txt"
_WELL_KNOWN: Final = "/.well-known/"
_METHOD: Final = re.compile(r"[A-Z][A-Z-]{0,31}")


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """The request as a price function sees it."""

    method: str
    path: str
    query: bytes
    headers: Mapping[str, str]
    """Names in lower case; of a header that came several times, the first value."""
    body: bytes
    """Up to the paywall's `max_body_bytes`; empty where there is none and where it is streamed up."""
    scope: Mapping[str, Any] = field(repr=False)
    """The ASGI scope."""

    @property
    def user_agent(self) -> str:
        """What the client calls itself; empty where it says nothing."""
        return self.headers.get("user-agent", "")


PriceFunction = Callable[[RequestInfo], str | Awaitable[str | None] | None]
"""Returns a price such as "0.001 USDC", or None where the request is free. May be a coroutine function."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a price list. The first rule of the list that matches a request decides.

    `path` is matched in full; `*` stands for any characters, slashes included. `methods`: those that pay, all where
    None; HEAD and OPTIONS are always free. `user_agents`: pays only who has one of these words in its User-Agent, in
    any case; everybody where None. `price`: "0.001 USDC" or a PriceFunction. `description` and `mime_type` tell
    buyers what they get. Raises MalformedError, which names what is wrong.
    """

    path: str
    price: str | PriceFunction
    methods: Sequence[str] | None = None
    user_agents: Sequence[str] | None = None
    description: str | None = None
    mime_type: str | None = None
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every field, and translate the path once."""
        name = f"rule {self.path!a}"
        if not isinstance(self.path, str) or not self.path.startswith(("/", "*")):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise MalformedError("rule: path", self.path, 'a path from "/" on, in which * stands for any characters')
        _check_words(self.methods, f"{name}: methods", "names of HTTP methods that can cost something, as in GET")
        for method in self.methods or ():
            if not _METHOD.fullmatch(method) or method in ALWAYS_FREE_METHODS:
                raise MalformedError(f"{name}: methods", method, "upper case, and not HEAD or OPTIONS: they are free")
        _check_words(self.user_agents, f"{name}: user_agents", "words out of a User-Agent, none of them empty")
        if not callable(self.price):
            symbol_of(self.price, f"{name}: price")
        pattern = re.compile(".*".join(re.escape(part) for part in self.path.split("*")), re.DOTALL)
        object.__setattr__(self, "_pattern", pattern)

    def matches(self, method: str, path: str, user_agent: str) -> bool:
        """Whether this rule speaks of the request."""
        if self.methods is not None and method not in self.methods:
            return False
        if not self._pattern.fullmatch(path):
            return False
        if self.user_agents is None:
            return True
        user_agent = user_agent.lower()
        return any(word.lower() in user_agent for word in self.user_agents)


def find_rule(rules: Sequence[Rule], method: str, path: str, user_agent: str) -> Rule | None:
    """The rule that decides about the request; None: it is free. `path` is percent-decoded.

    Raises MalformedError on a path that means one thing as it stands and another with its dot segments resolved.
    """
    if method in ALWAYS_FREE_METHODS:
        return None
    rule = _first_match(rules, method, path, user_agent)
    resolved = _resolve(path)
    if resolved != path and _first_match(rules, method, resolved, user_agent) is not rule:
        raise MalformedError("path", path, "one without dot segments and doubled slashes")
    return rule


def _first_match(rules: Sequence[Rule], method: str, path: str, user_agent: str) -> Rule | None:
    if path == _ROBOTS or path.startswith(_WELL_KNOWN):
        return None
    for rule in rules:
        if rule.matches(method, path, user_agent):
            return rule
    return None


def symbol_of(price: object, field: str) -> str:
    """The token's symbol in a price; raises MalformedError unless it has the form of a price.

    How many digits after the point are allowed is the token's to say, later.
    """
    digits = len(price.partition(" ")[0].partition(".")[2]) if isinstance(price, str) else 0
    return parse_price(price, digits, field).symbol


def _resolve(path: str) -> str:
    """The path with dot segments and doubled slashes resolved."""
    if "//" not in path and "/." not in path:
        return path
    resolved = normpath("/" + path.lstrip("/"))
    keeps_slash = path.endswith(("/", "/.", "/..")) and resolved != "/"
    return resolved + "/" if keeps_slash else resolved


def _check_words(words: object, field: str, allowed: str) -> None:
    if words is None:
        return
    got = words
    # A lone string is a sequence too, of its letters.
    if isinstance(words, str) or not isinstance(words, Sequence) or not words:
        raise MalformedError(field, got, f"a list of {allowed}")
    for word in cast("Sequence[object]", words):
        if not isinstance(word, str) or not word:
            raise MalformedError(field, word, allowed)
