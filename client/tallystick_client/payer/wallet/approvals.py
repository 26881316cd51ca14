"""Approving the totals of the next claim: one signature instead of a voucher for each channel.

An approval lets the operator claim these totals without a voucher, so each is compared with this wallet's own book
first: with what was charged, and what it sent proofs for and does not know the outcome of. Not with its ceilings: those
are higher, and an operator together with a seller could claim the difference.
"""

from collections.abc import Mapping

from tallystick.channels import channel_id
from tallystick.hexadecimal import checksum, to_hex
from tallystick_client.payer.errors import ApprovalRefusedError
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.wallet.accounts import AccountClient
from tallystick_client.payer.wallet.book import Book
from tallystick_client.payer.wallet.local_grants import LocalGrants
from tallystick_client.payer.wallet.rows import Account, Channel


class Approver:
    """Signs totals, or refuses."""

    def __init__(self, book: Book, clients: Mapping[Operator, AccountClient], grants: LocalGrants) -> None:
        self._book = book
        self._clients = clients
        self._grants = grants

    async def approve(self, account: Account, operator: Operator) -> int:
        """Approve the totals that the aggregator proposes; returns how many, 0 where there is nothing to approve.

        Raises ApprovalRefusedError on the first total above the book; nothing is signed then.
        """
        client = self._clients[operator]
        totals = await client.totals_to_approve(account.id)
        if not totals:
            return 0
        self._grants.sync()
        activity = self._grants.activity()
        for receiver, total in totals:
            channel = self._channel(account, operator, receiver)
            # The most that this wallet can owe the receiver: all that it sent proofs for.
            allowed = channel.committed - channel.disputed - activity[channel.id].unspent if channel else 0
            if total > allowed:
                shown = checksum(receiver) if len(receiver) == 20 else to_hex(receiver[:20])
                raise ApprovalRefusedError(shown, total, allowed)
        await client.approve(account.id, totals)
        return len(totals)

    def _channel(self, account: Account, operator: Operator, receiver: bytes) -> Channel | None:
        if len(receiver) != 20 or not any(receiver):
            return None
        return self._book.channels.get(channel_id(operator.domain, account.config.channel(receiver)))
