"""x402BatchSettlement a second time, in Python: takes calldata as the contract does, answers with its events.

Written from its public interface and specs/schemes/batch-settlement/scheme_batch_settlement_evm.md, as the stand-in in
contracts/src/test is; tests/contracts/test_batch_settlement_model.py holds one against the other. Amounts in atomic
units, times in seconds since the epoch. Contract wallets are no part of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from eth_abi.abi import decode, encode
from eth_utils.abi import event_abi_to_log_topic, get_abi_input_types

from escrow_model import RevertedError, Signed, TokenModel, TokenRevertedError, signed
from tallystick import eip712
from tallystick.eip712 import Domain
from tallystick.vouchers import voucher_digest
from tallystick.x402 import ExactAuthorization
from tallystick_aggregator.chain import batch_settlement_calls as calls
from tallystick_aggregator.chain.batch_settlement_calls import Function
from tallystick_aggregator.chain.node import Log
from tallystick_contracts import load
from tallystick_contracts.attribution import split_suffix
from tallystick_contracts.batch_settlement import (
    CONFIG_TYPE,
    ChannelClosed,
    ChannelCreated,
    Claimed,
    Config,
    Deposited,
    Event,
    Refunded,
    Settled,
    WithdrawFinalized,
    WithdrawInitiated,
)

ADDRESS: Final = eip712.BATCH_SETTLEMENT_ADDRESS
ERC3009_COLLECTOR: Final = eip712.ERC3009_DEPOSIT_COLLECTOR_ADDRESS
PERMIT2_COLLECTOR: Final = eip712.PERMIT2_DEPOSIT_COLLECTOR_ADDRESS
INITIATE_WITHDRAW: Final = Function("initiateWithdraw", (CONFIG_TYPE, "uint128"))
FINALIZE_WITHDRAW: Final = Function("finalizeWithdraw", (CONFIG_TYPE,))
REFUND: Final = Function("refund", (CONFIG_TYPE, "uint128"))
_EVENTS: Final = {entry["name"]: entry for entry in load("TestBatchSettlement").abi if entry["type"] == "event"}


@dataclass
class ChannelModel:
    """What the contract keeps of a channel; `withdraw_at`: when a withdrawal was initiated, 0 while there is none."""

    balance: int = 0
    claimed: int = 0
    refund_nonce: int = 0
    withdrawing: int = 0
    withdraw_at: int = 0

    @property
    def unclaimed(self) -> int:
        return self.balance - self.claimed


class Owed(NamedTuple):
    """What was claimed for a receiver in a token, and what of it was paid."""

    claimed: int = 0
    settled: int = 0


@dataclass
class BatchSettlementModel:
    """All that the contract, its collectors and Permit2 keep. A call that reverts may leave half of it done: run calls
    on a copy.
    """

    domain: Domain
    token: TokenModel
    channels: dict[bytes, ChannelModel] = field(default_factory=dict[bytes, ChannelModel])
    configs: dict[bytes, Config] = field(default_factory=dict[bytes, Config])
    owed: dict[tuple[bytes, bytes], Owed] = field(default_factory=dict[tuple[bytes, bytes], Owed])
    allowances: dict[bytes, int] = field(default_factory=dict[bytes, int])
    """By holder: what Permit2 may take of the token."""
    permits: dict[bytes, int] = field(default_factory=dict[bytes, int])
    """By holder: how many EIP-2612 permits the token has taken."""
    nonces: set[tuple[bytes, bytes]] = field(default_factory=set[tuple[bytes, bytes]])
    """Of Permit2, those that were used."""
    signed: Signed = signed

    def copy(self) -> "BatchSettlementModel":
        """An independent one in the same state."""
        return replace(
            self,
            token=self.token.copy(),
            channels={id_: replace(channel) for id_, channel in self.channels.items()},
            configs=dict(self.configs),
            owed=dict(self.owed),
            allowances=dict(self.allowances),
            permits=dict(self.permits),
            nonces=set(self.nonces),
        )

    def channel_id(self, config: Config) -> bytes:
        return eip712.digest(self.domain, eip712.hash_channel_config(*config))

    def channel(self, config: Config) -> ChannelModel:
        """The channel, to be changed."""
        id_ = self.channel_id(config)
        self.configs[id_] = config
        return self.channels.setdefault(id_, ChannelModel())

    def run(self, sender: bytes, data: bytes, now_s: int) -> list[Event]:
        """Do what calldata says; raises escrow_model.RevertedError."""
        call, _ = split_suffix(data)
        function, act = _FUNCTIONS[call[:4]]
        arguments = map(_plain, decode(function.types, call[4:]))
        return act(_Call(self, sender, now_s), *arguments)


class _Call:
    """One call while it runs: who calls, and when."""

    def __init__(self, model: BatchSettlementModel, sender: bytes, now_s: int) -> None:
        self.model = model
        self.sender = sender
        self.now_s = now_s

    def multicall(self, inner: Sequence[bytes]) -> list[Event]:
        return [event for data in inner for event in self.model.run(self.sender, data, self.now_s)]

    def deposit(self, config: Config, amount: int, collector: bytes, data: bytes) -> list[Event]:
        named = config.payer, config.receiver, config.receiver_authorizer, config.token
        _require(bytes(20) not in named, "InvalidChannel")
        _require(15 * 60 <= config.withdraw_delay_s <= 30 * 86_400, "WithdrawDelayOutOfRange")
        _require(amount > 0, "ZeroDeposit")
        channel, id_ = self.model.channel(config), self.model.channel_id(config)
        is_new = channel.balance == channel.claimed == 0
        collect = {ERC3009_COLLECTOR: self._by_erc3009, PERMIT2_COLLECTOR: self._by_permit2}.get(collector)
        _require(collect is not None, "InvalidCollector")
        assert collect is not None
        collect(config, amount, id_, data)
        channel.balance += amount
        created = [ChannelCreated(id_, config)] if is_new else []
        return [*created, Deposited(id_, self.sender, amount, channel.balance)]

    def _by_erc3009(self, config: Config, amount: int, id_: bytes, data: bytes) -> None:
        after, before, salt, signature = decode(["uint256", "uint256", "uint256", "bytes"], data)
        nonce = eip712.deposit_nonce(id_, salt.to_bytes(32, "big"))
        authorization = ExactAuthorization(config.payer, ERC3009_COLLECTOR, amount, after, before, nonce, signature)
        self.model.token.receive_with_authorization(authorization, self.now_s)
        self.model.token.transfer(ERC3009_COLLECTOR, ADDRESS, amount)

    def _by_permit2(self, config: Config, amount: int, id_: bytes, data: bytes) -> None:
        model, payer = self.model, config.payer
        number, deadline, signature, permit = decode(["uint256", "uint256", "bytes", "bytes"], data)
        nonce = number.to_bytes(32, "big")
        if permit:
            self._take_permit(payer, amount, permit)
        struct = eip712.hash_deposit_witness_transfer(config.token, amount, PERMIT2_COLLECTOR, nonce, deadline, id_)
        digest = eip712.digest(eip712.permit2_domain(model.domain.chain_id), struct)
        _require(self.now_s <= deadline, "SignatureExpired")
        _require((payer, nonce) not in model.nonces, "InvalidNonce")
        _require(model.signed(payer, digest, signature), "InvalidSigner")
        if model.allowances.get(payer, 0) < amount:
            raise TokenRevertedError("TRANSFER_FROM_FAILED")
        model.nonces.add((payer, nonce))
        model.allowances[payer] -= amount
        model.token.transfer(payer, ADDRESS, amount)

    def _take_permit(self, payer: bytes, amount: int, permit: bytes) -> None:
        """A permit that is not the payer's next one changes nothing."""
        model = self.model
        value, deadline, v, r, s = decode(["uint256", "uint256", "uint8", "bytes32", "bytes32"], permit)
        _require(value == amount, "Permit2612AmountMismatch")
        count = model.permits.get(payer, 0)
        struct = eip712.hash_permit(payer, eip712.PERMIT2_ADDRESS, value, count, deadline)
        if model.signed(payer, eip712.digest(model.token.domain, struct), r + s + bytes([v])):
            model.permits[payer], model.allowances[payer] = count + 1, value

    def claim(self, rows: Sequence[Any]) -> list[Event]:
        _require(bool(rows), "EmptyBatch")
        for (config, _), _, _ in rows:
            _require(self.sender in {config[2], config[3]}, "NotAuthorizedToClaim")
        return [event for row in rows for event in self._claim_row(*row)]

    def claim_with_signature(self, rows: Sequence[Any], signature: bytes) -> list[Event]:
        _require(bool(rows), "EmptyBatch")
        configs = [Config(*config) for ((config, _), _, _) in rows]
        entries = [
            (self.model.channel_id(config), ceiling, total)
            for config, ((_, ceiling), _, total) in zip(configs, rows, strict=True)
        ]
        digest = eip712.digest(self.model.domain, eip712.hash_claim_batch(entries))
        _require(self.model.signed(configs[0].receiver_authorizer, digest, signature), "InvalidSignature")
        one = {config.receiver_authorizer for config in configs}
        _require(len(one) == 1, "NotReceiverAuthorizer")
        return [event for row in rows for event in self._claim_row(*row)]

    def _claim_row(self, voucher: tuple[Any, int], signature: bytes, total: int) -> list[Event]:
        config, ceiling = Config(*voucher[0]), voucher[1]
        channel, id_ = self.model.channel(config), self.model.channel_id(config)
        before = channel.claimed
        if total <= before:
            return []
        _require(total <= ceiling, "ClaimExceedsCeiling")
        _require(total <= channel.balance, "ClaimExceedsBalance")
        digest = voucher_digest(self.model.domain.separator, id_, ceiling)
        _require(self.model.signed(config.payer_authorizer, digest, signature), "InvalidSignature")
        channel.claimed = total
        key = config.receiver, config.token
        owed = self.model.owed.get(key, Owed())
        self.model.owed[key] = owed._replace(claimed=owed.claimed + total - before)
        return [Claimed(id_, self.sender, total - before, total)]

    def settle(self, receiver: bytes, token: bytes) -> list[Event]:
        owed = self.model.owed.get((receiver, token), Owed())
        due = owed.claimed - owed.settled
        if due == 0:
            return []
        self.model.token.transfer(ADDRESS, receiver, due)
        self.model.owed[receiver, token] = owed._replace(settled=owed.claimed)
        return [Settled(receiver, token, self.sender, due)]

    def refund(self, config: Config, amount: int) -> list[Event]:
        _require(self.sender in {config.receiver, config.receiver_authorizer}, "NotAuthorizedToRefund")
        return self._refund(config, amount)

    def refund_with_signature(self, config: Config, amount: int, nonce: int, signature: bytes) -> list[Event]:
        id_ = self.model.channel_id(config)
        _require(nonce == self.model.channel(config).refund_nonce, "InvalidRefundNonce")
        digest = eip712.digest(self.model.domain, eip712.hash_refund(id_, nonce, amount))
        _require(self.model.signed(config.receiver_authorizer, digest, signature), "InvalidSignature")
        return self._refund(config, amount)

    def _refund(self, config: Config, requested: int) -> list[Event]:
        _require(requested > 0, "ZeroRefund")
        channel, id_ = self.model.channel(config), self.model.channel_id(config)
        channel.refund_nonce += 1
        amount = min(requested, channel.unclaimed)
        if amount == 0:
            return []
        channel.balance -= amount
        channel.withdrawing = max(0, channel.withdrawing - amount)
        channel.withdraw_at = channel.withdraw_at if channel.withdrawing else 0
        return [Refunded(id_, self.sender, amount), *self._pay_back(config, id_, amount)]

    def initiate_withdraw(self, config: Config, amount: int) -> list[Event]:
        _require(self.sender in {config.payer, config.payer_authorizer}, "InvalidChannel")
        _require(amount > 0, "NothingToWithdraw")
        channel = self.model.channel(config)
        _require(not channel.withdraw_at, "WithdrawalAlreadyPending")
        _require(amount <= channel.unclaimed, "WithdrawAmountExceedsAvailable")
        channel.withdrawing, channel.withdraw_at = amount, self.now_s
        return [WithdrawInitiated(self.model.channel_id(config), amount, self.now_s + config.withdraw_delay_s)]

    def finalize_withdraw(self, config: Config) -> list[Event]:
        _require(self.sender in {config.payer, config.payer_authorizer}, "NotAuthorizedToFinalizeWithdraw")
        channel, id_ = self.model.channel(config), self.model.channel_id(config)
        _require(bool(channel.withdraw_at), "WithdrawalNotPending")
        _require(self.now_s >= channel.withdraw_at + config.withdraw_delay_s, "WithdrawDelayNotElapsed")
        amount = min(channel.withdrawing, channel.unclaimed)
        channel.withdrawing = channel.withdraw_at = 0
        channel.balance -= amount
        return [WithdrawFinalized(id_, self.sender, amount), *self._pay_back(config, id_, amount)]

    def _pay_back(self, config: Config, id_: bytes, amount: int) -> list[Event]:
        channel = self.model.channel(config)
        if amount:
            self.model.token.transfer(ADDRESS, config.payer, amount)
        return [ChannelClosed(id_, config)] if channel.balance == channel.claimed == 0 else []


