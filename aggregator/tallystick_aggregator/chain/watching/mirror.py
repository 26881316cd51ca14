"""What the ledger takes over from the chain in one look. Pure: a decision for the ledger's writer."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tallystick.channels import ChannelConfig
from tallystick_aggregator.chain.port import Block, EscrowAccount
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.accounts import AccountAtBlock, AccountOnChain, Overclaim
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.ledger.values import EscrowRef


class AccountSnapshot(NamedTuple):
    """An account as it was read at the newest final block and at the head; `claimed` by channel id.

    `config` is needed for an account that the ledger may not know yet; `left_since_final` is what went back to the
    payer between the two blocks, by the events.
    """

    account_id: bytes
    config: ChannelConfig | None
    final: EscrowAccount
    final_claimed: Mapping[bytes, int]
    head: EscrowAccount
    head_claimed: Mapping[bytes, int]
    left_since_final: int = 0
    confirmed: bool = True
    explained: int | None = None
    """See `ledger.accounts.AccountOnChain`."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing happened to it between the final block and the head."""
        return (self.final, self.final_claimed) == (self.head, self.head_claimed)

    @property
    def withdrawing(self) -> int:
        """What the pending withdrawal would take now; it may name more than there is."""
        return min(self.head.withdrawing, self.head.balance) if self.head.withdrawable_at else 0

    def on_chain(self) -> AccountOnChain:
        """As the ledger takes it."""
        return AccountOnChain(
            self.account_id,
            AccountAtBlock(self.final.balance, self.final_claimed),
            AccountAtBlock(self.head.balance, self.head_claimed),
            self.withdrawing,
            self.head.withdrawable_at,
            self.left_since_final,
            self.confirmed,
            self.explained,
        )


def funds_of(ledger: Ledger, one: AccountSnapshot) -> tuple[int, int]:
    """Return the account's funds at the final block, and what would count of them if what was read were believed."""
    final, head = one.final.balance, one.head.balance
    for channel in ledger.channels_of(one.account_id):
        final += one.final_claimed.get(channel.id, channel.claimed)
        head += one.head_claimed.get(channel.id, channel.claimed)
    return final, max(0, min(final - one.left_since_final, head))


def is_news(ledger: Ledger, one: AccountSnapshot) -> bool:
    """Whether the ledger would change by what was read, if it were believed: then somebody else is asked as well."""
    account = ledger.account(one.account_id)
    if account is None:
        return True
    return (
        (account.funds, account.withdrawing, account.withdraw_finalizes_at)
        != (funds_of(ledger, one)[1], one.withdrawing, one.head.withdrawable_at)
        or any(one.final_claimed.get(channel.id, 0) > channel.claimed for channel in ledger.channels_of(one.account_id))
        or (account.refund is not None and one.final.refund_nonce > account.refund.nonce)
    )


def raises_credit(ledger: Ledger, one: AccountSnapshot) -> bool:
    """Whether the account would have more funds than the ledger counts, if what was read were believed."""
    account = ledger.account(one.account_id)
    return funds_of(ledger, one)[1] > (0 if account is None else account.funds)


def held_in_all(ledger: Ledger, escrow: EscrowRef, token: bytes, seen: Mapping[bytes, AccountSnapshot]) -> int:
    """Return what all accounts of a token hold together at the final block, in atomic units (I7).

    Of those that were not read now, what they held when they were: no event has changed it since.
    """
    known = sum(
        account.funds - account.claimed
        for account in ledger.accounts_of(escrow)
        if account.id not in seen and account.config.token == token
    )
    read = 0
    for one in seen.values():
        account = ledger.account(one.account_id)
        config = account.config if account is not None else one.config
        read += one.final.balance if config is not None and config.token == token else 0
    return known + read


def cautious(one: EscrowAccount, other: EscrowAccount) -> EscrowAccount:
    """Return of two answers about an account what is to be believed until one of them is found wrong: the worse."""
    times = [account.withdrawable_at for account in (one, other) if account.withdrawable_at]
    return EscrowAccount(
        min(one.balance, other.balance),
        min(one.refund_nonce, other.refund_nonce),
        min(one.withdraw_nonce, other.withdraw_nonce),
        max(one.withdrawing, other.withdrawing),
        min(times, default=0),
    )


class Applied(NamedTuple):
    """What came of it: accounts that began to withdraw, or whose withdrawal was replaced by another, and channels that
    were paid more than was charged.
    """

    withdrawals: tuple[bytes, ...]
    overclaims: tuple[Overclaim, ...]


def apply_snapshots(
    draft: Draft, ledger: Ledger, escrow: EscrowRef, seen: Sequence[AccountSnapshot], reached: Block | None
) -> Applied:
    """Mirror these accounts, and end refunds whose nonce has passed for good.

    With `reached`, the mirror has with these taken in all blocks up to that one.
    """
    withdrawals: list[bytes] = []
    overclaims: list[Overclaim] = []
    for one in seen:
        account = draft.account(one.account_id)
        if account is None:
            if one.config is None:
                continue
            accounts.open_account(draft, one.account_id, escrow, one.config)
        # Another time is another withdrawal: the payer has replaced one, or cancelled it and begun anew.
        known_at = 0 if account is None else account.withdraw_finalizes_at
        if one.head.withdrawable_at not in {0, known_at}:
            withdrawals.append(one.account_id)
        overclaims += accounts.mirror(draft, ledger, one.on_chain())
        if account is None or account.refund is None or not one.confirmed:
            continue
        # Only now: the refund's money has left `funds` in the same decision, so I2 has no gap.
        if one.final.refund_nonce > account.refund.nonce:
            accounts.end_refund(draft, one.account_id, account.refund.refund_id)
    if reached is not None:
        draft.record(ev.ChainAdvanced(escrow, reached.number, reached.block_hash))
    return Applied(tuple(withdrawals), tuple(overclaims))
