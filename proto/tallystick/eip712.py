"""EIP-712 by hand: what is signed, as integers and bytes in, 32 bytes out.

Forty times as fast as a generic encoder, and proven equal to one on random inputs by the tests. Each `hash_x` returns
the struct hash of type X; `digest` joins it with a domain to what is signed.

Integers outside of their type raise OverflowError and words of a wrong length ValueError: values are checked where they
enter, so either is a fault of the program, and hashing on would sign something else than what was meant.

The types ChannelConfig, Voucher and Refund are those of x402's batch-settlement; ERC-3009 gives the
authorizations; the rest is Tallystick's own. Domains: EIP-712 with name, version, chainId and verifyingContract.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from tallystick.hashing import keccak256
from tallystick.quantities import Address, Bytes32

DOMAIN_TYPEHASH: Final = keccak256(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)

CHANNEL_CONFIG_TYPEHASH: Final = keccak256(
    b"ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,"
    b"address token,uint40 withdrawDelay,bytes32 salt)"
)
VOUCHER_TYPEHASH: Final = keccak256(b"Voucher(bytes32 channelId,uint128 maxClaimableAmount)")
REFUND_TYPEHASH: Final = keccak256(b"Refund(bytes32 channelId,uint256 nonce,uint128 amount)")
_RECEIVER_TOTAL: Final = b"ReceiverTotal(address receiver,uint128 total)"
RECEIVER_TOTAL_TYPEHASH: Final = keccak256(_RECEIVER_TOTAL)
TOTALS_APPROVAL_TYPEHASH: Final = keccak256(
    b"TotalsApproval(bytes32 accountId,ReceiverTotal[] totals)" + _RECEIVER_TOTAL
)
WITHDRAW_TYPEHASH: Final = keccak256(b"Withdraw(bytes32 accountId,uint128 amount,uint256 nonce,uint256 deadline)")

_AUTHORIZATION: Final = (
    b"WithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
TRANSFER_WITH_AUTHORIZATION_TYPEHASH: Final = keccak256(b"Transfer" + _AUTHORIZATION)
RECEIVE_WITH_AUTHORIZATION_TYPEHASH: Final = keccak256(b"Receive" + _AUTHORIZATION)

REGISTER_SPEND_KEY_TYPEHASH: Final = keccak256(
    b"RegisterSpendKey(bytes32 accountId,bytes32 keyId,bytes32 keyHash,uint128 cap,uint64 expiresAt,uint64 deadline)"
)
REVOKE_SPEND_KEY_TYPEHASH: Final = keccak256(b"RevokeSpendKey(bytes32 accountId,bytes32 keyId,uint64 deadline)")
REQUEST_REFUND_TYPEHASH: Final = keccak256(
    b"RequestRefund(bytes32 accountId,bytes32 refundId,uint128 amount,uint64 deadline)"
)
READ_ACCOUNT_TYPEHASH: Final = keccak256(b"ReadAccount(bytes32 accountId,uint64 deadline)")
OPEN_CHANNEL_TYPEHASH: Final = keccak256(b"OpenChannel(bytes32 channelId,uint64 deadline)")

ESCROW_NAME: Final = "Tallystick Escrow"
ESCROW_VERSION: Final = "1"
BATCH_SETTLEMENT_NAME: Final = "x402 Batch Settlement"
BATCH_SETTLEMENT_VERSION: Final = "1"
BATCH_SETTLEMENT_ADDRESS: Final = Address(bytes.fromhex("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003"))
"""x402BatchSettlement, at the same address on every chain."""


@dataclass(frozen=True, slots=True)
class Domain:
    """An EIP-712 domain; `separator` is its hash, computed once."""

    name: str
    version: str
    chain_id: int
    verifying_contract: bytes
    separator: Bytes32 = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compute the separator."""
        separator = keccak256(
            DOMAIN_TYPEHASH
            + keccak256(self.name.encode())
            + keccak256(self.version.encode())
            + _uint(256, self.chain_id)
            + _address(self.verifying_contract)
        )
        object.__setattr__(self, "separator", Bytes32(separator))


def escrow_domain(chain_id: int, address: bytes) -> Domain:
    """The domain of our escrow at this address: of channels, vouchers, withdrawals and the payers' signed calls."""
    return Domain(ESCROW_NAME, ESCROW_VERSION, chain_id, address)


def batch_settlement_domain(chain_id: int) -> Domain:
    """The domain of the canonical x402BatchSettlement contract."""
    return Domain(BATCH_SETTLEMENT_NAME, BATCH_SETTLEMENT_VERSION, chain_id, BATCH_SETTLEMENT_ADDRESS)


def digest(domain: Domain, struct_hash: bytes) -> Bytes32:
    """The 32 bytes that are signed: keccak256(0x1901 || domain separator || struct hash)."""
    return _hash(b"\x19\x01", domain.separator, _bytes32(struct_hash))


def hash_channel_config(
    payer: bytes,
    payer_authorizer: bytes,
    receiver: bytes,
    receiver_authorizer: bytes,
    token: bytes,
    withdraw_delay_s: int,
    salt: bytes,
) -> Bytes32:
    """The struct hash of a ChannelConfig; its digest under the escrow's domain is the channel id."""
    return _hash(
        CHANNEL_CONFIG_TYPEHASH,
        _address(payer),
        _address(payer_authorizer),
        _address(receiver),
        _address(receiver_authorizer),
        _address(token),
        _uint(40, withdraw_delay_s),
        _bytes32(salt),
    )


