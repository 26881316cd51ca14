"""The escrow's events, typed: what IEscrow.sol emits, and how it is read from a raw log. Pure."""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from tallystick_contracts.log_words import (
    WORD,
    Kind,
    LogError,
    RawLog,
    decode_log,
    kinds_by_topic,
    read_address,
    read_uint,
)


class SkipReason(IntEnum):
    """Why a row of a claim was left out: IEscrow.SkipReason."""

    NONE = 0
    BAD_RECEIVER = 1
    NOTHING_NEW = 2
    ABOVE_CEILING = 3
    ACCOUNT_EMPTY = 4
    BAD_SIGNATURE = 5


# The events, field by field as IEscrow.sol has them. Ids have 32 bytes, addresses 20; amounts are atomic units.


class AccountOpened(NamedTuple):
    """An account got its first deposit, `amount`. The only event with the account's configuration."""

    account_id: bytes
    payer: bytes
    operator: bytes
    payer_authorizer: bytes
    token: bytes
    withdraw_delay_s: int
    salt: bytes
    amount: int


class Deposited(NamedTuple):
    """A further deposit; `balance` is the account's after it."""

    account_id: bytes
    amount: int
    balance: int


class Claimed(NamedTuple):
    """The account paid `rows` of (receiver, the channel's cumulative total after the row)."""

    account_id: bytes
    rows: tuple[tuple[bytes, int], ...]


class RowSkipped(NamedTuple):
    """A row that asked for the cumulative `total` changed nothing."""

    account_id: bytes
    receiver: bytes
    total: int
    reason: SkipReason


class WithdrawInitiated(NamedTuple):
    """A withdrawal was started; `withdrawable_at` in Unix seconds.

    `nonce` was used up: the payer's if `by_payer`, else the payerAuthorizer's. One by the payer takes the place of one
    that the payerAuthorizer had started.
    """

    account_id: bytes
    amount: int
    withdrawable_at: int
    nonce: int
    by_payer: bool


class WithdrawCancelled(NamedTuple):
    """The pending withdrawal was given up; `nonce` was used up: the payer's if `by_payer`, else the authorizer's."""

    account_id: bytes
    nonce: int
    by_payer: bool


class WithdrawFinalized(NamedTuple):
    """The pending withdrawal ended, `amount` went to the payer."""

    account_id: bytes
    amount: int
    balance: int


class Refunded(NamedTuple):
    """The operator gave `amount` back; `withdraw_amount` remains of a pending withdrawal (zero: none is pending)."""

    account_id: bytes
    amount: int
    balance: int
    nonce: int
    withdraw_amount: int


class Owed(NamedTuple):
    """A transfer failed: `amount` is kept for `to`, who is owed `total` now."""

    to: bytes
    token: bytes
    amount: int
    total: int


class Collected(NamedTuple):
    """All that was owed was paid."""

    to: bytes
    token: bytes
    amount: int


class SenderSet(NamedTuple):
    """The operator allowed `sender` to land its claims, or no longer does."""

    operator: bytes
    sender: bytes
    allowed: bool


Event: TypeAlias = (
    AccountOpened
    | Deposited
    | Claimed
    | RowSkipped
    | WithdrawInitiated
    | WithdrawCancelled
    | WithdrawFinalized
    | Refunded
    | Owed
    | Collected
    | SenderSet
)


# `words` are the indexed fields and then the data, 32 bytes each.


def _read_opened(words: Sequence[bytes]) -> AccountOpened:
    account_id, payer, operator, payer_authorizer, token, withdraw_delay, salt, amount = words
    return AccountOpened(
        account_id,
        read_address(payer),
        read_address(operator),
        read_address(payer_authorizer),
        read_address(token),
        read_uint(withdraw_delay),
        salt,
        read_uint(amount),
    )


def _read_claimed(words: Sequence[bytes]) -> Claimed:
    account_id, offset, count, *rows = words
    if read_uint(offset) != WORD or read_uint(count) * 2 != len(rows):
        raise LogError(f"Claimed: {read_uint(count)} rows announced, {len(rows)} words given; a row has two")
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return Claimed(account_id, tuple((read_address(receiver), read_uint(total)) for receiver, total in pairs))


def _read_skipped(words: Sequence[bytes]) -> RowSkipped:
    account_id, receiver, total, reason = words
    return RowSkipped(account_id, read_address(receiver), read_uint(total), SkipReason(read_uint(reason)))


def _read_initiated(words: Sequence[bytes]) -> WithdrawInitiated:
    account_id, amount, withdrawable_at, nonce, by_payer = words
    return WithdrawInitiated(
        account_id, read_uint(amount), read_uint(withdrawable_at), read_uint(nonce), bool(read_uint(by_payer))
    )


def _read_cancelled(words: Sequence[bytes]) -> WithdrawCancelled:
    account_id, nonce, by_payer = words
    return WithdrawCancelled(account_id, read_uint(nonce), bool(read_uint(by_payer)))


def _read_owed(words: Sequence[bytes]) -> Owed:
    to, token, amount, total = words
    return Owed(read_address(to), read_address(token), read_uint(amount), read_uint(total))


def _read_collected(words: Sequence[bytes]) -> Collected:
    to, token, amount = words
    return Collected(read_address(to), read_address(token), read_uint(amount))


def _read_sender(words: Sequence[bytes]) -> SenderSet:
    operator, sender, allowed = words
    return SenderSet(read_address(operator), read_address(sender), bool(read_uint(allowed)))


def _numbers(kind: Callable[..., Event]) -> Callable[[Sequence[bytes]], Event]:
    """Reads an event of an id and nothing but integers."""
    return lambda words: kind(words[0], *map(read_uint, words[1:]))


SIGNATURES: Final[dict[str, Kind[Event]]] = {
    "AccountOpened(bytes32,address,address,address,address,uint40,bytes32,uint128)": Kind(3, _read_opened),
    "Deposited(bytes32,uint128,uint128)": Kind(1, _numbers(Deposited)),
    "Claimed(bytes32,(address,uint128)[])": Kind(1, _read_claimed),
    "RowSkipped(bytes32,address,uint128,uint8)": Kind(2, _read_skipped),
    "WithdrawInitiated(bytes32,uint128,uint40,uint256,bool)": Kind(1, _read_initiated),
    "WithdrawCancelled(bytes32,uint256,bool)": Kind(1, _read_cancelled),
    "WithdrawFinalized(bytes32,uint128,uint128)": Kind(1, _numbers(WithdrawFinalized)),
    "Refunded(bytes32,uint128,uint128,uint256,uint128)": Kind(1, _numbers(Refunded)),
    "Owed(address,address,uint256,uint256)": Kind(2, _read_owed),
    "Collected(address,address,uint256)": Kind(2, _read_collected),
    "SenderSet(address,address,bool)": Kind(2, _read_sender),
}
"""Every event of the escrow by its signature; a test holds them against the ABI."""

_KINDS: Final = kinds_by_topic(SIGNATURES)


def decode(log: RawLog) -> Event:
    """The event of a raw log. Raises LogError if the escrow emits no such event."""
    return decode_log(log, _KINDS)
