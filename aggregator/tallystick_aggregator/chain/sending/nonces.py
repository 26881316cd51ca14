"""Nonces of the sender's key: which is free, and who used one. Nodes do not tell the latter by an index, but the
sender's transaction count per block does.
"""

from typing import Final

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.contradictions import Answer, contradicted
from tallystick_aggregator.chain.node import Node
from tallystick_aggregator.chain.port import ChainUnavailableError

GAP_MAX: Final = 64
"""Nonces that may wait in pools and not be known to the outbox; so many are filled in a tick at most."""
_NONCE_MAX: Final = 2**63 - 1
"""What the outbox can store; no key ever gets there (EIP-2681 allows twice as much)."""


async def free_nonce(node: Node, sender: bytes, stored: int, told: int) -> int:
    """The next nonce; `stored` is what the outbox, which knows our own, says of it, `told` what the node said before.
    Raises ChainUnavailableError.

    A node that tells of more is asked again: a nonce that is too high leaves a gap, and filling that costs gas.
    """
    if told > stored:
        again = await node.next_nonce(sender)
        if again != told:
            contradicted(Answer.NONCE, "the node", f"the sender's next nonce is {told}, and {again} when asked again")
        told = min(told, again)
    if told > stored + GAP_MAX:
        mined = await node.nonce_at(sender, (await node.head()).number)
        if told > mined + GAP_MAX:
            contradicted(Answer.NONCE, "the node", f"the sender's next nonce is {told}, but blocks hold {mined}")
            told = mined
    if told > _NONCE_MAX:
        raise ChainUnavailableError(f"the endpoints tell of {told} transactions of the sender: that cannot be")
    return max(stored, told)


async def surely_used_by(node: Node, sender: bytes, nonce: int, up_to: int) -> bytes:
    """As `user_of_nonce`, but what two searches agree on: a call whose nonce is gone is sent anew under another."""
    found = await user_of_nonce(node, sender, nonce, up_to)
    if found and found != await user_of_nonce(node, sender, nonce, up_to):
        contradicted(Answer.NONCE, "the node", f"nonce {nonce} was used by {to_hex(found)}, and not when asked again")
        raise ChainUnavailableError(f"it is not certain who used nonce {nonce}")
    return found


async def user_of_nonce(node: Node, sender: bytes, nonce: int, up_to: int) -> bytes:
    """The hash of the transaction that used a nonce in a block up to this one; empty if it is not to be found.

    Steps back from `up_to` in doubled steps, then bisects: recent uses are found with recent state, which every node
    has. Raises ChainUnavailableError where nodes have dropped the state of the blocks in question.
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
