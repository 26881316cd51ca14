"""What endpoints must agree on before it is believed: the head, blocks, receipts (threat 16).

The head is the highest that a second answer confirms: another endpoint's, or, where there is one endpoint only, its own
answer when it is asked for that block by its hash. So a head that was made up once is not believed, and one that lags
holds nobody up. An endpoint that keeps telling what the others do not have is left out for `SIDELINED_S`, and named.

A receipt counts when two endpoints tell it alike, or when the one that tells it tells it again and the canonical block
holds the transaction. What is believed of a receipt is kept, so that following a transaction costs one question again.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.contradictions import Answer, contradicted
from tallystick_aggregator.chain.node import Receipt
from tallystick_aggregator.chain.port import Block, ChainUnavailableError
from tallystick_aggregator.chain.rpc.answers import read_block, read_receipt, read_transaction_hashes
from tallystick_aggregator.chain.rpc.endpoint import LimitedError
from tallystick_aggregator.tasks import Shared
from tallystick_chain.answers import optional
from tallystick_chain.errors import RpcError

GRACE_S: Final = 1.0
"""For so long further endpoints are waited for once one has answered."""
NEAR_BLOCKS: Final = 3
"""A head so far above another endpoint's may be so because that one is a moment behind."""
FAR_BLOCKS: Final = 256
"""A head further above all others than this is no lag of theirs, or one that should be told."""
STANDS_STILL_S: Final = 60.0
"""An endpoint whose head has not moved for so long, while another's does, confirms nothing any more."""
SIDELINED_S: Final = 30.0
"""For so long an endpoint is left out whose answers the others contradict."""
PATIENCE_S: Final = 10.0
"""For so long a question waits for a rate limit to pass."""
RECEIPTS_KEPT: Final = 4_096

T = TypeVar("T")


class Endpoint(Protocol):
    """What is asked; see `rpc.Endpoint`."""

    @property
    def name(self) -> str: ...

    async def ask(self, method: str, *params: Any) -> Any: ...


E = TypeVar("E", bound=Endpoint)


