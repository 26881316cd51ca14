"""What is told when an answer of an endpoint was wrong: one stable phrase for each kind of wrong answer.

    contradicted answer (logs): https://node.example: it left out 1 event of block 1200

Every line goes to the logger `tallystick.alarm`, names the endpoint by scheme and host alone, and what it said. Nothing
that was said is believed then, or it was found to be right by another answer; so a line is about an endpoint, not about
money that is missing.
"""

import logging
from enum import StrEnum

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
