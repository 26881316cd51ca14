"""The escrow's whole state from its logs alone: accounts, channels, debts.

`rebuild` folds an ordered list of logs into what the contract's views would show. Pure: whoever has the logs, from any
node or indexer, needs neither the contract nor a call.

Logs have to come in the chain's order, from the escrow's first block on. What an event says of the state after it is
checked against what was added up, so that a missing log is found and not carried along.

    state = rebuild(logs)
    state.accounts[account_id].claimed[receiver]      # the channel's cumulative total, in atomic units
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tallystick_contracts.events import (
    AccountOpened,
    Claimed,
    Collected,
    Deposited,
    Event,
    Owed,
    Refunded,
    RowSkipped,
    SenderSet,
    WithdrawCancelled,
    WithdrawFinalized,
    WithdrawInitiated,
    decode,
)
from tallystick_contracts.log_words import LogError, RawLog


@dataclass(slots=True)
class AccountState:
    """An account: its configuration, and all that IEscrow.AccountState shows of it.

    `claimed` has the cumulative total of every channel that was ever paid, by its receiver.
    """

    payer: bytes
    payer_authorizer: bytes
    operator: bytes
    token: bytes
    withdraw_delay_s: int
    salt: bytes
    balance: int
    refund_nonce: int = 0
    withdraw_nonce: int = 0
    authorizer_nonce: int = 0
    withdraw_amount: int = 0
    withdrawable_at: int = 0
    withdraw_by_payer: bool = False
    claimed: dict[bytes, int] = field(default_factory=dict[bytes, int])


@dataclass(slots=True)
class EscrowState:
    """The whole escrow. `owed` goes by (to, token); `senders` are the (operator, sender) that are allowed."""

    accounts: dict[bytes, AccountState] = field(default_factory=dict[bytes, AccountState])
    owed: dict[tuple[bytes, bytes], int] = field(default_factory=dict[tuple[bytes, bytes], int])
    senders: set[tuple[bytes, bytes]] = field(default_factory=set[tuple[bytes, bytes]])

    def liabilities(self, token: bytes) -> int:
        """What the escrow has to hold of a token at least (I7): balances and amounts owed, in atomic units."""
        balances = sum(account.balance for account in self.accounts.values() if account.token == token)
        return balances + sum(amount for (_, of), amount in self.owed.items() if of == token)


def rebuild(logs: Iterable[RawLog]) -> EscrowState:
    """The escrow after these logs, which start with its first. Raises LogError where one is missing or out of order."""
    state = EscrowState()
    for log in logs:
        apply(state, decode(log))
    return state


def apply(state: EscrowState, event: Event) -> None:
    """Let an event change the state. Raises LogError, and leaves the state as it was, if it cannot follow."""
    match event:
        case RowSkipped():
            pass  # left no trace; the account need not even exist
        case AccountOpened():
            _open(state, event)
        case Owed(to, token, amount, total):
            _expect("Owed.total", total, state.owed.get((to, token), 0) + amount)
            state.owed[to, token] = total
        case Collected(to, token, amount):
            _expect("Collected.amount", amount, state.owed.get((to, token), 0))
            del state.owed[to, token]
        case SenderSet(operator, sender, allowed):
            (state.senders.add if allowed else state.senders.discard)((operator, sender))
        case _:
            if event.account_id not in state.accounts:
                raise LogError(f"{type(event).__name__}: account {event.account_id.hex()} was never opened")
            _apply_to_account(state.accounts[event.account_id], event)


def _open(state: EscrowState, event: AccountOpened) -> None:
    if event.account_id in state.accounts:
        raise LogError(f"AccountOpened: account {event.account_id.hex()} was opened before")
    state.accounts[event.account_id] = AccountState(
        payer=event.payer,
        payer_authorizer=event.payer_authorizer,
        operator=event.operator,
        token=event.token,
        withdraw_delay_s=event.withdraw_delay_s,
        salt=event.salt,
        balance=event.amount,
    )


def _apply_to_account(
    account: AccountState,
    event: Deposited | Claimed | WithdrawInitiated | WithdrawCancelled | WithdrawFinalized | Refunded,
) -> None:
    match event:
        case Deposited(_, amount, balance):
            _expect("Deposited.balance", balance, account.balance + amount)
            account.balance = balance
        case Claimed(_, rows):
            _claim(account, rows)
        case WithdrawInitiated(_, amount, withdrawable_at, nonce, by_payer):
            if account.withdrawable_at and (account.withdraw_by_payer or not by_payer):
                raise LogError("WithdrawInitiated: the logs so far have one pending that this cannot replace")
            _use_nonce("WithdrawInitiated.nonce", account, nonce, by_payer=by_payer)
            _set_withdrawal(account, amount, withdrawable_at, by_payer=by_payer)
        case WithdrawCancelled(_, nonce, by_payer):
            if account.withdraw_by_payer and not by_payer:
                raise LogError("WithdrawCancelled: the payerAuthorizer cannot cancel what the logs say is the payer's")
            _use_nonce("WithdrawCancelled.nonce", account, nonce, by_payer=by_payer)
            _set_withdrawal(account, 0, 0, by_payer=False)
        case WithdrawFinalized(_, amount, balance):
            if not account.withdrawable_at:
                raise LogError("WithdrawFinalized: the logs so far have no withdrawal pending")
            _expect("WithdrawFinalized.amount", amount, min(account.withdraw_amount, account.balance))
            _expect("WithdrawFinalized.balance", balance, account.balance - amount)
            account.balance = balance
            _set_withdrawal(account, 0, 0, by_payer=False)
        case Refunded(_, amount, balance, nonce, withdraw_amount):
            _expect("Refunded.balance", balance, account.balance - amount)
            _expect("Refunded.nonce", nonce, account.refund_nonce)
            _expect("Refunded.withdrawAmount", withdraw_amount, max(0, account.withdraw_amount - amount))
            account.balance, account.refund_nonce = balance, nonce + 1
            if withdraw_amount:
                account.withdraw_amount = withdraw_amount
            else:
                _set_withdrawal(account, 0, 0, by_payer=False)


def _set_withdrawal(account: AccountState, amount: int, withdrawable_at: int, *, by_payer: bool) -> None:
    account.withdraw_amount, account.withdrawable_at, account.withdraw_by_payer = amount, withdrawable_at, by_payer


def _use_nonce(what: str, account: AccountState, nonce: int, *, by_payer: bool) -> None:
    """Count a withdrawal or cancellation; the payer and the payerAuthorizer have a nonce each."""
    _expect(what, nonce, account.withdraw_nonce if by_payer else account.authorizer_nonce)
    if by_payer:
        account.withdraw_nonce = nonce + 1
    else:
        account.authorizer_nonce = nonce + 1


def _claim(account: AccountState, rows: Iterable[tuple[bytes, int]]) -> None:
    claimed = dict(account.claimed)
    paid = 0
    for receiver, total in rows:
        before = claimed.get(receiver, 0)
        if total <= before:
            raise LogError(f"Claimed: receiver {receiver.hex()} got up to {total} after {before}; totals only grow")
        paid += total - before
        claimed[receiver] = total
    if paid > account.balance:
        raise LogError(f"Claimed: {paid} paid; the logs so far leave a balance of {account.balance}")
    account.balance -= paid
    account.claimed = claimed


def _expect(what: str, got: int, expected: int) -> None:
    if got != expected:
        raise LogError(f"{what}: got {got}; after the logs so far it is {expected}")
