"""What the ledger knows: accounts, channels, spend keys, payments, reservations.

The objects are plain and mutable, but nobody outside `draft` writes to them: a `Draft` works on copies and the ledger
adopts them after the journal has the events that made them (docs/design.md §6, I3).
All amounts are integers in the token's atomic units.

What there are hundreds of thousands of, and what every charge copies, is a `State` or a `Value`: made and copied five
times as fast as a dataclass, smaller, and never walked by the garbage collector.
"""

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from tallystick.channels import ChannelConfig
from tallystick.quantities import AccountId, Address, ChannelId
from tallystick_aggregator.ledger.ceilings import NONE_USED, UsedCeilings
from tallystick_aggregator.ledger.payments import PackedPayment, PaymentKey
from tallystick_aggregator.ledger.values import EscrowRef, State


class PendingRefund(NamedTuple):
    """A refund that was journaled and is not known to have ended: it counts in I2 until its nonce is final."""

    refund_id: bytes
    nonce: int
    amount: int


class Attested(NamedTuple):
    """A claim up to `total` was journaled, which attests so many charges; the chain does not have it yet."""

    total: int
    charges: int


class Approval(NamedTuple):
    """The payerAuthorizer's newest TotalsApproval: claims need no vouchers for these receivers up to these totals."""

    totals: tuple[tuple[Address, int], ...]
    signature: bytes


class Account(State, gc=False):
    """A payer's deposit under one operator, token, withdraw delay and salt, mirrored from the chain.

    `funds` is all deposits less all that went back to the payer; `committed` is the sum over the account's channels of
    `max(charged, claimed) + reserved`; `claimed` the sum of what the chain has paid out of them.
    """

    id: AccountId
    escrow: EscrowRef
    config: ChannelConfig
    funds: int = 0
    withdrawing: int = 0
    withdraw_finalizes_at: int = 0
    refunding: int = 0
    committed: int = 0
    reserved: int = 0
    claimed: int = 0
    channels: int = 0
    reservations: int = 0
    takes_spend_proofs_only: bool = False
    refund: PendingRefund | None = None
    approval: Approval | None = None

    @property
    def network(self) -> str:
        """The CAIP-2 name of the escrow's network."""
        return self.escrow.network

    @property
    def available(self) -> int:
        """What can still be charged or refunded; never negative, although I2's slack can be after a withdrawal."""
        return max(0, self.funds - self.withdrawing - self.refunding - self.committed)

    @property
    def is_short(self) -> bool:
        """Whether I11 is broken: the chain has less of it than is committed, and some of that is not claimed yet."""
        return self.committed > self.funds and self.committed > self.claimed

    @property
    def exposure(self) -> int:
        """What was charged and not yet claimed: what sellers would lose if the escrow were empty now."""
        return self.committed - self.reserved - self.claimed


class Channel(State, gc=False):
    """Account + receiver, and its cumulative totals."""

    id: ChannelId
    account_id: AccountId
    receiver: Address
    ceiling: int = 0
    signature: bytes = b""
    charged: int = 0
    reserved: int = 0
    claimed: int = 0
    used: UsedCeilings = NONE_USED
    charges: int = 0
    """Charges in step, of `batch-settlement`, that no claim attests so far."""
    attesting: tuple[Attested, ...] = ()
    """What claims attest that are not confirmed, by rising totals."""

    @property
    def charge_count(self) -> int:
        """Charges in step since the last confirmed claim ("Charge count")."""
        return self.charges + sum(attested.charges for attested in self.attesting)

    def to_attest(self, before: int) -> int:
        """Return how many charges a new claim attests; claims up to `before` are confirmed or under way.

        What a claim attested that never landed is attested by the next.
        """
        return self.charges + sum(attested.charges for attested in self.attesting if attested.total > before)

    @property
    def committed(self) -> int:
        """This channel's part of I2's sum."""
        return max(self.charged, self.claimed) + self.reserved

    def has_used(self, ceiling: int) -> bool:
        """Whether a charge of this channel has (or may have) used this ceiling."""
        # What a charge has used was verified, so the channel's ceiling is no lower.
        return ceiling <= self.ceiling and ceiling in self.used


class SpendKey(State, gc=False):
    """A key that lets a worker prove its charges by HMAC. `spent` counts charges and open reservations."""

    account_id: AccountId
    key_id: bytes
    secret: bytes
    cap: int
    expires_at: int
    spent: int = 0
    revoked: bool = False

    def __repr__(self) -> str:
        """Without the secret."""
        return f"SpendKey(key_id={self.key_id.hex()}, cap={self.cap}, spent={self.spent}, revoked={self.revoked})"


