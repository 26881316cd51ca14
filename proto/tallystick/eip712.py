"""EIP-712 by hand: what is signed, as integers and bytes in, 32 bytes out.

Forty times as fast as a generic encoder, and proven equal to one on random inputs by the tests. Each `hash_x` returns
the struct hash of type X; `digest` joins it with a domain to what is signed.

Integers outside of their type raise OverflowError and words of a wrong length ValueError: values are checked where they
enter, so either is a fault of the program, and hashing on would sign something else than what was meant.

The types ChannelConfig, Voucher, Refund and ClaimBatch are those of x402's batch-settlement; ERC-3009 gives the
authorizations, EIP-2612 permits, and Permit2 with x402's witnesses transfers; the rest is Tallystick's own. Domains:
EIP-712 with name, version, chainId and verifyingContract; Permit2's has no version.
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
_CLAIM_ENTRY: Final = b"ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
CLAIM_ENTRY_TYPEHASH: Final = keccak256(_CLAIM_ENTRY)
CLAIM_BATCH_TYPEHASH: Final = keccak256(b"ClaimBatch(ClaimEntry[] claims)" + _CLAIM_ENTRY)
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

PERMIT_TYPEHASH: Final = keccak256(
    b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
)
UNVERSIONED_DOMAIN_TYPEHASH: Final = keccak256(b"EIP712Domain(string name,uint256 chainId,address verifyingContract)")
_TOKEN_PERMISSIONS: Final = b"TokenPermissions(address token,uint256 amount)"
TOKEN_PERMISSIONS_TYPEHASH: Final = keccak256(_TOKEN_PERMISSIONS)
_EXACT_WITNESS: Final = b"Witness(address to,uint256 validAfter)"
EXACT_WITNESS_TYPEHASH: Final = keccak256(_EXACT_WITNESS)
_UPTO_WITNESS: Final = b"Witness(address to,address facilitator,uint256 validAfter)"
UPTO_WITNESS_TYPEHASH: Final = keccak256(_UPTO_WITNESS)
_WITNESS_TRANSFER: Final = (
    b"PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,"
    b"Witness witness)" + _TOKEN_PERMISSIONS
)
EXACT_WITNESS_TRANSFER_TYPEHASH: Final = keccak256(_WITNESS_TRANSFER + _EXACT_WITNESS)
UPTO_WITNESS_TRANSFER_TYPEHASH: Final = keccak256(_WITNESS_TRANSFER + _UPTO_WITNESS)
_DEPOSIT_WITNESS: Final = b"DepositWitness(bytes32 channelId)"
DEPOSIT_WITNESS_TYPEHASH: Final = keccak256(_DEPOSIT_WITNESS)
DEPOSIT_WITNESS_TRANSFER_TYPEHASH: Final = keccak256(
    b"PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,"
    b"DepositWitness witness)" + _DEPOSIT_WITNESS + _TOKEN_PERMISSIONS
)

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
ERC3009_DEPOSIT_COLLECTOR_ADDRESS: Final = Address(bytes.fromhex("4020806089470a89826cB9fB1f4059150b550004"))
"""Its collector of deposits by ERC-3009: the `to` of their authorizations (scheme_batch_settlement_evm.md)."""
PERMIT2_DEPOSIT_COLLECTOR_ADDRESS: Final = Address(bytes.fromhex("4020425FAf3B746C082C2f942b4E5159887B0005"))
"""Its collector of deposits by Permit2: their spender."""
PERMIT2_NAME: Final = "Permit2"
PERMIT2_ADDRESS: Final = Address(bytes.fromhex("000000000022D473030F116dDEE9F6B43aC78BA3"))
"""Permit2, at the same address on every chain: holders approve it once, then sign each transfer."""
EXACT_PERMIT2_PROXY_ADDRESS: Final = Address(bytes.fromhex("402085c248EeA27D92E8b30b2C58ed07f9E20001"))
"""x402ExactPermit2Proxy: the spender of `exact` payments by Permit2 (scheme_exact_evm.md, annex)."""
UPTO_PERMIT2_PROXY_ADDRESS: Final = Address(bytes.fromhex("4020A4f3b7b90ccA423B9fabCc0CE57C6C240002"))
"""x402UptoPermit2Proxy: the spender of `upto` payments (scheme_upto_evm.md, annex)."""


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


@dataclass(frozen=True, slots=True)
class UnversionedDomain:
    """An EIP-712 domain without a version, as Permit2 has it; `separator` is its hash, computed once."""

    name: str
    chain_id: int
    verifying_contract: bytes
    separator: Bytes32 = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compute the separator."""
        words = keccak256(self.name.encode()), _uint(256, self.chain_id), _address(self.verifying_contract)
        object.__setattr__(self, "separator", _hash(UNVERSIONED_DOMAIN_TYPEHASH, *words))


