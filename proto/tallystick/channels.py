"""Channels and accounts: who pays whom through whom, and the ids that follow from it.

A channel is an account plus a receiver. Both ids are EIP-712 hashes under the escrow's domain, so they bind the chain
and the contract too: nothing that is signed for one means anything for another.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from tallystick import eip712
from tallystick.eip712 import Domain
from tallystick.errors import MalformedError
from tallystick.quantities import ZERO_ADDRESS, AccountId, ChannelId

WITHDRAW_DELAY_S_MIN: Final = 15 * 60
WITHDRAW_DELAY_S_MAX: Final = 30 * 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """What names a channel (x402 batch-settlement's ChannelConfig); with `receiver` zero it names the account.

    Addresses have 20 bytes, the salt 32. The payerAuthorizer must not be zero: vouchers are plain ECDSA signatures, so
    that no claim ever runs a payer's code. Raises MalformedError, which names the field as it is named on the wire.
    """

    payer: bytes
    payer_authorizer: bytes
    receiver: bytes
    receiver_authorizer: bytes
    token: bytes
    withdraw_delay_s: int
    salt: bytes

    def __post_init__(self) -> None:
        """Check every field."""
        _check_length("payer", self.payer, 20)
        _check_length("payerAuthorizer", self.payer_authorizer, 20)
        _check_length("receiver", self.receiver, 20)
        _check_length("receiverAuthorizer", self.receiver_authorizer, 20)
        _check_length("token", self.token, 20)
        _check_length("salt", self.salt, 32)
        _check_not_zero("payer", self.payer)
        _check_not_zero("payerAuthorizer", self.payer_authorizer)
        _check_not_zero("receiverAuthorizer", self.receiver_authorizer)
        _check_not_zero("token", self.token)
        if not WITHDRAW_DELAY_S_MIN <= self.withdraw_delay_s <= WITHDRAW_DELAY_S_MAX:
            raise MalformedError(
                "withdrawDelay",
                self.withdraw_delay_s,
                f"from {WITHDRAW_DELAY_S_MIN} (15 minutes) to {WITHDRAW_DELAY_S_MAX} (30 days) seconds",
            )

    @property
    def is_account(self) -> bool:
        """Whether this names an account, not a channel."""
        return self.receiver == ZERO_ADDRESS

    def account(self) -> "ChannelConfig":
        """What names the account that this channel draws on."""
        return replace(self, receiver=ZERO_ADDRESS)

    def channel(self, receiver: bytes) -> "ChannelConfig":
        """What names the channel of the same account to this receiver."""
        return replace(self, receiver=receiver)


def channel_id(domain: Domain, config: ChannelConfig) -> ChannelId:
    """The id of a channel. Raises MalformedError if there is no receiver: no channel can be an account."""
    _check_not_zero("receiver", config.receiver)
    return ChannelId(_hash(domain, config))


def account_id(domain: Domain, config: ChannelConfig) -> AccountId:
    """The id of the account that a channel draws on, or of the account itself."""
    return AccountId(_hash(domain, config if config.is_account else config.account()))


@lru_cache(maxsize=16_384)
def _hash(domain: Domain, config: ChannelConfig) -> bytes:
    # Remembered: a channel is named in full by each request that pays from it.
    struct_hash = eip712.hash_channel_config(
        payer=config.payer,
        payer_authorizer=config.payer_authorizer,
        receiver=config.receiver,
        receiver_authorizer=config.receiver_authorizer,
        token=config.token,
        withdraw_delay_s=config.withdraw_delay_s,
        salt=config.salt,
    )
    return eip712.digest(domain, struct_hash)


def _check_length(field: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise MalformedError(field, value, f"{length} bytes")


def _check_not_zero(field: str, address: bytes) -> None:
    if address == ZERO_ADDRESS:
        raise MalformedError(field, "0x" + address.hex(), "an address that is not zero")