def _configured(act: Callable[..., list[Event]]) -> Callable[..., list[Event]]:
    """The same for an act whose first argument is a channel's configuration."""
    return lambda call, config, *rest: act(call, Config(*config), *rest)


_FUNCTIONS: Final[dict[bytes, tuple[Function, Callable[..., list[Event]]]]] = {
    function.selector: (function, act)
    for function, act in (
        (calls.MULTICALL, _Call.multicall),
        (calls.DEPOSIT, _configured(_Call.deposit)),
        (calls.CLAIM, _Call.claim),
        (calls.CLAIM_WITH_SIGNATURE, _Call.claim_with_signature),
        (calls.SETTLE, _Call.settle),
        (REFUND, _configured(_Call.refund)),
        (calls.REFUND_WITH_SIGNATURE, _configured(_Call.refund_with_signature)),
        (INITIATE_WITHDRAW, _configured(_Call.initiate_withdraw)),
        (FINALIZE_WITHDRAW, _configured(_Call.finalize_withdraw)),
    )
}


def as_log(event: Event, block_number: int = 0) -> tuple[bytes, Log]:
    """The event as a receipt has it, and the contract that it comes from."""
    entry = _EVENTS[type(event).__name__]
    topics, types, values = [event_abi_to_log_topic(entry)], list[str](), list[Any]()
    for argument, type_, value in zip(entry["inputs"], get_abi_input_types(entry), event, strict=True):
        if argument["indexed"]:
            topics.append(encode([type_], [value]))
        else:
            types.append(type_)
            values.append(tuple(value) if isinstance(value, Config) else value)
    return ADDRESS, Log(tuple(topics), encode(types, values), block_number)


def _require(holds: bool, error: str) -> None:
    if not holds:
        raise RevertedError(error)


def _plain(value: Any) -> Any:
    """An argument as the model takes it: addresses, which the decoder gives as text, are bytes."""
    if isinstance(value, str):
        return bytes.fromhex(value[2:])
    return tuple(map(_plain, value)) if isinstance(value, tuple | list) else value
