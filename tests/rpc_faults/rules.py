"""What a proxy does wrong, and when: rules, each with one effect. Nothing here knows of HTTP."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple


class Question(NamedTuple):
    """One call of a JSON-RPC method."""

    method: str
    params: Sequence[Any]


class NodeRefusedError(Exception):
    """The node's own error answer to a question; `error` is its JSON."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message")))
        self.error = error


Ask = Callable[..., Awaitable[Any]]
"""Asks the node itself: `await ask(method, *params)` is the true result. Raises NodeRefusedError."""
Change = Callable[[Question, Any, Ask], Awaitable[Any]]
"""Makes a false result of a true one; UNCHANGED where there is nothing to lie about."""
UNCHANGED: Final = object()


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection without an answer. The question reaches the node all the same if `reaches_node`."""

    reaches_node: bool = False


@dataclass(frozen=True, slots=True)
class Delay:
    """Answer truly, but so late."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Ask the node twice, and pass on its second answer."""


@dataclass(frozen=True, slots=True)
class Falsify:
    """Answer with something else than the node's result."""

    change: Change


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with an error that the node did not give, under this HTTP status.

    `message` may depend on the question. `text`: this body instead of JSON-RPC, as gateways in front of nodes write it.
    """

    code: int
    message: str | Callable[[Question], str]
    status: int = 200
    data: Any = None
    text: str | None = None

    def error(self, question: Question) -> dict[str, Any]:
        """As JSON-RPC writes it."""
        message = self.message if isinstance(self.message, str) else self.message(question)
        return {"code": self.code, "message": message} | ({} if self.data is None else {"data": self.data})


Effect = Drop | Delay | Duplicate | Falsify | Refuse


def always(_question: Question) -> bool:
    """The predicate of a rule that is about every question of its methods."""
    return True


@dataclass(slots=True, eq=False)
class Rule:
    """One thing that goes wrong: which questions it is about, what happens to them, and how often.

    `methods` empty: all. `times` None: whenever it applies; a lie counts only where it differed from the truth. `share`
    of the questions that it is about are hit, drawn from the proxy's own seeded numbers. `made` is set when it happened
    for the first time and the answer, if there is one, is on its way.
    """

    kind: str
    effect: Effect
    methods: frozenset[str] = frozenset()
    when: Callable[[Question], bool] = always
    times: int | None = None
    share: float = 1.0
    count: int = 0
    made: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_spent(self) -> bool:
        """Whether it has happened as often as it may."""
        return self.times is not None and self.count >= self.times

    def is_about(self, question: Question) -> bool:
        """Whether this question may be hit."""
        return not self.is_spent and (not self.methods or question.method in self.methods) and self.when(question)