def hash_refund(channel_id: bytes, nonce: int, amount: int) -> Bytes32:
    """The struct hash of a Refund; `channel_id` is the account's id on our escrow."""
    return _hash(REFUND_TYPEHASH, _bytes32(channel_id), _uint(256, nonce), _uint(128, amount))


def hash_totals_approval(account_id: bytes, totals: Iterable[tuple[bytes, int]]) -> Bytes32:
    """The struct hash of a TotalsApproval of totals (receiver, total), in their order."""
    hashes = b"".join(
        keccak256(RECEIVER_TOTAL_TYPEHASH + _address(receiver) + _uint(128, total)) for receiver, total in totals
    )
    return _hash(TOTALS_APPROVAL_TYPEHASH, _bytes32(account_id), keccak256(hashes))


def hash_withdraw(account_id: bytes, amount: int, nonce: int, deadline: int) -> Bytes32:
    """The struct hash of a Withdraw: a payer without gas starts the timed way out, or with amount 0 gives it up.

    `nonce` is the account's `withdrawNonce` if the payer signs, its `authorizerNonce` if the payerAuthorizer does.
    """
    return _hash(WITHDRAW_TYPEHASH, _bytes32(account_id), _uint(128, amount), _uint(256, nonce), _uint(256, deadline))


def hash_transfer_with_authorization(
    from_: bytes, to: bytes, value: int, valid_after: int, valid_before: int, nonce: bytes
) -> Bytes32:
    """The struct hash of ERC-3009's TransferWithAuthorization (domain: the token's)."""
    return _hash_authorization(TRANSFER_WITH_AUTHORIZATION_TYPEHASH, from_, to, value, valid_after, valid_before, nonce)


def hash_receive_with_authorization(
    from_: bytes, to: bytes, value: int, valid_after: int, valid_before: int, nonce: bytes
) -> Bytes32:
    """The struct hash of ERC-3009's ReceiveWithAuthorization (domain: the token's)."""
    return _hash_authorization(RECEIVE_WITH_AUTHORIZATION_TYPEHASH, from_, to, value, valid_after, valid_before, nonce)


def hash_register_spend_key(
    account_id: bytes, key_id: bytes, key_hash: bytes, cap: int, expires_at: int, deadline: int
) -> Bytes32:
    """The struct hash of RegisterSpendKey; `key_hash` is `spend_keys.key_hash(secret)`, times are in seconds."""
    return _hash(
        REGISTER_SPEND_KEY_TYPEHASH,
        _bytes32(account_id),
        _bytes32(key_id),
        _bytes32(key_hash),
        _uint(128, cap),
        _uint(64, expires_at),
        _uint(64, deadline),
    )


def hash_revoke_spend_key(account_id: bytes, key_id: bytes, deadline: int) -> Bytes32:
    return _hash(REVOKE_SPEND_KEY_TYPEHASH, _bytes32(account_id), _bytes32(key_id), _uint(64, deadline))


def hash_request_refund(account_id: bytes, refund_id: bytes, amount: int, deadline: int) -> Bytes32:
    """The struct hash of RequestRefund; an amount of zero asks for all that is available."""
    return _hash(
        REQUEST_REFUND_TYPEHASH, _bytes32(account_id), _bytes32(refund_id), _uint(128, amount), _uint(64, deadline)
    )


def hash_read_account(account_id: bytes, deadline: int) -> Bytes32:
    return _hash(READ_ACCOUNT_TYPEHASH, _bytes32(account_id), _uint(64, deadline))


def hash_open_channel(channel_id: bytes, deadline: int) -> Bytes32:
    return _hash(OPEN_CHANNEL_TYPEHASH, _bytes32(channel_id), _uint(64, deadline))


def deposit_nonce(account_id: bytes, salt: bytes) -> Bytes32:
    """The ERC-3009 nonce of a deposit: keccak256(abi.encode(accountId, salt)).

    It binds the authorization to one account, so that whoever lands it can credit no other. On the canonical contract
    the channel's id takes the account's place.
    """
    return _hash(_bytes32(account_id), _bytes32(salt))


def _hash(*words: bytes) -> Bytes32:
    return Bytes32(keccak256(b"".join(words)))


def _hash_authorization(
    typehash: bytes, from_: bytes, to: bytes, value: int, valid_after: int, valid_before: int, nonce: bytes
) -> Bytes32:
    return _hash(
        typehash,
        _address(from_),
        _address(to),
        _uint(256, value),
        _uint(256, valid_after),
        _uint(256, valid_before),
        _bytes32(nonce),
    )


# Each encodes one 32-byte word.


def _uint(bits: int, value: int) -> bytes:
    # With the type's own width: raises OverflowError outside of the type.
    return value.to_bytes(bits // 8, "big").rjust(32, b"\0")


def _address(address: bytes) -> bytes:
    if len(address) != 20:
        raise ValueError(f"an address has 20 bytes, not {len(address)}")
    return bytes(12) + address


def _bytes32(word: bytes) -> bytes:
    if len(word) != 32:
        raise ValueError(f"a word has 32 bytes, not {len(word)}")
    return word