def permit2_domain(chain_id: int) -> UnversionedDomain:
    """The domain of the canonical Permit2 contract."""
    return UnversionedDomain(PERMIT2_NAME, chain_id, PERMIT2_ADDRESS)


def escrow_domain(chain_id: int, address: bytes) -> Domain:
    """The domain of our escrow at this address: of channels, vouchers, withdrawals and the payers' signed calls."""
    return Domain(ESCROW_NAME, ESCROW_VERSION, chain_id, address)


def batch_settlement_domain(chain_id: int) -> Domain:
    """The domain of the canonical x402BatchSettlement contract."""
    return Domain(BATCH_SETTLEMENT_NAME, BATCH_SETTLEMENT_VERSION, chain_id, BATCH_SETTLEMENT_ADDRESS)


def digest(domain: Domain | UnversionedDomain, struct_hash: bytes) -> Bytes32:
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


def hash_claim_batch(entries: Iterable[tuple[bytes, int, int]]) -> Bytes32:
    """The struct hash of a ClaimBatch of entries (channel id, maxClaimableAmount, totalClaimed), in their order."""
    hashes = b"".join(
        _hash(CLAIM_ENTRY_TYPEHASH, _bytes32(channel_id), _uint(128, ceiling), _uint(128, total))
        for channel_id, ceiling, total in entries
    )
    return _hash(CLAIM_BATCH_TYPEHASH, keccak256(hashes))


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


def hash_permit(owner: bytes, spender: bytes, value: int, nonce: int, deadline: int) -> Bytes32:
    """The struct hash of EIP-2612's Permit (domain: the token's)."""
    return _hash(
        PERMIT_TYPEHASH, _address(owner), _address(spender), _uint(256, value), _uint(256, nonce), _uint(256, deadline)
    )


def hash_exact_witness_transfer(
    token: bytes, amount: int, spender: bytes, nonce: bytes, deadline: int, to: bytes, valid_after: int
) -> Bytes32:
    """The struct hash of Permit2's PermitWitnessTransferFrom with the witness of `exact` (domain: Permit2's)."""
    witness = _hash(EXACT_WITNESS_TYPEHASH, _address(to), _uint(256, valid_after))
    return _hash_witness_transfer(EXACT_WITNESS_TRANSFER_TYPEHASH, token, amount, spender, nonce, deadline, witness)


def hash_upto_witness_transfer(
    token: bytes,
    amount: int,
    spender: bytes,
    nonce: bytes,
    deadline: int,
    to: bytes,
    facilitator: bytes,
    valid_after: int,
) -> Bytes32:
    """The struct hash of Permit2's PermitWitnessTransferFrom with the witness of `upto` (domain: Permit2's)."""
    witness = _hash(UPTO_WITNESS_TYPEHASH, _address(to), _address(facilitator), _uint(256, valid_after))
    return _hash_witness_transfer(UPTO_WITNESS_TRANSFER_TYPEHASH, token, amount, spender, nonce, deadline, witness)


def hash_deposit_witness_transfer(
    token: bytes, amount: int, spender: bytes, nonce: bytes, deadline: int, channel_id: bytes
) -> Bytes32:
    """The struct hash of Permit2's PermitWitnessTransferFrom with the channel as its witness (domain: Permit2's)."""
    witness = _hash(DEPOSIT_WITNESS_TYPEHASH, _bytes32(channel_id))
    return _hash_witness_transfer(DEPOSIT_WITNESS_TRANSFER_TYPEHASH, token, amount, spender, nonce, deadline, witness)


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


def _hash_witness_transfer(
    typehash: bytes, token: bytes, amount: int, spender: bytes, nonce: bytes, deadline: int, witness: bytes
) -> Bytes32:
    permitted = _hash(TOKEN_PERMISSIONS_TYPEHASH, _address(token), _uint(256, amount))
    return _hash(typehash, permitted, _address(spender), _bytes32(nonce), _uint(256, deadline), witness)


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
