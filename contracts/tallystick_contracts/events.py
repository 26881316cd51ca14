"""The escrow's events, typed: what IEscrow.sol emits, and how it is read from a raw log. Pure."""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, Protocol, TypeAlias

from tallystick.hashing import keccak256


class LogError(ValueError):
    """A log that is none of the escrow's, or that does not follow from those before it."""


class RawLog(Protocol):
    """What a node says of an event: its topics (32 bytes each, the first names the event) and its data."""

    @property
    def topics(self) -> Sequence[bytes]: ...

    @property
    def data(self) -> bytes: ...


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


# Reading words. `words` are the indexed fields and then the data, 32 bytes each.

_WORD: Final = 32


def _address(word: bytes) -> bytes:
    if any(word[:12]):
        raise LogError(f"an address: got {word.hex()}; it has 20 bytes")
    return word[12:]


def _uint(word: bytes) -> int:
    return int.from_bytes(word, "big")


def _read_opened(words: Sequence[bytes]) -> AccountOpened:
    account_id, payer, operator, payer_authorizer, token, withdraw_delay, salt, amount = words
    return AccountOpened(
        account_id,
        _address(payer),
        _address(operator),
        _address(payer_authorizer),
        _address(token),
        _uint(withdraw_delay),
        salt,
        _uint(amount),
    )


def _read_claimed(words: Sequence[bytes]) -> Claimed:
    account_id, offset, count, *rows = words
    if _uint(offset) != _WORD or _uint(count) * 2 != len(rows):
        raise LogError(f"Claimed: {_uint(count)} rows announced, {len(rows)} words given; a row has two")
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return Claimed(account_id, tuple((_address(receiver), _uint(total)) for receiver, total in pairs))


def _read_skipped(words: Sequence[bytes]) -> RowSkipped:
    account_id, receiver, total, reason = words
    return RowSkipped(account_id, _address(receiver), _uint(total), SkipReason(_uint(reason)))


def _read_initiated(words: Sequence[bytes]) -> WithdrawInitiated:
    account_id, amount, withdrawable_at, nonce, by_payer = words
    return WithdrawInitiated(account_id, _uint(amount), _uint(withdrawable_at), _uint(nonce), bool(_uint(by_payer)))


def _read_cancelled(words: Sequence[bytes]) -> WithdrawCancelled:
    account_id, nonce, by_payer = words
    return WithdrawCancelled(account_id, _uint(nonce), bool(_uint(by_payer)))


def _read_owed(words: Sequence[bytes]) -> Owed:
    to, token, amount, total = words
    return Owed(_address(to), _address(token), _uint(amount), _uint(total))


def _read_collected(words: Sequence[bytes]) -> Collected:
    to, token, amount = words
    return Collected(_address(to), _address(token), _uint(amount))


def _read_sender(words: Sequence[bytes]) -> SenderSet:
    operator, sender, allowed = words
    return SenderSet(_address(operator), _address(sender), bool(_uint(allowed)))


def _numbers(kind: Callable[..., Event]) -> Callable[[Sequence[bytes]], Event]:
    """Reads an event of an id and nothing but integers."""
    return lambda words: kind(words[0], *map(_uint, words[1:]))


class _Kind(NamedTuple):
    """How an event is read, and how many fields are indexed (in topics)."""

    indexed: int
    read: Callable[[Sequence[bytes]], Event]


SIGNATURES: Final[dict[str, _Kind]] = {
    "AccountOpened(bytes32,address,address,address,address,uint40,bytes32,uint128)": _Kind(3, _read_opened),
    "Deposited(bytes32,uint128,uint128)": _Kind(1, _numbers(Deposited)),
    "Claimed(bytes32,(address,uint128)[])": _Kind(1, _read_claimed),
    "RowSkipped(bytes32,address,uint128,uint8)": _Kind(2, _read_skipped),
    "WithdrawInitiated(bytes32,uint128,uint40,uint256,bool)": _Kind(1, _read_initiated),
    "WithdrawCancelled(bytes32,uint256,bool)": _Kind(1, _read_cancelled),
    "WithdrawFinalized(bytes32,uint128,uint128)": _Kind(1, _numbers(WithdrawFinalized)),
    "Refunded(bytes32,uint128,uint128,uint256,uint128)": _Kind(1, _numbers(Refunded)),
    "Owed(address,address,uint256,uint256)": _Kind(2, _read_owed),
    "Collected(address,address,uint256)": _Kind(2, _read_collected),
    "SenderSet(address,address,bool)": _Kind(2, _read_sender),
}
"""Every event of the escrow by its signature; a test holds them against the ABI."""

_KINDS: Final = {keccak256(signature.encode()): (signature, kind) for signature, kind in SIGNATURES.items()}


def decode(log: RawLog) -> Event:
    """The event of a raw log. Raises LogError if the escrow emits no such event."""
    if not log.topics or log.topics[0] not in _KINDS:
        raise LogError(f"topic: got {log.topics[0].hex() if log.topics else 'none'}; no event of the escrow has it")
    signature, kind = _KINDS[log.topics[0]]
    if len(log.topics) != 1 + kind.indexed or len(log.data) % _WORD:
        raise LogError(f"{signature}: got {len(log.topics)} topics and {len(log.data)} bytes of data")
    words = [*log.topics[1:], *(log.data[at : at + _WORD] for at in range(0, len(log.data), _WORD))]
    try:
        return kind.read(words)
    except LogError:
        raise
    except (TypeError, ValueError) as error:
        raise LogError(f"{signature}: {len(words)} words that do not fit its fields") from error
