"""Keeps the ledger's mirror of the escrow: looks at the chain every few seconds, and writes what it sees.

Events tell **which** accounts changed (module `scanning`); their state is then read at two pinned blocks, the newest
final one and the head (`reading`), and the ledger takes over increases from the first and decreases from the second
(docs/design.md §6). So a missed, doubled or reorganised event corrects itself: an account is read again until both
blocks say the same, everything that changed lately is read again after a reorganisation, and every account with a
channel is read again within a part of its withdraw delay (`reading`). At the start every account is read (threat 38).

What raises credit counts when two separate answers agree on it, when the account's events explain it to the unit
(`explained`), and when the escrow has the tokens. So one wrong answer costs nothing, and is told (`contradictions`).

A look either takes in everything up to the head, or nothing is said about having reached it: `stale` then tells the
ledger not to rely on the mirror (I9).
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from tallystick.channels import ChannelConfig
from tallystick.hexadecimal import checksum, to_hex
from tallystick_aggregator.chain.escrow_events import EscrowEvent
from tallystick_aggregator.chain.escrow_port import EscrowBinding
from tallystick_aggregator.chain.node import Log, Node
from tallystick_aggregator.chain.port import Block, ChainUnavailableError
from tallystick_aggregator.chain.settings import ChainSettings
from tallystick_aggregator.chain.watching.credit import Credit, Shortfalls
from tallystick_aggregator.chain.watching.history import History
from tallystick_aggregator.chain.watching.mirror import AccountSnapshot, Applied, apply_snapshots, is_news
from tallystick_aggregator.chain.watching.reading import AccountReader, Question, Read, Rereads
from tallystick_aggregator.chain.watching.scanning import Scanner
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger

SMALL_ACCOUNTS_MAX: Final = 10_000
"""Accounts below the minimum deposit that are remembered until they grow (threat 18)."""

_log = logging.getLogger(__name__)
_alarm = logging.getLogger("tallystick.alarm")


class Watcher:
    """Looks at one escrow for one ledger. `look` is one look; somebody else brings it about."""

    def __init__(
        self,
        settings: ChainSettings,
        node: Node,
        escrow: EscrowBinding,
        writer: Writer,
        *,
        on_withdrawal: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_withdrawal` is called when an account begins to withdraw, right after the ledger knows."""
        self._settings = settings
        self._node = node
        self._escrow = escrow
        self._writer = writer
        self._on_withdrawal = on_withdrawal
        self._clock = clock
        self._min_deposits = {token.address: token.min_deposit for token in settings.tokens}
        self._history = History(settings, node, lambda: writer.ledger)
        self._scanner = Scanner(node, escrow)
        self._reader = AccountReader(escrow)
        self._credit = Credit(settings, node, escrow)
        self._rereads = Rereads()
        self._shortfalls = Shortfalls()
        self._final: Block | None = None
        self._fresh_at = 0.0
        self._unsettled: set[bytes] = set()
        self._missed: list[Log] = []
        self._due: set[bytes] = set()
        self._small: OrderedDict[bytes, ChannelConfig] = OrderedDict()
        self._tracked: dict[bytes, ChannelConfig] = {}
        self._progress = asyncio.Condition()
        self._one = asyncio.Lock()

    # What others ask.

    @property
    def taken_in(self) -> Block | None:
        """The head as of the last complete look; None before the first."""
        return self._history.taken_in

    def stale(self) -> bool:
        """Whether the mirror may not be relied on (I9)."""
        return bool(self.staleness())

    def staleness(self) -> str:
        """Why the mirror may not be relied on; empty if it may."""
        if self.taken_in is None:
            return "the accounts have not been read yet"
        now = self._clock()
        if now - self._fresh_at > self._settings.stale_after_s:
            return f"the chain was last seen {now - self._fresh_at:.0f} s ago"
        age_s, allowed_s = now - self.taken_in.timestamp, self._settings.head_age_s_allowed
        if allowed_s and age_s > allowed_s:
            return f"the newest block is {age_s:.0f} s old"
        return ""

    def problems(self) -> Sequence[str]:
        """What is wrong with accounts, as sentences."""
        return [problem for problem in (self._shortfalls.problem(), self._credit.problem()) if problem]

    def is_held_back(self, account_id: bytes) -> bool:
        """Whether what was read of this account does not count yet."""
        return account_id in self._credit.waiting

    def track(self, account: ChannelConfig) -> None:
        """Read this account at the next look."""
        self._tracked[self._escrow.account_id(account)] = self._escrow.account_config(account)

    async def mirrored(self, block_number: int, timeout_s: float) -> None:

        def reached() -> bool:
            return self.taken_in is not None and self.taken_in.number >= block_number

        async with asyncio.timeout(timeout_s), self._progress:
            await self._progress.wait_for(reached)

    # One look.

    async def look(self) -> None:
        """Take in everything up to the head. Raises ChainUnavailableError or StoreUnavailableError; then look again."""
        async with self._one:
            await self._look()

    async def _look(self) -> None:
        started = self._clock()
        head = await self._node.head()
        ledger = self._writer.ledger
        self._due |= self._rereads.due(ledger, started)
        read: set[bytes] = set()
        if head != self.taken_in or self._tracked or self._due or self._credit.waiting:
            tracked, self._tracked = self._tracked, {}
            try:
                read = await self._take_in(head, tracked)
            except BaseException:
                self._tracked = tracked | self._tracked
                raise
        self._shortfalls.look(ledger, read)
        self._fresh_at = started
        async with self._progress:
            self._progress.notify_all()

    async def _take_in(self, head: Block, tracked: dict[bytes, ChannelConfig]) -> set[bytes]:
        """Read what is new or due, and write it. Returns the accounts that were read."""
        if self.taken_in is None:
            logs, changed, final = await self._first_events(head)
        else:
            logs, changed, final = await self._new_events(head)
            await self._credit.trace(self._writer.ledger)
        events = [*map(self._escrow.read_event, [*logs, *self._missed])]
        found = self._read_events(events) | {id_: config for id_, config in tracked.items() if self._is_ours(config)}
        urgent = found.keys() | self._touched(events) | set(self._credit.due())
        # An account that two blocks tell differently, or that changed and may be reorganised, is never left alone.
        changed = changed | self._unsettled | urgent
        read = changed | self._due
        await self._mirror(read, urgent, found, final, head)
        self._history.remember(head, changed)
        self._missed.clear()
        self._due -= read
        return read

    # Events.

    async def _first_events(self, head: Block) -> tuple[Sequence[Log], set[bytes], Block]:
        """What may have happened while nobody looked: accounts that were opened, and all that is known is read."""
        first, known = await self._history.first_look(head)
        final = await self._final_block(head)
        search = self._escrow.logs if known else self._escrow.opened
        logs = await self._scanner.at_the_start(partial(search, first, head), head.number - first)
        if known:
            self._scanner.note(final.number + 1, [log for log in logs if log.block_number > final.number])
        else:
            self._scanner.note(final.number + 1, await self._escrow.logs(final.number + 1, head))
        self._credit.begin(self._writer.ledger, logs if known else None, final)
        self._final = final
        return logs, self._history.known_accounts(), final

    async def _new_events(self, head: Block) -> tuple[Sequence[Log], set[bytes], Block]:
        """What happened since the last look; what has become final is asked for again."""
        first, changed, reorganised = await self._history.read_on(head)
        final, before = await self._final_block(head), self._final
        assert before is not None, "the first look comes first"
        logs = await self._scanner.look(first, head)
        if reorganised and await self._node.block(before.number) != before:
            self._scanner.settle(final)
            self._credit.forget(changed | self._touched([*map(self._escrow.read_event, logs)]))
            self._final = final
        elif final.number > before.number:
            settled, missed = await self._scanner.again(before.number + 1, final)
            self._credit.advance(settled)
            self._missed += missed
            self._final = final
        else:
            final = before  # a head that went back a little takes nothing back that was final
        return logs, changed, final

    async def _final_block(self, head: Block) -> Block:
        number = max(0, head.number - self._settings.confirmations)
        final = head if number == head.number else await self._node.block(number)
        if final is None:
            raise ChainUnavailableError(f"block {number} is not there, although {head.number} is")
        return final

    def _is_ours(self, config: ChannelConfig) -> bool:
        """Allow-lists and limits: others' accounts, tokens and delays are none of our business (threat 15)."""
        return (
            config.receiver_authorizer == self._escrow.operator
            and config.token in self._min_deposits
            and self._settings.withdraw_delay_s_min <= config.withdraw_delay_s <= self._settings.withdraw_delay_s_max
        )

    def _read_events(self, events: Sequence[EscrowEvent]) -> dict[bytes, ChannelConfig]:
        """Accounts of ours that were opened; what sellers and operators should know is logged by the way."""
        found: dict[bytes, ChannelConfig] = {}
        for event in events:
            if event.opened is not None:
                if self._is_ours(event.opened):
                    found[event.account_id] = event.opened
            elif event.owed is not None and event.owed.token in self._min_deposits:
                _alarm.error("a transfer to %s failed: the escrow keeps what it is owed", checksum(event.owed.to))
            elif event.skipped and self._writer.ledger.account(event.account_id):
                _log.warning("a claim on account %s was skipped: %s", to_hex(event.account_id), event.skipped)
        return found

    def _touched(self, events: Sequence[EscrowEvent]) -> set[bytes]:
        ids = {event.account_id for event in events}
        known = self._writer.ledger.account
        return {id_ for id_ in ids if known(id_) or id_ in self._small}

    # Accounts.

    async def _mirror(
        self, read: set[bytes], urgent: set[bytes], found: dict[bytes, ChannelConfig], final: Block, head: Block
    ) -> None:
        """Read these accounts and write what they are, the last of them together with the head."""
        ledger = self._writer.ledger
        seen, asked = await self._read(read, urgent, found, final, head)
        weighed = await self._credit.weigh(ledger, {id_: seen[id_] for id_ in seen if id_ in asked}, final)
        kept = self._sift([*weighed.values()])  # of the others the ledger has all
        most = self._settings.limits.accounts_per_decision
        chunks = [kept[at : at + most] for at in range(0, len(kept), most)]
        for number, chunk in enumerate(chunks or [[]], start=1):
            taken = await self._write(chunk, head if number >= len(chunks) else None)
            if taken.withdrawals:
                self._on_withdrawal()
            for overclaim in taken.overclaims:
                _alarm.critical(
                    "channel %s was paid %d, but charged only %d",
                    to_hex(overclaim.channel_id), overclaim.claimed, overclaim.charged,
                )  # fmt: skip
        self._unsettled.difference_update(read)
        self._unsettled.update(id_ for id_, one in seen.items() if ledger.account(id_) and not one.is_settled)
        self._credit.settle(ledger, seen | weighed, asked, final, self._reader.unconfirmed)
        now = self._clock()
        for account in filter(None, map(ledger.account, seen)):
            self._rereads.plan(account, now)

    async def _read(
        self, ids: set[bytes], urgent: set[bytes], found: dict[bytes, ChannelConfig], final: Block, head: Block
    ) -> tuple[dict[bytes, AccountSnapshot], set[bytes]]:
        """These accounts as they are; also those of which somebody else was asked, because they would change."""
        ledger = self._writer.ledger
        left: dict[bytes, int] = {}
        for event in map(self._escrow.read_event, self._scanner.since(final.number)):
            if event.moved < 0:
                left[event.account_id] = left.get(event.account_id, 0) - event.moved
        channels = {id_: [channel.id for channel in ledger.channels_of(id_)] for id_ in sorted(ids)}
        question = Question(channels, final, head)

        def seen(id_: bytes, read: Read) -> AccountSnapshot:
            config = found.get(id_) or self._small.get(id_)
            return AccountSnapshot(id_, config, *read.final, *read.head, left.get(id_, 0), read.confirmed)

        first = await self._reader.read(question)
        told = {id_: seen(id_, first.read[id_]) for id_ in channels}
        asked = {id_ for id_, one in told.items() if id_ in urgent or is_news(ledger, one)}
        if asked:
            doubtful = question.about(id_ for id_ in channels if id_ in asked)
            confirmed = await self._reader.confirm(doubtful, first)
            told |= {id_: seen(id_, read) for id_, read in confirmed.items()}
        return told, asked

    def _sift(self, seen: Sequence[AccountSnapshot]) -> list[AccountSnapshot]:
        """Leave out accounts that are unknown to the ledger and too small to be worth its while."""
        kept: list[AccountSnapshot] = []
        for one in seen:
            if self._writer.ledger.account(one.account_id):
                kept.append(one)
            elif one.config is not None:
                self._small.pop(one.account_id, None)
                if one.head.balance >= max(1, self._min_deposits[one.config.token]):
                    kept.append(one)
                else:
                    self._small[one.account_id] = one.config
        while len(self._small) > SMALL_ACCOUNTS_MAX:
            self._small.popitem(last=False)
        return kept

    async def _write(self, seen: Sequence[AccountSnapshot], reached: Block | None) -> Applied:
        escrow = self._settings.escrow_ref

        def decision(draft: Draft, ledger: Ledger, _: DecisionContext) -> Applied:
            return apply_snapshots(draft, ledger, escrow, seen, reached)

        return await self._writer.run(decision)
