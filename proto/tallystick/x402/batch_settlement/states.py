"""What answers say of a channel of `batch-settlement`: to /verify, to /settle, in a corrective 402, and in /supported.

("Payment Response Contract", "POST /verify", "Recovery After State Loss", "GET /supported".) All that a client reads
here is somebody's word: it signs by its own book and the chain, and by a voucher that it recognises as its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from tallystick.amounts import parse_amount, parse_uint256
from tallystick.errors import MalformedError
from tallystick.hexadecimal import checksum, parse_bytes, to_hex
from tallystick.x402.terms import VOUCHER_MANAGER, VOUCHER_MANAGER_FACILITATOR, VOUCHER_MANAGER_SERVER

_EXACT_IN_JSON_MAX: Final = 2**53 - 1
_COUNT_MAX: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class ChannelState:
    """A channel as the contract holds it, and what was charged to it: `charged` is None where only servers know.

    Amounts in atomic units; `withdraw_requested_at` in seconds since the epoch, 0 while no withdrawal is pending.
    """

    channel_id: bytes
    balance: int
    total_claimed: int
    withdraw_requested_at: int
    refund_nonce: int
    charged: int | None = None

    def extra(self) -> dict[str, Any]:
        """The object `channelState`; the answer of /verify has the same fields in its `extra`."""
        extra: dict[str, Any] = {
            "channelId": to_hex(self.channel_id),
            "balance": str(self.balance),
            "totalClaimed": str(self.total_claimed),
            "withdrawRequestedAt": self.withdraw_requested_at,
            "refundNonce": str(self.refund_nonce),
        }
        if self.charged is not None:
            extra["chargedCumulativeAmount"] = str(self.charged)
        return extra


@dataclass(frozen=True, slots=True)
class VoucherState:
    """The newest voucher of a channel: by its signature a client knows its own."""

    signed_max_claimable: int
    signature: bytes = field(repr=False)

    def extra(self) -> dict[str, Any]:
        """The object `voucherState`."""
        return {"signedMaxClaimable": str(self.signed_max_claimable), "signature": to_hex(self.signature)}


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the answer to a settled payment says in its `extra`.

    `charged` in atomic units, None of a refund. `charge_count`: charges since the channel's last claim, only where the
    facilitator manages vouchers.
    """

    state: ChannelState
    charged: int | None = None
    charge_count: int | None = None

    def extra(self) -> dict[str, Any]:
        """The `extra` of a SettleResponse."""
        extra: dict[str, Any] = {}
        if self.charged is not None:
            extra["chargedAmount"] = str(self.charged)
        if self.charge_count is not None:
            extra["chargeCount"] = self.charge_count
        return extra | {"channelState": self.state.extra()}


@dataclass(frozen=True, slots=True)
class BatchSettlementSupport:
    """What /supported says of the scheme on one network.

    `delegated_refund`: callers of /settle are known, and a refund needs no signature of the server that opened the
    channel. `managers`: who may manage vouchers, as an offer's `voucherManager` names them.
    """

    receiver_authorizer: bytes
    withdraw_delay_s: int
    delegated_refund: bool
    managers: tuple[str, ...] = (VOUCHER_MANAGER_SERVER, VOUCHER_MANAGER_FACILITATOR)

    def extra(self) -> dict[str, Any]:
        """The `extra` of the SupportedKind."""
        return {
            "receiverAuthorizer": checksum(self.receiver_authorizer),
            "withdrawDelay": self.withdraw_delay_s,
            VOUCHER_MANAGER: [*self.managers],
            "delegatedRefund": self.delegated_refund,
        }


def verified_extra(state: ChannelState, pending_id: str) -> dict[str, Any]:
    """The `extra` of a VerifyResponse of a facilitator that manages vouchers."""
    return state.extra() | {"pendingId": pending_id}


def corrective_extra(state: ChannelState, voucher: VoucherState | None) -> dict[str, Any]:
    """What a corrective 402 adds to an offer's `extra`, and a refusal of /verify has in its own."""
    extra: dict[str, Any] = {"channelState": state.extra()}
    if voucher is not None:
        extra["voucherState"] = voucher.extra()
    return extra


def read_channel_state(value: object, field: str) -> ChannelState:
    """The state in an object `channelState`, or in the `extra` of a VerifyResponse; raises MalformedError."""
    state = _object(value, field)
    charged = state.get("chargedCumulativeAmount")
    return ChannelState(
        channel_id=parse_bytes(state.get("channelId"), 32, f"{field}.channelId"),
        balance=parse_amount(state.get("balance"), f"{field}.balance"),
        total_claimed=_read_total(state.get("totalClaimed"), f"{field}.totalClaimed"),
        withdraw_requested_at=_read_count(state.get("withdrawRequestedAt", 0), f"{field}.withdrawRequestedAt"),
        refund_nonce=parse_uint256(state.get("refundNonce", "0"), f"{field}.refundNonce"),
        charged=None if charged is None else parse_amount(charged, f"{field}.chargedCumulativeAmount"),
    )


def read_correction(extra: Mapping[str, Any], field: str = "extra") -> tuple[ChannelState, VoucherState | None] | None:
    """What a corrective 402 says in an offer's `extra`; None of a 402 that corrects nothing. Raises MalformedError."""
    if extra.get("channelState") is None:
        return None
    state = read_channel_state(extra["channelState"], f"{field}.channelState")
    if extra.get("voucherState") in (None, {}):
        return state, None  # a seller without a voucher writes it either way
    voucher, path = _object(extra["voucherState"], f"{field}.voucherState"), f"{field}.voucherState"
    return state, VoucherState(
        signed_max_claimable=parse_amount(voucher.get("signedMaxClaimable"), f"{path}.signedMaxClaimable"),
        signature=parse_bytes(voucher.get("signature"), 65, f"{path}.signature"),
    )


def read_settlement(extra: Mapping[str, Any], field: str = "extra") -> Settlement:
    """What a SettleResponse says in its `extra`. Raises MalformedError."""
    charged, count = extra.get("chargedAmount"), extra.get("chargeCount")
    return Settlement(
        state=read_channel_state(extra.get("channelState"), f"{field}.channelState"),
        charged=None if charged is None else parse_amount(charged, f"{field}.chargedAmount"),
        charge_count=None if count is None else _read_count(count, f"{field}.chargeCount"),
    )


def _read_total(value: object, field: str) -> int:
    """`totalClaimed`, which may also be a JSON number where every reader has it exact ("Server state loss")."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _EXACT_IN_JSON_MAX:
        return value
    return parse_amount(value, field)


def _read_count(value: object, field: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _COUNT_MAX:
        raise MalformedError(field, value, "an integer from 0, below 2**64")
    return value


def _object(value: object, field: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(field, value, "an object")
    return cast("Mapping[str, Any]", value)
