"""Calldata, answers and events of the canonical x402BatchSettlement, both ways. Pure.

Its views take one id, so many are asked for in one `multicall` of the contract itself; these questions and answers are
coded by hand, because the watcher asks thousands at once. All else is encoded by eth_abi.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import astuple
from typing import Any, Final, NamedTuple

from eth_abi import abi
from eth_abi.exceptions import DecodingError

from tallystick.channels import ChannelConfig
from tallystick.eip712 import ERC3009_DEPOSIT_COLLECTOR_ADDRESS, PERMIT2_DEPOSIT_COLLECTOR_ADDRESS
from tallystick.errors import MalformedError
from tallystick.x402.batch_settlement import Erc3009Deposit, Permit2Deposit, VoucherClaim
from tallystick.x402.permit2 import TokenPermit
from tallystick_aggregator.chain.escrow_calls import selector
from tallystick_aggregator.chain.escrow_events import EscrowEvent
from tallystick_aggregator.chain.node import Log
from tallystick_aggregator.chain.port import ChainUnavailableError, EscrowAccount
from tallystick_contracts import batch_settlement as contract
from tallystick_contracts.attribution import split_suffix
from tallystick_contracts.batch_settlement import CONFIG_TYPE, Config
from tallystick_contracts.log_words import LogError


class Function(NamedTuple):
    """A function of the contract by its name and the types of its arguments."""

    name: str
    types: tuple[str, ...]

    @property
    def signature(self) -> str:
        """As its selector is made of it."""
        return f"{self.name}({','.join(self.types)})"

    @property
    def selector(self) -> bytes:
        """What a call begins with."""
        return selector(self.signature)

    def call(self, *arguments: Any) -> bytes:
        """Calldata with these arguments."""
        return self.selector + abi.encode(self.types, arguments)


_CLAIMS_TYPE: Final = f"(({CONFIG_TYPE},uint128),bytes,uint128)[]"
DEPOSIT: Final = Function("deposit", (CONFIG_TYPE, "uint128", "address", "bytes"))
CLAIM: Final = Function("claim", (_CLAIMS_TYPE,))
CLAIM_WITH_SIGNATURE: Final = Function("claimWithSignature", (_CLAIMS_TYPE, "bytes"))
SETTLE: Final = Function("settle", ("address", "address"))
REFUND_WITH_SIGNATURE: Final = Function("refundWithSignature", (CONFIG_TYPE, "uint128", "uint256", "bytes"))
MULTICALL: Final = Function("multicall", ("bytes[]",))
CHANNELS: Final = Function("channels", ("bytes32",))
PENDING_WITHDRAWALS: Final = Function("pendingWithdrawals", ("bytes32",))
REFUND_NONCE: Final = Function("refundNonce", ("bytes32",))
RECEIVERS: Final = Function("receivers", ("address", "address"))
GET_VOUCHER_DIGEST: Final = Function("getVoucherDigest", ("bytes32", "uint128"))

_CLAIMS: Final = {CLAIM.selector: CLAIM, CLAIM_WITH_SIGNATURE.selector: CLAIM_WITH_SIGNATURE}
_CALL_BYTES: Final = 36
_VIEWS: Final = (CHANNELS, PENDING_WITHDRAWALS, REFUND_NONCE)
_VIEWS_WORDS: Final = (2, 2, 1)


class ClaimedRow(NamedTuple):
    """A row in a claim's calldata."""

    config: Config
    total: int


# What is sent.


def deposit_call(config: ChannelConfig, amount: int, authorization: Erc3009Deposit | Permit2Deposit) -> bytes:
    """Calldata of `deposit`: the collector that the authorization is for, and what it needs to bring the tokens."""
    if isinstance(authorization, Erc3009Deposit):
        window = (authorization.valid_after, authorization.valid_before)
        salt = int.from_bytes(authorization.salt, "big")
        data = abi.encode(["uint256", "uint256", "uint256", "bytes"], [*window, salt, authorization.signature])
        collector = ERC3009_DEPOSIT_COLLECTOR_ADDRESS
    else:
        nonce = int.from_bytes(authorization.nonce, "big")
        permit = _permit_data(authorization.permit)
        values = [nonce, authorization.deadline, authorization.signature, permit]
        data = abi.encode(["uint256", "uint256", "bytes", "bytes"], values)
        collector = PERMIT2_DEPOSIT_COLLECTOR_ADDRESS
    return DEPOSIT.call(astuple(config), amount, collector, data)


def claim_call(rows: Sequence[VoucherClaim], authorizer_signature: bytes) -> bytes:
    """Calldata of `claimWithSignature`."""
    return CLAIM_WITH_SIGNATURE.call([*map(_row, rows)], authorizer_signature)


def refund_call(config: ChannelConfig, amount: int, nonce: int, signature: bytes) -> bytes:
    """Calldata of `refundWithSignature`."""
    return REFUND_WITH_SIGNATURE.call(astuple(config), amount, nonce, signature)


def multicall(calls: Iterable[bytes]) -> bytes:
    """Calldata that does several calls, all or none."""
    return MULTICALL.call([*calls])


def config_words(config: ChannelConfig) -> bytes:
    """The configuration as each call that names a channel carries it: seven words in a row, since all are static."""
    return abi.encode([CONFIG_TYPE], [astuple(config)])


def claimed_rows(call_data: bytes) -> list[ClaimedRow]:
    """The rows of all claims in calldata, in call order, those inside of a `multicall` too; none if it claims nothing.

    Raises ValueError for calldata that the contract could not read.
    """
    call, _ = split_suffix(call_data)
    if call[:4] == MULTICALL.selector:
        return [row for inner in _decode(MULTICALL, call)[0] for row in claimed_rows(inner)]
    function = _CLAIMS.get(call[:4])
    if function is None:
        return []
    return [
        ClaimedRow(_config(channel), total) for (channel, _ceiling), _signature, total in _decode(function, call)[0]
    ]


