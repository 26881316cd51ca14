"""A node between the sender and a real chain that loses what tests tell it to lose, or does not tell the truth."""

from collections.abc import Callable
from typing import Any

from tallystick_aggregator.chain.node import Node
from tallystick_aggregator.chain.port import ChainUnavailableError


class FaultyNode:
    """Passes everything on, except what is to go wrong."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.down = False
        """Nothing reaches the chain."""
        self.losing_sends = False
        """Transactions do not reach the chain, and the caller hears of it."""
        self.losing_replies = False
        """Transactions reach the chain, but the caller hears nothing."""
        self.blind = False
        """Receipts are not found."""
        self.forgetful = False
        """The state of older blocks is gone."""
        self.sent: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._node, name)

        async def passed_on(*args: Any, **kwargs: Any) -> Any:
            if self.down and name != "close":
                raise ChainUnavailableError("the test took the endpoint down")
            return await method(*args, **kwargs)

        return passed_on

    async def send(self, raw: bytes) -> None:
        if self.down or self.losing_sends:
            raise ChainUnavailableError("the test lost the transaction")
        self.sent.append(raw)
        await self._node.send(raw)
        if self.losing_replies:
            raise ChainUnavailableError("the test lost the reply")

    async def receipt(self, transaction_hash: bytes) -> Any:
        if self.down:
            raise ChainUnavailableError("the test took the endpoint down")
        return None if self.blind else await self._node.receipt(transaction_hash)

    async def nonce_at(self, sender: bytes, block_number: int) -> int:
        if self.down or (self.forgetful and block_number < (await self._node.head()).number):
            raise ChainUnavailableError("missing trie node")
        return await self._node.nonce_at(sender, block_number)


Change = Callable[..., Any]
"""Makes a wrong answer of the right one, and of what was asked."""


class LyingNode:
    """Passes everything on, and changes some answers: `lie` once, `always` until it is taken back.

    `asked` are the methods that were called, in order.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._once: dict[str, list[Change]] = {}
        self.always: dict[str, Change] = {}
        self.told: list[str] = []
        """The methods that were lied about."""
        self.asked: list[str] = []

    def lie(self, method: str, change: Change, times: int = 1) -> None:
        """Answer the next question that the change is about wrongly; it leaves an answer as it is by returning it."""
        self._once.setdefault(method, []).extend([change] * times)

    def honest(self) -> None:
        """Tell no lie that was not told yet."""
        self._once.clear()
        self.always.clear()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._node, name)

        async def passed_on(*args: Any, **kwargs: Any) -> Any:
            self.asked.append(name)
            truth = answer = await method(*args, **kwargs)
            if name in self.always:
                answer = self.always[name](truth, *args)
            elif self._once.get(name):
                answer = self._once[name][0](truth, *args)
                if answer != truth:
                    self._once[name].pop(0)
            if answer != truth:
                self.told.append(name)
            return answer

        return passed_on