class Reservation(NamedTuple):
    """An amount held by `Verify` until `Settle` captures or releases it; `expires_at` 0: it has expired."""

    handle: bytes
    channel_id: ChannelId
    payment_id: bytes
    amount: int
    key_id: bytes
    expires_at: int


class ChainHead(NamedTuple):
    """The last block that the mirror of an escrow has taken in."""

    number: int
    block_hash: bytes


@dataclass(slots=True)
class Changes:
    """What has changed since the last checkpoint, by id, as it is now: what the journal's next checkpoint writes down.

    A reservation that ended is None, as is a spend key that was forgotten. The objects are never mutated later: drafts
    work on copies.
    """

    accounts: dict[bytes, Account] = field(default_factory=dict[bytes, Account])
    channels: dict[bytes, Channel] = field(default_factory=dict[bytes, Channel])
    spend_keys: dict[bytes, SpendKey | None] = field(default_factory=dict[bytes, SpendKey | None])
    payments: list[dict[PaymentKey, PackedPayment]] = field(default_factory=list[dict[PaymentKey, PackedPayment]])
    """Those of each draft, as they came: of one that changed more than once the last counts."""
    reservations: dict[bytes, Reservation | None] = field(default_factory=dict[bytes, Reservation | None])
    reserved: dict[PaymentKey, PackedPayment] = field(default_factory=dict[PaymentKey, PackedPayment])
    """The payments of `reservations`: each changes with its reservation, and with nothing else."""

    @property
    def states(self) -> int:
        """How many accounts, channels, spend keys and reservations have changed."""
        return len(self.accounts) + len(self.channels) + len(self.spend_keys) + len(self.reservations)

    def each_payment(self) -> Iterator[tuple[PaymentKey, PackedPayment]]:
        """All payments by key, in the order in which they changed."""
        return chain.from_iterable(changed.items() for changed in self.payments)

    def update(self, newer: "Changes") -> None:
        """Take over what has changed since."""
        self.accounts.update(newer.accounts)
        self.channels.update(newer.channels)
        self.spend_keys.update(newer.spend_keys)
        self.payments += newer.payments
        self.reservations.update(newer.reservations)
        self.reserved.update(newer.reserved)


