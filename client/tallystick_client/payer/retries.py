"""Calls that are tried again: each carries an id of its own, so that repeating it changes nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

from tallystick.errors import RefusedError
from tallystick.reasons import Reason
from tallystick_client.rpc import AggregatorUnavailableError

RETRY_AFTER_S_MAX: Final = 5
"""A refusal that asks to come again later than this is raised at once."""

T = TypeVar("T")


async def retried(
    attempt: Callable[[], Awaitable[T]],
    pauses_s: Iterable[float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """The answer, asked for again after each pause while nobody answers, or has too much to do.

    A refusal that says when to come again is waited for as long as it says. Raises what the last attempt raises.
    """
    for pause_s in pauses_s:
        wait_s = pause_s
        try:
            return await attempt()
        except AggregatorUnavailableError:
            pass
        except RefusedError as refused:
            passes_soon = refused.reason is Reason.OVERLOADED or refused.retry_after_s
            if not passes_soon or refused.retry_after_s > RETRY_AFTER_S_MAX:
                raise
            wait_s = max(pause_s, refused.retry_after_s)
        await sleep(wait_s)
    return await attempt()
