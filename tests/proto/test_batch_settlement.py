"""The payloads of batch-settlement against those that the official x402 package made, and each broken field by name.

(vectors/batch_settlement_payloads.json; channels, vouchers and signatures alone are in test_vectors.py.)
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from x402.mechanisms.evm.batch_settlement import constants as official
from x402.mechanisms.evm.batch_settlement import errors

from tallystick import eip712
from tallystick.channels import ChannelConfig, channel_id
from tallystick.eip712 import Domain, batch_settlement_domain, digest, permit2_domain
from tallystick.errors import MalformedError
from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum, parse_address, parse_bytes
from tallystick.signatures import Signer, recover
from tallystick.vouchers import UncheckedVoucher, check_voucher
from tallystick.x402 import Network, PaymentPayload, PaymentRequirements, decode_json, encode_json, permit_extension
from tallystick.x402.batch_settlement import (
    BatchSettlementCode,
    BatchSettlementPayload,
    ClaimPayload,
    DepositPayload,
    Erc3009Deposit,
    Permit2Deposit,
    RefundPayload,
    Reservation,
    SettlePayload,
    VoucherClaim,
    VoucherPayload,
    batch_settlement_payload,
    read_batch_settlement,
)
from tallystick.x402.batch_settlement.payload_codec import CLAIMS_MAX
from tallystick.x402.permit2 import TokenPermit
from tallystick.x402.terms import SCHEME_BATCH_SETTLEMENT

FILE = json.loads((Path(__file__).parent / "vectors/batch_settlement_payloads.json").read_text())
VECTORS: list[dict[str, Any]] = FILE["vectors"]
KINDS = {
    "erc3009Deposit": DepositPayload,
    "permit2Deposit": DepositPayload,
    "voucher": VoucherPayload,
    "refund": RefundPayload,
    "completedRefund": RefundPayload,
    "claim": ClaimPayload,
    "unsignedClaim": ClaimPayload,
    "settle": SettlePayload,
}
each_vector = pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
each_kind = pytest.mark.parametrize("kind", KINDS)


def payment(payload: dict[str, Any], extensions: dict[str, Any] | None = None) -> PaymentPayload:
    accepted = PaymentRequirements(
        scheme=SCHEME_BATCH_SETTLEMENT,
        network="eip155:8453",
        amount="1000",
        asset=FILE["batchSettlement"],
        pay_to=FILE["batchSettlement"],
        max_timeout_seconds=3600,
    )
    return PaymentPayload(payload=payload, accepted=accepted, extensions=extensions)


def read(vector: dict[str, Any], kind: str) -> Any:
    return read_batch_settlement(payment(vector["payloads"][kind]))


def domain_of(vector: dict[str, Any]) -> Domain:
    return batch_settlement_domain(Network.parse(vector["network"], "network").chain_id)


def signer(vector: dict[str, Any], key: str) -> Signer:
    return Signer(parse_bytes(vector[key], 32, key))


def test_the_contracts_are_where_the_official_package_expects_them() -> None:
    assert checksum(eip712.BATCH_SETTLEMENT_ADDRESS) == FILE["batchSettlement"]
    assert checksum(eip712.ERC3009_DEPOSIT_COLLECTOR_ADDRESS) == FILE["erc3009Collector"]
    assert checksum(eip712.PERMIT2_DEPOSIT_COLLECTOR_ADDRESS) == FILE["permit2Collector"]


def encoded(types: dict[str, Any], name: str) -> str:
    return f"{name}({','.join(field['type'] + ' ' + field['name'] for field in types[name])})"


def test_the_types_are_those_that_official_clients_sign() -> None:
    assert keccak256(encoded(official.CLAIM_BATCH_TYPES, "ClaimEntry").encode()) == eip712.CLAIM_ENTRY_TYPEHASH
    whole = "".join(encoded(official.CLAIM_BATCH_TYPES, name) for name in ("ClaimBatch", "ClaimEntry"))
    assert keccak256(whole.encode()) == eip712.CLAIM_BATCH_TYPEHASH
    witness = official.BATCH_PERMIT2_WITNESS_TYPES
    assert keccak256(encoded(witness, "DepositWitness").encode()) == eip712.DEPOSIT_WITNESS_TYPEHASH
    names = ("PermitWitnessTransferFrom", "DepositWitness", "TokenPermissions")
    assert keccak256("".join(encoded(witness, n) for n in names).encode()) == eip712.DEPOSIT_WITNESS_TRANSFER_TYPEHASH


def test_the_table_of_codes_has_all_that_the_official_package_says() -> None:
    theirs = {value for name, value in vars(errors).items() if name.startswith("ERR_")}
    assert theirs <= set(BatchSettlementCode)
    newer = set(BatchSettlementCode) - theirs
    assert newer == {
        BatchSettlementCode.PENDING_ID_MISMATCH,
        BatchSettlementCode.REFUND_AUTHORIZER_MISMATCH,
        BatchSettlementCode.REFUND_AUTHORIZER_SIGNATURE,
        BatchSettlementCode.UNEXPECTED_CANCEL,
        BatchSettlementCode.UNEXPECTED_PENDING_ID,
        BatchSettlementCode.SETTLEMENT_PENDING,
    }
    assert all(code == "settlement_pending" or code.startswith("invalid_batch_settlement_evm_") for code in newer)


@each_vector
@each_kind
def test_a_payload_is_written_as_it_was_read(vector: dict[str, Any], kind: str) -> None:
    payload: BatchSettlementPayload = read(vector, kind)
    assert isinstance(payload, KINDS[kind])
    written = batch_settlement_payload(payload)
    assert read_batch_settlement(payment(written)) == payload
    assert json.dumps(written).lower() == json.dumps(vector["payloads"][kind]).lower()


@each_vector
@pytest.mark.parametrize("kind", ["erc3009Deposit", "permit2Deposit", "voucher", "refund", "completedRefund"])
def test_a_voucher_is_the_authorizers_on_this_very_channel(vector: dict[str, Any], kind: str) -> None:
    payload, domain = read(vector, kind), domain_of(vector)
    assert payload.voucher.channel_id == channel_id(domain, payload.config)
    assert payload.voucher.channel_id.hex() == vector["channelId"][2:]
    assert check_voucher(domain, payload.voucher, signer(vector, "payerAuthorizerKey").address)


@each_vector
def test_a_deposit_by_erc3009_is_the_payers_bit_for_bit(vector: dict[str, Any]) -> None:
    payload, payer = read(vector, "erc3009Deposit"), signer(vector, "payerKey")
    assert isinstance(payload.authorization, Erc3009Deposit)
    extra = vector["requirements"]["extra"]
    token = Domain(extra["name"], extra["version"], domain_of(vector).chain_id, payload.config.token)
    signed = digest(
        token, payload.authorization.struct_hash(payload.config, payload.voucher.channel_id, payload.amount)
    )
    assert payer.address == payload.config.payer
    assert payer.sign(signed) == payload.authorization.signature


@each_vector
def test_a_deposit_by_permit2_is_the_payers_bit_for_bit(vector: dict[str, Any]) -> None:
    payload, payer = read(vector, "permit2Deposit"), signer(vector, "payerKey")
    authorization = payload.authorization
    assert isinstance(authorization, Permit2Deposit)
    signed = digest(permit2_domain(domain_of(vector).chain_id), authorization.struct_hash())
    assert payer.sign(signed) == authorization.signature
    assert (authorization.from_, authorization.permitted) == (payer.address, payload.amount)
    assert authorization.spender == eip712.PERMIT2_DEPOSIT_COLLECTOR_ADDRESS


@each_vector
@pytest.mark.parametrize("kind", ["claim", "completedRefund"])
def test_a_claim_is_the_receiver_authorizers(vector: dict[str, Any], kind: str) -> None:
    payload, domain = read(vector, kind), domain_of(vector)
    rows = [(channel_id(domain, row.config), row.max_claimable_amount, row.total_claimed) for row in payload.claims]
    signed = digest(domain, eip712.hash_claim_batch(rows))
    assert recover(signed, payload.claim_authorizer_signature) == signer(vector, "receiverAuthorizerKey").address


@each_vector
def test_a_completed_refund_is_the_receiver_authorizers(vector: dict[str, Any]) -> None:
    payload, domain = read(vector, "completedRefund"), domain_of(vector)
    refund = eip712.hash_refund(payload.voucher.channel_id, payload.refund_nonce, payload.amount)
    signed = digest(domain, refund)
    assert recover(signed, payload.refund_authorizer_signature) == signer(vector, "receiverAuthorizerKey").address


def test_what_the_server_adds_is_read_and_written() -> None:
    written = {**VECTORS[0]["payloads"]["voucher"], "pendingId": "0xab", "cancel": True}
    payload = read_batch_settlement(payment(written))
    assert isinstance(payload, VoucherPayload)
    assert payload.reservation == Reservation("0xab", cancel=True)
    assert {"pendingId": "0xab", "cancel": True}.items() <= batch_settlement_payload(payload).items()
    assert read(VECTORS[0], "voucher").reservation == Reservation()


@pytest.mark.parametrize("name", ["pendingId", "cancel", "claims"])
def test_what_the_server_does_not_add_may_be_null(name: str) -> None:
    written = {**VECTORS[0]["payloads"]["voucher"], "type": "refund"}
    assert read_batch_settlement(payment({**written, name: None})) == read_batch_settlement(payment(written))


def test_a_permit_comes_along_with_a_deposit_by_permit2() -> None:
    permit = TokenPermit(b"\1" * 20, b"\2" * 20, eip712.PERMIT2_ADDRESS, 5, 0, 2**40, b"\3" * 65)
    payload = VECTORS[0]["payloads"]["permit2Deposit"]
    deposit = read_batch_settlement(payment(payload, permit_extension(permit)))
    assert isinstance(deposit, DepositPayload)
    assert isinstance(deposit.authorization, Permit2Deposit)
    assert deposit.authorization.permit == permit
    assert read(VECTORS[0], "permit2Deposit").authorization.permit is None


ZERO = "0x" + "00" * 20
BROKEN: list[tuple[str, str, Any, str]] = [
    # kind, where, what, and the field that the error names
    ("voucher", "type", "charge", "payload.type"),
    ("voucher", "type", 7, "payload.type"),
    ("voucher", "channelConfig.payer", "0x12", "payload.channelConfig.payer"),
    ("voucher", "channelConfig.payerAuthorizer", ZERO, "payload.channelConfig.payerAuthorizer"),
    ("voucher", "channelConfig.receiver", ZERO, "payload.channelConfig.receiver"),
    ("voucher", "channelConfig.withdrawDelay", 899, "payload.channelConfig.withdrawDelay"),
    ("voucher", "channelConfig.withdrawDelay", "900", "payload $.channelConfig.withdrawDelay"),
    ("voucher", "channelConfig.salt", "0x00", "payload.channelConfig.salt"),
    ("voucher", "voucher.channelId", "0x00", "payload.voucher.channelId"),
    ("voucher", "voucher.maxClaimableAmount", str(2**128), "payload.voucher.maxClaimableAmount"),
    ("voucher", "voucher.maxClaimableAmount", 5, "payload $.voucher.maxClaimableAmount"),
    ("voucher", "voucher.maxClaimableAmount", "-1", "payload.voucher.maxClaimableAmount"),
    ("voucher", "voucher.signature", "0x" + "00" * 64, "payload.voucher.signature"),
    ("voucher", "voucher", None, "payload $.voucher"),
    ("voucher", "pendingId", "", "payload.pendingId"),
    ("voucher", "pendingId", "a" * 129, "payload.pendingId"),
    ("voucher", "cancel", "true", "payload $.cancel"),
    ("erc3009Deposit", "deposit.amount", "0", "payload.deposit.amount"),
    ("erc3009Deposit", "deposit.amount", "1e3", "payload.deposit.amount"),
    ("erc3009Deposit", "deposit.authorization", {}, "payload.deposit.authorization"),
    (
        "erc3009Deposit",
        "deposit.authorization.permit2Authorization",
        VECTORS[0]["payloads"]["permit2Deposit"]["deposit"]["authorization"]["permit2Authorization"],
        "payload.deposit.authorization",
    ),
    (
        "erc3009Deposit",
        "deposit.authorization.erc3009Authorization.salt",
        "0x1",
        "payload.deposit.authorization.erc3009Authorization.salt",
    ),
    (
        "erc3009Deposit",
        "deposit.authorization.erc3009Authorization.validBefore",
        "soon",
        "payload.deposit.authorization.erc3009Authorization.validBefore",
    ),
    (
        "erc3009Deposit",
        "deposit.authorization.erc3009Authorization.signature",
        "0x" + "00" * 4_097,
        "payload.deposit.authorization.erc3009Authorization.signature",
    ),
    (
        "permit2Deposit",
        "deposit.authorization.permit2Authorization.witness.channelId",
        "0xab",
        "payload.deposit.authorization.permit2Authorization.witness.channelId",
    ),
    (
        "permit2Deposit",
        "deposit.authorization.permit2Authorization.nonce",
        "-1",
        "payload.deposit.authorization.permit2Authorization.nonce",
    ),
    (
        "permit2Deposit",
        "deposit.authorization.permit2Authorization.permitted.amount",
        str(2**128),
        "payload.deposit.authorization.permit2Authorization.permitted.amount",
    ),
    ("refund", "amount", "1.5", "payload.amount"),
    ("completedRefund", "refundNonce", str(2**256), "payload.refundNonce"),
    ("completedRefund", "refundAuthorizerSignature", "0xzz", "payload.refundAuthorizerSignature"),
    ("claim", "claims", [], "payload.claims"),
    ("claim", "claims", [VECTORS[0]["payloads"]["claim"]["claims"][0]] * (CLAIMS_MAX + 1), "payload.claims"),
    ("claim", "claims.1.totalClaimed", "01", "payload.claims[1].totalClaimed"),
    ("claim", "claims.1.signature", "0x", "payload.claims[1].signature"),
    ("claim", "claims.0.voucher.channel.token", "none", "payload.claims[0].voucher.channel.token"),
    (
        "claim",
        "claims.0.voucher.channel.payerAuthorizer",
        "0x" + "00" * 20,
        "payload.claims[0].voucher.channel.payerAuthorizer",
    ),
    ("claim", "claimAuthorizerSignature", "0x1", "payload.claimAuthorizerSignature"),
    ("settle", "receiver", "0x12", "payload.receiver"),
    ("settle", "token", 5, "payload $.token"),
]


@pytest.mark.parametrize(("kind", "where", "what", "field"), BROKEN)
def test_what_is_malformed_is_named(kind: str, where: str, what: Any, field: str) -> None:
    broken = deepcopy(VECTORS[0]["payloads"][kind])
    *path, last = where.split(".")
    at: Any = broken
    for step in path:
        at = at[int(step) if step.isdigit() else step]
    at[last] = what
    with pytest.raises(MalformedError) as error:
        read_batch_settlement(payment(broken))
    assert error.value.field == field


def test_as_many_rows_as_a_claim_may_have_go_into_a_message() -> None:
    row = VECTORS[0]["payloads"]["claim"]["claims"][0]
    claim = payment({"type": "claim", "claims": [row] * CLAIMS_MAX}, {"payment-identifier": {"info": {"id": "1"}}})
    both = encode_json({"paymentPayload": claim, "paymentRequirements": claim.accepted})
    body = decode_json(both, dict[str, Any], "body", len(both))
    read_claim = read_batch_settlement(msgspec.convert(body["paymentPayload"], PaymentPayload))
    assert isinstance(read_claim, ClaimPayload)
    assert len(read_claim.claims) == CLAIMS_MAX


def test_a_wrong_checksum_is_no_address() -> None:
    token = parse_address(VECTORS[0]["payloads"]["settle"]["token"], "token")
    broken = {**VECTORS[0]["payloads"]["settle"], "token": checksum(token).swapcase().replace("0X", "0x")}
    with pytest.raises(MalformedError, match=r"payload\.token"):
        read_batch_settlement(payment(broken))


# Properties.

words = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20).filter(any)
amounts = st.integers(0, 2**128 - 1)
times = st.integers(0, 2**64 - 1)
signatures = st.binary(min_size=65, max_size=65)
of_contracts = st.binary(max_size=200)
configs = st.builds(ChannelConfig, *[addresses] * 5, st.integers(900, 2_592_000), words)
vouchers = st.builds(UncheckedVoucher, words, amounts, signatures)
claims = st.lists(st.builds(VoucherClaim, configs, amounts, signatures, amounts), min_size=1, max_size=4).map(tuple)
reservations = st.builds(Reservation, st.none() | st.text(min_size=1, max_size=128), st.booleans())
erc3009 = st.builds(Erc3009Deposit, times, times, words, of_contracts)
permit2 = st.builds(Permit2Deposit, addresses, addresses, amounts, addresses, words, times, words, of_contracts)
payloads = (
    st.builds(DepositPayload, configs, vouchers, st.integers(1, 2**128 - 1), erc3009 | permit2, reservations)
    | st.builds(VoucherPayload, configs, vouchers, reservations)
    | st.builds(
        RefundPayload,
        configs,
        vouchers,
        st.none() | amounts,
        st.none() | st.integers(0, 2**256 - 1),
        st.just(()) | claims,
        st.none() | of_contracts,
        st.none() | of_contracts,
        reservations,
    )
    | st.builds(ClaimPayload, claims, st.none() | of_contracts)
    | st.builds(SettlePayload, addresses, addresses)
)
junk = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just([]) | st.just({"type": "x"})
)


@given(payloads)
def test_any_payload_is_read_as_it_was_written(payload: BatchSettlementPayload) -> None:
    written = json.loads(json.dumps(batch_settlement_payload(payload)))
    assert read_batch_settlement(payment(written)) == payload


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where anything stands in a JSON value, the objects themselves too."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield (*path, key)
        yield from leaves(below, (*path, key))


@given(payloads, st.data())
def test_whatever_stands_in_a_field_is_read_or_its_name_is_told(
    payload: BatchSettlementPayload, data: st.DataObject
) -> None:
    written = batch_settlement_payload(payload)
    *path, last = data.draw(st.sampled_from([*leaves(written)]))
    at: Any = written
    for step in path:
        at = at[step]
    at[last] = data.draw(junk)
    try:
        read_batch_settlement(payment(written))
    except MalformedError as error:
        named = error.field.replace(" $", "")
        whole = "payload" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in (*path, last))
        # An object of the wrong form may be told by what it lacks, and one of two alternatives by what holds them.
        assert named.startswith(whole) or whole.startswith(named), (named, whole)