@dataclass(slots=True)
class Ledger:
    """All state, as of the last event that the journal has.

    `payments` holds the payment ids whose time is at or after `payments_since_ms`; older ones are only in the journal,
    and whoever decides about one recalls it first. Ids before `payments_forgotten_ms` are gone for good.
    `receiver_exposure`, by `exposure_key`, is what was charged or is reserved for a seller and not yet claimed.
    `commits` counts the drafts with events of their own that were adopted; `changes` is what all drafts changed. Both
    are noted here, because adopting a draft is where they are known for nothing; what to do with them is the store's.
    """

    accounts: dict[bytes, Account] = field(default_factory=dict[bytes, Account])
    channels: dict[bytes, Channel] = field(default_factory=dict[bytes, Channel])
    channel_ids: dict[bytes, list[bytes]] = field(default_factory=dict[bytes, list[bytes]])
    spend_keys: dict[bytes, SpendKey] = field(default_factory=dict[bytes, SpendKey])
    spend_key_names: dict[bytes, dict[bytes, None]] = field(default_factory=dict[bytes, dict[bytes, None]])
    """By account, the names of its keys."""
    payments: dict[PaymentKey, PackedPayment] = field(default_factory=dict[PaymentKey, PackedPayment])
    reservations: dict[bytes, Reservation] = field(default_factory=dict[bytes, Reservation])
    receiver_exposure: dict[bytes, int] = field(default_factory=dict[bytes, int])
    open_reservations: dict[bytes, int] = field(default_factory=dict[bytes, int])
    """By channel id (32 bytes) and by receiver (20 bytes): how many reservations are open there; none is left out."""
    heads: dict[EscrowRef, ChainHead] = field(default_factory=dict[EscrowRef, ChainHead])
    payments_since_ms: int = 0
    payments_forgotten_ms: int = 0
    commits: int = field(default=0, compare=False)
    changes: Changes = field(default_factory=Changes, compare=False, repr=False)

    # What the rest of the aggregator asks. Only `charging` and the store look into what is above.

    def account(self, account_id: bytes) -> Account | None:
        """Return the account, if it is known."""
        return self.accounts.get(account_id)

    def channel(self, channel_id: bytes) -> Channel | None:
        """Return the channel, if it is known."""
        return self.channels.get(channel_id)

    def known_account(self, account_id: bytes) -> Account:
        """Return an account that is there: none is ever removed. Raises KeyError for an id that never was."""
        return self.accounts[account_id]

    def known_channel(self, channel_id: bytes) -> Channel:
        """Return a channel that is there: none is ever removed. Raises KeyError for an id that never was."""
        return self.channels[channel_id]

    def channels_of(self, account_id: bytes) -> Iterator[Channel]:
        """Yield the account's channels, in the order in which they were opened."""
        return (self.channels[channel_id] for channel_id in self.channel_ids.get(account_id, ()))

    def is_held(self, channel_id: bytes) -> bool:
        """Tell whether a reservation is open on the channel."""
        return channel_id in self.open_reservations

    def channel_count(self, account_id: bytes) -> int:
        """Return how many channels the account has."""
        return len(self.channel_ids.get(account_id, ()))

    def channels_after(self, account_id: bytes, channel_id: bytes, count: int) -> list[Channel] | None:
        """Return up to `count` of the account's channels after this one, or its first if the id is empty.

        None if the account has no such channel.
        """
        ids = self.channel_ids.get(account_id, [])
        if channel_id and channel_id not in ids:
            return None
        start = ids.index(channel_id) + 1 if channel_id else 0
        return [self.channels[id_] for id_ in ids[start : start + count]]

    def spend_keys_of(self, account_id: bytes) -> Iterator[SpendKey]:
        """Yield the account's spend keys; revoked and expired ones are among them until they are forgotten."""
        return (self.spend_keys[name] for name in self.spend_key_names.get(account_id, ()))

    def every_account(self) -> Iterator[Account]:
        """Yield each account as it is when its turn comes: commits between two turns do no harm."""
        return (self.accounts[account_id] for account_id in list(self.accounts))

    def every_channel(self) -> Iterator[Channel]:
        """Yield each channel as it is when its turn comes: commits between two turns do no harm."""
        return (self.channels[channel_id] for channel_id in list(self.channels))

    def accounts_of(self, escrow: EscrowRef) -> Iterator[Account]:
        """Yield the accounts in an escrow, each as it is when its turn comes."""
        return (account for account in self.every_account() if account.escrow == escrow)

    def withdrawing(self, escrow: EscrowRef) -> Iterator[Account]:
        """Yield the accounts in an escrow that withdraw."""
        return (account for account in self.accounts_of(escrow) if account.withdraw_finalizes_at)

    @property
    def size(self) -> tuple[int, int]:
        """How many accounts and channels there are."""
        return len(self.accounts), len(self.channels)

    def head(self, escrow: EscrowRef) -> ChainHead | None:
        """Return the last block that the escrow's mirror has taken in, if it has any."""
        return self.heads.get(escrow)

    def name_escrows(self, escrow_of: Callable[[Account], EscrowRef]) -> None:
        """Name the escrow of what was stored before accounts named it. To be called before the ledger is served.

        A network had one escrow then, so its mirror's head is of the escrow that its accounts are in.
        """
        named: dict[str, EscrowRef] = {}
        for account in self.accounts.values():
            if not account.escrow.address:
                account.escrow = named[account.network] = escrow_of(account)
                self.changes.accounts[account.id] = account
        for unnamed in [escrow for escrow in self.heads if not escrow.address]:
            head = self.heads.pop(unnamed)
            if unnamed.network in named:  # else no account depends on it, and the escrow is read from its beginning
                self.heads.setdefault(named[unnamed.network], head)

    def keep_heads(self, escrows: Set[EscrowRef]) -> None:
        """Let go of what mirrors of other escrows have taken in. To be called before the ledger is served.

        Such a mirror is never stale again: with it, it would never look as if all were.
        """
        self.heads = {escrow: head for escrow, head in self.heads.items() if escrow in escrows}

    def strangers_among(self, channel_ids: Iterable[bytes], receivers: Set[bytes]) -> set[bytes]:
        """Return those of the ids whose channel is unknown or pays none of these receivers."""
        channels = self.channels
        return {
            id_ for id_ in channel_ids if (channel := channels.get(id_)) is None or channel.receiver not in receivers
        }


def payment_key(channel_id: bytes, payment_id: bytes) -> bytes:
    """The 48 bytes under which a payment is filed: the payment id first, so that keys are ordered by time."""
    return payment_id + channel_id


def reservation_handle(channel_id: bytes, payment_id: bytes, secret: bytes) -> bytes:
    """The 64 bytes that name a reservation: the payment's key, and 16 random bytes that nobody can guess."""
    return payment_key(channel_id, payment_id) + secret


def payment_of_handle(handle: bytes) -> tuple[bytes, bytes]:
    """The channel id and payment id that a handle names."""
    return handle[16:48], handle[:16]


def spend_key_name(account_id: bytes, key_id: bytes) -> bytes:
    """The 64 bytes under which a spend key is filed."""
    return account_id + key_id


def exposure_key(receiver: bytes, token: bytes) -> bytes:
    """The 40 bytes under which a seller's exposure in one token is counted."""
    return receiver + token
