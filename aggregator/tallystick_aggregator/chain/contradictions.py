"""Answers that contradict each other: one stable phrase for each kind, and reads that two answers must agree on.

    contradicted answer (logs): https://node.example: it left out 1 event of block 1200

Every line goes to the logger `tallystick.alarm`, names the endpoint by scheme and host alone, and what it said. Nothing
that was said is believed then, or it was found to be right by another answer; so a line is about an endpoint, not about
money that is missing.

Read twice are single values that are written down for good: a channel's baseline (I10), an account's refund nonce.
"""

import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.escrow_port import EscrowBinding
from tallystick_aggregator.chain.port import Block, ChainUnavailableError, EscrowAccount, Heard

_alarm = logging.getLogger("tallystick.alarm")


class Answer(StrEnum):
    """What an answer was about."""

    HEAD = "head"
    BLOCK = "block"
    LOGS = "logs"
    STATE = "state"
    DEPOSITS = "deposits"
    """An account holds more than the escrow's events explain, or the accounts more than the escrow."""
    RECEIPT = "receipt"
    NONCE = "nonce"
    GAS = "gas"


def contradicted(about: Answer, who: str, said: str) -> None:
    """Raise the alarm: `who` (an endpoint, or several) gave an answer that another answer contradicts."""
    _alarm.critical("contradicted answer (%s): %s: %s", about, who, said)


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
