"""What became on chain of a deposit or a refund that anybody may land: read from events, never concluded from a nonce.

A token's nonce is used by a deposit, by a transfer elsewhere or by a cancellation alike, and the escrow's deposit call
does nothing where it was used before. A refund pays what it names or what is left. So the answer is in the events: of
our own transaction's receipt (`credited`, `refunded`), or of the transaction that somebody else sent (`find_deposit`,
`find_refund`), which is looked for from the newest final block backwards.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain.node import Log, Node
from tallystick_aggregator.chain.port import Block, ChainUnavailableError, Landing
from tallystick_aggregator.chain.token import AUTHORIZATION_USED_TOPIC
from tallystick_contracts.events import AccountOpened, Deposited, Event, Refunded


class Reach(NamedTuple):
    """How far back something is looked for, and how many blocks' events are asked for together."""

    blocks_max: int = 50_000
    """A week of Ethereum's blocks, a day of those that come every two seconds."""
    step_blocks: int = 2_000


_REACH: Final = Reach()
Emitted = Iterable[tuple[bytes, Log]]
"""Events with the contracts that they came from, as in a receipt."""


def credited(logs: Emitted, escrow: bytes) -> int:
    """Return what a deposit's own transaction credited; 0 if it did nothing."""
    return sum(event.amount for event in _events(logs, escrow) if isinstance(event, AccountOpened | Deposited))


def refunded(logs: Emitted, escrow: bytes) -> int:
    """Return what a refund's own transaction gave back: what it named, or what was left."""
    return sum(event.amount for event in _events(logs, escrow) if isinstance(event, Refunded))


async def find_deposit(
    node: Node,
    escrow: bytes,
    token: bytes,
    payer: bytes,
    nonce: bytes,
    account_id: bytes,
    amount: int,
    last: Block,
    reach: Reach = _REACH,
) -> Landing | None:
    """Find the transaction that used a deposit's token nonce, and whether it made the deposit.

    The nonce is bound to the account, so the escrow's event for the account and this amount can be of no other one.
    `amount` of the answer is the deposit's, or 0 where the authorization was cancelled or used for something else. None
    if no block within reach has it.
    """
    topics = (None, payer.rjust(32, b"\0"), nonce)  # AuthorizationUsed and AuthorizationCanceled alike
    async for logs in _backwards(node, token, last, topics, reach):
        log = logs[-1]
        receipt = await node.receipt(log.transaction_hash)
        if receipt is None:
            raise ChainUnavailableError(f"the receipt of transaction 0x{log.transaction_hash.hex()} is not there")
        done = log.topics[0] == AUTHORIZATION_USED_TOPIC and any(
            isinstance(event, AccountOpened | Deposited) and (event.account_id, event.amount) == (account_id, amount)
            for event in _events(receipt.logs, escrow)
        )
        return Landing(log.transaction_hash, log.block_number, amount if done else 0)
    return None


async def find_refund(
    node: Node, escrow: bytes, account_id: bytes, nonce: int, last: Block, reach: Reach = _REACH
) -> Landing | None:
    """Find the transaction that landed the account's refund with this nonce, and what it paid; None as above."""
    async for logs in _backwards(node, escrow, last, (calls.REFUNDED_TOPIC, account_id), reach):
        for log in logs:
            event = calls.read_event(log)
            if isinstance(event, Refunded) and (event.account_id, event.nonce) == (account_id, nonce):
                return Landing(log.transaction_hash, log.block_number, event.amount)
    return None


def _events(logs: Emitted, escrow: bytes) -> Iterator[Event]:
    """Yield the escrow's events. Raises ChainUnavailableError for one that it cannot have emitted."""
    return (calls.read_event(log) for source, log in logs if source == escrow)


async def _backwards(
    node: Node, address: bytes, last: Block, topics: Sequence[bytes | None], reach: Reach
) -> AsyncIterator[Sequence[Log]]:
    """Yield a contract's events, the newest blocks' first."""
    end: Block | None = last
    oldest = max(0, last.number - reach.blocks_max)
    while end is not None:
        first = max(oldest, end.number - reach.step_blocks + 1)
        logs = await node.logs(address, first, end, topics)
        if logs:
            yield logs
        end = await node.block(first - 1) if first > oldest else None
