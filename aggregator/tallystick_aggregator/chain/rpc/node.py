"""A network through its JSON-RPC endpoints: failover, reads pinned to blocks, and no retry that nobody asked for.

Each endpoint is asked through a provider (`tallystick_chain.provider`), and answers are read strictly (module
`answers`): few methods, all small. web3's formatters are left out here: they take 0.6 to 2.4 ms a call, the provider
0.25 ms.

What endpoints can do to us, and what is done about it (threat 16):
- be down or slow: the next one is asked; the one that failed rests for `REST_S`;
- limit how often they are asked: one that says so is left alone for as long as it wants (module `endpoint`), and where
  all do, the question waits, though not longer than an answer may take;
- limit what is asked, or lack a method: they are asked in another way, and that is remembered (`endpoint`);
- lag: reads name the block by its hash, so that an endpoint that does not have it answers with an error instead of
  older state; events are asked only of one that has their last block;
- say what is not so: heads, blocks and receipts are what they agree on (module `agreement`); what state and events
  would change is asked again, of another endpoint where there is one (`Heard`, modules `reading` and `scanning`).
An endpoint that lies consistently, alone, is believed: name endpoints that you trust, and two of them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.contradictions import Answer, contradicted
from tallystick_aggregator.chain.node import (
    BlockTransaction,
    CallOutcome,
    CallRevertedError,
    Header,
    Log,
    OrderedCall,
    Receipt,
    RefusedError,
    RejectedError,
)
from tallystick_aggregator.chain.port import Block, ChainUnavailableError, Heard
from tallystick_aggregator.chain.rpc.agreement import Agreement, answers
from tallystick_aggregator.chain.rpc.answers import ordered_call, read_header, read_outcomes, read_transactions
from tallystick_aggregator.chain.rpc.block_events import events_of_block
from tallystick_aggregator.chain.rpc.endpoint import Endpoint, LimitedError
from tallystick_aggregator.chain.rpc.log_search import LogSearch, Wanted
from tallystick_aggregator.chain.rpc.pinned_reads import ask_at, call_at
from tallystick_aggregator.chain.settings import LOGS_RANGE_BLOCKS
from tallystick_aggregator.tasks import Shared
from tallystick_chain.answers import optional, read_bytes, read_integer
from tallystick_chain.errors import RpcError, is_revert
from tallystick_chain.fees import Bid, MarketFees, market_fees

Answered = TypeVar("Answered")


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
        self._agreement = Agreement(self._endpoints, clock=clock)
        # Every settlement and every look at what was sent begins with the head.
        self._heads = Shared[None, Block]()

    def problems(self) -> list[str]:
        """Which endpoints are left out now, and why."""
        return self._agreement.problems()

    async def chain_id(self) -> int:
        ids = set(await self._all(read_integer, "eth_chainId"))
        if len(ids) > 1:  # one wrong answer is no reason not to start
            ids = set(await self._all(read_integer, "eth_chainId"))
        if len(ids) > 1:
            raise ChainUnavailableError(f"the endpoints are of different chains: {', '.join(map(str, sorted(ids)))}")
        return ids.pop()

    async def head(self, *, fresh: bool = True) -> Block:
        return await self._heads.answer(None, self._agreement.head, joins=not fresh)

    async def block(self, number: int) -> Block | None:
        return await self._agreement.block(number)

    async def header(self, number: int, known: Block | None = None) -> Header:
        async def ask(endpoint: Endpoint) -> Header:
            header = optional(read_header)(await endpoint.ask("eth_getBlockByNumber", hex(number), False))
            if header is None or (known is not None and header.block != known):
                raise ChainUnavailableError(f"{endpoint.name}: block {number} is not there, or another one is")
            return header

        return await self._try_each(ask)

    async def code(self, address: bytes, block: Block | None = None) -> bytes:
        if block is None:
            return read_bytes(await self._first("eth_getCode", to_hex(address), "latest"))
        return read_bytes(await self._first_at(block, "eth_getCode", to_hex(address)))

    async def balance(self, address: bytes) -> int:
        return read_integer(await self._first("eth_getBalance", to_hex(address), "latest"))

    async def call(
        self,
        to: bytes,
        data: bytes,
        block: Block,
        *,
        from_: bytes = b"",
        gas: int = 0,
        price: Bid | None = None,
        at_s: int = 0,
        heard: Heard | None = None,
    ) -> bytes:
        transaction = {"to": to_hex(to), "data": to_hex(data)}
        transaction |= ({"from": to_hex(from_)} if from_ else {}) | ({"gas": hex(gas)} if gas else {})
        if price is not None:
            transaction |= {"maxFeePerGas": hex(price.max_fee), "maxPriorityFeePerGas": hex(price.priority_fee)}
        return read_bytes(
            await self._try_each(lambda endpoint: call_at(endpoint, block, transaction, at_s), heard=heard)
        )

    async def run_in_order(self, calls: Sequence[OrderedCall], block: Block) -> Sequence[CallOutcome]:
        # The method has no parameter that names a block by its hash everywhere; its number has to do.
        asked = {"blockStateCalls": [{"calls": [ordered_call(call) for call in calls]}]}
        outcomes = read_outcomes(await self._first("eth_simulateV1", asked, hex(block.number)))
        if len(outcomes) != len(calls):
            raise ChainUnavailableError(f"{len(calls)} calls were simulated, {len(outcomes)} were answered")
        return outcomes

    async def estimate_gas(self, from_: bytes, to: bytes, data: bytes, *, gas_max: int) -> int:
        transaction = {"from": to_hex(from_), "to": to_hex(to), "data": to_hex(data), "gas": hex(gas_max)}
        # Twice: too little would burn the gas of a transaction that runs out of it. Between two blocks it may change.
        heard = Heard()
        first = await self._estimate(transaction, heard)
        try:
            again = await self._estimate(transaction, heard.again())
        except ChainUnavailableError:  # nobody else answers now
            again = await self._estimate(transaction, Heard())
        if isinstance(first, CallRevertedError) and isinstance(again, CallRevertedError):
            raise first
        sums = [gas for gas in (first, again) if isinstance(gas, int)]
        if len(sums) < 2 or min(sums) * 2 < max(sums):
            contradicted(Answer.GAS, str(heard), f"the transaction takes {first}, and when asked again {again}")
        return max(sums)

    async def _estimate(self, transaction: dict[str, Any], heard: Heard) -> int | CallRevertedError:
        async def ask(endpoint: Endpoint) -> Any:
            # Where no block is named, some nodes take one with all that waits in the pool, and run through that for
            # every estimate. It is the next one, though, in which more may be valid: so it decides what reverts.
            try:
                return await endpoint.ask("eth_estimateGas", transaction, "latest")
            except RpcError:
                return await endpoint.ask("eth_estimateGas", transaction)

        try:
            return read_integer(await self._try_each(ask, heard=heard))
        except CallRevertedError as reverted:
            return reverted

    async def logs(self, address: bytes, first: int, last: Block, topics: Sequence[bytes | None] = ()) -> Sequence[Log]:
        return await self._log_search.find(Wanted(address, tuple(topics)), first, last)

    async def block_logs(self, address: bytes, block: Block, heard: Heard) -> Sequence[Log]:
        return await self._try_each(lambda endpoint: events_of_block(endpoint, address, block), heard=heard)

    async def fees(self) -> MarketFees:
        def ask(endpoint: Endpoint) -> Awaitable[MarketFees]:
            return market_fees(
                endpoint,
                lacks=lambda method: endpoint.learned(method) is False,
                found_lacking=lambda method: endpoint.learn(method, holds=False),
            )

        return await self._try_each(ask)

    async def next_nonce(self, sender: bytes) -> int:
        # The highest: one that lags, or has lost its pool, tells less.
        return max(await self._each(partial(_next_nonce, sender=sender)))

    async def nonce_at(self, sender: bytes, block_number: int) -> int:
        # The lowest: one endpoint alone cannot make us skip nonces, or believe that one of ours was used.
        params = (to_hex(sender), hex(block_number))
        return min(await self._each(lambda one: _decoded(one, read_integer, "eth_getTransactionCount", params)))

    async def send(self, raw: bytes) -> None:
        outcomes = await asyncio.gather(*(_send(endpoint, raw) for endpoint in self._endpoints), return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if len(errors) < len(outcomes):
            return
        rejections = [error for error in errors if isinstance(error, RejectedError)]
        raise rejections[0] if rejections else errors[0]

    async def receipt(self, transaction_hash: bytes) -> Receipt | None:
        return await self._agreement.receipt(transaction_hash)

    async def transactions(self, block_number: int) -> Sequence[BlockTransaction]:
        block = await self._first("eth_getBlockByNumber", hex(block_number), True)
        return [] if block is None else read_transactions(block)

    async def close(self) -> None:
        for endpoint in self._endpoints:
            await endpoint.close()

    # How endpoints are asked.

    def _in_order(self) -> list[Endpoint]:
        now, believed = self._clock(), self._agreement.believed()
        return sorted(self._endpoints, key=lambda one: (one not in believed, one.rests_until > now))

    def _to_ask(self, heard: Heard | None) -> list[Endpoint]:
        """In order; for a second answer only those whose answer would be another's, and who do not rest."""
        if heard is None or not heard.excluded or len(self._endpoints) == 1:
            return self._in_order()
        now, believed = self._clock(), self._agreement.believed()
        return [
            one
            for number, one in enumerate(self._endpoints)
            if number not in heard.excluded and one in believed and one.rests_until <= now
        ]

    def _note(self, heard: Heard | None, endpoint: Endpoint) -> None:
        if heard is not None:
            heard.note(self._endpoints.index(endpoint), endpoint.name)

    async def _first(self, method: str, *params: Any) -> Any:
        return await self._try_each(lambda endpoint: endpoint.ask(method, *params))

    async def _first_at(self, block: Block, method: str, *params: Any, heard: Heard | None = None) -> Any:
        """The first answer on the state after this very block."""
        return await self._try_each(lambda endpoint: ask_at(endpoint, block, method, *params), heard=heard)

    async def _try_each(
        self,
        ask: Callable[[Endpoint], Awaitable[Answered]],
        *,
        patience_s: float | None = None,
        heard: Heard | None = None,
    ) -> Answered:
        """The first answer. A revert is one; any other error sends the question on to the next endpoint.

        Where a rate limit is in the way it is asked again when that has passed, for `patience_s` at most. `heard` notes
        who answered; a second answer of another endpoint is not waited for.
        """
        until = self._clock() + (self._timeout_s if patience_s is None else patience_s)
        while True:
            problems: list[str] = []
            waits_s: list[float] = []
            refusals = 0
            for endpoint in self._to_ask(heard):
                try:
                    answer = await ask(endpoint)
                except RpcError as error:
                    if is_revert(error):
                        self._note(heard, endpoint)
                        raise CallRevertedError(error.data, error.message) from None
                    problems.append(f"{endpoint.name}: {error}")
                    refusals += 1
                except ChainUnavailableError as error:
                    problems.append(str(error))
                    if isinstance(error, LimitedError):
                        waits_s.append(error.wait_s)
                else:
                    self._note(heard, endpoint)
                    return answer
            if not problems:
                raise ChainUnavailableError("no other endpoint answers now")
            if heard is not None and heard.excluded and len(self._endpoints) > 1:
                waits_s.clear()
            if not waits_s or self._clock() + min(waits_s) > until:
                raise (RefusedError if refusals == len(problems) else ChainUnavailableError)("; ".join(problems))
            await self._pause(min(waits_s))

    async def _all(self, decode: Callable[[Any], Answered], method: str, *params: Any) -> list[Answered]:
        """The answers of all endpoints, see `_each`."""
        return await self._each(lambda endpoint: _decoded(endpoint, decode, method, params))

    async def _each(self, ask: Callable[[Endpoint], Awaitable[Answered]]) -> list[Answered]:
        """The answers of all endpoints that answer within a moment; at least one."""
        return [answer for _, answer in await answers(self._in_order(), ask)]


async def _decoded(
    endpoint: Endpoint, decode: Callable[[Any], Answered], method: str, params: Sequence[Any]
) -> Answered:
    try:
        return decode(await endpoint.ask(method, *params))
    except RpcError as error:
        raise ChainUnavailableError(f"{endpoint.name}: {error}") from error


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
            raise RejectedError(f"{endpoint.name}: {error.message}") from None
