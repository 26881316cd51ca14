"""The search for events over any range of blocks, in parts as wide as the endpoints take them.

A long catch-up is many parts: it says how far it is, goes on after a passing trouble where it was, and does not begin
anew when it is asked again for the same.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.node import Log
from tallystick_aggregator.chain.port import Block, ChainUnavailableError
from tallystick_aggregator.chain.rpc.answers import read_logs
from tallystick_aggregator.chain.rpc.endpoint import Endpoint, LimitedError
from tallystick_chain.errors import RpcError

TELL_EVERY_S: Final = 10.0
"""How often a long search tells how far it is."""
RETRIES: Final = 5
"""How often a part of a long search is tried again; after 1, 2, 4, 8 and 16 s."""
RECENT_BLOCKS: Final = 256
"""So close to the last block an endpoint may lag or follow a fork: it must show that it has the last one."""
CUT_AT: Final = 1_000
"""An answer of a multiple of so many events may have been cut there without a word."""

_log = logging.getLogger(__name__)

Part = tuple[list[Log], int]
"""Events, and the last block that they were searched in."""


class Wanted(NamedTuple):
    """Which events: of a contract, with these topics; None stands for any."""

    address: bytes
    topics: tuple[bytes | None, ...]


class TryEach(Protocol):
    """As `rpc.RpcNode` asks one endpoint after the other."""

    def __call__(self, ask: Callable[[Endpoint], Awaitable[Part]], *, patience_s: float) -> Awaitable[Part]: ...


class LogSearch:
    """Searches through a node's endpoints. Keeps what an interrupted search had found."""

    def __init__(
        self,
        try_each: TryEach,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._try_each = try_each
        self._clock = clock
        self._pause = pause
        self._interrupted: dict[Wanted, tuple[int, int, list[Log]]] = {}
        """By what was searched: from which block, up to which, and what was found."""

    async def find(self, wanted: Wanted, first: int, last: Block) -> list[Log]:
        """All events from block `first` to `last`. Raises ChainUnavailableError."""
        start, found = self._resume(wanted, first)
        shown: set[Endpoint] = set()
        began = start
        told_at = self._clock()
        while start <= last.number:
            try:
                part, end = await self._part(wanted, start, last, shown, retries=RETRIES if start > began else 0)
            except BaseException:
                if start > began:
                    self._interrupted[wanted] = (first, start - 1, found)
                raise
            found += part
            start = end + 1
            if self._clock() - told_at >= TELL_EVERY_S:
                told_at = self._clock()
                _log.info("reading events: block %d of %d, %d to go", end, last.number, last.number - end)
        return found

    def _resume(self, wanted: Wanted, first: int) -> tuple[int, list[Log]]:
        since, reached, found = self._interrupted.pop(wanted, (first, first - 1, []))
        start = max(first, reached + 1 - RECENT_BLOCKS)  # the newest of it may have been reorganised meanwhile
        if since != first or start == first:
            return first, []
        return start, [log for log in found if log.block_number < start]

    async def _part(self, wanted: Wanted, start: int, last: Block, shown: set[Endpoint], retries: int) -> Part:
        async def ask(endpoint: Endpoint) -> Part:
            return await _search_at(endpoint, wanted, start, last, shown)

        for retry in range(retries + 1):
            try:
                return await self._try_each(ask, patience_s=60.0)
            except ChainUnavailableError as error:
                if retry == retries:
                    raise
                _log.warning("reading events waits at block %d: %s", start, error)
                await self._pause(2.0**retry)
        raise AssertionError("the last try returns or raises")


async def _search_at(endpoint: Endpoint, wanted: Wanted, start: int, last: Block, shown: set[Endpoint]) -> Part:
    """Events from `start` on, for as many blocks as this endpoint takes; narrower where it refuses."""
    before = endpoint.logs.blocks
    while True:
        blocks = min(endpoint.logs.blocks, last.number - start + 1)
        end = start + blocks - 1
        if endpoint not in shown or end > last.number - RECENT_BLOCKS:
            await _must_have(endpoint, last)
            shown.add(endpoint)
        try:
            answer = await endpoint.ask("eth_getLogs", _filter(wanted, start, end))
        except LimitedError:
            raise
        except (RpcError, ChainUnavailableError):
            if endpoint.logs.refused(blocks):
                continue
            endpoint.logs.forget(before)
            endpoint.rest()
            raise
        found = read_logs(answer)
        if blocks > 1 and found and len(found) % CUT_AT == 0:
            endpoint.logs.refused(blocks)
            continue
        endpoint.logs.worked(blocks)
        if endpoint.logs.blocks < before:
            _log.info("%s: %d blocks a search for events, not %d", endpoint.name, endpoint.logs.blocks, before)
        return found, end


async def _must_have(endpoint: Endpoint, last: Block) -> None:
    """One that lags would leave out the newest events without a word."""
    if await endpoint.ask("eth_getBlockByHash", to_hex(last.block_hash), False) is None:
        raise ChainUnavailableError(f"{endpoint.name}: block {last.number} is not there")


def _filter(wanted: Wanted, start: int, end: int) -> dict[str, Any]:
    topics: Sequence[str | None] = [None if topic is None else to_hex(topic) for topic in wanted.topics]
    return {"address": to_hex(wanted.address), "fromBlock": hex(start), "toBlock": hex(end), "topics": topics}
