"""Accounts as the escrow holds them, read twice where the answer would change the ledger (threat 16).

Most accounts that are read hold what the ledger says, and one answer is enough: it changes nothing. Of the others, and
of those that an event is about, somebody else is asked: another endpoint where there are two, in a call of its own
where there is one. Two answers that differ are both asked for again; what then agrees is believed, and who said
otherwise is named. Until two agree the worse of them counts, and nothing that raises credit.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from typing import Final, NamedTuple

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.contradictions import Answer, contradicted
from tallystick_aggregator.chain.escrow_port import EscrowBinding
from tallystick_aggregator.chain.port import Block, ChainUnavailableError, EscrowAccount, Heard
from tallystick_aggregator.chain.watching.mirror import cautious
from tallystick_aggregator.ledger.state import Account, Ledger

_NOTHING_PAID: Final[Mapping[bytes, int]] = {}


class Held(NamedTuple):
    """An account at one block, and what its channels were paid by then."""

    account: EscrowAccount
    claimed: Mapping[bytes, int]


class Read(NamedTuple):
    """An account at the newest final block and at the head. `confirmed`: two separate answers tell it alike."""

    final: Held
    head: Held
    confirmed: bool = False


class Asked:
    """Who told of accounts at the newest final block, and at the head: one that lags has only the former."""

    def __init__(self, final: Heard | None = None, head: Heard | None = None) -> None:
        self.final = final or Heard()
        self.head = head or Heard()

    def again(self) -> "Asked":
        """For the same accounts, from somebody else."""
        return Asked(self.final.again(), self.head.again())

    def __str__(self) -> str:
        """Their names."""
        return ", ".join(dict.fromkeys([str(self.final), *([str(self.head)] if self.head.sources else [])]))


class Question(NamedTuple):
    """What is asked: accounts, each with the ids of its known channels, at the newest final block and at the head."""

    channels: Mapping[bytes, Sequence[bytes]]
    final: Block
    head: Block

    def about(self, account_ids: Iterable[bytes]) -> "Question":
        """The same about some of the accounts only."""
        return self._replace(channels={id_: self.channels[id_] for id_ in account_ids})


class Told(NamedTuple):
    """An answer, and who gave it."""

    read: Mapping[bytes, Read]
    by: Asked


class AccountReader:
    """Reads accounts of one escrow."""

    def __init__(self, escrow: EscrowBinding) -> None:
        self._escrow = escrow
        self.unconfirmed = ""
        """Why the last reading could not be confirmed, in a node's words; empty if it was, or needed not to be."""

    async def read(self, question: Question, asked: Asked | None = None) -> Told:
        """One answer, from `asked` or anybody. Raises ChainUnavailableError."""
        asked = asked or Asked()
        channels, final, head = question
        if final == head:
            at_head = at_final = await self._at(channels, final, asked.final)
        else:
            at_final, at_head = await asyncio.gather(
                self._at(channels, final, asked.final), self._at(channels, head, asked.head)
            )
        return Told({id_: Read(at_final[id_], at_head[id_]) for id_ in channels}, asked)

    async def confirm(self, question: Question, first: Told) -> dict[bytes, Read]:
        """Ask somebody else about these accounts than those who told of them first."""
        self.unconfirmed = ""
        second = await self._by_others(question, first)
        if second is None:
            return await self._by_the_same(question, first)
        differing = [id_ for id_ in question.channels if first.read[id_] != second.read[id_]]
        agreed = question.channels.keys() - set(differing)
        believed = {id_: first.read[id_]._replace(confirmed=True) for id_ in question.channels if id_ in agreed}
        if differing:
            believed |= await self._settle(question.about(differing), first, second)
        return believed

    async def _by_the_same(self, question: Question, first: Told) -> dict[bytes, Read]:
        """Where nobody else answers: of what is told differently a moment later the worse counts, unconfirmed."""
        second = await self.read(question)
        if differing := [id_ for id_ in question.channels if first.read[id_] != second.read[id_]]:
            contradicted(Answer.STATE, str(first.by), _described(differing, first.read, second.read))
        return {id_: _worst([first.read[id_], second.read[id_]]) for id_ in question.channels}

    async def _settle(self, question: Question, one: Told, other: Told) -> dict[bytes, Read]:
        """Ask both again, and tell who said what does not hold."""
        third = await self.read(question)
        fourth = await self._by_others(question, third)
        believed: dict[bytes, Read] = {}
        for id_ in question.channels:
            if fourth is not None and third.read[id_] == fourth.read[id_]:
                believed[id_] = third.read[id_]._replace(confirmed=True)
            else:
                believed[id_] = _worst([told.read[id_] for told in (one, other, third, fourth) if told is not None])
        for told in (one, other):
            wrong = [id_ for id_ in question.channels if told.read[id_][:2] != believed[id_][:2]]
            if wrong:
                contradicted(Answer.STATE, str(told.by), _described(wrong, told.read, believed))
        return believed

    async def _by_others(self, question: Question, first: Told) -> Told | None:
        """The same accounts in somebody else's answer; None if nobody else has one.

        Somebody who does not have the head yet confirms what is final. What was told `first` of the head raises
        nothing.
        """
        others = first.by.again()
        channels, final, head = question
        try:
            at_final = await self._at(channels, final, others.final)
        except ChainUnavailableError as error:
            self.unconfirmed = str(error)
            return None
        at_head = at_final if final == head else None
        if at_head is None:
            with suppress(ChainUnavailableError):
                at_head = await self._at(channels, head, others.head)
        read = {id_: Read(at_final[id_], at_head[id_] if at_head else first.read[id_].head) for id_ in channels}
        return Told(read, others)

    async def _at(self, channels: Mapping[bytes, Sequence[bytes]], block: Block, heard: Heard) -> dict[bytes, Held]:
        ids = [*channels]
        flat = [channel_id for id_ in ids for channel_id in channels[id_]]
        accounts, claimed = await asyncio.gather(
            self._escrow.accounts(ids, block, heard), self._escrow.claimed(flat, block, heard)
        )
        paid = iter(claimed)
        return {
            id_: Held(account, dict(zip(channels[id_], paid, strict=False)) if channels[id_] else _NOTHING_PAID)
            for id_, account in zip(ids, accounts, strict=True)
        }