class Agreement:
    """Asks all endpoints of a node, and tells what they agree on."""

    def __init__(self, endpoints: Sequence[Endpoint], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`endpoints` in order of preference."""
        self._endpoints = endpoints
        self._clock = clock
        self._head: Block | None = None
        self._contents = Shared[tuple[Endpoint, int], tuple[Block, frozenset[bytes]] | None]()
        """Which transactions a block holds, as an endpoint is being asked now."""
        self._moved: dict[Endpoint, tuple[int, float]] = {}
        self._sidelined: dict[Endpoint, tuple[float, str]] = {}
        self._receipts: OrderedDict[bytes, Receipt] = OrderedDict()
        self._doubted: OrderedDict[bytes, list[tuple[Endpoint, Receipt | None]]] = OrderedDict()
        """What was told of a receipt when nobody could confirm it; held against what is believed later."""

    def problems(self) -> list[str]:
        """Which endpoints are left out now, and why."""
        now = self._clock()
        return [
            f"{endpoint.name} is left out: {why}" for endpoint, (until, why) in self._sidelined.items() if until > now
        ]

    def believed(self) -> list[Endpoint]:
        """The endpoints that are not left out; all if none would remain."""
        now = self._clock()
        return [one for one in self._endpoints if self._sidelined.get(one, (0.0, ""))[0] <= now] or [*self._endpoints]

    # The head.

    async def head(self) -> Block:
        told = await answers(self.believed(), _asking(read_block, "eth_getBlockByNumber", "latest", False))
        for endpoint, block in told:
            if self._moved.get(endpoint, (-1, 0.0))[0] != block.number:
                self._moved[endpoint] = (block.number, self._clock())
        order = sorted(told, key=lambda pair: -pair[1].number)
        real = [pair for pair in order if await self._is_real(*pair, told)]
        if not real:
            raise ChainUnavailableError("no endpoint has the newest block that it tells")
        self._head = await self._highest_confirmed(real)
        return self._head

    async def _is_real(self, endpoint: Endpoint, block: Block, told: Sequence[tuple[Endpoint, Block]]) -> bool:
        """Whether the endpoint itself has the block, if nobody else has told it: what it made up once it has not."""
        if block == self._head or any(other == block for one, other in told if one is not endpoint):
            return True
        has = await _has(endpoint, block)
        if has is False:
            said = f"the newest block is {block.number}, {to_hex(block.block_hash)}, which it does not have"
            contradicted(Answer.HEAD, endpoint.name, said)
        return has is True

    async def _highest_confirmed(self, real: Sequence[tuple[Endpoint, Block]]) -> Block:
        skipped: list[tuple[Endpoint, Block]] = []
        for endpoint, block in real:
            others = [pair for pair in real if pair[0] is not endpoint]
            near = any(abs(block.number - other.number) <= NEAR_BLOCKS for _, other in others)
            if not others or near or any([await _has(one, block) for one, _ in others]):
                return self._after_skipping(skipped, block, real)
            skipped.append((endpoint, block))
        # Each is on a chain of its own. The first by preference is followed; what raises credit waits for the others.
        endpoint, block = min(real, key=lambda pair: self._endpoints.index(pair[0]))
        for other, head in real:
            if other is not endpoint:
                self._sideline(other, Answer.HEAD, f"the newest block is {head.number}, on another chain of blocks")
        return block

    def _after_skipping(
        self, skipped: Sequence[tuple[Endpoint, Block]], block: Block, real: Sequence[tuple[Endpoint, Block]]
    ) -> Block:
        """The head, after endpoints that are ahead of it were passed over: a little is a lag, much is not."""
        behind = [one for one, head in real if head.number <= block.number]
        for endpoint, ahead in skipped:
            if ahead.number - block.number <= FAR_BLOCKS:
                continue
            if not self._stands_still(endpoint) and all(map(self._stands_still, behind)):
                for one in behind:
                    self._sideline(one, Answer.HEAD, f"the newest block is {block.number}, and it stands still there")
                return ahead
            said = f"the newest block is {ahead.number}, which no other has; theirs is {block.number}"
            self._sideline(endpoint, Answer.HEAD, said)
        return block

    def _stands_still(self, endpoint: Endpoint) -> bool:
        return self._clock() - self._moved[endpoint][1] > STANDS_STILL_S

    def _sideline(self, endpoint: Endpoint, about: Answer, said: str) -> None:
        self._sidelined[endpoint] = (self._clock() + SIDELINED_S, said)
        contradicted(about, endpoint.name, said)

    # Blocks.

    async def block(self, number: int) -> Block | None:
        """See `node.Node.block`.

        Raises ChainUnavailableError where the endpoints disagree, and leaves one of them out.
        """
        ask = _asking(optional(read_block), "eth_getBlockByNumber", hex(number), False)
        first = await answers(self.believed(), ask)
        if len(blocks := _distinct(first)) <= 1:
            return blocks[0] if blocks else None
        told = await answers([one for one, _ in first], ask)
        blocks = _distinct(told)
        if len(blocks) > 1:
            block = self._majority(told)
            if block is None:
                raise ChainUnavailableError(f"the endpoints disagree on block {number}")
            return block
        for endpoint, before in first:
            if before is not None and before not in blocks:
                contradicted(Answer.BLOCK, endpoint.name, f"block {number} is {to_hex(before.block_hash)}")
        return blocks[0] if blocks else None

    def _majority(self, told: Sequence[tuple[Endpoint, Block | None]]) -> Block | None:
        """What more than half say; None without a majority. The outvoted, or the less preferred, are left out."""
        said = [(endpoint, block) for endpoint, block in told if block is not None]
        votes = {block: sum(other == block for _, other in said) for _, block in said}
        best = max(votes, key=lambda block: votes[block])  # the first by preference among equals
        for endpoint, block in said:
            if block != best:
                what = f"block {block.number} is {to_hex(block.block_hash)}; others have {to_hex(best.block_hash)}"
                self._sideline(endpoint, Answer.BLOCK, what)
        return best if votes[best] * 2 > len(said) else None

    # Receipts.

    async def receipt(self, transaction_hash: bytes) -> Receipt | None:
        ask = _asking(optional(read_receipt), "eth_getTransactionReceipt", to_hex(transaction_hash))
        first = await answers(self.believed(), ask)
        found = _distinct(first)
        known = self._receipts.get(transaction_hash)
        if known is None and not found:
            self._hold_against_doubts(transaction_hash, None)
            return None
        if len(found) == 1 and (found[0] == known or sum(one is not None for _, one in first) > 1):
            self._hold_against_doubts(transaction_hash, found[0])
            return self._keep(found[0])
        try:
            second = dict(await answers([one for one, _ in first], ask))
        except ChainUnavailableError:
            _bounded(self._doubted, transaction_hash, [*self._doubted.get(transaction_hash, ()), *first])
            raise
        receipt = await self._confirmed(second)
        self._hold_against_doubts(transaction_hash, receipt)
        for endpoint, told in first:
            taken_back = endpoint in second and second[endpoint] != told
            if told != receipt and (taken_back or (told is not None and receipt is not None)):
                contradicted(Answer.RECEIPT, endpoint.name, _described(transaction_hash, told))
        if receipt is None:
            self._receipts.pop(transaction_hash, None)
            return None
        return self._keep(receipt)

    async def _confirmed(self, told: Mapping[Endpoint, Receipt | None]) -> Receipt | None:
        """The receipt that all who have it tell alike: two of them, or one, and the canonical block holds it."""
        tellers = [endpoint for endpoint, receipt in told.items() if receipt is not None]
        receipts = _distinct(list(told.items()))
        if len(receipts) != 1:
            return None
        if len(tellers) > 1:
            return receipts[0]
        held = [await self._holds(one, receipts[0]) for one in told if one not in tellers or len(told) == 1]
        if False in held:
            contradicted(Answer.RECEIPT, tellers[0].name, _described(receipts[0].transaction_hash, receipts[0]))
        return receipts[0] if True in held else None

    async def _holds(self, endpoint: Endpoint, receipt: Receipt) -> bool | None:
        """Whether the canonical block of a receipt holds its transaction; None if the endpoint has no such block yet.

        The receipts of a block come together, and are held against it together.
        """
        ask = _asking(optional(read_transaction_hashes), "eth_getBlockByNumber", hex(receipt.block_number), False)
        try:
            found = await self._contents.answer((endpoint, receipt.block_number), lambda: ask(endpoint))
        except ChainUnavailableError:
            return None
        if found is None:
            return None
        block, hashes = found
        return block.block_hash == receipt.block_hash and receipt.transaction_hash in hashes

    def _hold_against_doubts(self, transaction_hash: bytes, receipt: Receipt | None) -> None:
        for endpoint, told in self._doubted.pop(transaction_hash, ()):
            if told is not None and told != receipt:
                contradicted(Answer.RECEIPT, endpoint.name, _described(transaction_hash, told))

    def _keep(self, receipt: Receipt) -> Receipt:
        _bounded(self._receipts, receipt.transaction_hash, receipt)
        return receipt


async def answers(
    endpoints: Sequence[E],
    ask: Callable[[E], Awaitable[T]],
    *,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[tuple[E, T]]:
    """The answers of all that answer while the quickest and GRACE_S last; at least one. Raises ChainUnavailableError.

    Where rate limits leave none, they are asked again when one has passed, for `PATIENCE_S` at most.
    """
    patience_s = PATIENCE_S
    while True:
        try:
            return await _answers_now(endpoints, ask)
        except LimitedError as limited:
            patience_s -= limited.wait_s
            if patience_s < 0:
                raise
            await pause(limited.wait_s)


async def _answers_now(endpoints: Sequence[E], ask: Callable[[E], Awaitable[T]]) -> list[tuple[E, T]]:
    tasks = [asyncio.ensure_future(ask(endpoint)) for endpoint in endpoints]
    try:
        waiting: set[asyncio.Future[T]] = set(tasks)
        while waiting and not any(_has_answer(task) for task in tasks):
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if waiting:
            await asyncio.wait(waiting, timeout=GRACE_S)
        found = [(one, task.result()) for one, task in zip(endpoints, tasks, strict=True) if _has_answer(task)]
        if found:
            return found
        errors = [error for task in tasks if task.done() and (error := task.exception()) is not None]
        problem = "; ".join(map(str, errors))
        waits_s = [error.wait_s for error in errors if isinstance(error, LimitedError)]
        raise LimitedError(problem, min(waits_s)) if waits_s else ChainUnavailableError(problem)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _has_answer(task: "asyncio.Future[Any]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _asking(decode: Callable[[Any], T], method: str, *params: Any) -> Callable[[Endpoint], Coroutine[Any, Any, T]]:
    async def ask(endpoint: Endpoint) -> T:
        try:
            return decode(await endpoint.ask(method, *params))
        except RpcError as error:
            raise ChainUnavailableError(f"{endpoint.name}: {error}") from error

    return ask


async def _has(endpoint: Endpoint, block: Block) -> bool | None:
    """Whether an endpoint has this very block; None if it does not answer."""
    try:
        return (
            await _asking(optional(read_block), "eth_getBlockByHash", to_hex(block.block_hash), False)(endpoint)
            == block
        )
    except ChainUnavailableError:
        return None


def _bounded(kept: OrderedDict[bytes, T], key: bytes, value: T) -> None:
    """Keep a value as the newest, of RECEIPTS_KEPT at most."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > RECEIPTS_KEPT:
        kept.popitem(last=False)


def _distinct(told: Sequence[tuple[Endpoint, T | None]]) -> list[T]:
    """What was told, each once; None is no answer here."""
    return list(dict.fromkeys(answer for _, answer in told if answer is not None))


def _described(transaction_hash: bytes, receipt: Receipt | None) -> str:
    if receipt is None:
        return f"{to_hex(transaction_hash)} is in no block"
    fate = "succeeded" if receipt.succeeded else "reverted"
    return f"{to_hex(transaction_hash)} is in block {receipt.block_number} and {fate}"
