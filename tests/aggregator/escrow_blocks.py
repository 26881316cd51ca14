"""The escrow as the ledger's tests need it: accounts in blocks that become final, or are lost in a reorg.

It is the network in memory without transactions: what is done to the escrow's model makes a block. What it says of an
account is the truth that the ledger's mirror is held against. Amounts in atomic units, times in seconds.
"""

from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, field
from typing import Final

from doubles import ESCROW, OPERATOR, TOKEN, Payer
from memory_chain.contracts import Contracts, World
from memory_chain.node import MemoryNode

from escrow_model import Account, Config, EscrowModel, RevertedError, Signed
from tallystick_aggregator.ledger.accounts import AccountAtBlock, AccountOnChain
from tallystick_contracts.claim_batch import AccountClaim, ClaimBatch, ClaimRow
from tallystick_contracts.events import Event

CONFIRMATIONS: Final = 3
_BANK: Final = bytes.fromhex("ba" * 20)
_MONEY: Final = 10**30


@dataclass
class AccountInBlock(Account):
    """An account at one block. `returned` is all that went back to the payer so far, `deposited` all that came in."""

    claimed: dict[bytes, int] = field(default_factory=dict[bytes, int])
    returned: int = 0

    @property
    def deposited(self) -> int:
        return self.balance + sum(self.claimed.values()) + self.returned


class EscrowBlocks:
    """A chain of blocks; every transaction makes one. A payer has one account, and no tokens but what it got back."""

    def __init__(self, signed: Signed = lambda *_: True) -> None:
        self._node = MemoryNode(Contracts(31337, ESCROW, TOKEN, signed))
        self._node.world.balances[_BANK] = _MONEY
        self._channels: dict[bytes, set[bytes]] = {}

    @property
    def head(self) -> int:
        """The number of the newest block."""
        return self._node.height

    def mine(self, count: int = 1) -> None:
        """Add empty blocks."""
        self._node.mine(count)

    def reorg(self, depth: int) -> None:
        """Lose the newest blocks, never a final one; what was in them never happens, unless it is sent again."""
        self._node.reorg(min(depth, CONFIRMATIONS))

    def deposit(self, payer: Payer, amount: int) -> None:
        """Anybody deposits."""
        self._do(lambda escrow, _: escrow.deposit(_BANK, _config(payer), amount))

    def claim(self, payer: Payer, rows: Iterable[ClaimRow]) -> list[Event]:
        """The operator claims: each row moves a channel up to its total, as far as the balance goes."""
        rows, config = tuple(rows), payer.config
        self._channels.setdefault(payer.account_id, set()).update(payer.channel_id(row.receiver) for row in rows)
        account = AccountClaim(config.payer, config.payer_authorizer, config.withdraw_delay_s, config.salt, rows)
        return self._do(lambda escrow, _: escrow.claim(OPERATOR, ClaimBatch(OPERATOR, TOKEN, (account,))))

    def initiate_withdraw(self, payer: Payer, amount: int, now_s: int, *, by_payer: bool = True) -> None:
        """The payer or the payerAuthorizer starts the timed way out; where that reverts, nothing happens."""
        self._do(lambda escrow, _: escrow._initiate(_config(payer), amount, now_s, by_payer))

    def cancel_withdraw(self, payer: Payer) -> None:
        """The payer stays."""
        self._do(lambda escrow, _: escrow.cancel_withdraw(payer.config.payer, _config(payer)))

    def finalize_withdraw(self, payer: Payer, now_s: int) -> None:
        """After the delay: what was asked, or what is left."""
        self._do(lambda escrow, _: escrow.finalize_withdraw(_config(payer), now_s))

    def refund(self, payer: Payer, nonce: int, amount: int) -> bool:
        """The operator's signature is used; False if its nonce has passed, or if the account does not hold as much."""
        if amount > self.at_head(payer).balance:
            return False
        return bool(self._do(lambda escrow, _: escrow.refund_with_signature(_config(payer), amount, nonce, b"")))

    def at_head(self, payer: Payer) -> AccountInBlock:
        """The account in the newest block."""
        return self._at(payer, self._node.world)

    def at_final(self, payer: Payer) -> AccountInBlock:
        """The account in the newest block that no reorg takes back."""
        return self._at(payer, self._node.world_at(max(0, self.head - CONFIRMATIONS)))

    def observe(self, payer: Payer) -> AccountOnChain:
        """What a watcher reads of the account now."""
        final, head = self.at_final(payer), self.at_head(payer)
        return AccountOnChain(
            payer.account_id,
            AccountAtBlock(final.balance, final.claimed),
            AccountAtBlock(head.balance, head.claimed),
            head.withdraw_amount,
            head.withdrawable_at,
            head.returned - final.returned,
        )

    def _do(self, act: Callable[[EscrowModel, int], list[Event]]) -> list[Event]:
        """Make a block of it; an empty one, and no events, if it reverts."""
        try:
            return self._node.act(act)
        except RevertedError:
            self.mine()
            return []

    def _at(self, payer: Payer, world: World) -> AccountInBlock:
        escrow = world.escrow
        channels = self._channels.get(payer.account_id, ())
        return AccountInBlock(
            *astuple(escrow.accounts.get(payer.account_id, Account())),
            {channel: escrow.claimed[channel] for channel in channels if channel in escrow.claimed},
            world.balances.get(payer.config.payer, 0),
        )


def _config(payer: Payer) -> Config:
    return Config(*astuple(payer.config))
