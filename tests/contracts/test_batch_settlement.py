"""The stand-in for x402BatchSettlement has the canonical interface, and each rule of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.abi import event_abi_to_log_topic, function_abi_to_4byte_selector
from x402.mechanisms.evm.batch_settlement import abi as official

from _anvil import function, hexed
from anvil import CHAIN_ID, Devnet, receiver
from batch_channels import (
    AUTHORIZER,
    DELAY_S,
    ESCROW,
    BatchChannel,
    approve_permit2,
    batch_channel,
    call_data,
    erc3009_collector_data,
    permit2_collector_data,
    put_batch_settlement,
)
from tallystick import eip712
from tallystick.eip712 import batch_settlement_domain
from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum, parse_address, parse_bytes
from tallystick.quantities import ZERO_ADDRESS
from tallystick.signatures import Signer
from tallystick.vouchers import voucher_digest
from tallystick_chain.errors import RpcError
from tallystick_contracts import load

VECTORS = json.loads((Path(__file__).parents[1] / "proto/vectors/batch_settlement.json").read_text())["vectors"]
NEWS, MUSIC = receiver(1), receiver(2)
STRANGER = Signer(b"\x05" * 32).address
ERC3009, PERMIT2 = eip712.ERC3009_DEPOSIT_COLLECTOR_ADDRESS, eip712.PERMIT2_DEPOSIT_COLLECTOR_ADDRESS
SIGNS_EVERYTHING = bytes.fromhex("631626ba7e60e01b5f5260205ff3")
"""Code of a wallet that calls every signature its own (ERC-1271)."""
EVENTS = {entry["name"]: entry for entry in load("TestBatchSettlement").abi if entry["type"] == "event"}


@pytest.fixture
def channel(devnet: Devnet) -> BatchChannel:
    put_batch_settlement(devnet.anvil)
    return batch_channel(devnet, NEWS)


@contextmanager
def reverts(error: str) -> Iterator[None]:
    with pytest.raises(RpcError) as raised:
        yield
    assert raised.value.data[:4] == keccak256(f"{error}()".encode())[:4], raised.value


def events(receipt: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """The contract's events by name, each with all of its words but the channel's configuration."""
    found: list[tuple[str, tuple[int, ...]]] = []
    names = {event_abi_to_log_topic(entry): name for name, entry in EVENTS.items()}  # type: ignore[arg-type]
    for log in receipt["logs"]:
        if bytes.fromhex(log["address"][2:]) == ESCROW:
            name, *topics = (bytes.fromhex(topic[2:]) for topic in log["topics"])
            data = bytes.fromhex(log["data"][2:])
            words = [*topics, *(data[at : at + 32] for at in range(0, len(data), 32))]
            of_config = names[name] in {"ChannelCreated", "ChannelClosed"}
            found.append(
                (names[name], tuple(int.from_bytes(word, "big") for word in words[: 1 if of_config else None]))
            )
    return found


def number(address: bytes) -> int:
    return int.from_bytes(address, "big")


# The interface.


def test_it_has_the_functions_and_events_that_official_packages_use() -> None:
    entries = load("TestBatchSettlement").abi
    ours = {function_abi_to_4byte_selector(entry) for entry in entries if entry["type"] == "function"}  # type: ignore[arg-type]
    theirs = [entry for entry in official.BATCH_SETTLEMENT_ABI if entry["type"] == "function"]
    assert {function_abi_to_4byte_selector(entry) for entry in theirs} <= ours  # type: ignore[arg-type]
    settled = next(entry for entry in official.BATCH_SETTLEMENT_ABI if entry["type"] == "event")
    assert event_abi_to_log_topic(settled) == event_abi_to_log_topic(EVENTS["Settled"])  # type: ignore[arg-type]
    assert [i["indexed"] for i in settled["inputs"]] == [i["indexed"] for i in EVENTS["Settled"]["inputs"]]


@pytest.mark.parametrize("name", ["TestBatchSettlement", "TestERC3009DepositCollector", "TestPermit2DepositCollector"])
def test_its_code_can_stand_at_any_address(name: Any) -> None:
    assert load(name).immutables == ()


def test_the_type_hashes_are_ours(channel: BatchChannel) -> None:
    for name in ("CHANNEL_CONFIG", "VOUCHER", "REFUND", "CLAIM_ENTRY", "CLAIM_BATCH"):
        assert channel.words(f"{name}_TYPEHASH") == (number(getattr(eip712, f"{name}_TYPEHASH")),)


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_the_views_make_the_digests_of_the_shared_vectors(channel: BatchChannel, vector: dict[str, Any]) -> None:
    raw, at_home = vector["channelConfig"], vector["network"] == f"eip155:{CHAIN_ID}"
    config = (
        *(parse_address(raw[n], n) for n in ("payer", "payerAuthorizer", "receiver", "receiverAuthorizer", "token")),
        raw["withdrawDelay"],
        parse_bytes(raw["salt"], 32, "salt"),
    )
    domain = batch_settlement_domain(CHAIN_ID)
    (identity,) = channel.words("getChannelId", config)
    named = parse_bytes(vector["channelId"], 32, "channelId")
    assert (identity == number(named)) == at_home
    here = identity.to_bytes(32, "big")
    ceiling, refund = int(vector["voucher"]["maxClaimableAmount"]), vector["refund"]
    assert channel.words("getVoucherDigest", here, ceiling) == (
        number(voucher_digest(domain.separator, here, ceiling)),
    )
    signed = eip712.digest(domain, eip712.hash_refund(here, int(refund["nonce"]), int(refund["amount"])))
    refund_words = channel.words("getRefundDigest", here, int(refund["nonce"]), int(refund["amount"]))
    assert refund_words == (number(signed),)
    amounts = [(int(c["maxClaimableAmount"]), int(c["totalClaimed"])) for c in vector["claimBatch"]["claims"]]
    rows = [((config, most), b"", total) for most, total in amounts]
    batch = eip712.hash_claim_batch([(here, most, total) for most, total in amounts])
    assert channel.words("getClaimBatchDigest", rows) == (number(eip712.digest(domain, batch)),)


# Deposits.


def test_a_deposit_opens_a_channel_and_a_further_one_fills_it(channel: BatchChannel) -> None:
    assert events(channel.deposit(1_000)) == [
        ("ChannelCreated", (number(channel.id),)),
        ("Deposited", (number(channel.id), number(channel.devnet.sender.address), 1_000, 1_000)),
    ]
    assert [name for name, _ in events(channel.deposit(500))] == ["Deposited"]
    assert channel.state == (1_500, 0)
    assert channel.devnet.anvil.token_balance(channel.config.token, ESCROW) == 1_500


def test_a_channel_that_was_emptied_opens_again(channel: BatchChannel) -> None:
    channel.deposit(1_000)
    refunded = channel.send("refund", channel.config, 2_000, sender=NEWS)
    assert [name for name, _ in events(refunded)] == ["Refunded", "ChannelClosed"]
    assert events(channel.deposit(5))[0][0] == "ChannelCreated"


def test_a_deposit_by_permit2_needs_an_approval_or_a_permit(devnet: Devnet) -> None:
    put_batch_settlement(devnet.anvil)
    token = devnet.anvil.deploy_contract("TestPermitToken")
    channel = batch_channel(devnet, NEWS, token=token)
    devnet.anvil.mint(token, channel.payer.address, 1_000)
    data = permit2_collector_data(channel.permit2(600))
    with pytest.raises(RpcError):
        channel.send("deposit", channel.config, 600, PERMIT2, data)
    owner, until = channel.payer.address, 2**40
    permit = eip712.hash_permit(owner, eip712.PERMIT2_ADDRESS, 600, 0, until)
    signature = channel.payer.sign(eip712.digest(eip712.Domain("Permit Dollar", "1", CHAIN_ID, token), permit))
    words = [600, until, signature[64], signature[:32], signature[32:64]]
    encoded = encode(["uint256", "uint256", "uint8", "bytes32", "bytes32"], words)
    with_permit = permit2_collector_data(channel.permit2(600), encoded)
    with reverts("Permit2612AmountMismatch"):
        channel.send("deposit", channel.config, 599, PERMIT2, with_permit)
    channel.send("deposit", channel.config, 600, PERMIT2, with_permit)
    # The same permit is worth nothing now, and does no harm.
    approve_permit2(channel)
    channel.send("deposit", channel.config, 400, PERMIT2, permit2_collector_data(channel.permit2(400)))
    assert channel.state == (1_000, 0)


def test_a_permit_that_fails_is_logged_and_the_approval_counts(devnet: Devnet) -> None:
    put_batch_settlement(devnet.anvil)
    token = devnet.anvil.deploy_contract("TestPermitToken")
    channel = batch_channel(devnet, NEWS, token=token)
    devnet.anvil.mint(token, channel.payer.address, 1_000)
    approve_permit2(channel)
    broken = encode(["uint256", "uint256", "uint8", "bytes32", "bytes32"], [600, 1, 27, bytes(32), bytes(32)])
    receipt = channel.send(
        "deposit", channel.config, 600, PERMIT2, permit2_collector_data(channel.permit2(600), broken)
    )
    logged = keccak256(b"EIP2612PermitFailedWithData(address,address,bytes)")
    assert [log["topics"][0] for log in receipt["logs"]].count(hexed(logged)) == 1
    assert channel.state == (600, 0)


def test_an_authorization_credits_no_other_channel(channel: BatchChannel) -> None:
    other = replace(channel, config=replace(channel.config, receiver=MUSIC))
    channel.devnet.anvil.mint(channel.config.token, channel.payer.address, 1_000)
    with pytest.raises(RpcError):
        channel.send("deposit", other.config, 1_000, ERC3009, erc3009_collector_data(channel.erc3009(1_000)))


@pytest.mark.parametrize("field", ["payer", "receiver", "receiver_authorizer", "token"])
def test_a_channel_without_its_parties_takes_no_deposit(channel: BatchChannel, field: str) -> None:
    names = ["payer", "payer_authorizer", "receiver", "receiver_authorizer", "token", "withdraw_delay_s", "salt"]
    config = [ZERO_ADDRESS if n == field else value for n, value in zip(names, astuple(channel.config), strict=True)]
    with reverts("InvalidChannel"):
        channel.send("deposit", tuple(config), 5, ERC3009, b"")


@pytest.mark.parametrize("delay_s", [899, 2_592_001])
def test_a_delay_out_of_range_takes_no_deposit(channel: BatchChannel, delay_s: int) -> None:
    config = [*astuple(channel.config)]
    config[5] = delay_s
    with reverts("WithdrawDelayOutOfRange"):
        channel.send("deposit", tuple(config), 5, ERC3009, b"")


def test_a_deposit_names_an_amount_and_a_collector_that_brings_it(channel: BatchChannel) -> None:
    with reverts("ZeroDeposit"):
        channel.send("deposit", channel.config, 0, ERC3009, b"")
    with reverts("InvalidCollector"):
        channel.send("deposit", channel.config, 5, ZERO_ADDRESS, b"")
    idle = bytes.fromhex("00" * 19 + "99")
    channel.devnet.anvil.rpc("anvil_setCode", hexed(idle), "0x00")
    with reverts("DepositCollectionFailed"):
        channel.send("deposit", channel.config, 5, idle, b"")
    channel.deposit(5)
    with reverts("DepositOverflow"):
        channel.send("deposit", channel.config, 2**128 - 1, ERC3009, b"")


@pytest.mark.parametrize("collector", [ERC3009, PERMIT2])
def test_a_collector_serves_the_contract_alone(channel: BatchChannel, collector: bytes) -> None:
    types = ["address", "address", "uint256", "bytes32", "bytes"]
    selector = keccak256(b"collect(address,address,uint256,bytes32,bytes)")[:4]
    data = selector + encode(types, [channel.payer.address, channel.config.token, 5, channel.id, b""])
    with reverts("OnlyX402BatchSettlement"):
        channel.devnet.anvil.send(STRANGER, collector, data)


# Claims.


@pytest.mark.parametrize("sender", [NEWS, AUTHORIZER.address])
def test_the_receivers_side_claims_and_is_paid_by_settle(channel: BatchChannel, sender: bytes) -> None:
    channel.deposit(1_000)
    claimed = channel.send("claim", [channel.claim(300, 400)], sender=sender)
    assert events(claimed) == [("Claimed", (number(channel.id), number(sender), 300, 300))]
    assert (channel.state, channel.received) == ((1_000, 300), 0)
    token = channel.config.token
    assert channel.words("receivers", NEWS, token) == (300, 0)
    settled = channel.send("settle", NEWS, token, sender=STRANGER)
    assert events(settled) == [("Settled", (number(NEWS), number(token), number(STRANGER), 300))]
    assert channel.received == 300
    assert channel.words("receivers", NEWS, token) == (300, 300)
    assert events(channel.send("settle", NEWS, token)) == []


def test_nobody_else_claims_without_a_signature(channel: BatchChannel) -> None:
    channel.deposit(1_000)
    for sender in (STRANGER, channel.payer.address):
        with reverts("NotAuthorizedToClaim"):
            channel.send("claim", [channel.claim(300)], sender=sender)


def test_anybody_lands_what_the_receiver_authorizer_signed(channel: BatchChannel) -> None:
    other = batch_channel(channel.devnet, MUSIC)
    channel.deposit(1_000)
    other.deposit(1_000)
    rows = [channel.claim(300), other.claim(200)]
    with reverts("InvalidSignature"):
        channel.send("claimWithSignature", rows, channel.sign_claims(rows, channel.payer), sender=STRANGER)
    with reverts("InvalidSignature"):
        channel.send("claimWithSignature", rows, channel.sign_claims(rows[:1]), sender=STRANGER)
    landed = channel.send("claimWithSignature", rows, channel.sign_claims(rows), sender=STRANGER)
    assert [name for name, _ in events(landed)] == ["Claimed", "Claimed"]
    assert (channel.state, other.state) == ((1_000, 300), (1_000, 200))


def test_one_signature_is_for_channels_of_one_authorizer(channel: BatchChannel) -> None:
    other = batch_channel(channel.devnet, MUSIC, receiver_authorizer=STRANGER)
    rows = [channel.claim(0), other.claim(0)]
    with reverts("NotReceiverAuthorizer"):
        channel.send("claimWithSignature", rows, channel.sign_claims(rows))


def test_a_receiver_authorizer_may_be_a_contract(channel: BatchChannel) -> None:
    wallet = bytes.fromhex("00" * 19 + "77")
    channel.devnet.anvil.rpc("anvil_setCode", hexed(wallet), hexed(SIGNS_EVERYTHING))
    owned = batch_channel(channel.devnet, NEWS, receiver_authorizer=wallet)
    owned.deposit(1_000)
    owned.send("claimWithSignature", [owned.claim(300)], b"any")
    assert owned.state == (1_000, 300)


def test_an_old_row_changes_nothing_and_is_not_even_checked(channel: BatchChannel) -> None:
    channel.deposit(1_000)
    channel.send("claim", [channel.claim(300)], sender=NEWS)
    unsigned = replace(channel.claim(300), signature=b"")
    again = channel.send("claim", [channel.claim(200), unsigned], sender=NEWS)
    assert events(again) == []
    assert channel.state == (1_000, 300)


def test_a_claim_stays_below_ceiling_and_balance_and_is_the_payers(channel: BatchChannel) -> None:
    channel.deposit(1_000)
    with reverts("ClaimExceedsCeiling"):
        channel.send("claim", [channel.claim(301, 300)], sender=NEWS)
    with reverts("ClaimExceedsBalance"):
        channel.send("claim", [channel.claim(1_001)], sender=NEWS)
    with reverts("InvalidSignature"):
        channel.send("claim", [replace(channel.claim(300), max_claimable_amount=301)], sender=NEWS)
    with reverts("EmptyBatch"):
        channel.send("claim", [], sender=NEWS)
    with reverts("EmptyBatch"):
        channel.send("claimWithSignature", [], b"")


def test_one_bad_row_takes_the_batch_with_it(channel: BatchChannel) -> None:
    channel.deposit(1_000)
    with reverts("ClaimExceedsBalance"):
        channel.send("claim", [channel.claim(300), channel.claim(2_000)], sender=NEWS)
    assert channel.state == (1_000, 0)


def test_without_a_payer_authorizer_the_payers_contract_decides(channel: BatchChannel) -> None:
    config = (channel.payer.address, ZERO_ADDRESS, *astuple(channel.config)[2:])
    anvil = channel.devnet.anvil
    anvil.mint(channel.config.token, channel.payer.address, 1_000)
    channel_id = channel.words("getChannelId", config)[0].to_bytes(32, "big")
    deposit = channel.erc3009(1_000)
    nonce = eip712.deposit_nonce(channel_id, deposit.salt)
    struct = eip712.hash_receive_with_authorization(
        channel.payer.address, ERC3009, 1_000, 0, deposit.valid_before, nonce
    )
    signature = channel.payer.sign(eip712.digest(channel.devnet.token_domain, struct))
    channel.send("deposit", config, 1_000, ERC3009, erc3009_collector_data(replace(deposit, signature=signature)))
    with reverts("InvalidSignature"):
        channel.send("claim", [((config, 300), b"any", 300)], sender=NEWS)
    anvil.rpc("anvil_setCode", hexed(channel.payer.address), hexed(SIGNS_EVERYTHING))
    channel.send("claim", [((config, 300), b"any", 300)], sender=NEWS)
    assert channel.words("channels", channel_id) == (1_000, 300)


# Refunds.


@pytest.mark.parametrize("sender", [NEWS, AUTHORIZER.address])
def test_the_receivers_side_refunds_what_is_not_claimed(channel: BatchChannel, sender: bytes) -> None:
    channel.deposit(1_000)
    channel.send("claim", [channel.claim(300)], sender=NEWS)
    refunded = channel.send("refund", channel.config, 2_000, sender=sender)
    assert events(refunded) == [("Refunded", (number(channel.id), number(sender), 700))]
    assert channel.state == (300, 300)
    assert channel.words("refundNonce", channel.id) == (1,)
    assert channel.devnet.anvil.token_balance(channel.config.token, channel.payer.address) == 700


def test_a_refund_of_nothing_uses_its_nonce_without_an_event(channel: BatchChannel) -> None:
    channel.deposit(300)
    channel.send("claim", [channel.claim(300)], sender=NEWS)
    assert events(channel.send("refund", channel.config, 5, sender=NEWS)) == []
    assert channel.words("refundNonce", channel.id) == (1,)
    with reverts("ZeroRefund"):
        channel.send("refund", channel.config, 0, sender=NEWS)
    assert channel.words("refundNonce", channel.id) == (1,)


def test_anybody_lands_a_signed_refund_once(channel: BatchChannel) -> None:
    channel.deposit(1_000)
    with reverts("NotAuthorizedToRefund"):
        channel.send("refund", channel.config, 100, sender=STRANGER)
    with reverts("InvalidSignature"):
        channel.send("refundWithSignature", channel.config, 101, 0, channel.sign_refund(100, 0))
    with reverts("InvalidRefundNonce"):
        channel.send("refundWithSignature", channel.config, 100, 1, channel.sign_refund(100, 1))
    channel.send("refundWithSignature", channel.config, 100, 0, channel.sign_refund(100, 0), sender=STRANGER)
    with reverts("InvalidRefundNonce"):
        channel.send("refundWithSignature", channel.config, 100, 0, channel.sign_refund(100, 0))
    assert channel.state == (900, 0)


def test_a_refund_comes_off_a_pending_withdrawal(channel: BatchChannel) -> None:
    channel.deposit(1_000)
    channel.initiate_withdraw(800)
    channel.send("refund", channel.config, 300, sender=NEWS)
    assert channel.words("pendingWithdrawals", channel.id)[0] == 500
    channel.send("refund", channel.config, 500, sender=NEWS)
    assert channel.words("pendingWithdrawals", channel.id) == (0, 0)


# Withdrawals.


def test_a_payer_withdraws_after_the_delay_what_was_not_claimed(channel: BatchChannel) -> None:
    channel.deposit(1_000)
    started = channel.initiate_withdraw(1_000)
    at = int(channel.devnet.anvil.rpc("eth_getBlockByHash", started["blockHash"], False)["timestamp"], 16)
    assert events(started) == [("WithdrawInitiated", (number(channel.id), 1_000, at + DELAY_S))]
    assert channel.words("pendingWithdrawals", channel.id) == (1_000, at)
    with reverts("WithdrawalAlreadyPending"):
        channel.initiate_withdraw(1)
    with reverts("WithdrawDelayNotElapsed"):
        channel.finalize_withdraw()
    channel.send("claim", [channel.claim(300)], sender=NEWS)
    channel.devnet.anvil.advance(DELAY_S)
    ended = channel.finalize_withdraw()
    assert events(ended) == [("WithdrawFinalized", (number(channel.id), number(channel.payer.address), 700))]
    assert (channel.state, channel.words("pendingWithdrawals", channel.id)) == ((300, 300), (0, 0))
    with reverts("WithdrawalNotPending"):
        channel.finalize_withdraw()


def test_a_claim_after_the_withdrawal_finds_nothing(channel: BatchChannel) -> None:
    channel.deposit(1_000)
    channel.initiate_withdraw(1_000)
    channel.devnet.anvil.advance(DELAY_S)
    assert [name for name, _ in events(channel.finalize_withdraw())] == ["WithdrawFinalized", "ChannelClosed"]
    with reverts("ClaimExceedsBalance"):
        channel.send("claim", [channel.claim(300)], sender=NEWS)


def test_only_the_payers_side_withdraws_and_only_what_is_there(channel: BatchChannel) -> None:
    channel.deposit(1_000)
    with reverts("InvalidChannel"):
        channel.send("initiateWithdraw", channel.config, 5, sender=NEWS)
    with reverts("NotAuthorizedToFinalizeWithdraw"):
        channel.send("finalizeWithdraw", channel.config, sender=NEWS)
    with reverts("NothingToWithdraw"):
        channel.initiate_withdraw(0)
    with reverts("WithdrawAmountExceedsAvailable"):
        channel.initiate_withdraw(1_001)


# Many calls in one.


def test_a_multicall_does_all_or_nothing_and_answers_views(channel: BatchChannel) -> None:
    channel.deposit(1_000)
    rows = [channel.claim(300)]
    calls = [
        call_data("claimWithSignature", rows, channel.sign_claims(rows)),
        call_data("settle", NEWS, channel.config.token),
        call_data("refundWithSignature", channel.config, 700, 0, channel.sign_refund(700, 0)),
    ]
    with reverts("InvalidRefundNonce"):
        channel.send("multicall", [*calls, calls[-1]])
    landed = channel.send("multicall", calls)
    assert [name for name, _ in events(landed)] == ["Claimed", "Settled", "Refunded"]
    words = channel.words("multicall", [call_data("channels", channel.id), call_data("refundNonce", channel.id)])
    assert words[-5:] == (64, 300, 300, 32, 1)


def test_calldata_after_the_arguments_is_ignored(channel: BatchChannel) -> None:
    channel.deposit(1_000)
    data = call_data("claim", [channel.claim(300)]) + b"\x80\x21" * 8
    channel.send_data(data, NEWS)
    assert channel.state == (1_000, 300)


def test_it_names_its_domain(channel: BatchChannel) -> None:
    answer = channel.devnet.anvil.call(ESCROW, function("eip712Domain()"))
    assert b"x402 Batch Settlement" in answer
    assert bytes.fromhex(checksum(ESCROW)[2:]) in answer
