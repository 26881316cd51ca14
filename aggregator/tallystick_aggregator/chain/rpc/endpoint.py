"""One JSON-RPC endpoint: what was learned of it, and how often it may be asked.

Providers differ in what they answer and how much: some lack methods, some limit how many blocks a search for events may
span, all limit how often they may be asked. None of that can be asked for; it shows in errors. So what an endpoint
could not do is remembered here, each endpoint for itself (modules `log_search`, `pinned_reads` and `node` use it), and
tried again after `LEARNED_S`, because plans and the machines behind an address change.
"""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, Final

from tallystick_aggregator.chain.port import ChainUnavailableError
from tallystick_aggregator.chain.rpc.log_range import LogRange
from tallystick_aggregator.chain.settings import LOGS_RANGE_BLOCKS
from tallystick_chain.errors import RpcError, UnansweredError, is_revert
from tallystick_chain.provider import Provider

REST_S: Final = 5.0
"""For so long an endpoint that failed is asked last."""
LEARNED_S: Final = 3_600.0
"""For so long an endpoint is not asked again for what it could not do."""
LIMITED_S_MIN: Final = 1.0
"""For so long an endpoint is left alone that was asked too often and does not say for how long; doubled each time."""
LIMITED_S_LEAST: Final = 0.1
"""The shortest that an endpoint is left alone, whatever it says."""
LIMITED_S_MAX: Final = 300.0
"""The longest that an endpoint is left alone, whatever it says."""

_LIMIT_CODES: Final = frozenset({429, -32029, -32097})
_LIMIT_WORDS: Final = (
    "rate limit", "ratelimit", "rate-limit", "too many requests", "request limit", "requests per", "per second",
    "request rate", "request count exceeded", "capacity", "throughput", "quota",
)  # fmt: skip


class LimitedError(ChainUnavailableError):
    """An endpoint was asked too often. `wait_s`: for so long it is not asked."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Endpoint:
    """One JSON-RPC endpoint. `logs`: how many blocks it takes in one search for events."""

    def __init__(
        self,
        url: str,
        timeout_s: float,
        *,
        logs_range_blocks_max: int = LOGS_RANGE_BLOCKS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = Provider(url, timeout_s=timeout_s)
        self.name = self._provider.name
        self.logs = LogRange(logs_range_blocks_max)
        self.rests_until = 0.0
        self._clock = clock
        self._limited_until = 0.0
        self._limited_in_a_row = 0
        self._learned: dict[str, tuple[bool, float]] = {}

    async def ask(self, method: str, *params: Any) -> Any:
        """The result of a method.

        Raises RpcError, LimitedError if the endpoint was asked too often, and ChainUnavailableError if there is no
        sensible answer in time.
        """
        wait_s = self._limited_until - self._clock()
        if wait_s > 0:
            raise LimitedError(f"{self.name}: {method}: rate limited for another {wait_s:.0f} s", wait_s)
        try:
            result = await self._provider.ask(method, *params)
        except RpcError as refusal:
            if _asks_to_wait(refusal) or _is_limit(refusal, method):
                raise self._limited(f"{method}: {refusal}", refusal.retry_after) from None
            raise
        except UnansweredError as error:
            if _asks_to_wait(error):
                problem = f"{method}: rate limited (status {error.status})"
                raise self._limited(problem, error.retry_after) from None
            self.rest()
            raise
        self._limited_in_a_row = 0
        return result

    def learn(self, what: str, holds: bool) -> None:
        """Remember for a while whether something holds of this endpoint, such as that it has a method."""
        self._learned[what] = (holds, self._clock() + LEARNED_S)

    def learned(self, what: str) -> bool | None:
        """What was learned; None if nothing was, or too long ago."""
        holds, until = self._learned.get(what, (None, 0.0))
        return holds if self._clock() < until else None

    async def close(self) -> None:
        """Let the connections go."""
        await self._provider.disconnect()

    def rest(self) -> None:
        """Be asked last for a while."""
        self.rests_until = max(self.rests_until, self._clock() + REST_S)

    def _limited(self, problem: str, retry_after: str) -> LimitedError:
        wait_s = read_retry_after(retry_after, time.time())
        if wait_s is None:
            wait_s = LIMITED_S_MIN * 2 ** min(self._limited_in_a_row, 16)
        wait_s = min(max(wait_s, LIMITED_S_LEAST), LIMITED_S_MAX)
        self._limited_in_a_row += 1
        self._limited_until = self._clock() + wait_s
        self.rests_until = max(self.rests_until, self._limited_until)
        return LimitedError(f"{self.name}: {problem}", wait_s)


def read_retry_after(header: str, now: float) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date (RFC 9110 §10.2.3); None if it says
    nothing. `now` in seconds since the epoch.
    """
    header = header.strip()
    if header.isascii() and header.isdigit():
        return float(header[:9])
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (TypeError, ValueError):
        return None


def _asks_to_wait(answer: RpcError | UnansweredError) -> bool:
    return answer.status == 429 or (answer.status == 503 and bool(answer.retry_after))


def _is_limit(error: RpcError, method: str) -> bool:
    """Whether an error is about how often the endpoint was asked, not about what it was asked.

    What a contract says when it reverts is nobody's limit: strangers write contracts.
    """
    if is_revert(error):
        return False
    text = error.message.lower()
    if error.code in _LIMIT_CODES or any(words in text for words in _LIMIT_WORDS):
        return True
    # EIP-1474's "limit exceeded" is of either kind; only a search for events can ask for too much.
    return error.code == -32005 and method != "eth_getLogs"
