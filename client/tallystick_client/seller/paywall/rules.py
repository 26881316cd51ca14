"""Which requests cost what: rules by path, method and user agent, checked when they are written down.

The first rule that matches the path as the application routes it (percent-decoded, without `root_path`) decides. Where
there is none, or it says that the request is free, a rule that matches the path only in another reading (`paths`)
decides if it asks for money: a page that can be reached in two ways costs in both what it costs in one. Of a path that
an application may resolve to another page (dot segments and the like), all readings must come to the same rule; else
the request is refused.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast
from urllib.parse import unquote

from tallystick.amounts import parse_price
from tallystick.errors import MalformedError
from tallystick.patterns import Pattern
from tallystick_client.seller.paywall.paths import Paths, fold

ALWAYS_FREE_METHODS: Final = frozenset({"HEAD", "OPTIONS"})
"""They carry no page: HEAD tells a crawler that a page exists, OPTIONS is what browsers ask before they may ask."""
_OVERRIDES: Final = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})
"""Headers by which applications let a request pass for another method."""
_ROBOTS: Final = "/robots.txt"
_WELL_KNOWN: Final = "/.well-known/"
_METHOD: Final = re.compile(r"[A-Z][A-Z-]{0,31}")


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """The request as a price function sees it."""

    method: str
    path: str
    """Percent-decoded; with or without `root_path`, as the rule is written that matched it."""
    query: bytes
    headers: Mapping[str, str]
    """Names in lower case; of a header that came several times, the first value."""
    body: bytes | None
    """b"" where there is none; None where it was not read.

    One that is streamed up is not read at first. A price function that looks at it is called again, with the body; or
    with None again, where it is longer than the paywall's `max_body_bytes`. A price of nothing that was made without
    the body is refused (413).
    """
    scope: Mapping[str, Any] = field(repr=False)
    """What the application is given: ASGI's scope, WSGI's environ."""

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
    pattern: Pattern = field(init=False, repr=False, compare=False)
    """The path, percent-decoded: it is compared with decoded ones."""
    _folded: Pattern = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every field, and translate the path once."""
        name = f"rule {self.path!a}"
        Pattern(self.path, "rule: path")
        _check_words(self.methods, f"{name}: methods", "names of HTTP methods that can cost something, as in GET")
        for method in self.methods or ():
            if not _METHOD.fullmatch(method) or method in ALWAYS_FREE_METHODS:
                raise MalformedError(f"{name}: methods", method, "upper case, and not HEAD or OPTIONS: they are free")
        _check_words(self.user_agents, f"{name}: user_agents", "words out of a User-Agent, none of them empty")
        if not callable(self.price):
            symbol_of(self.price, f"{name}: price")
        object.__setattr__(self, "pattern", Pattern(unquote(self.path), "rule: path"))
        object.__setattr__(self, "_folded", Pattern(fold(self.pattern.text), "rule: path"))

    def is_about(self, methods: Sequence[str], user_agent: str) -> bool:
        """Whether this rule speaks of such requests, whatever their path."""
        if self.methods is not None and not any(method in self.methods for method in methods):
            return False
        if self.user_agents is None:
            return True
        user_agent = user_agent.lower()
        return any(word.lower() in user_agent for word in self.user_agents)

    def matches_loosely(self, folded: str) -> bool:
        """Whether it matches a folded path for an application that also ignores a slash at the end."""
        if self._folded.matches(folded) or self._folded.matches(folded.rstrip("/")):
            return True
        # "/a" is the page of "/a/", but none of "/a/*".
        return self._folded.text.endswith("/") and not folded.endswith("/") and self._folded.matches(folded + "/")


class Asked(NamedTuple):
    """What rules look at in a request."""

    methods: tuple[str, ...]
    paths: Paths
    user_agent: str


class Match(NamedTuple):
    """A rule that matches a request, and the reading of the path in which it does."""

    rule: Rule
    path: str


