"""A network through its JSON-RPC endpoints: failover, reads pinned to blocks, and no retry that nobody asked for.

Plain HTTP, and answers are decoded by hand (module `rpc_answers`): few methods, all small. web3's provider would not
do: it retries eth_sendRawTransaction, which is the sender's decision, and a call that is cancelled while it waits for
its session lock takes the lock with it, for all endpoints of the process.

What endpoints can do to us, and what is done about it (threat 16):
- be down or slow: the next one is asked; the one that failed rests for `REST_S`;
- limit how often they are asked: one that says so is left alone for as long as it wants (module `endpoint`), and where
  all do, the question waits, though not longer than an answer may take;
- limit what is asked, or lack a method: they are asked in another way, and that is remembered (`endpoint`);
- lag: the head is the highest that any of them tells; reads name the block by its hash, so that an endpoint that does
  not have it answers with an error instead of older state; events are asked only of one that has their last block;
- disagree: a final block that two of them tell differently raises ChainUnavailable.
An endpoint that lies about state consistently, alone, is believed: name endpoints that you trust.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.endpoint import Endpoint, Limited
from tallystick_aggregator.chain.log_search import LogSearch, Wanted
from tallystick_aggregator.chain.market_fees import market_fees
from tallystick_aggregator.chain.node import (
    BlockTransaction,
    CallReverted,
    Log,
    MarketFees,
    Receipt,
    Refused,
    Rejected,
)
from tallystick_aggregator.chain.pinned_reads import ask_at
from tallystick_aggregator.chain.port import Block, ChainUnavailable
from tallystick_aggregator.chain.rpc_answers import (
    RpcError,
    is_revert,
    optional,
    read_block,
    read_bytes,
    read_integer,
    read_receipt,
    read_transactions,
)
from tallystick_aggregator.chain.settings import LOGS_RANGE_BLOCKS

HEAD_GRACE_S: Final = 1.0
"""For so long the head waits for further endpoints once one has answered."""

Answer = TypeVar("Answer")


class RpcNode:
    """Implements `node.Node` over one or several endpoints of the same network, in order of preference."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout_s: float = 10.0,
        logs_range_blocks_max: int = LOGS_RANGE_BLOCKS,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`timeout_s`: for one answer, and for how long a question may wait for a rate limit to pass."""
        self._endpoints = [
            Endpoint(url, timeout_s, logs_range_blocks_max=logs_range_blocks_max, clock=clock) for url in urls
        ]
        self._timeout_s = timeout_s
        self._clock = clock
        self._pause = pause
        self._log_search = LogSearch(self._try_each, clock=clock, pause=pause)

    async def chain_id(self) -> int:
        ids = set(await self._all(read_integer, "eth_chainId"))
        if len(ids) != 1:
            raise ChainUnavailable(f"the endpoints are of different chains: {', '.join(map(str, sorted(ids)))}")
        return ids.pop()

    async def head(self) -> Block:
        blocks = await self._all(read_block, "eth_getBlockByNumber", "latest", False)
        return max(blocks, key=lambda block: block.number)

    async def block(self, number: int) -> Block | None:
        answers = await self._all(optional(read_block), "eth_getBlockByNumber", hex(number), False)
        blocks = {block for block in answers if block is not None}
        if len(blocks) > 1:
            raise ChainUnavailable(f"the endpoints disagree on block {number}")
        return blocks.pop() if blocks else None

    async def code(self, address: bytes, block: Block | None = None) -> bytes:
        if block is None:
            return read_bytes(await self._first("eth_getCode", to_hex(address), "latest"))
        return read_bytes(await self._first_at(block, "eth_getCode", to_hex(address)))

    async def balance(self, address: bytes) -> int:
        return read_integer(await self._first("eth_getBalance", to_hex(address), "latest"))

    async def call(self, to: bytes, data: bytes, block: Block, *, from_: bytes = b"", gas: int = 0) -> bytes:
        transaction = {"to": to_hex(to), "data": to_hex(data)}
        transaction |= ({"from": to_hex(from_)} if from_ else {}) | ({"gas": hex(gas)} if gas else {})
        return read_bytes(await self._first_at(block, "eth_call", transaction))

    async def estimate_gas(self, from_: bytes, to: bytes, data: bytes, *, gas_max: int) -> int:
        transaction = {"from": to_hex(from_), "to": to_hex(to), "data": to_hex(data), "gas": hex(gas_max)}
        return read_integer(await self._first("eth_estimateGas", transaction))

    async def logs(self, address: bytes, first: int, last: Block, topics: Sequence[bytes | None] = ()) -> Sequence[Log]:
        return await self._log_search.find(Wanted(address, tuple(topics)), first, last)

    async def fees(self) -> MarketFees:
        return await self._try_each(market_fees)

    async def next_nonce(self, sender: bytes) -> int:
        # The highest: one that lags, or has lost its pool, tells less.
        return max(await self._each(partial(_next_nonce, sender=sender)))

    async def nonce_at(self, sender: bytes, block_number: int) -> int:
        return read_integer(await self._first("eth_getTransactionCount", to_hex(sender), hex(block_number)))

    async def send(self, raw: bytes) -> None:
        outcomes = await asyncio.gather(*(_send(endpoint, raw) for endpoint in self._endpoints), return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if len(errors) < len(outcomes):
            return
        rejections = [error for error in errors if isinstance(error, Rejected)]
        raise rejections[0] if rejections else errors[0]

    async def receipt(self, transaction_hash: bytes) -> Receipt | None:
        answers = await self._all(optional(read_receipt), "eth_getTransactionReceipt", to_hex(transaction_hash))
        return next((receipt for receipt in answers if receipt is not None), None)

    async def transactions(self, block_number: int) -> Sequence[BlockTransaction]:
        block = await self._first("eth_getBlockByNumber", hex(block_number), True)
        return [] if block is None else read_transactions(block)

    async def close(self) -> None:
        for endpoint in self._endpoints:
            await endpoint.close()

    # How endpoints are asked.

    def _in_order(self) -> list[Endpoint]:
        now = self._clock()
        return sorted(self._endpoints, key=lambda endpoint: endpoint.rests_until > now)

    async def _first(self, method: str, *params: Any) -> Any:
        return await self._try_each(lambda endpoint: endpoint.ask(method, *params))

    async def _first_at(self, block: Block, method: str, *params: Any) -> Any:
        """The first answer on the state after this very block."""
        return await self._try_each(lambda endpoint: ask_at(endpoint, block, method, *params))

    async def _try_each(
        self, ask: Callable[[Endpoint], Awaitable[Answer]], *, patience_s: float | None = None
    ) -> Answer:
        """The first answer. A revert is one; any other error sends the question on to the next endpoint.

        Where a rate limit is in the way it is asked again when that has passed, for `patience_s` at most.
        """
        until = self._clock() + (self._timeout_s if patience_s is None else patience_s)
        while True:
            problems: list[str] = []
            waits_s: list[float] = []
            refusals = 0
            for endpoint in self._in_order():
                try:
                    return await ask(endpoint)
                except RpcError as error:
                    if is_revert(error):
                        raise CallReverted(error.data, error.message) from None
                    problems.append(f"{endpoint.name}: {error}")
                    refusals += 1
                except ChainUnavailable as error:
                    problems.append(str(error))
                    if isinstance(error, Limited):
                        waits_s.append(error.wait_s)
            if not waits_s or self._clock() + min(waits_s) > until:
                raise (Refused if refusals == len(problems) else ChainUnavailable)("; ".join(problems))
            await self._pause(min(waits_s))

    async def _all(self, decode: Callable[[Any], Answer], method: str, *params: Any) -> list[Answer]:
        """The answers of all endpoints, see `_each`."""
        return await self._each(lambda endpoint: _decoded(endpoint, decode, method, params))

    async def _each(self, ask: Callable[[Endpoint], Awaitable[Answer]]) -> list[Answer]:
        """The answers of all endpoints that answer while the quickest and HEAD_GRACE_S last; at least one."""
        tasks = [asyncio.ensure_future(ask(endpoint)) for endpoint in self._in_order()]
        try:
            waiting: set[asyncio.Future[Answer]] = set(tasks)
            while waiting and not any(_has_answer(task) for task in tasks):
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if waiting:
                await asyncio.wait(waiting, timeout=HEAD_GRACE_S)
            answers = [task.result() for task in tasks if _has_answer(task)]
            if answers:
                return answers
            raise ChainUnavailable("; ".join(str(task.exception()) for task in tasks if task.done()))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _decoded(endpoint: Endpoint, decode: Callable[[Any], Answer], method: str, params: Sequence[Any]) -> Answer:
    try:
        return decode(await endpoint.ask(method, *params))
    except RpcError as error:
        raise ChainUnavailable(f"{endpoint.name}: {error}") from error


def _has_answer(task: "asyncio.Future[Any]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def _next_nonce(endpoint: Endpoint, sender: bytes) -> int:
    """With what waits in the pool; without it where an endpoint has no such block. The outbox knows our own."""
    try:
        answer = await endpoint.ask("eth_getTransactionCount", to_hex(sender), "pending")
    except RpcError:
        return await _decoded(endpoint, read_integer, "eth_getTransactionCount", (to_hex(sender), "latest"))
    return read_integer(answer)


async def _send(endpoint: Endpoint, raw: bytes) -> None:
    try:
        await endpoint.ask("eth_sendRawTransaction", to_hex(raw))
    except RpcError as error:
        text = error.message.lower()
        if "already known" not in text and "already imported" not in text and "known transaction" not in text:
            raise Rejected(f"{endpoint.name}: {error.message}") from None
