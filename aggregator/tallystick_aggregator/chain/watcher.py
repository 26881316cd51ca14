"""Keeps the ledger's mirror of the escrow: looks at the chain every few seconds, and writes what it sees.

Events only tell **which** accounts changed; their state is then read at two pinned blocks, the newest final one and the
head, and the ledger takes over increases from the first and decreases from the second (docs/design.md §6). So a missed,
doubled or reorganised event corrects itself: an account is read again until both blocks say the same, and everything
that changed lately is read again after a reorganisation. At the start every account is read (threat 38).

A look either takes in everything up to the head, or nothing is said about having reached it: `stale` then tells the
ledger not to rely on the mirror (I9).
"""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tallystick.channels import ChannelConfig
from tallystick.errors import MalformedError
from tallystick.hexadecimal import checksum, to_hex
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain.deferred_escrow import DeferredEscrow
from tallystick_aggregator.chain.mirror import Seen, TakenIn, take_in
from tallystick_aggregator.chain.node import Log, Node
from tallystick_aggregator.chain.port import Block, ChainUnavailable, EscrowAccount
from tallystick_aggregator.chain.settings import ChainSettings
from tallystick_aggregator.intake.port import Writer
from tallystick_aggregator.ledger.commands import Moment
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger

ACCOUNTS_PER_DECISION: Final = 500
"""Accounts taken in together at most: bounds how long the ledger's writer is held."""
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
        escrow: DeferredEscrow,
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
        self._taken_in: Block | None = None
        self._fresh_at = 0.0
        self._heads: OrderedDict[int, bytes] = OrderedDict()
        self._unsettled: set[bytes] = set()
        self._recent: dict[bytes, int] = {}
        self._left: list[Log] = []
        self._small: OrderedDict[bytes, ChannelConfig] = OrderedDict()
        self._introduced: dict[bytes, ChannelConfig] = {}
        self._progress = asyncio.Condition()

    # What others ask.

    @property
    def taken_in(self) -> Block | None:
        """The head as of the last complete look; None before the first."""
        return self._taken_in

    def stale(self) -> bool:
        """Whether the mirror may not be relied on (I9)."""
        return bool(self.staleness())

    def staleness(self) -> str:
        """Why the mirror may not be relied on; empty if it may."""
        if self._taken_in is None:
            return "the accounts have not been read yet"
        now = self._clock()
        if now - self._fresh_at > self._settings.stale_after_s:
            return f"the chain was last seen {now - self._fresh_at:.0f} s ago"
        age_s, allowed_s = now - self._taken_in.timestamp, self._settings.head_age_s_allowed
        if allowed_s and age_s > allowed_s:
            return f"the newest block is {age_s:.0f} s old"
        return ""

    def introduce(self, account: ChannelConfig) -> None:
        """Read this account at the next look."""
        self._introduced[self._escrow.account_id(account)] = account.account()

    async def mirrored(self, block_number: int, timeout_s: float) -> None:
        """See `port.Chain.mirrored`."""

        def reached() -> bool:
            return self._taken_in is not None and self._taken_in.number >= block_number

        async with asyncio.timeout(timeout_s), self._progress:
            await self._progress.wait_for(reached)

    # One look.

    async def look(self) -> None:
        """Take in everything up to the head. Raises ChainUnavailable or StoreUnavailable; then look again."""
        started = self._clock()
        head = await self._node.head()
        if head != self._taken_in or self._introduced:
            introduced, self._introduced = self._introduced, {}
            try:
                await self._take_in(head, introduced)
            except BaseException:
                self._introduced = introduced | self._introduced
                raise
        self._fresh_at = started
        async with self._progress:
            self._progress.notify_all()

    async def _take_in(self, head: Block, introduced: dict[bytes, ChannelConfig]) -> None:
        final = await self._final(head)
        if self._taken_in is None:
            first, changed = await self._first_look(head), set(self._known())
            logs = await self._escrow.opened(first, head)
            self._note_left(await self._escrow.logs(final.number + 1, head), final.number + 1, final)
        else:
            first, changed = await self._since(self._taken_in, head)
            logs = await self._escrow.logs(first, head)
            self._note_left(logs, first, final)
        found = self._read_logs(logs) | {id_: config for id_, config in introduced.items() if self._is_ours(config)}
        # An account that two blocks tell differently, or that changed and may be reorganised, is never left alone.
        changed |= self._unsettled | found.keys() | self._touched(logs)
        await self._mirror(changed, found, final, head)
        for account_id in changed:
            self._recent[account_id] = head.number
        self._remember(head)

    async def _final(self, head: Block) -> Block:
        number = max(0, head.number - self._settings.confirmations)
        final = head if number == head.number else await self._node.block(number)
        if final is None:
            raise ChainUnavailable(f"block {number} is not there, although {head.number} is")
        return final

    async def _first_look(self, head: Block) -> int:
        """From which block on accounts may have been opened that the ledger does not know."""
        known = self._writer.ledger.heads.get(self._settings.network)
        if known is None or known.number > head.number:
            return self._settings.escrow_block
        block = await self._node.block(known.number)
        if block is None or block.block_hash != known.block_hash:
            _log.warning("block %d was reorganised while nobody looked: all events are read again", known.number)
            return self._settings.escrow_block
        return max(self._settings.escrow_block, known.number - self._settings.reorg_depth)

    async def _since(self, last: Block, head: Block) -> tuple[int, set[bytes]]:
        """The first block to read events of, and accounts to read whatever the events say."""
        if head.number < last.number and self._heads.get(head.number) == head.block_hash:
            raise ChainUnavailable(f"the endpoints lag: they are at block {head.number}, were at {last.number}")
        if head.number >= last.number:
            block = head if head.number == last.number else await self._node.block(last.number)
            if block is not None and block.block_hash == last.block_hash:
                return last.number + 1, set()
        _log.warning("block %d was reorganised: what changed lately is read again", last.number)
        first = max(self._settings.escrow_block, min(last.number, head.number) - self._settings.reorg_depth)
        if await self._is_deep_reorg(first):
            _alarm.critical("%s: a reorganisation deeper than %d blocks", self._settings.network, last.number - first)
            return self._settings.escrow_block, set(self._known())
        return first, set(self._recent)

    async def _is_deep_reorg(self, before: int) -> bool:
        """Whether even the newest head that was seen before this block is gone."""
        old = max((number for number in self._heads if number <= before), default=None)
        if old is None:
            return False
        block = await self._node.block(old)
        return block is None or block.block_hash != self._heads[old]

    def _remember(self, head: Block) -> None:
        self._taken_in = head
        for number in [number for number in self._heads if number >= head.number]:
            del self._heads[number]
        self._heads[head.number] = head.block_hash
        oldest = head.number - self._settings.reorg_depth
        while len(self._heads) > 1 and list(self._heads)[1] <= oldest:
            self._heads.popitem(last=False)  # one at or before the oldest stays
        for account_id in [id_ for id_, number in self._recent.items() if number < oldest]:
            del self._recent[account_id]

    # Accounts.

    def _known(self) -> Iterable[bytes]:
        accounts = self._writer.ledger.accounts.values()
        return (account.id for account in accounts if account.network == self._settings.network)

    def _is_ours(self, config: ChannelConfig) -> bool:
        """Allow-lists and limits: others' accounts, tokens and delays are none of our business (threat 15)."""
        return (
            config.receiver_authorizer == self._escrow.operator
            and config.token in self._min_deposits
            and self._settings.withdraw_delay_s_min <= config.withdraw_delay_s <= self._settings.withdraw_delay_s_max
        )

    def _read_logs(self, logs: Sequence[Log]) -> dict[bytes, ChannelConfig]:
        """Accounts of ours that were opened; what sellers and operators should know is logged by the way."""
        found: dict[bytes, ChannelConfig] = {}
        for log in logs:
            if log.topics[0] == calls.ACCOUNT_OPENED_TOPIC:
                try:
                    opened = calls.read_opened(log)
                except MalformedError:
                    continue  # nobody can have charged an account that cannot be named
                if self._is_ours(opened.config):
                    found[opened.account_id] = opened.config
            elif log.topics[0] == calls.OWED_TOPIC and log.topics[2][12:] in self._min_deposits:
                _alarm.error("a transfer to %s failed: the escrow keeps what it is owed", checksum(log.topics[1][12:]))
            elif log.topics[0] == calls.ROW_SKIPPED_TOPIC and log.topics[1] in self._writer.ledger.accounts:
                reason = calls.read_skip_reason(log)
                _log.warning("a claim on account %s was skipped: %s", to_hex(log.topics[1]), reason)
        return found

    def _note_left(self, logs: Sequence[Log], first: int, final: Block) -> None:
        """Keep what went back to payers since the final block. From `first` on, these events are all there are."""
        self._left = [
            log
            for log in (*(log for log in self._left if log.block_number < first), *logs)
            if log.topics[0] in calls.LEFT_TOPICS and log.block_number > final.number
        ]

    def _touched(self, logs: Sequence[Log]) -> set[bytes]:
        ids = {log.topics[1] for log in logs if len(log.topics) > 1}
        known = self._writer.ledger.accounts
        return {id_ for id_ in ids if id_ in known or id_ in self._small}

    async def _mirror(self, changed: set[bytes], found: dict[bytes, ChannelConfig], final: Block, head: Block) -> None:
        """Read these accounts and write what they are, the last of them together with the head."""
        ordered = sorted(changed)
        chunks = [ordered[at : at + ACCOUNTS_PER_DECISION] for at in range(0, len(ordered), ACCOUNTS_PER_DECISION)]
        for number, chunk in enumerate(chunks or [[]], start=1):
            seen = self._sift(await self._read(chunk, found, final, head))
            taken = await self._write(seen, head if number >= len(chunks) else None)
            if taken.withdrawals:
                self._on_withdrawal()
            for overclaim in taken.overclaims:
                _alarm.critical(
                    "channel %s was paid %d, but charged only %d",
                    to_hex(overclaim.channel_id), overclaim.claimed, overclaim.charged,
                )  # fmt: skip
            self._unsettled.difference_update(chunk)
            self._unsettled.update(one.account_id for one in seen if not one.is_settled)

    async def _read(
        self, ids: Sequence[bytes], found: dict[bytes, ChannelConfig], final: Block, head: Block
    ) -> list[Seen]:
        ledger = self._writer.ledger
        left: Counter[bytes] = Counter()
        for log in self._left:
            left[log.topics[1]] += calls.read_left(log)
        channels = {id_: [channel.id for channel in ledger.channels_of_account(id_)] for id_ in ids}
        flat = [channel_id for id_ in ids for channel_id in channels[id_]]
        at_head, head_claimed = await self._read_at(ids, flat, head)
        at_final, final_claimed = (at_head, head_claimed) if final == head else await self._read_at(ids, flat, final)
        return [
            Seen(
                id_,
                found.get(id_) or self._small.get(id_),
                at_final[number],
                {channel_id: final_claimed[channel_id] for channel_id in channels[id_]},
                at_head[number],
                {channel_id: head_claimed[channel_id] for channel_id in channels[id_]},
                left[id_],
            )
            for number, id_ in enumerate(ids)
        ]

    async def _read_at(
        self, ids: Sequence[bytes], channel_ids: Sequence[bytes], block: Block
    ) -> tuple[Sequence[EscrowAccount], dict[bytes, int]]:
        accounts = await self._escrow.accounts(ids, block)
        claimed = await self._escrow.claimed(channel_ids, block)
        return accounts, dict(zip(channel_ids, claimed, strict=True))

    def _sift(self, seen: Sequence[Seen]) -> list[Seen]:
        """Leave out accounts that are unknown to the ledger and too small to be worth its while."""
        kept: list[Seen] = []
        for one in seen:
            if one.account_id in self._writer.ledger.accounts:
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

    async def _write(self, seen: Sequence[Seen], reached: Block | None) -> TakenIn:
        network = self._settings.network

        def decision(draft: Draft, ledger: Ledger, _: Moment) -> TakenIn:
            return take_in(draft, ledger, network, seen, reached)

        return await self._writer.run(decision)
