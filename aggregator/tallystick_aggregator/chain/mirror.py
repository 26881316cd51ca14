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


class Seen(NamedTuple):
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

    @property
    def is_settled(self) -> bool:
        """Whether nothing happened to it between the final block and the head."""
        return (self.final, self.final_claimed) == (self.head, self.head_claimed)

    @property
    def withdrawing(self) -> int:
        """What the pending withdrawal would take now; it may name more than there is."""
        return min(self.head.withdrawing, self.head.balance) if self.head.withdrawable_at else 0


class TakenIn(NamedTuple):
    """What came of it: accounts that began to withdraw, or whose withdrawal was replaced by another, and channels that
    were paid more than was charged.
    """

    withdrawals: tuple[bytes, ...]
    overclaims: tuple[Overclaim, ...]


def take_in(draft: Draft, ledger: Ledger, network: str, seen: Sequence[Seen], reached: Block | None) -> TakenIn:
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
            accounts.open_account(draft, one.account_id, network, one.config)
        # Another time is another withdrawal: the payer has replaced one, or cancelled it and begun anew.
        known_at = 0 if account is None else account.withdraw_finalizes_at
        if one.head.withdrawable_at not in {0, known_at}:
            withdrawals.append(one.account_id)
        overclaims += accounts.mirror(
            draft,
            ledger,
            AccountOnChain(
                one.account_id,
                AccountAtBlock(one.final.balance, one.final_claimed),
                AccountAtBlock(one.head.balance, one.head_claimed),
                one.withdrawing,
                one.head.withdrawable_at,
                one.left_since_final,
            ),
        )
        # Only now: the refund's money has left `funds` in the same decision, so I2 has no gap.
        if account is not None and account.refund is not None and one.final.refund_nonce > account.refund.nonce:
            accounts.end_refund(draft, one.account_id, account.refund.refund_id)
    if reached is not None:
        draft.record(ev.ChainAdvanced(network, reached.number, reached.block_hash))
    return TakenIn(tuple(withdrawals), tuple(overclaims))