def refunded_config(call_data: bytes) -> Config:
    """The channel of a refund in calldata, inside of a `multicall` too. Raises ValueError where there is none."""
    call, _ = split_suffix(call_data)
    if call[:4] == MULTICALL.selector:
        call = _decode(MULTICALL, call)[0][-1]
    if call[:4] != REFUND_WITH_SIGNATURE.selector:
        raise ValueError("not the calldata of a refund")
    return _config(_decode(REFUND_WITH_SIGNATURE, call)[0])


# What is read.


def accounts_query(channel_ids: Sequence[bytes]) -> bytes:
    """Calldata that asks for all that the contract holds of channels."""
    return _ask([view.selector + channel_id for channel_id in channel_ids for view in _VIEWS])


def read_accounts(answer: bytes, count: int, withdraw_delay_s: int) -> list[EscrowAccount]:
    """What `accounts_query` was answered for so many channels. The contract does not keep a channel's delay."""
    words = iter(_answers(answer, _VIEWS_WORDS * count))
    accounts: list[EscrowAccount] = []
    for balance, total_claimed, withdrawing, initiated_at, nonce in zip(*[words] * sum(_VIEWS_WORDS), strict=True):
        finalizes_at = initiated_at + withdraw_delay_s if initiated_at else 0
        accounts.append(EscrowAccount(balance - total_claimed, nonce, 0, withdrawing, finalizes_at))
    return accounts


def claimed_query(channel_ids: Sequence[bytes]) -> bytes:
    """Calldata that asks for channels alone."""
    return _ask([CHANNELS.selector + channel_id for channel_id in channel_ids])


def read_claimed(answer: bytes, count: int) -> list[int]:
    """What was claimed on so many channels."""
    return _answers(answer, (2,) * count)[1::2]


def can_be_its(log: Log) -> bool:
    """Whether the contract can have emitted such an event: one of its own in full, or one whose name is not known."""
    if not log.topics:
        return False
    try:
        contract.decode(log)
    except LogError:
        return log.topics[0] not in contract.TOPICS
    return True


def decode(log: Log) -> contract.Event:
    """The event. Raises ChainUnavailableError if the contract emits none such: another answer may be right."""
    try:
        return contract.decode(log)
    except LogError as error:
        raise ChainUnavailableError(f"an event of the escrow is malformed: {error}") from error


def read_event(log: Log) -> EscrowEvent:
    """See `escrow_port.EscrowBinding.read_event`. Raises ChainUnavailableError if the contract emits none such."""
    event, at = decode(log), log.block_number
    match event:
        case contract.ChannelCreated(channel_id, config):
            return EscrowEvent(at, channel_id, opened=channel_config(config))
        case contract.Deposited():
            return EscrowEvent(at, event.channel_id, event.amount)
        case contract.Refunded() | contract.WithdrawFinalized():
            return EscrowEvent(at, event.channel_id, -event.amount)
        case _:
            return EscrowEvent(at, getattr(event, "channel_id", b""))


def channel_config(config: Config) -> ChannelConfig | None:
    """The channel's; None where it is one that nobody here serves: without a payerAuthorizer, above all."""
    with suppress(MalformedError):
        return ChannelConfig(*config)
    return None


def _row(claim: VoucherClaim) -> tuple[Any, ...]:
    return (astuple(claim.config), claim.max_claimable_amount), claim.signature, claim.total_claimed


def _permit_data(permit: TokenPermit | None) -> bytes:
    if permit is None:
        return b""
    signature = permit.signature
    words = [permit.value, permit.deadline, signature[64], signature[:32], signature[32:64]]
    return abi.encode(["uint256", "uint256", "uint8", "bytes32", "bytes32"], words)


def _decode(function: Function, call: bytes) -> tuple[Any, ...]:
    try:
        return abi.decode(function.types, call[4:])
    except (DecodingError, OverflowError) as error:
        raise ValueError(f"not the calldata of {function.name}: {error}") from error


def _config(channel: Sequence[Any]) -> Config:
    *addresses, delay, salt = channel
    payer, payer_authorizer, receiver, receiver_authorizer, token = (bytes.fromhex(a[2:]) for a in addresses)
    return Config(payer, payer_authorizer, receiver, receiver_authorizer, token, delay, salt)


def _ask(calls: Sequence[bytes]) -> bytes:
    """Calldata of a multicall of views with one word each."""
    head = [32, len(calls), *(32 * len(calls) + 96 * at for at in range(len(calls)))]
    padding = bytes(-_CALL_BYTES % 32)
    body = b"".join(_CALL_BYTES.to_bytes(32, "big") + call + padding for call in calls)
    return MULTICALL.selector + b"".join(word.to_bytes(32, "big") for word in head) + body


def _answers(answer: bytes, lengths: Sequence[int]) -> list[int]:
    """The words of what a multicall of views returned, of so many words each."""
    words = [int.from_bytes(answer[at : at + 32], "big") for at in range(0, len(answer), 32)]
    at = 2 + len(lengths)
    if len(answer) != 32 * (at + len(lengths) + sum(lengths)) or words[:2] != [32, len(lengths)]:
        raise ChainUnavailableError(f"the escrow answered with {len(answer)} bytes to {len(lengths)} questions")
    found: list[int] = []
    for length in lengths:
        if words[at] != 32 * length:
            raise ChainUnavailableError(f"the escrow answered with {words[at]} bytes where {32 * length} are right")
        found += words[at + 1 : at + 1 + length]
        at += 1 + length
    return found
