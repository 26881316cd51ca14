"""Calldata and events of Escrow.sol, both ways, by its ABI. Pure.

Big batches (accounts, claimed) are coded by hand, because the watcher reads thousands at once: of 10,000 accounts in
0.03 s, which take eth_abi 0.23. The rest is encoded by eth_abi; `tallystick_contracts.events` decodes the events.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple
from typing import Any, Final

from eth_abi import abi
from eth_abi.abi import encode
from eth_utils.abi import (
    abi_to_signature,
    event_abi_to_log_topic,
    function_abi_to_4byte_selector,
    get_abi_input_types,
)

from tallystick.channels import ChannelConfig
from tallystick.errors import MalformedError
from tallystick.hashing import keccak256
from tallystick.quantities import ZERO_ADDRESS
from tallystick_aggregator.chain.escrow_events import EscrowEvent, Owed
from tallystick_aggregator.chain.node import Log
from tallystick_aggregator.chain.port import ChainUnavailableError, DepositAuthorization, EscrowAccount
from tallystick_contracts import events, load
from tallystick_contracts.events import (
    SIGNATURES,
    AccountOpened,
    Deposited,
    Refunded,
    RowSkipped,
    SkipReason,
    WithdrawFinalized,
    decode,
)
from tallystick_contracts.log_words import LogError


def selector(signature: str) -> bytes:
    """The four bytes that a call of this function begins with."""
    return keccak256(signature.encode())[:4]


def topic(signature: str) -> bytes:
    """The first topic of this event."""
    return keccak256(signature.encode())


_ABI: Final[dict[str, Any]] = {
    entry["name"]: entry for entry in load("Escrow").abi if entry["type"] in {"function", "event"}
}
CONFIG_TYPE: Final[str] = get_abi_input_types(_ABI["deposit"])[0]
ACCOUNTS: Final = abi_to_signature(_ABI["accounts"])
CLAIMED: Final = abi_to_signature(_ABI["claimed"])
IS_VALID_SIGNATURE: Final = "isValidSignature(bytes32,bytes)"
"""ERC-1271, of operators that are contracts."""

TOPICS: Final = tuple(map(topic, SIGNATURES))
SKIP_REASONS: Final = tuple(reason.name.title().replace("_", "") for reason in SkipReason)
"""IEscrow.SkipReason, by number."""

_ACCOUNT_WORDS: Final = 8


def call_data(function: str, *arguments: Any) -> bytes:
    """Calldata of the escrow's function with this name."""
    entry = _ABI[function]
    values = [astuple(argument) if isinstance(argument, ChannelConfig) else argument for argument in arguments]
    return function_abi_to_4byte_selector(entry) + encode(get_abi_input_types(entry), values)


def event_topic(name: str) -> bytes:
    """The first topic of the escrow's event with this name."""
    return event_abi_to_log_topic(_ABI[name])


def deposit_with_authorization(deposit: DepositAuthorization) -> bytes:
    """Calldata of `depositWithAuthorization`."""
    return call_data(
        "depositWithAuthorization",
        deposit.account,
        deposit.amount,
        deposit.valid_after,
        deposit.valid_before,
        deposit.salt,
        deposit.signature,
    )


def token_of(data: bytes) -> bytes:
    """The token of the account that the calldata of a deposit or a refund begins with."""
    return data[4 + 4 * 32 + 12 : 4 + 5 * 32]


def batch_of_claim(claim: bytes) -> bytes:
    """The encoded batch inside of `claim`'s calldata."""
    if claim[:4] != function_abi_to_4byte_selector(_ABI["claim"]):
        raise ValueError("not the calldata of Escrow.claim")
    return bytes(abi.decode(["bytes"], claim[4:])[0])


def is_valid_signature(digest: bytes, signature: bytes) -> bytes:
    """Calldata of ERC-1271's `isValidSignature`."""
    return selector(IS_VALID_SIGNATURE) + encode(["bytes32", "bytes"], [digest, signature])


def accounts_query(account_ids: Sequence[bytes]) -> bytes:
    """Calldata that asks for accounts by their ids."""
    return words_query(ACCOUNTS, account_ids)


def claimed_query(channel_ids: Sequence[bytes]) -> bytes:
    """Calldata that asks for what channels were paid."""
    return words_query(CLAIMED, channel_ids)


def words_query(function: str, words: Sequence[bytes]) -> bytes:
    """Calldata of a function that takes one bytes32[]."""
    return selector(function) + _uint(32) + _uint(len(words)) + b"".join(words)


def read_accounts(answer: bytes, count: int) -> list[EscrowAccount]:
    """What `accounts` returned for so many ids."""
    words = _array(answer, count, _ACCOUNT_WORDS)
    accounts: list[EscrowAccount] = []
    for at in range(0, len(words), _ACCOUNT_WORDS):
        _opened, balance, refund_nonce, withdraw_nonce, _authorizers, amount, withdrawable_at, _by_payer = words[
            at : at + _ACCOUNT_WORDS
        ]
        accounts.append(EscrowAccount(balance, refund_nonce, withdraw_nonce, amount, withdrawable_at))
    return accounts


def read_claimed(answer: bytes, count: int) -> list[int]:
    """What `claimed` returned for so many ids."""
    return _array(answer, count, 1)


def can_be_ours(log: Log) -> bool:
    """Whether the escrow can have emitted such an event: one of its own in full, or one whose name is not known."""
    if not log.topics:
        return False
    try:
        decode(log)
    except LogError:
        return log.topics[0] not in TOPICS
    return True


def read_event(log: Log) -> EscrowEvent:
    """See `escrow_port.EscrowBinding.read_event`. Raises ChainUnavailableError if the escrow emits none such."""
    # 4 µs an event; web3's decoder takes 570, and the first look at an escrow reads every account's.
    try:
        event, at = decode(log), log.block_number
    except LogError as error:
        raise ChainUnavailableError(f"an event of the escrow is malformed: {error}") from error
    match event:
        case AccountOpened():
            return EscrowEvent(at, event.account_id, event.amount, _config(event))
        case Deposited():
            return EscrowEvent(at, event.account_id, event.amount)
        case WithdrawFinalized():
            return EscrowEvent(at, event.account_id, -event.amount)
        case Refunded():
            return EscrowEvent(at, event.account_id, -event.amount, refund_nonce=event.nonce)
        case events.Owed(to, token, amount):
            return EscrowEvent(at, owed=Owed(to, token, amount))
        case RowSkipped():
            return EscrowEvent(at, event.account_id, skipped=SKIP_REASONS[event.reason])
        case _:
            return EscrowEvent(at, getattr(event, "account_id", b""))


def _config(opened: AccountOpened) -> ChannelConfig | None:
    """The account's; None where no account can be configured so: nobody can have charged one that cannot be named."""
    with suppress(MalformedError):
        return ChannelConfig(
            payer=opened.payer,
            payer_authorizer=opened.payer_authorizer,
            receiver=ZERO_ADDRESS,
            receiver_authorizer=opened.operator,
            token=opened.token,
            withdraw_delay_s=opened.withdraw_delay_s,
            salt=opened.salt,
        )
    return None


def _array(answer: bytes, count: int, words_each: int) -> list[int]:
    """The words of a dynamic array of static items."""
    if len(answer) != 32 * (2 + count * words_each) or answer[32:64] != _uint(count):
        raise ChainUnavailableError(f"the escrow answered with {len(answer)} bytes for {count} items")
    return [int.from_bytes(answer[at : at + 32], "big") for at in range(64, len(answer), 32)]


def _uint(value: int) -> bytes:
    return value.to_bytes(32, "big")
