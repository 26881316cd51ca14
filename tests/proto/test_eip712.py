"""Every hand-written hash equals eth-account's generic encoder, on random inputs."""

from collections.abc import Callable
from typing import Any

import pytest
from eth_account.messages import encode_typed_data
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

import typed_data
from tallystick import eip712
from tallystick.eip712 import Domain, digest, escrow_domain

words = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20)
uint40 = st.integers(0, 2**40 - 1)
uint64 = st.integers(0, 2**64 - 1)
uint128 = st.integers(0, 2**128 - 1)
uint256 = st.integers(0, 2**256 - 1)
domains = st.builds(
    Domain,
    name=st.text(max_size=40),
    version=st.text(max_size=5),
    chain_id=st.integers(1, 2**64 - 1),
    verifying_contract=addresses,
)

STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "address": addresses,
    "bytes32": words,
    "uint40": uint40,
    "uint64": uint64,
    "uint128": uint128,
    "uint256": uint256,
}

# The types as the documents write them: the tests parse these, the code does not.
FLAT_TYPES: dict[str, Callable[..., bytes]] = {
    "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,"
    "uint40 withdrawDelay,bytes32 salt)": eip712.hash_channel_config,
    "Voucher(bytes32 channelId,uint128 maxClaimableAmount)": typed_data.hash_voucher,
    "Refund(bytes32 channelId,uint256 nonce,uint128 amount)": eip712.hash_refund,
    "Withdraw(bytes32 accountId,uint128 amount,uint256 nonce,uint256 deadline)": eip712.hash_withdraw,
    "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
    "bytes32 nonce)": eip712.hash_transfer_with_authorization,
    "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
    "bytes32 nonce)": eip712.hash_receive_with_authorization,
    "CancelAuthorization(address authorizer,bytes32 nonce)": typed_data.hash_cancel_authorization,
    "RegisterSpendKey(bytes32 accountId,bytes32 keyId,bytes32 keyHash,uint128 cap,uint64 expiresAt,uint64 deadline)":
        eip712.hash_register_spend_key,
    "RevokeSpendKey(bytes32 accountId,bytes32 keyId,uint64 deadline)": eip712.hash_revoke_spend_key,
    "RequestRefund(bytes32 accountId,bytes32 refundId,uint128 amount,uint64 deadline)": eip712.hash_request_refund,
    "ReadAccount(bytes32 accountId,uint64 deadline)": eip712.hash_read_account,
    "OpenChannel(bytes32 channelId,uint64 deadline)": eip712.hash_open_channel,
    "ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)": typed_data.hash_claim_entry,
}  # fmt: skip


def parse_type(text: str) -> tuple[str, list[dict[str, str]]]:
    name, _, fields = text.rstrip(")").partition("(")
    pairs = [field.split(" ") for field in fields.split(",")]
    return name, [{"type": kind, "name": field} for kind, field in pairs]


def generic_digest(domain: Domain, types: dict[str, Any], primary: str, message: dict[str, Any]) -> bytes:
    signable = encode_typed_data(
        full_message={
            "types": {
                "EIP712Domain": [
                    {"name": "name", "type": "string"},
                    {"name": "version", "type": "string"},
                    {"name": "chainId", "type": "uint256"},
                    {"name": "verifyingContract", "type": "address"},
                ],
                **types,
            },
            "primaryType": primary,
            "domain": {
                "name": domain.name,
                "version": domain.version,
                "chainId": domain.chain_id,
                "verifyingContract": domain.verifying_contract,
            },
            "message": message,
        }
    )
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


@pytest.mark.parametrize("text", FLAT_TYPES, ids=lambda text: text.partition("(")[0])
@settings(max_examples=40)
@given(data=st.data(), domain=domains)
def test_flat_type_hashes_as_the_generic_encoder_does(text: str, data: st.DataObject, domain: Domain) -> None:
    name, fields = parse_type(text)
    values = {field["name"]: data.draw(STRATEGIES[field["type"]]) for field in fields}
    assert digest(domain, FLAT_TYPES[text](*values.values())) == generic_digest(domain, {name: fields}, name, values)


@settings(max_examples=60)
@given(domain=domains, entries=st.lists(st.tuples(words, uint128, uint128), max_size=5))
def test_claim_batch_hashes_as_the_generic_encoder_does(domain: Domain, entries: list[tuple[bytes, int, int]]) -> None:
    name, fields = parse_type("ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)")
    types = {name: fields, "ClaimBatch": [{"name": "claims", "type": "ClaimEntry[]"}]}
    claims = [dict(zip(("channelId", "maxClaimableAmount", "totalClaimed"), entry, strict=True)) for entry in entries]
    expected = generic_digest(domain, types, "ClaimBatch", {"claims": claims})
    assert digest(domain, eip712.hash_claim_batch(entries)) == expected


@settings(max_examples=60)
@given(domain=domains, account_id=words, totals=st.lists(st.tuples(addresses, uint128), max_size=5))
def test_totals_approval_hashes_as_the_generic_encoder_does(
    domain: Domain, account_id: bytes, totals: list[tuple[bytes, int]]
) -> None:
    name, fields = parse_type("ReceiverTotal(address receiver,uint128 total)")
    approval = [{"name": "accountId", "type": "bytes32"}, {"name": "totals", "type": "ReceiverTotal[]"}]
    message = {"accountId": account_id, "totals": [{"receiver": r, "total": t} for r, t in totals]}
    expected = generic_digest(domain, {name: fields, "TotalsApproval": approval}, "TotalsApproval", message)
    assert digest(domain, eip712.hash_totals_approval(account_id, totals)) == expected


@pytest.mark.parametrize("amount", [-1, 2**128])
def test_an_amount_outside_of_its_type_is_never_hashed(amount: int) -> None:
    with pytest.raises(OverflowError):
        typed_data.hash_voucher(bytes(32), amount)


@pytest.mark.parametrize("word", [b"", bytes(31), bytes(33)])
def test_a_word_of_another_length_is_never_hashed(word: bytes) -> None:
    with pytest.raises(ValueError, match="a word has 32 bytes"):
        eip712.hash_read_account(word, 0)
    with pytest.raises(ValueError, match="a word has 32 bytes"):
        digest(escrow_domain(1, bytes(20)), word)


def test_an_address_of_another_length_is_never_hashed() -> None:
    with pytest.raises(ValueError, match="an address has 20 bytes"):
        typed_data.hash_cancel_authorization(bytes(19), bytes(32))


def test_the_same_message_differs_by_chain_contract_name_and_version() -> None:
    base = Domain("n", "1", 1, bytes(20))
    others = [
        Domain("n", "1", 2, bytes(20)),
        Domain("n", "1", 1, b"\1" * 20),
        Domain("m", "1", 1, bytes(20)),
        Domain("n", "2", 1, bytes(20)),
    ]
    digests = {digest(domain, bytes(32)) for domain in [base, *others]}
    assert len(digests) == 5
