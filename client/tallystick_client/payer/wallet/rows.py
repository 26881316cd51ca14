"""What the wallet's book consists of: one class for each table of its file. Amounts are integers in atomic units."""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tallystick.channels import ChannelConfig
from tallystick_client.payer.policy.operators import Asset

DEPOSIT_LATE_S: Final = 600
"""How long after its end a deposit may still have been landed: a block's time, or the aggregator's clock, may be behind
ours.
"""


@dataclass(slots=True)
class Account:
    """A deposit. `index` is the salt of its config; one that is not `active` is only emptied, never paid from."""

    id: bytes
    asset: Asset
    escrow: bytes
    config: ChannelConfig
    index: int
    active: bool = True
    deposited: int = 0
    returned: int = 0
    committed: int = 0
    """The sum over its channels; not stored but counted."""
    open: int = 0
    """The sum of what its grants hold; not stored but counted."""

    @property
    def free(self) -> int:
        """What can still be granted from this deposit; below zero where more came back than this book knows of."""
        return self.deposited - self.returned - self.committed

    @property
    def unspent(self) -> int:
        """The same with what grants hold: how near the deposit is to its end."""
        return self.free + self.open


@dataclass(slots=True)
class Channel:
    """An account's totals at one receiver. `host` had the newest grant."""

    id: bytes
    account_id: bytes
    config: ChannelConfig
    host: str
    ceiling: int = 0
    charged: int = 0
    unknown: int = 0
    disputed: int = 0
    committed: int = 0
    """See `book`; not stored but counted."""

    @property
    def free(self) -> int:
        """Signed and in nobody's hands: reused before the ceiling is raised."""
        return self.ceiling - self.committed


@dataclass(slots=True)
class GrantRow:
    """Headroom in the hands of one holder. The totals only grow, so that a report that arrives twice changes nothing.

    `key_id` is empty where charges are proven by vouchers. `day` is the day (UTC, since the epoch) it counts for.
    `closed_at` is 0 while the holder may spend.
    """

    id: int
    channel_id: bytes
    asset: Asset
    host: str
    holder: str
    key_id: bytes
    day: int
    granted: int = 0
    returned: int = 0
    charged: int = 0
    unknown: int = 0
    closed_at: int = 0

    @property
    def open(self) -> int:
        """What the holder still has: unspent, or under way."""
        return self.granted - self.returned - self.charged - self.unknown


@dataclass(slots=True)
class SpendKeyRow:
    """A spend key, written down before it is registered. Its secret is not: a new run makes a new key."""

    key_id: bytes
    account_id: bytes
    cap: int
    expires_at: int
    revoked: bool = False


class _Landable:
    """An authorization of a deposit: anybody may land it while the chain's clock takes it for valid."""

    __slots__ = ()
    valid_before: int

    @property
    def landable_until(self) -> int:
        """Until when somebody may land it, in seconds since the epoch."""
        return self.valid_before + DEPOSIT_LATE_S


@dataclass(slots=True)
class Deposit(_Landable):
    """A signed deposit authorization: written down before it is sent, so that a retry sends the same one."""

    salt: bytes
    account_id: bytes
    amount: int
    valid_after: int
    valid_before: int
    signature: bytes = field(repr=False)
    status: str = "pending"
    """pending, landed or refused. One that was refused stays pending as long as anybody may still land it."""


@dataclass(slots=True)
class Refund:
    """A refund that was asked for. `amount` 0 is all that is available; `returned` is what came back."""

    refund_id: bytes
    account_id: bytes
    amount: int
    returned: int = 0
    status: str = "pending"
    """pending, done or refused"""


@dataclass(slots=True)
class ExactPayment:
    """An authorization that was signed for `exact`. It counts as spent, on `day` (UTC, since the epoch): whoever holds
    it may use it until `valid_before`.

    `status`: sent; spent, once a seller or the chain says so; freed, where the chain has passed its end without it.
    """

    nonce: bytes
    asset: Asset
    host: str
    amount: int
    valid_before: int
    day: int = 0
    status: str = "sent"


@dataclass(slots=True)
class SellerChannel:
    """A channel of the standard's contract: a deposit with one seller alone. `index` is what its salt counts from.

    `counted`: what the seller has charged, as far as its answers say and this wallet has signed; the next voucher is
    over this and the price. `signed`: the highest ceiling of all vouchers. `spent`: what budgets count of it.
    `missing`: what the aggregator sees less in it than this book. One that is not `active` is only emptied.

    `url` is a page that was paid for: there the seller is asked for a refund. `open_id` and `open_request` name the
    newest payment while its outcome is not known, `open_amount` the most that it costs; empty and 0 otherwise.
    """

    id: bytes
    asset: Asset
    config: ChannelConfig
    index: int
    host: str
    url: str = ""
    active: bool = True
    deposited: int = 0
    returned: int = 0
    missing: int = 0
    counted: int = 0
    signed: int = 0
    spent: int = 0
    open_id: bytes = b""
    open_request: bytes = b""
    open_amount: int = 0

    @property
    def balance(self) -> int:
        """What it holds, what was charged included."""
        return self.deposited - self.returned - self.missing

    @property
    def locked(self) -> int:
        """What of the deposits is neither charged nor back."""
        return max(0, self.deposited - self.returned - self.counted)


@dataclass(slots=True)
class ChannelDeposit(_Landable):
    """A signed deposit into a SellerChannel, written down before it is sent: until it is landed, it is sent again."""

    salt: bytes
    channel_id: bytes
    amount: int
    valid_before: int
    signature: bytes = field(repr=False)
    status: str = "pending"
    """pending, landed, or refused: it can no longer land."""


class Counter(NamedTuple):
    """What names a budget's counter: `kind` is host, day or total."""

    asset: Asset
    kind: str
    name: str


Row = Account | Channel | GrantRow | SpendKeyRow | Deposit | Refund | ExactPayment | SellerChannel | ChannelDeposit


class Changes(NamedTuple):
    """What is to be written in one transaction. The rows are the book's own: write them before changing them again."""

    rows: list[Row]
    counters: dict[Counter, int]
    removed_grants: list[int]

    def __bool__(self) -> bool:
        return bool(self.rows or self.counters or self.removed_grants)