def methods_of(method: str, headers: Sequence[tuple[bytes, bytes]]) -> tuple[str, ...]:
    """The methods that a request may pass for; none where it is one that is always free.

    Some applications take methods in any case, and some let a header override them.
    """
    overridden = [value.decode("latin-1").strip().upper() for name, value in headers if name in _OVERRIDES]
    if method in ALWAYS_FREE_METHODS and not set(overridden) - ALWAYS_FREE_METHODS:
        return ()
    return (method.upper(), *overridden)


def find_rules(rules: Sequence[Rule], asked: Asked) -> list[Match]:
    """The rules that may decide about the request, in the order in which they are asked; none: it is free.

    The first that asks for money decides. Raises MalformedError on a path that means one thing as it stands and another
    to an application that resolves what is odd in it.
    """
    if not asked.methods:
        return []
    found = _candidates(rules, asked, asked.paths)
    for odd in asked.paths.odd:
        others = _candidates(rules, asked, odd)
        if [match.rule for match in others[:1]] != [match.rule for match in found[:1]]:
            allowed = "one without dot segments, doubled slashes, and characters that applications take in several ways"
            raise MalformedError("path", asked.paths.own, allowed)
    return found


def unreachable(rules: Sequence[Rule]) -> list[str]:
    """Say of each rule that can never decide anything why that is so."""
    problems: list[str] = []
    for index, rule in enumerate(rules):
        name = f"rule {rule.path!a}"
        if is_always_free(rule.pattern):
            problems.append(f"{name} never asks for money: these paths are always free")
        elif re.search(r"[?#]|//|/\.\.?(?:/|$)", rule.path):
            problems.append(f"{name} matches no usual request: a path has no query, no doubled slashes and no dots")
        for earlier in rules[:index]:
            if _shadows(earlier, rule):
                problems.append(f"{name} never decides: rule {earlier.path!a} before it takes all its requests")
                break
    return problems


def is_always_free(pattern: Pattern) -> bool:
    """Whether all paths of a pattern are free, whatever a rule says."""
    return pattern.text == _ROBOTS or Pattern(_WELL_KNOWN + "*").covers(pattern)


def _candidates(rules: Sequence[Rule], asked: Asked, paths: Paths) -> list[Match]:
    """The rule that decides about the application's own path, then those that match another reading.

    A rule behind the one that decides about the own path is none of these if it matches that path too: the order of
    the list says that it does not count there.
    """
    if _is_always_free(paths.own):
        return []
    own: Match | None = None
    others: list[Match] = []
    folded = {fold(reading): reading for reading in reversed(list(paths))}
    for rule in rules:
        if not rule.is_about(asked.methods, asked.user_agent):
            continue
        if rule.pattern.matches(paths.own):
            own = own or Match(rule, paths.own)
            continue
        reading = _matching(rule, paths, folded)
        if reading is not None:
            others.append(Match(rule, reading))
    return others if own is None else [own, *others]


def _matching(rule: Rule, paths: Paths, folded: Mapping[str, str]) -> str | None:
    """The reading that a rule matches, letter by letter if it can be; None where it matches none."""
    for reading in paths.others:
        if rule.pattern.matches(reading):
            return reading
    return next((reading for path, reading in folded.items() if rule.matches_loosely(path)), None)


def _is_always_free(path: str) -> bool:
    return path == _ROBOTS or path.startswith(_WELL_KNOWN)


def _shadows(earlier: Rule, rule: Rule) -> bool:
    if not earlier.pattern.covers(rule.pattern):
        return False
    if earlier.methods is not None and not (rule.methods and set(rule.methods) <= set(earlier.methods)):
        return False
    if earlier.user_agents is None:
        return True
    words = [word.lower() for word in earlier.user_agents]
    return bool(rule.user_agents) and all(any(w in word.lower() for w in words) for word in rule.user_agents or ())


def symbol_of(price: object, field: str) -> str:
    """The token's symbol in a price; raises MalformedError unless it has the form of a price.

    How many digits after the point are allowed is the token's to say, later.
    """
    digits = len(price.partition(" ")[0].partition(".")[2]) if isinstance(price, str) else 0
    return parse_price(price, digits, field).symbol


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
