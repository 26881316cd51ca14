"""What became on chain of a deposit or a refund that anybody may land: read from events, never concluded from a nonce.

A token's nonce is used by a deposit, by a transfer elsewhere or by a cancellation alike, and the escrow's deposit call
does nothing where it was used before. A refund pays what it names or what is left. So the answer is in the events: of
our own transaction's receipt (`EscrowBinding.payouts`), or of the transaction that somebody else sent (`find_deposit`,
`find_refund`), which is looked for from the newest final block backwards.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from tallystick_aggregator.chain.escrow_port import EscrowBinding
from tallystick_aggregator.chain.node import Log, Node
from tallystick_aggregator.chain.port import Block, ChainUnavailableError, DepositAuthorization, Landing
from tallystick_aggregator.chain.token import AUTHORIZATION_USED_TOPIC


class Reach(NamedTuple):
    """How far back something is looked for, and how many blocks' events are asked for together."""

    blocks_max: int = 50_000
    """A week of Ethereum's blocks, a day of those that come every two seconds."""
    step_blocks: int = 2_000


_REACH: Final = Reach()
Read = Callable[[int, Block], Awaitable[Sequence[Log]]]
"""Reads events of the blocks from one to another."""


async def find_deposit(
    node: Node, escrow: EscrowBinding, deposit: DepositAuthorization, last: Block, reach: Reach = _REACH
) -> Landing | None:
    """Find the transaction that used a deposit's token nonce, and whether it made the deposit.

    The nonce is bound to the account, so the escrow's event for the account and this amount can be of no other one.
    `amount` of the answer is the deposit's, or 0 where the authorization was cancelled or used for something else. None
    if no block within reach has it.
    """
    token, account_id = deposit.account.token, escrow.account_id(deposit.account)
    # AuthorizationUsed and AuthorizationCanceled alike:
    topics = (None, deposit.account.payer.rjust(32, b"\0"), escrow.deposit_token_nonce(deposit))
    async for logs in _backwards(node, lambda first, end: node.logs(token, first, end, topics), last, reach):
        log = logs[-1]
        receipt = await node.receipt(log.transaction_hash)
        if receipt is None:
            raise ChainUnavailableError(f"the receipt of transaction 0x{log.transaction_hash.hex()} is not there")
        made = [escrow.read_event(event) for source, event in receipt.logs if source == escrow.address]
        done = log.topics[0] == AUTHORIZATION_USED_TOPIC and any(
            (event.account_id, event.moved) == (account_id, deposit.amount) for event in made
        )
        return Landing(log.transaction_hash, log.block_number, deposit.amount if done else 0)
    return None


async def find_refund(
    node: Node, escrow: EscrowBinding, account_id: bytes, nonce: int, last: Block, reach: Reach = _REACH
) -> Landing | None:
    """Find the transaction that landed the account's refund with this nonce, and what it paid; None as above."""
    async for logs in _backwards(node, lambda first, end: escrow.of_account(account_id, first, end), last, reach):
        for log in logs:
            event = escrow.read_event(log)
            if event.refund_nonce == nonce:
                return Landing(log.transaction_hash, log.block_number, -event.moved)
    return None


async def _backwards(node: Node, read: Read, last: Block, reach: Reach) -> AsyncIterator[Sequence[Log]]:
    """Yield the events that `read` finds, the newest blocks' first."""
    end: Block | None = last
    oldest = max(0, last.number - reach.blocks_max)
    while end is not None:
        first = max(oldest, end.number - reach.step_blocks + 1)
        logs = await read(first, end)
        if logs:
            yield logs
        end = await node.block(first - 1) if first > oldest else None
