"""The escrow as the ledger's tests need it: accounts in blocks that become final, or are lost in a reorg.

Written from docs/design.md §4, not from the aggregator's code: what it says of an account is the truth that the
ledger's mirror is held against. Amounts in atomic units, times in seconds.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field

from tallystick_aggregator.ledger.accounts import AccountAtBlock, AccountOnChain

CONFIRMATIONS = 3


@dataclass(slots=True)
class EscrowAccount:
    """An account at one block. `returned` is all that went back to the payer so far, `deposited` all that came in."""

    balance: int = 0
    deposited: int = 0
    returned: int = 0
    claimed: dict[bytes, int] = field(default_factory=dict[bytes, int])
    withdrawing: int = 0
    withdrawable_at: int = 0
    withdraw_by_payer: bool = False
    refund_nonce: int = 0

    def give_back(self, amount: int) -> None:
        """Pay the payer."""
        assert 0 <= amount <= self.balance
        self.balance -= amount
        self.returned += amount


@dataclass(slots=True)
class Block:
    """What the escrow holds after one block."""

    number: int
    accounts: dict[bytes, EscrowAccount]


class EscrowModel:
    """A chain of blocks; every transaction makes one."""

    def __init__(self, withdraw_delay_s: int = 86_400) -> None:
        self.withdraw_delay_s = withdraw_delay_s
        self.blocks = [Block(0, {})]

    @property
    def head(self) -> Block:
        """The newest block."""
        return self.blocks[-1]

    @property
    def final(self) -> Block:
        """The newest block that no reorg takes back."""
        return self.blocks[max(0, len(self.blocks) - 1 - CONFIRMATIONS)]

    def mine(self, count: int = 1) -> None:
        """Add empty blocks."""
        for _ in range(count):
            self.blocks.append(Block(self.head.number + 1, deepcopy(self.head.accounts)))

    def reorg(self, depth: int) -> None:
        """Lose the newest blocks, never a final one; what was in them never happens, unless it is sent again."""
        depth = min(depth, CONFIRMATIONS, len(self.blocks) - 1)
        if depth:
            del self.blocks[-depth:]
            self.mine(depth)

    def deposit(self, account_id: bytes, amount: int) -> None:
        """Anybody deposits."""
        account = self._next(account_id)
        account.balance += amount
        account.deposited += amount

    def claim(self, account_id: bytes, rows: Iterable[tuple[bytes, int]]) -> None:
        """The operator claims: each row moves a channel up to its total, as far as the balance goes."""
        account = self._next(account_id)
        for channel_id, total in rows:
            paid = min(max(0, total - account.claimed.get(channel_id, 0)), account.balance)
            account.claimed[channel_id] = account.claimed.get(channel_id, 0) + paid
            account.balance -= paid

    def initiate_withdraw(self, account_id: bytes, amount: int, now_s: int, *, by_payer: bool = True) -> None:
        """The payer or the payerAuthorizer starts the timed way out; the payer's replaces the payerAuthorizer's, and
        else nothing happens while one is pending.
        """
        account = self._next(account_id)
        if not account.withdrawable_at or (by_payer and not account.withdraw_by_payer):
            account.withdrawing = amount
            account.withdrawable_at = now_s + self.withdraw_delay_s
            account.withdraw_by_payer = by_payer

    def cancel_withdraw(self, account_id: bytes) -> None:
        """The payer stays."""
        account = self._next(account_id)
        account.withdrawing = account.withdrawable_at = 0

    def finalize_withdraw(self, account_id: bytes, now_s: int) -> None:
        """After the delay: what was asked, or what is left."""
        account = self._next(account_id)
        if account.withdrawable_at and now_s >= account.withdrawable_at:
            account.give_back(min(account.withdrawing, account.balance))
            account.withdrawing = account.withdrawable_at = 0

    def refund(self, account_id: bytes, nonce: int, amount: int) -> bool:
        """The operator's signature is used; False if its nonce has passed or the account does not hold as much."""
        account = self._next(account_id)
        if nonce != account.refund_nonce or amount > account.balance:
            return False
        account.refund_nonce += 1
        account.give_back(amount)
        account.withdrawing = min(account.withdrawing, account.balance)
        return True

    def at_head(self, account_id: bytes) -> EscrowAccount:
        """The account in the newest block."""
        return self.head.accounts.get(account_id, EscrowAccount())

    def at_final(self, account_id: bytes) -> EscrowAccount:
        """The account in the newest final block."""
        return self.final.accounts.get(account_id, EscrowAccount())

    def observe(self, account_id: bytes) -> AccountOnChain:
        """What a watcher reads of the account now."""
        final, head = self.at_final(account_id), self.at_head(account_id)
        return AccountOnChain(
            account_id,
            AccountAtBlock(final.balance, dict(final.claimed)),
            AccountAtBlock(head.balance, dict(head.claimed)),
            head.withdrawing,
            head.withdrawable_at,
            head.returned - final.returned,
        )

    def _next(self, account_id: bytes) -> EscrowAccount:
        self.mine()
        return self.head.accounts.setdefault(account_id, EscrowAccount())
