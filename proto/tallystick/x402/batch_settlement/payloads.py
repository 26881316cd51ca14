"""The payloads of `batch-settlement`, as bytes and integers.

What clients send is a `deposit`, a `voucher` or a `refund`; servers also post a `claim` or a `settle` to /settle, and
add to a client's payload what is theirs: `pendingId` and `cancel`, and all that a refund needs on chain.
"""

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from tallystick import eip712
from tallystick.channels import ChannelConfig
from tallystick.quantities import Bytes32
from tallystick.vouchers import UncheckedVoucher
from tallystick.x402.permit2 import TokenPermit

_ENTROPY_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class Erc3009Deposit:
    """A signed ReceiveWithAuthorization to the ERC-3009 collector, unchecked ("Deposit Payload").

    Times in seconds since the epoch. Its token nonce is `eip712.deposit_nonce(channel_id, salt)`.
    """

    valid_after: int
    valid_before: int
    salt: bytes
    signature: bytes = field(repr=False)

    def struct_hash(self, config: ChannelConfig, channel_id: bytes, amount: int) -> Bytes32:
        """What the payer signs, under the token's domain."""
        return eip712.hash_receive_with_authorization(
            config.payer,
            eip712.ERC3009_DEPOSIT_COLLECTOR_ADDRESS,
            amount,
            self.valid_after,
            self.valid_before,
            eip712.deposit_nonce(channel_id, self.salt),
        )


@dataclass(frozen=True, slots=True)
class Permit2Deposit:
    """A signed PermitWitnessTransferFrom whose witness is the channel, unchecked ("Deposit Payload").

    `deadline` in seconds since the epoch, `permitted` in atomic units. `permit` approves Permit2 on the way
    (eip2612GasSponsoring).
    """

    from_: bytes
    token: bytes
    permitted: int
    spender: bytes
    nonce: bytes
    deadline: int
    channel_id: bytes
    signature: bytes = field(repr=False)
    permit: TokenPermit | None = None

    def struct_hash(self) -> Bytes32:
        """What the payer signs, under Permit2's domain."""
        return eip712.hash_deposit_witness_transfer(
            self.token, self.permitted, self.spender, self.nonce, self.deadline, self.channel_id
        )


@dataclass(frozen=True, slots=True)
class VoucherClaim:
    """A row of a claim: the channel is to have paid `total_claimed` in all, at most `max_claimable_amount`."""

    config: ChannelConfig
    max_claimable_amount: int
    signature: bytes = field(repr=False)
    total_claimed: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a server alone may write into a client's payload ("POST /settle").

    `pending_id` repeats what /verify answered; with `cancel` the channel's lock is let go, and nothing is charged.
    """

    pending_id: str | None = None
    cancel: bool = False


_NO_RESERVATION: Final = Reservation()


@dataclass(frozen=True, slots=True)
class DepositPayload:
    """`type: "deposit"`: `amount` in atomic units into the channel, and the voucher of this request."""

    config: ChannelConfig
    voucher: UncheckedVoucher
    amount: int
    authorization: Erc3009Deposit | Permit2Deposit
    reservation: Reservation = _NO_RESERVATION


@dataclass(frozen=True, slots=True)
class VoucherPayload:
    """`type: "voucher"`: the voucher of this request, on a channel that has the money."""

    config: ChannelConfig
    voucher: UncheckedVoucher
    reservation: Reservation = _NO_RESERVATION


@dataclass(frozen=True, slots=True)
class RefundPayload:
    """`type: "refund"`: a voucher that charges nothing, and what to give back: `amount`, or all where it is None.

    A server adds the nonce, the claims to land before, and signatures of those that it can make ("Cooperative refund
    flow"); where the server has none, they are None.
    """

    config: ChannelConfig
    voucher: UncheckedVoucher
    amount: int | None = None
    refund_nonce: int | None = None
    claims: tuple[VoucherClaim, ...] = ()
    refund_authorizer_signature: bytes | None = field(default=None, repr=False)
    claim_authorizer_signature: bytes | None = field(default=None, repr=False)
    reservation: Reservation = _NO_RESERVATION


@dataclass(frozen=True, slots=True)
class ClaimPayload:
    """`type: "claim"`, of servers: rows to claim, signed where the server has the receiverAuthorizer's key."""

    claims: tuple[VoucherClaim, ...]
    claim_authorizer_signature: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SettlePayload:
    """`type: "settle"`, of servers: pay a receiver what was claimed for it in a token."""

    receiver: bytes
    token: bytes


BatchSettlementPayload: TypeAlias = DepositPayload | VoucherPayload | RefundPayload | ClaimPayload | SettlePayload


def pack_refund_authorizer(salt: bytes, refund_authorizer: bytes) -> Bytes32:
    """The salt that binds a channel to the server's key for refunds: bytes12(entropy) || bytes20(refundAuthorizer).

    "Refund authorizer": of a salt that counts channels (0, 1, 2, ...) the low 96 bits are the entropy, of any other its
    first 12 bytes.
    """
    entropy = salt[:_ENTROPY_BYTES] if any(salt[:_ENTROPY_BYTES]) else salt[-_ENTROPY_BYTES:]
    return Bytes32(entropy + refund_authorizer)


def packed_refund_authorizer(salt: bytes) -> bytes:
    """The address that a packed salt holds."""
    return salt[_ENTROPY_BYTES:]
