"""What the planner and an escrow's binding tell each other of claims: the rows, and what they cost. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

from tallystick_aggregator.ledger.state import Account


class PlannedRow(NamedTuple):
    """One channel's claim. `before`: what is claimed or in flight already; `first`: nothing was ever claimed;
    `charges`: how many the claim attests where the escrow's standard has claims attest them.
    """

    channel_id: bytes
    receiver: bytes
    total: int
    before: int
    ceiling: int
    signature: bytes
    first: bool
    charges: int = 0

    @property
    def amount(self) -> int:
        """What the row is to pay."""
        return max(0, self.total - self.before)


class Group(NamedTuple):
    """Rows of one account that are authorised alike. An approval's rows cannot be parted or reordered."""

    account: Account
    rows: tuple[PlannedRow, ...]
    approval: bytes | None

    @property
    def amount(self) -> int:
        """What the rows are to pay."""
        return sum(row.amount for row in self.rows)


@dataclass(frozen=True, slots=True)
class ClaimCosts:
    """What a batch of claims costs in gas, and weighs in bytes of its encoding; 0 for parts that an encoding lacks.

    Upper estimates, made without asking anyone: they decide where a batch is cut, and whether an approval is cheaper
    than vouchers. The node's own estimate comes later and has the last word: a batch that is too big after all is
    halved, and `claims.claiming` learns what the chain charges.
    """

    batch_gas_max: int
    """What is planned for one transaction."""
    batch_bytes_max: int
    fixed_gas: int
    """Of any batch, `reserve_gas` included."""
    fixed_bytes: int
    account_gas: int
    account_bytes: int
    voucher_row_gas: int
    voucher_row_bytes: int
    first_claim_gas: int
    """What a channel's first claim costs on top."""
    receiver_gas: int = 0
    """What paying a receiver costs, once in a batch."""
    receiver_bytes: int = 0
    reserve_gas: int = 0
    """What has to be left before a payment; it is no price."""
    takes_approvals: bool = False
    """Whether one signature can authorise many rows of an account."""
    approval_gas: int = 0
    approval_bytes: int = 0
    approval_row_gas: int = 0
    approval_row_bytes: int = 0
    stale_row_gas: int = 0
    """Of a row that an approval brings along although it has nothing new."""
