"""A facilitator of the scheme batch-settlement in memory, with a chain of its own: as strict as the standard.

It manages vouchers, as `voucherManager: "facilitator"` has it (scheme_batch_settlement_evm.md, version 1.1).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from tallystick import eip712
from tallystick.channels import ChannelConfig, channel_id
from tallystick.eip712 import Domain
from tallystick.errors import InvalidSignatureError, RefusedError
from tallystick.facilitator import Settled, Verified
from tallystick.reasons import Reason
from tallystick.signatures import recover
from tallystick.vouchers import UncheckedVoucher, check_voucher
from tallystick.x402 import PaymentPayload, PaymentTerms, read_terms
from tallystick.x402.batch_settlement import (
    BatchSettlementCode,
    ChannelState,
    ClaimPayload,
    DepositPayload,
    Erc3009Deposit,
    RefundPayload,
    Settlement,
    SettlePayload,
    VoucherPayload,
    VoucherState,
    corrective_extra,
    read_batch_settlement,
    verified_extra,
)

ChannelPayload = DepositPayload | VoucherPayload | RefundPayload
_MISMATCH: Final = Reason.CUMULATIVE_AMOUNT_MISMATCH, BatchSettlementCode.CUMULATIVE_AMOUNT_MISMATCH
_BUSY: Final = Reason.CHANNEL_BUSY, BatchSettlementCode.CHANNEL_BUSY
_PENDING_ID: Final = Reason.PENDING_ID_MISMATCH, BatchSettlementCode.PENDING_ID_MISMATCH


@dataclass
class Channel:
    """A channel on chain and in the facilitator's books. `lock` is its pendingId and the voucher that holds it."""

    config: ChannelConfig
    balance: int = 0
    claimed: int = 0
    refund_nonce: int = 0
    charged: int = 0
    charges: int = 0
    newest: VoucherState | None = None
    lock: tuple[str, UncheckedVoucher] | None = None
    salts: set[bytes] = field(default_factory=set)
    """Of the deposits that landed."""


