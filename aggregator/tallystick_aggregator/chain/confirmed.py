"""Single values that are written down for good, read twice: a channel's baseline (I10), an account's refund nonce."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.contradictions import Answer, contradicted
from tallystick_aggregator.chain.port import Block, ChainUnavailableError, EscrowAccount, EscrowBinding, Heard

T = TypeVar("T")


async def read_claimed(escrow: EscrowBinding, channel_id: bytes, block: Block) -> int:
    """What a channel was paid. Raises ChainUnavailableError, also where no two answers agree."""

    async def ask(heard: Heard) -> int:
        return (await escrow.claimed([channel_id], block, heard))[0]

    return await _twice(ask, f"what channel {to_hex(channel_id)} was paid")


async def read_account(escrow: EscrowBinding, account_id: bytes, block: Block) -> EscrowAccount:
    """An account. Raises ChainUnavailableError, also where no two answers agree."""

    async def ask(heard: Heard) -> EscrowAccount:
        return (await escrow.accounts([account_id], block, heard))[0]

    return await _twice(ask, f"account {to_hex(account_id)}")


async def _twice(ask: Callable[[Heard], Awaitable[T]], what: str) -> T:
    heard = Heard()
    first = await ask(heard)
    others = heard.again()
    try:
        second = await ask(others)
    except ChainUnavailableError:  # nobody else answers now: the same one again, in a call of its own
        others = Heard()
        second = await ask(others)
    if first == second:
        return first
    third = await ask(Heard())
    for answer, who in ((first, heard), (second, others)):
        if answer != third:
            contradicted(Answer.STATE, str(who), f"{what}: {answer}, but {third} when asked again")
    if third not in (first, second):
        raise ChainUnavailableError(f"no two answers agree on {what}")
    return third
