"""Events and errors of x402BatchSettlement, the canonical contract of x402's batch-settlement. Pure.

The contract is not this project's: these are its public interface (specs/schemes/batch-settlement/ of x402, version
1.1), held in tests against the stand-in and the official package's ABI.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from tallystick_contracts.log_words import (
    Kind,
    LogError,
    RawLog,
    decode_log,
    kinds_by_topic,
    read_address,
    read_uint,
)

ERRORS: Final = (
    "InvalidChannel",
    "ZeroDeposit",
    "DepositOverflow",
    "InvalidSignature",
    "NotReceiverAuthorizer",
    "NotAuthorizedToClaim",
    "NotAuthorizedToRefund",
    "ClaimExceedsCeiling",
    "ClaimExceedsBalance",
    "WithdrawalAlreadyPending",
    "WithdrawalNotPending",
    "NotAuthorizedToFinalizeWithdraw",
    "WithdrawDelayNotElapsed",
    "NothingToWithdraw",
    "WithdrawAmountExceedsAvailable",
    "WithdrawDelayOutOfRange",
    "EmptyBatch",
    "DepositCollectionFailed",
    "InvalidCollector",
    "InvalidRefundNonce",
    "ZeroRefund",
    "OnlyX402BatchSettlement",
    "Permit2612AmountMismatch",
)
"""Of the contract and its collectors; none has arguments."""

CONFIG_TYPE: Final = "(address,address,address,address,address,uint40,bytes32)"
"""ChannelConfig in an ABI."""
_CONFIG_WORDS: Final = 7


class Config(NamedTuple):
    """A channel's configuration as an event has it; unlike `tallystick.channels.ChannelConfig` it may be any at all."""

    payer: bytes
    payer_authorizer: bytes
    receiver: bytes
    receiver_authorizer: bytes
    token: bytes
    withdraw_delay_s: int
    salt: bytes


# The events, field by field. Ids have 32 bytes, addresses 20; amounts are atomic units, `sender` sent the transaction.


class ChannelCreated(NamedTuple):
    """A channel without money is about to get some; `Deposited` follows. Again if it was emptied before any claim."""

    channel_id: bytes
    config: Config


class ChannelClosed(NamedTuple):
    """A channel of which nothing was ever claimed has no money any more."""

    channel_id: bytes
    config: Config


class Deposited(NamedTuple):
    """`amount` was added; `balance` is all that was deposited, less what went back, after it."""

    channel_id: bytes
    sender: bytes
    amount: int
    balance: int


class Claimed(NamedTuple):
    """`amount` more is the receiver's, `total` in all; it is paid by `settle`."""

    channel_id: bytes
    sender: bytes
    amount: int
    total: int


class Settled(NamedTuple):
    """All that was claimed for a receiver in a token, and not paid yet, was paid."""

    receiver: bytes
    token: bytes
    sender: bytes
    amount: int


class Refunded(NamedTuple):
    """`amount` went back to the payer. Which nonce it used is not said."""

    channel_id: bytes
    sender: bytes
    amount: int


class WithdrawInitiated(NamedTuple):
    """The payer has started its way out; `finalize_after` in seconds since the epoch."""

    channel_id: bytes
    amount: int
    finalize_after: int


class WithdrawFinalized(NamedTuple):
    """The way out has ended; `amount` went to the payer."""

    channel_id: bytes
    sender: bytes
    amount: int


Event: TypeAlias = (
    ChannelCreated | ChannelClosed | Deposited | Claimed | Settled | Refunded | WithdrawInitiated | WithdrawFinalized
)


def _bytes32(word: bytes) -> bytes:
    return word


def _config(kind: Callable[[bytes, Config], Event]) -> Callable[[Sequence[bytes]], Event]:
    """Reads an event of a channel's id and its configuration."""

    def read(words: Sequence[bytes]) -> Event:
        channel_id, *config = words
        if len(config) != _CONFIG_WORDS:
            raise LogError(f"a channel's configuration: got {len(config)} words; it has {_CONFIG_WORDS}")
        *addresses, delay, salt = config
        payer, payer_authorizer, receiver, receiver_authorizer, token = map(read_address, addresses)
        return kind(
            channel_id, Config(payer, payer_authorizer, receiver, receiver_authorizer, token, read_uint(delay), salt)
        )

    return read


def _fields(kind: Callable[..., Event], *reads: Callable[[bytes], bytes | int]) -> Callable[[Sequence[bytes]], Event]:
    """Reads an event word by word."""
    return lambda words: kind(*(read(word) for read, word in zip(reads, words, strict=True)))


SIGNATURES: Final[dict[str, Kind[Event]]] = {
    f"ChannelCreated(bytes32,{CONFIG_TYPE})": Kind(1, _config(ChannelCreated)),
    f"ChannelClosed(bytes32,{CONFIG_TYPE})": Kind(1, _config(ChannelClosed)),
    "Deposited(bytes32,address,uint128,uint128)": Kind(
        2, _fields(Deposited, _bytes32, read_address, read_uint, read_uint)
    ),
    "Claimed(bytes32,address,uint128,uint128)": Kind(2, _fields(Claimed, _bytes32, read_address, read_uint, read_uint)),
    "Settled(address,address,address,uint128)": Kind(
        3, _fields(Settled, read_address, read_address, read_address, read_uint)
    ),
    "Refunded(bytes32,address,uint128)": Kind(2, _fields(Refunded, _bytes32, read_address, read_uint)),
    "WithdrawInitiated(bytes32,uint128,uint40)": Kind(1, _fields(WithdrawInitiated, _bytes32, read_uint, read_uint)),
    "WithdrawFinalized(bytes32,address,uint128)": Kind(
        2, _fields(WithdrawFinalized, _bytes32, read_address, read_uint)
    ),
}
"""Every event of the contract by its signature; a test holds them against the stand-in's ABI."""

_KINDS: Final = kinds_by_topic(SIGNATURES)
TOPICS: Final = tuple(_KINDS)
"""The first topic of each event."""
CREATED_TOPIC: Final = TOPICS[0]


def decode(log: RawLog) -> Event:
    """The event of a raw log. Raises LogError if the contract emits no such event."""
    return decode_log(log, _KINDS)
