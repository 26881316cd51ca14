"""What may raise credit (docs/design.md §6, R8): an increase that two answers tell alike, that the account's events
explain to the unit, and that the escrow has the tokens for. What is held back is looked at again until it is settled.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from tallystick.hexadecimal import checksum, to_hex
from tallystick_aggregator.chain.contradictions import Answer, contradicted
from tallystick_aggregator.chain.escrow_port import EscrowBinding
from tallystick_aggregator.chain.node import Log, Node
from tallystick_aggregator.chain.port import Block, ChainUnavailableError, Heard
from tallystick_aggregator.chain.settings import ChainSettings
from tallystick_aggregator.chain.token import balance_of
from tallystick_aggregator.chain.watching.explained import Anchor, Explained
from tallystick_aggregator.chain.watching.mirror import AccountSnapshot, funds_of, held_in_all, is_news, raises_credit
from tallystick_aggregator.chain.watching.tracing import Trace
from tallystick_aggregator.ledger.invariants import short_accounts
from tallystick_aggregator.ledger.state import Ledger

_log = logging.getLogger(__name__)
_alarm = logging.getLogger("tallystick.alarm")

_UNCONFIRMED: Final = "unconfirmed deposit"


class Credit:
    """Weighs what was read of accounts before the ledger hears of it. `waiting`: accounts of which something is held
    back, those that were read longest ago first.
    """

    def __init__(self, settings: ChainSettings, node: Node, escrow: EscrowBinding) -> None:
        self._settings = settings
        self._node = node
        self._escrow = escrow
        self._explained = Explained(settings.operator)
        self._traces: dict[bytes, Trace] = {}
        self._trace_again: dict[bytes, int] = {}
        """From which final block on a search that found nothing is tried again."""
        self._told: dict[bytes, str] = {}
        self.waiting: dict[bytes, None] = {}

    # What is known of accounts.

    def begin(self, ledger: Ledger, logs: Sequence[Log] | None, final: Block) -> None:
        """Take up what the ledger counts, as of the block that was final when it last looked.

        `logs` has all events from then on. Without them nothing is known, and the chain's word is the baseline (I10).
        """
        self._explained = Explained(self._settings.operator)
        known = ledger.head(self._settings.escrow_ref)
        was_final = max(0, known.number - self._settings.confirmations) if known is not None else 0
        if known is None or logs is None or final.number < was_final:
            return
        # `funds` had left out by then what went back to the payer between that final block and the head.
        events = [event for event in map(self._escrow.read_event, logs) if event.block_number > was_final]
        left: Counter[bytes] = Counter()
        for event in events:
            if event.block_number <= known.number and event.moved < 0:
                left[event.account_id] -= event.moved
        for account in ledger.accounts_of(self._settings.escrow_ref):
            self._explained.settle(account.id, account.funds + left[account.id], account.channels, was_final)
        self._explained.advance(event for event in events if event.block_number <= final.number)

    def advance(self, logs: Iterable[Log]) -> None:
        """Count events of blocks that became final, each once."""
        self._explained.advance(map(self._escrow.read_event, logs))

    def forget(self, account_ids: Iterable[bytes]) -> None:
        """What was final of these accounts was reorganised: what the chain says next is their baseline."""
        self._explained.forget(account_ids)

    # What was read of them.

    async def weigh(
        self, ledger: Ledger, seen: Mapping[bytes, AccountSnapshot], final: Block
    ) -> dict[bytes, AccountSnapshot]:
        """The same with what their events explain. Raises ChainUnavailableError."""
        weighed = {
            id_: one._replace(explained=self._explained.funds(id_, [*ledger.channels_of(id_)]))
            for id_, one in seen.items()
        }
        raised = [id_ for id_, one in weighed.items() if one.confirmed and raises_credit(ledger, one)]
        tokens = {id_: _token_of(ledger, weighed[id_]) for id_ in raised}
        for token in {token for token in tokens.values() if token}:
            if not await self._escrow_has(ledger, token, weighed, final):
                for id_ in raised:
                    if tokens[id_] == token:
                        weighed[id_] = weighed[id_]._replace(confirmed=False)
        return weighed

    async def _escrow_has(
        self, ledger: Ledger, token: bytes, seen: Mapping[bytes, AccountSnapshot], final: Block
    ) -> bool:
        """Whether the escrow holds as much of a token as all accounts together (I7)."""
        needed = held_in_all(ledger, self._settings.escrow_ref, token, seen)
        heard = Heard()
        held = await balance_of(self._node, token, self._escrow.address, final, heard)
        if needed <= held:
            return True
        said = f"the accounts hold {needed} of {checksum(token)}, the escrow {held}, at block {final.number}"
        contradicted(Answer.DEPOSITS, str(heard), said)
        return False

    def settle(
        self, ledger: Ledger, seen: Mapping[bytes, AccountSnapshot], asked: set[bytes], final: Block, why: str
    ) -> None:
        """After the ledger has them: keep what is certain, and what has to be looked at again.

        `asked` are those of which somebody else was asked; `why` says what was in the way of that.
        """
        for id_, one in seen.items():
            if id_ in asked:
                self._settle(ledger, one, final, why)
            elif self._explained.anchor(id_) is None:  # as the ledger has it already
                channels = ledger.channel_count(id_)
                self._explained.settle(id_, funds_of(ledger, one)[0], channels, final.number)

    def _settle(self, ledger: Ledger, one: AccountSnapshot, final: Block, why: str) -> None:
        id_ = one.account_id
        if ledger.account(id_) is None:
            if one.confirmed or one.config is None:
                self.waiting.pop(id_, None)
            else:  # whether it is too small to be kept is not certain: one wrong answer hides no new account
                self._wait(id_)
            return
        funds, _ = funds_of(ledger, one)
        if one.confirmed and (one.explained is None or funds <= one.explained):
            self._explained.settle(id_, funds, ledger.channel_count(id_), final.number)
        if not is_news(ledger, one):
            self.waiting.pop(id_, None)
            self._told.pop(id_, None)
            self._traces.pop(id_, None)
            self._trace_again.pop(id_, None)
            return
        self._wait(id_)
        if not one.confirmed:
            if raises_credit(ledger, one) and self._told.get(id_) != _UNCONFIRMED:
                self._told[id_] = _UNCONFIRMED
                _alarm.critical(
                    "%s: account %s is not credited: %s", _UNCONFIRMED, to_hex(id_), why or "answers differ"
                )
            return
        anchor = self._explained.anchor(id_)
        if anchor is None or one.explained is None or funds <= one.explained:
            return
        if id_ not in self._traces and final.number >= self._trace_again.get(id_, 0):
            self._traces[id_] = Trace(id_, anchor, final, self._settings.escrow_block)
        said = f"account {to_hex(id_)} has {funds}, and its events explain {one.explained}"
        if self._told.get(id_) != said:
            self._told[id_] = said
            contradicted(Answer.DEPOSITS, "the node", said)

    def _wait(self, account_id: bytes) -> None:
        self.waiting.pop(account_id, None)
        self.waiting[account_id] = None

    def due(self) -> list[bytes]:
        """Return those that wait and are to be read at this look. While an endpoint is down they are many: whatever
        claims pay waits too.
        """
        return list(islice(self.waiting, self._settings.limits.waiting_per_look))

    async def trace(self, ledger: Ledger) -> None:
        """Go on looking for the deposits of one account that has more than its events explain.

        Old events may be slow to come by, or gone. That account waits then, and the look goes on for all others.
        """
        if not self._traces:
            return
        id_, trace = next(iter(self._traces.items()))
        try:
            async with asyncio.timeout(self._settings.limits.trace_s_max):
                await trace.go_on(self._node, self._escrow, self._settings.logs_range_blocks_max)
        except (ChainUnavailableError, TimeoutError) as error:
            self._traces[id_] = self._traces.pop(id_)  # the next look goes on with another account
            _log.info("the events of account %s cannot be had now: %s", to_hex(id_), error or "they take too long")
            return
        if not trace.ended:
            return
        del self._traces[id_]
        then = trace.anchor
        if trace.moved is not None:
            contradicted(Answer.LOGS, "the node", f"left out or made up events of account {to_hex(id_)}")
            self._explained.correct(id_, then, then._replace(moved=trace.moved))
        elif trace.funds is not None:
            channels = ledger.channel_count(id_)
            self._explained.correct(id_, then, Anchor(trace.funds, channels, trace.final.number))
        else:
            self._trace_again[id_] = trace.final.number + self._settings.reorg_depth
            _log.warning("no events explain what account %s has", to_hex(id_))

    def problem(self) -> str:
        """In one sentence, which deposits are not credited; empty if all are."""
        if not self.waiting:
            return ""
        return f"{len(self.waiting)} accounts wait for a second answer, such as {to_hex(next(iter(self.waiting)))}"


def _token_of(ledger: Ledger, one: AccountSnapshot) -> bytes:
    account = ledger.account(one.account_id)
    config = account.config if account is not None else one.config
    return b"" if config is None else config.token


_alarm = logging.getLogger("tallystick.alarm")


class Shortfalls:
    """Tells of accounts on which more is committed than the chain has of them (I11), until that is over."""

    def __init__(self) -> None:
        self._short: dict[bytes, tuple[int, int]] = {}

    def look(self, ledger: Ledger, changed: Iterable[bytes]) -> None:
        """Look at the accounts that were read, and at those that were short before."""
        now = short_accounts(ledger, {*changed, *self._short})
        for account_id, (committed, funds) in now.items():
            if self._short.get(account_id) != (committed, funds):
                _alarm.critical(
                    "account short: %s: %d is committed, the chain has %d: no charge and no capture until that is over",
                    to_hex(account_id), committed, funds,
                )  # fmt: skip
        for account_id in self._short.keys() - now.keys():
            _alarm.warning("account no longer short: %s", to_hex(account_id))
        self._short = now

    def problem(self) -> str:
        """In one sentence, which accounts are short; empty if none is."""
        if not self._short:
            return ""
        account_id, (committed, funds) = next(iter(self._short.items()))
        more = f", and {len(self._short) - 1} more" if len(self._short) > 1 else ""
        return f"account short: {to_hex(account_id)}: {committed} committed, {funds} on chain{more}"
