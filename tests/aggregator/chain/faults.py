"""A node between the sender and a real chain that loses what tests tell it to lose."""

from typing import Any

from tallystick_aggregator.chain.node import Node
from tallystick_aggregator.chain.port import ChainUnavailable


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
                raise ChainUnavailable("the test took the endpoint down")
            return await method(*args, **kwargs)

        return passed_on

    async def send(self, raw: bytes) -> None:
        if self.down or self.losing_sends:
            raise ChainUnavailable("the test lost the transaction")
        self.sent.append(raw)
        await self._node.send(raw)
        if self.losing_replies:
            raise ChainUnavailable("the test lost the reply")

    async def receipt(self, transaction_hash: bytes) -> Any:
        if self.down:
            raise ChainUnavailable("the test took the endpoint down")
        return None if self.blind else await self._node.receipt(transaction_hash)

    async def nonce_at(self, sender: bytes, block_number: int) -> int:
        if self.down or (self.forgetful and block_number < (await self._node.head()).number):
            raise ChainUnavailable("missing trie node")
        return await self._node.nonce_at(sender, block_number)