class BatchFacilitator:
    """Verifies and settles; `held` and `settled` count what was done. `balance`: what every payer holds."""

    def __init__(self, chain_id: int, authorizer: bytes, token_domain: Domain, delay_s: int) -> None:
        self.domain = eip712.batch_settlement_domain(chain_id)
        self.authorizer = authorizer
        self.token_domain = token_domain
        self.delay_s = delay_s
        self.balance = 10**12
        self.managed = "facilitator"
        self.on_land: Callable[[DepositPayload], None] = lambda _: None
        self.channels: dict[bytes, Channel] = {}
        self.vouchers: list[UncheckedVoucher] = []
        """All that ever came, taken or not."""
        self._locks = 0

    @property
    def channel(self) -> Channel:
        """The only channel."""
        (channel,) = self.channels.values()
        return channel

    def state(self, id_: bytes) -> ChannelState:
        channel = self.channels[id_]
        return ChannelState(id_, channel.balance, channel.claimed, 0, channel.refund_nonce, channel.charged)

    def verify(self, message: PaymentPayload, terms: PaymentTerms) -> Verified:
        """Hold the channel. Raises RefusedError."""
        payload = self._read(message)
        if payload.reservation.pending_id is not None or payload.reservation.cancel:
            raise refused((Reason.PAYLOAD_INVALID, BatchSettlementCode.UNEXPECTED_PENDING_ID))
        if read_terms(message.accepted).amount != terms.amount:
            raise refused((Reason.AMOUNT_MISMATCH, ""))
        assert terms.extra.get("voucherManager", "server") == self.managed, "who manages vouchers is the seller's word"
        channel = self._check(payload, terms, message)
        self._locks += 1
        pending_id = f"pending-{self._locks}"
        channel.lock = pending_id, payload.voucher
        self.channels.setdefault(payload.voucher.channel_id, channel)
        return Verified(payload.config.payer, extra=verified_extra(self.state(payload.voucher.channel_id), pending_id))

    def settle(self, message: PaymentPayload, terms: PaymentTerms, *, release: bool = False) -> Settled:
        """Charge what is held, or give it free; land a deposit, or a refund. Raises RefusedError."""
        payload = self._read(message)
        voucher, accepted = payload.voucher, read_terms(message.accepted).amount
        channel = self.channels.get(voucher.channel_id)
        if channel is None or terms.amount > accepted:
            raise refused(_PENDING_ID)
        if channel.lock is None or channel.lock != (payload.reservation.pending_id, voucher):
            if channel.lock is not None:
                raise refused(_PENDING_ID)
            raise self._mismatch(voucher.channel_id)
        channel.lock = None
        if release or payload.reservation.cancel:
            return self._settled(payload, Settlement(self.state(voucher.channel_id), 0))
        if isinstance(payload, RefundPayload):
            return self._refund(channel, payload)
        deposited = self._land(channel, payload) if isinstance(payload, DepositPayload) else 0
        channel.charged += terms.amount
        channel.charges += 1
        channel.newest = VoucherState(voucher.max_claimable_amount, voucher.signature)
        settlement = Settlement(self.state(voucher.channel_id), terms.amount, channel.charges)
        return self._settled(payload, settlement, deposited, deposited and 0xD0)

    def claim(self, id_: bytes) -> None:
        """Claim on chain what was charged."""
        self.channels[id_].claimed = self.channels[id_].charged

    def forget(self, id_: bytes) -> None:
        """Lose what is not on chain."""
        channel = self.channels[id_]
        channel.charged, channel.newest = channel.claimed, None

    def _read(self, message: PaymentPayload) -> ChannelPayload:
        payload = read_batch_settlement(message)
        assert not isinstance(payload, ClaimPayload | SettlePayload)
        return payload

    def _check(self, payload: ChannelPayload, terms: PaymentTerms, message: PaymentPayload) -> Channel:
        config, voucher = payload.config, payload.voucher
        self.vouchers.append(voucher)
        assert channel_id(self.domain, config) == voucher.channel_id
        assert config.token == terms.asset == self.token_domain.verifying_contract
        if config.receiver != terms.pay_to:
            raise refused((Reason.RECEIVER_MISMATCH, BatchSettlementCode.RECEIVER_MISMATCH))
        if config.receiver_authorizer != self.authorizer or config.withdraw_delay_s != self.delay_s:
            raise refused((Reason.OPERATOR_MISMATCH, BatchSettlementCode.RECEIVER_AUTHORIZER_MISMATCH))
        try:
            check_voucher(self.domain, voucher, config.payer_authorizer)
        except InvalidSignatureError:
            raise refused((Reason.VOUCHER_SIGNATURE, BatchSettlementCode.VOUCHER_SIGNATURE)) from None
        channel = self.channels.get(voucher.channel_id, Channel(config))
        if channel.lock is not None:
            raise refused(_BUSY)
        amount = 0 if isinstance(payload, RefundPayload) else read_terms(message.accepted).amount
        if voucher.max_claimable_amount != channel.charged + amount:
            self.channels.setdefault(voucher.channel_id, channel)
            raise self._mismatch(voucher.channel_id)
        coming = payload.amount if isinstance(payload, DepositPayload) else 0
        if isinstance(payload, DepositPayload):
            self._check_deposit(channel, payload)
        if voucher.max_claimable_amount > channel.balance + (coming or 0):
            raise refused((Reason.INSUFFICIENT_FUNDS, BatchSettlementCode.CUMULATIVE_EXCEEDS_BALANCE))
        return channel

    def _check_deposit(self, channel: Channel, payload: DepositPayload) -> None:
        assert isinstance(payload.authorization, Erc3009Deposit)
        struct_hash = payload.authorization.struct_hash(payload.config, payload.voucher.channel_id, payload.amount)
        digest = eip712.digest(self.token_domain, struct_hash)
        assert recover(digest, payload.authorization.signature) == payload.config.payer
        if payload.authorization.salt not in channel.salts and payload.amount > self.balance:
            raise refused((Reason.INSUFFICIENT_BALANCE, BatchSettlementCode.INSUFFICIENT_BALANCE))

    def _land(self, channel: Channel, payload: DepositPayload) -> int:
        assert isinstance(payload.authorization, Erc3009Deposit)
        if payload.authorization.salt not in channel.salts:
            channel.salts.add(payload.authorization.salt)
            self.on_land(payload)
            channel.balance += payload.amount
            self.balance -= payload.amount
        return payload.amount

    def _refund(self, channel: Channel, payload: RefundPayload) -> Settled:
        channel.claimed = channel.charged
        free = channel.balance - channel.claimed
        amount = free if payload.amount is None else min(free, payload.amount)
        channel.balance -= amount
        channel.refund_nonce += 1
        self.balance += amount
        return self._settled(payload, Settlement(self.state(payload.voucher.channel_id)), amount, 0xEF)

    def _settled(self, payload: ChannelPayload, settlement: Settlement, moved: int = 0, tag: int = 0) -> Settled:
        transaction = sha256(bytes([tag]) + payload.voucher.signature).digest() if tag else b""
        charged = settlement.charged or 0
        return Settled(payload.config.payer, moved or charged, transaction=transaction, extra=settlement.extra())

    def _mismatch(self, id_: bytes) -> RefusedError:
        return refused(_MISMATCH, extra=corrective_extra(self.state(id_), self.channels[id_].newest))


def refused(why: tuple[Reason, str], extra: dict[str, object] | None = None) -> RefusedError:
    reason, code = why
    return RefusedError(reason, "No.", extra=extra, code=code)
