"""Who used a nonce: nodes do not tell by an index, but the sender's transaction count per block does."""

from tallystick_aggregator.chain.node import Node


async def user_of_nonce(node: Node, sender: bytes, nonce: int, up_to: int) -> bytes:
    """The hash of the transaction that used a nonce in a block up to this one; empty if it is not to be found.

    Steps back from `up_to` in doubled steps, then bisects: recent uses are found with recent state, which every node
    has. Raises ChainUnavailable where nodes have dropped the state of the blocks in question.
    """
    low, high, step = up_to, up_to, 1
    while low > 0 and await node.nonce_at(sender, low) > nonce:
        high, low, step = low, max(0, low - step), step * 2
    while high - low > 1:
        middle = (low + high) // 2
        if await node.nonce_at(sender, middle) > nonce:
            high = middle
        else:
            low = middle
    for transaction in await node.transactions(high):
        if (transaction.sender, transaction.nonce) == (sender, nonce):
            return transaction.transaction_hash
    return b""