def _worst(told: Sequence[Read]) -> Read:
    """What is certain whichever of the answers is right."""
    worst = told[0]
    for other in told[1:]:
        worst = Read(_worse(worst.final, other.final), _worse(worst.head, other.head))
    return worst


def _worse(one: Held, other: Held) -> Held:
    claimed = {channel_id: min(paid, other.claimed[channel_id]) for channel_id, paid in one.claimed.items()}
    return Held(cautious(one.account, other.account), claimed)


def _described(wrong: Sequence[bytes], told: Mapping[bytes, Read], believed: Mapping[bytes, Read]) -> str:
    """The first account in full, the others by their number."""
    id_ = wrong[0]
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return f"account {to_hex(id_)}: {_shown(told[id_])}, but {_shown(believed[id_])} when asked again{more}"


def _shown(read: Read) -> str:
    held = read.head.account
    pending = f", {held.withdrawing} withdrawing" if held.withdrawable_at else ""
    claimed = sum(read.final.claimed.values())
    return f"balance {read.final.account.balance}, {held.balance} at the head{pending}, {claimed} claimed"


PARTS_OF_DELAY: Final = 8
"""An account is read again after this part of its withdraw delay, counted from the last time that its turn came."""
REREADS_PER_LOOK: Final = 1_000
"""Accounts at most in a look: what fits into one call at each block."""


class Rereads:
    """When an account is read though no event tells of it: a withdrawal is seen whatever the events said (R7).

    Turns are spread over the interval, so that a look has few of them.
    """

    def __init__(self) -> None:
        self._turns: list[tuple[float, bytes]] = []
        self._planned: set[bytes] = set()

    def plan(self, account: Account, now: float) -> None:
        """Plan the account's first turn; does nothing where it is planned."""
        if account.id not in self._planned:
            self._planned.add(account.id)
            share = int.from_bytes(account.id[:4], "big") / 2**32
            heappush(self._turns, (now + share * _interval_s(account), account.id))

    def due(self, ledger: Ledger, now: float) -> set[bytes]:
        """Return the accounts whose turn it is, and plan their next. Those without a channel need no reading."""
        found: set[bytes] = set()
        while self._turns and self._turns[0][0] <= now and len(found) < REREADS_PER_LOOK:
            _, account_id = heappop(self._turns)
            account = ledger.known_account(account_id)
            if account.channels:
                found.add(account_id)
            heappush(self._turns, (now + _interval_s(account), account_id))
        return found


def _interval_s(account: Account) -> float:
    return account.config.withdraw_delay_s / PARTS_OF_DELAY
