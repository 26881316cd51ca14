"""Encodings and signatures against vectors that the official x402 package made (see vectors/)."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallystick.channels import ChannelConfig, account_id, channel_id
from tallystick.eip712 import (
    BATCH_SETTLEMENT_ADDRESS,
    Domain,
    batch_settlement_domain,
    deposit_nonce,
    digest,
    hash_claim_batch,
    hash_refund,
)
from tallystick.hexadecimal import parse_address, parse_bytes
from tallystick.signatures import AuthorizerKey, Signer, recover
from tallystick.vouchers import UncheckedVoucher, check_voucher, sign_voucher, voucher_digest
from tallystick.x402 import Network, decode_json
from tallystick.x402.payloads import ChannelConfigMessage, read_channel_config, write_channel_config
from typed_data import hash_voucher

FILE = json.loads((Path(__file__).parent / "vectors/batch_settlement.json").read_text())
VECTORS: list[dict[str, Any]] = FILE["vectors"]

pytestmark = pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))


def read(vector: dict[str, Any]) -> tuple[Domain, ChannelConfig]:
    domain = batch_settlement_domain(Network.parse(vector["network"], "network").chain_id)
    message = decode_json(json.dumps(vector["channelConfig"]).encode(), ChannelConfigMessage, "channelConfig", 10_000)
    return domain, read_channel_config(message, "channelConfig")


def signer(vector: dict[str, Any], key: str) -> Signer:
    return Signer(parse_bytes(vector[key], 32, key))


def test_domain_is_the_canonical_contract(vector: dict[str, Any]) -> None:
    domain, _ = read(vector)
    assert (domain.name, domain.version) == (FILE["domain"]["name"], FILE["domain"]["version"])
    assert parse_address(FILE["domain"]["verifyingContract"], "verifyingContract") == BATCH_SETTLEMENT_ADDRESS


def test_channel_id(vector: dict[str, Any]) -> None:
    domain, config = read(vector)
    assert "0x" + channel_id(domain, config).hex() == vector["channelId"]
    assert account_id(domain, config) != channel_id(domain, config)


def test_channel_config_is_written_as_it_was_read(vector: dict[str, Any]) -> None:
    _, config = read(vector)
    written = msgspec.convert(write_channel_config(config), ChannelConfigMessage)
    assert read_channel_config(written, "channelConfig") == config


def test_voucher_is_theirs_bit_for_bit(vector: dict[str, Any]) -> None:
    domain, config = read(vector)
    authorizer = signer(vector, "payerAuthorizerKey")
    amount = int(vector["voucher"]["maxClaimableAmount"])
    signature = parse_bytes(vector["voucher"]["signature"], 65, "signature")
    channel = channel_id(domain, config)

    assert authorizer.address == config.payer_authorizer
    assert voucher_digest(domain.separator, channel, amount) == digest(domain, hash_voucher(channel, amount))
    assert (
        check_voucher(domain, UncheckedVoucher(channel, amount, signature), config.payer_authorizer).signature
        == signature
    )
    assert sign_voucher(authorizer, domain, channel, amount).signature == signature
    assert (
        AuthorizerKey.recover(voucher_digest(domain.separator, channel, amount), signature).address
        == authorizer.address
    )


def test_claim_batch_signature_is_the_operators(vector: dict[str, Any]) -> None:
    domain, config = read(vector)
    channel = channel_id(domain, config)
    entries = [
        (channel, int(claim["maxClaimableAmount"]), int(claim["totalClaimed"]))
        for claim in vector["claimBatch"]["claims"]
    ]
    signed = digest(domain, hash_claim_batch(entries))
    assert "0x" + signer(vector, "receiverAuthorizerKey").sign(signed).hex() == vector["claimBatch"]["signature"]
    assert recover(signed, bytes.fromhex(vector["claimBatch"]["signature"][2:])) == config.receiver_authorizer


def test_refund_signature_is_the_operators(vector: dict[str, Any]) -> None:
    domain, config = read(vector)
    refund = vector["refund"]
    signed = digest(domain, hash_refund(channel_id(domain, config), int(refund["nonce"]), int(refund["amount"])))
    assert "0x" + signer(vector, "receiverAuthorizerKey").sign(signed).hex() == refund["signature"]
    assert recover(signed, bytes.fromhex(refund["signature"][2:])) == config.receiver_authorizer


def test_deposit_nonce(vector: dict[str, Any]) -> None:
    domain, config = read(vector)
    salt = parse_bytes(vector["erc3009Deposit"]["salt"], 32, "salt")
    assert "0x" + deposit_nonce(channel_id(domain, config), salt).hex() == vector["erc3009Deposit"]["nonce"]
