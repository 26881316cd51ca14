"""A network through its JSON-RPC endpoints: failover, reads pinned to blocks, and no retry that nobody asked for.

Plain HTTP, and answers are decoded by hand (module `rpc_answers`): few methods, all small. web3's provider would not
do: it retries eth_sendRawTransaction, which is the sender's decision, and a call that is cancelled while it waits for
its session lock takes the lock with it, for all endpoints of the process.

What endpoints can do to us, and what is done about it (threat 16):
- be down, slow or rate limited: the next one is asked; the one that failed rests for `REST_S`;
- lag: the head is the highest that any of them tells; reads name the block by its hash, so that an endpoint that does
  not have it answers with an error instead of older state; events are asked only of one that has their last block;
- disagree: a final block that two of them tell differently raises ChainUnavailable.
An endpoint that lies about state consistently, alone, is believed: name endpoints that you trust.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar, cast

import httpx

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.node import (
    BlockTransaction,
    CallReverted,
    Log,
    MarketFees,
    Receipt,
    Rejected,
)
from tallystick_aggregator.chain.port import Block, ChainUnavailable
from tallystick_aggregator.chain.rpc_answers import (
    RpcError,
    optional,
    read_base_fee,
    read_block,
    read_bytes,
    read_error,
    read_integer,
    read_logs,
    read_receipt,
    read_transactions,
)

# Its line for every request shows the whole URL, and paths of endpoints hold access keys (threat 32).
logging.getLogger("httpx").setLevel(logging.WARNING)

REST_S: Final = 5.0
"""For so long an endpoint that failed is asked last."""
HEAD_GRACE_S: Final = 1.0
"""For so long the head waits for further endpoints once one has answered."""

Answer = TypeVar("Answer")


class Endpoint:
    """One JSON-RPC endpoint."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.name = _without_secrets(url)
        self._url = url
        self._client = httpx.AsyncClient(timeout=None)  # noqa: S113 - the whole call is timed, not each of its steps
        self._timeout_s = timeout_s
        self.rests_until = 0.0

    async def ask(self, method: str, *params: Any) -> Any:
        """The result of a method. Raises RpcError, and ChainUnavailable if there is no sensible answer in time."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.post(self._url, json=request)
            body: Any = response.json()
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            self.rests_until = time.monotonic() + REST_S
            raise ChainUnavailable(f"{self.name}: {method}: {type(error).__name__}") from error
        # Some send an error of JSON-RPC along with a status of 4xx or 5xx; others only the status.
        if not isinstance(body, dict) or (response.is_error and "error" not in body):
            self.rests_until = time.monotonic() + REST_S
            raise ChainUnavailable(f"{self.name}: {method}: no JSON-RPC response (status {response.status_code})")
        answer = cast("dict[str, Any]", body)
        if answer.get("error") is not None:
            raise read_error(answer["error"])
        if "result" not in answer:
            raise ChainUnavailable(f"{self.name}: {method}: no result")
        return answer["result"]

    async def close(self) -> None:
        await self._client.aclose()


class RpcNode:
    """Implements `node.Node` over one or several endpoints of the same network, in order of preference."""

    def __init__(self, urls: Sequence[str], *, timeout_s: float = 10.0, logs_range_blocks_max: int = 2_000) -> None:
        self._endpoints = [Endpoint(url, timeout_s) for url in urls]
        self._logs_range_blocks_max = logs_range_blocks_max

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
        return read_bytes(
            await self._first("eth_getCode", to_hex(address), "latest" if block is None else _pinned(block))
        )

    async def balance(self, address: bytes) -> int:
        return read_integer(await self._first("eth_getBalance", to_hex(address), "latest"))

    async def call(self, to: bytes, data: bytes, block: Block, *, from_: bytes = b"", gas: int = 0) -> bytes:
        transaction = {"to": to_hex(to), "data": to_hex(data)}
        transaction |= ({"from": to_hex(from_)} if from_ else {}) | ({"gas": hex(gas)} if gas else {})
        return read_bytes(await self._first("eth_call", transaction, _pinned(block)))

    async def estimate_gas(self, from_: bytes, to: bytes, data: bytes, *, gas_max: int) -> int:
        transaction = {"from": to_hex(from_), "to": to_hex(to), "data": to_hex(data), "gas": hex(gas_max)}
        return read_integer(await self._first("eth_estimateGas", transaction))

    async def logs(self, address: bytes, first: int, last: Block, topics: Sequence[bytes | None] = ()) -> Sequence[Log]:
        found: list[Log] = []
        for start in range(first, last.number + 1, self._logs_range_blocks_max):
            end = min(start + self._logs_range_blocks_max - 1, last.number)
            wanted = {
                "address": to_hex(address),
                "fromBlock": hex(start),
                "toBlock": hex(end),
                "topics": [None if topic is None else to_hex(topic) for topic in topics],
            }
            found += await self._try_each(partial(_logs_up_to, wanted=wanted, last=last))
        return found

    async def fees(self) -> MarketFees:
        base_fee = read_base_fee(await self._first("eth_getBlockByNumber", "latest", False))
        return MarketFees(base_fee, read_integer(await self._first("eth_maxPriorityFeePerGas")))

    async def next_nonce(self, sender: bytes) -> int:
        # The highest: one that lags, or has lost its pool, tells less.
        return max(await self._all(read_integer, "eth_getTransactionCount", to_hex(sender), "pending"))

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
        now = time.monotonic()
        return sorted(self._endpoints, key=lambda endpoint: endpoint.rests_until > now)

    async def _first(self, method: str, *params: Any) -> Any:
        return await self._try_each(lambda endpoint: endpoint.ask(method, *params))

    async def _try_each(self, ask: Callable[[Endpoint], Awaitable[Answer]]) -> Answer:
        """The first answer. A revert is one; any other error sends the question on to the next endpoint."""
        problems: list[str] = []
        for endpoint in self._in_order():
            try:
                return await ask(endpoint)
            except RpcError as error:
                if _is_revert(error):
                    raise CallReverted(error.data, error.message) from None
                problems.append(f"{endpoint.name}: {error}")
            except ChainUnavailable as error:
                problems.append(str(error))
        raise ChainUnavailable("; ".join(problems))

    async def _all(self, decode: Callable[[Any], Answer], method: str, *params: Any) -> list[Answer]:
        """The answers of all endpoints that answer while the quickest and HEAD_GRACE_S last; at least one."""
        tasks = [asyncio.ensure_future(_decoded(endpoint, decode, method, params)) for endpoint in self._in_order()]
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


async def _logs_up_to(endpoint: Endpoint, wanted: dict[str, Any], last: Block) -> list[Log]:
    """Events from an endpoint that has the last block; one that lags would leave out the newest without a word."""
    block = await endpoint.ask("eth_getBlockByHash", to_hex(last.block_hash), False)
    if block is None:
        raise ChainUnavailable(f"{endpoint.name}: block {last.number} is not there")
    return read_logs(await endpoint.ask("eth_getLogs", wanted))


async def _send(endpoint: Endpoint, raw: bytes) -> None:
    try:
        await endpoint.ask("eth_sendRawTransaction", to_hex(raw))
    except RpcError as error:
        text = error.message.lower()
        if "already known" not in text and "already imported" not in text and "known transaction" not in text:
            raise Rejected(f"{endpoint.name}: {error.message}") from None


def _is_revert(error: RpcError) -> bool:
    text = error.message.lower()
    # Geth and those after it use code 3; others only say so. Too little gas is the caller's matter too.
    return error.code == 3 or "revert" in text or "out of gas" in text or "gas required exceeds" in text


def _without_secrets(url: str) -> str:
    """The endpoint's scheme and host: paths and user names of endpoints hold access keys."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"


def _pinned(block: Block) -> dict[str, Any]:
    """EIP-1898: an endpoint that does not have this very block says so, instead of answering from another."""
    return {"blockHash": to_hex(block.block_hash), "requireCanonical": True}
