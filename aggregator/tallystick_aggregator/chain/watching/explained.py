"""What the escrow's events say that accounts hold at the newest final block, to compare with what is read there. Pure.

An account's funds (its balance, and what its known channels were paid) change by deposits, withdrawals and refunds, and
each has an event. So from a block at which the funds are known, the events since tell what they are, to the unit. An
account holds no more than that whatever an answer says of it (docs/design.md §6).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tallystick_aggregator.chain.escrow_events import EscrowEvent
from tallystick_aggregator.ledger.state import Channel


class Anchor(NamedTuple):
    """An account's funds at a final block, with the first so many of its channels; `moved` is what came since."""

    funds: int
    channels: int
    block_number: int
    moved: int = 0


class Explained:
    """By account, what its funds are by its events. An account without an anchor is not explained: see `settle`."""

    def __init__(self, operator: bytes) -> None:
        """`operator`: whose accounts they are; those of others are none of our business."""
        self._operator = operator
        self._anchors: dict[bytes, Anchor] = {}

    def funds(self, account_id: bytes, channels: Sequence[Channel]) -> int | None:
        """Return the funds at the newest final block, in atomic units; None where nothing is known of the account.

        A channel that became known since counts with its baseline: what it was paid before is part of the funds now.
        """
        anchor = self._anchors.get(account_id)
        if anchor is None:
            return None
        return anchor.funds + anchor.moved + sum(channel.claimed for channel in channels[anchor.channels :])

    def anchor(self, account_id: bytes) -> Anchor | None:
        """Return where the account was last known."""
        return self._anchors.get(account_id)

    def settle(self, account_id: bytes, funds: int, channels: int, block_number: int) -> None:
        """Take these funds at this final block for granted from here on."""
        self._anchors[account_id] = Anchor(funds, channels, block_number)

    def correct(self, account_id: bytes, then: Anchor, anchor: Anchor) -> None:
        """Put an anchor that was found out later in place of the one there was `then`; what moved since is kept."""
        present = self._anchors.get(account_id)
        if present is not None and present._replace(moved=then.moved) == then:
            self._anchors[account_id] = anchor._replace(moved=anchor.moved + present.moved - then.moved)

    def forget(self, account_ids: Iterable[bytes]) -> None:
        """Take nothing for granted of these: a reorganisation has changed what was final."""
        for account_id in account_ids:
            self._anchors.pop(account_id, None)

    def advance(self, events: Iterable[EscrowEvent]) -> None:
        """Count events of blocks that became final, each once. An account that opens begins with nothing."""
        for event in events:
            account_id = event.account_id
            if event.opened is not None and event.opened.receiver_authorizer == self._operator:
                self._anchors.setdefault(account_id, Anchor(0, 0, max(0, event.block_number - 1)))
            anchor = self._anchors.get(account_id)
            if anchor is not None and event.moved:
                self._anchors[account_id] = anchor._replace(moved=anchor.moved + event.moved)
