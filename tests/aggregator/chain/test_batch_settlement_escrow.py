"""The binding of x402BatchSettlement on a chain: what is read, what is sent, and what its events mean."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from test_abi import signatures

from _anvil import hexed
from anvil import CHAIN_ID, NETWORK, Devnet, receiver
from batch_channels import (
    AUTHORIZER,
    DELAY_S,
    DOMAIN,
    ESCROW,
    BatchChannel,
    approve_permit2,
    batch_channel,
    put_batch_settlement,
)
from tallystick import eip712
from tallystick.quantities import AccountId
from tallystick.signatures import Signer
from tallystick.x402.batch_settlement import DepositPayload
from tallystick_aggregator.chain import batch_settlement_calls as calls
from tallystick_aggregator.chain.batch_settlement_escrow import CLAIM_COSTS, BatchSettlementEscrow, voucher_claims
from tallystick_aggregator.chain.claim_plan import Group, PlannedRow
from tallystick_aggregator.chain.escrow_port import EscrowBinding
from tallystick_aggregator.chain.node import Log, as_reverted
from tallystick_aggregator.chain.port import (
    Block,
    Call,
    ChainUnavailableError,
    DepositAuthorization,
    EscrowAccount,
    Heard,
)
from tallystick_aggregator.chain.rpc.node import RpcNode
from tallystick_aggregator.chain.settings import ConfigurationError
from tallystick_aggregator.ledger.state import Account
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import OutboundTransaction, Payout, TransactionKind, TransactionStatus
from tallystick_chain import reverts
from tallystick_chain.errors import CallRevertedError
from tallystick_contracts import batch_settlement as contract
from tallystick_contracts import load
from tallystick_contracts.attribution import read_charge_counts, split_suffix
from tallystick_contracts.log_words import LogError

NEWS, MUSIC = receiver(1), receiver(2)
STRANGER = Signer(b"\x05" * 32)
FUNCTIONS = (
    calls.DEPOSIT,
    calls.CLAIM,
    calls.CLAIM_WITH_SIGNATURE,
    calls.SETTLE,
    calls.REFUND_WITH_SIGNATURE,
    calls.MULTICALL,
    calls.CHANNELS,
    calls.PENDING_WITHDRAWALS,
    calls.REFUND_NONCE,
    calls.RECEIVERS,
    calls.GET_VOUCHER_DIGEST,
)


class World:
    """The contract at its address, our binding of it, and payers."""

    def __init__(self, devnet: Devnet) -> None:
        put_batch_settlement(devnet.anvil)
        self.devnet = devnet
        self.node = RpcNode([devnet.anvil.url])
        self.escrow = BatchSettlementEscrow(self.node, CHAIN_ID, AUTHORIZER.address, AUTHORIZER, DELAY_S)
        self.first = devnet.anvil.block_number

    def channel(self, to: bytes = NEWS, amount: int = 0, **changes: Any) -> BatchChannel:
        channel = batch_channel(self.devnet, to, **changes)
        if amount:
            channel.deposit(amount)
        return channel

    async def head(self) -> Block:
        return await self.node.head()

    def land(self, call: Call) -> dict[str, Any]:
        """Send a call of the binding's, as somebody who is nobody to the contract."""
        self.devnet.anvil.set_ether(STRANGER.address, 10**18)
        return self.devnet.anvil.send(STRANGER.address, call.to, call.data)

    async def land_as(self, kind: TransactionKind, call: Call) -> tuple[Payout, ...]:
        """The same, and what the binding reads in the receipt."""
        landed = self.land(call)
        receipt = await self.node.receipt(bytes.fromhex(landed["transactionHash"][2:]))
        assert receipt is not None
        return self.escrow.payouts(outbound(kind, call), receipt.logs)

    async def account(self, channel: BatchChannel) -> EscrowAccount:
        (account,) = await self.escrow.accounts([channel.id], await self.head())
        return account


@pytest.fixture
async def world(devnet: Devnet) -> AsyncIterator[World]:
    world = World(devnet)
    yield world
    await world.node.close()


def outbound(kind: TransactionKind, call: Call) -> OutboundTransaction:
    return OutboundTransaction(
        1, NETWORK, kind, b"", STRANGER.address, 0, call.to, call.data, 0, (), TransactionStatus.MINED, 0
    )


def group(channel: BatchChannel, total: int, ceiling: int | None = None, charges: int = 0) -> Group:
    """A row as the planner makes it of a channel."""
    most = total if ceiling is None else ceiling
    account = Account(AccountId(channel.id), EscrowRef(NETWORK, ESCROW), channel.config)
    signature = channel.voucher(most).signature
    row = PlannedRow(channel.id, channel.config.receiver, total, 0, most, signature, first=True, charges=charges)
    return Group(account, (row,), None)


# The interface.


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_the_contract_has_the_function(function: calls.Function) -> None:
    assert function.signature in signatures("TestBatchSettlement", "function")


def test_the_contract_has_the_events_and_no_others() -> None:
    assert set(contract.SIGNATURES) == signatures("TestBatchSettlement", "event")


def test_its_errors_have_names_for_people() -> None:
    of_the_contract = {signature.removesuffix("()") for signature in signatures("TestBatchSettlement", "error")}
    assert of_the_contract - set(contract.ERRORS) == {
        # of OpenZeppelin's libraries
        "ECDSAInvalidSignature",
        "ECDSAInvalidSignatureLength(uint256)",
        "ECDSAInvalidSignatureS(bytes32)",
        "ReentrancyGuardReentrantCall",
        "SafeERC20FailedOperation(address)",
        "AddressEmptyCode(address)",
        "FailedCall",
    }
    for name in contract.ERRORS:
        data = calls.selector(f"{name}()")
        assert reverts.describe_data(data) == f"{name}()"
        assert reverts.name_of(data) == name


def test_it_fits_the_port(world: World) -> None:
    binding: EscrowBinding = world.escrow
    channel = world.channel()
    assert binding.account_id(channel.config) == binding.channel_id(channel.config) == channel.id
    assert binding.ref == EscrowRef(NETWORK, eip712.BATCH_SETTLEMENT_ADDRESS)
    assert binding.domain == DOMAIN


# What is read.


async def test_accounts_are_read_at_a_block(world: World) -> None:
    channel, other = world.channel(amount=1_000), world.channel(MUSIC, 500)
    channel.send("claim", [channel.claim(300)], sender=NEWS)
    before = await world.head()
    channel.send("refund", channel.config, 100, sender=NEWS)
    started = channel.initiate_withdraw(600)
    at = int(world.devnet.anvil.rpc("eth_getBlockByHash", started["blockHash"], False)["timestamp"], 16)
    ids = [channel.id, other.id, bytes(32)]
    assert await world.escrow.accounts(ids, await world.head()) == [
        EscrowAccount(600, 1, 0, 600, at + DELAY_S),
        EscrowAccount(500, 0, 0, 0, 0),
        EscrowAccount(0, 0, 0, 0, 0),
    ]
    assert await world.escrow.claimed(ids, await world.head()) == [300, 0, 0]
    assert await world.escrow.accounts(ids[:1], before) == [EscrowAccount(700, 0, 0, 0, 0)]
    assert await world.escrow.accounts([], before) == []


async def test_many_are_read_in_one_call_and_in_several(world: World) -> None:
    channels = [world.channel() for _ in range(40)]
    channels[17].deposit(1_000)
    heard = Heard()
    ids = [channel.id for channel in channels]
    accounts = await world.escrow.accounts(ids, await world.head(), heard)
    assert [at for at, account in enumerate(accounts) if account.balance] == [17]
    assert heard.sources
    by_threes = BatchSettlementEscrow(world.node, CHAIN_ID, AUTHORIZER.address, AUTHORIZER, items_per_read=3)
    assert await by_threes.claimed(ids, await world.head()) == [0] * 40


async def test_before_the_contracts_deployment_there_is_nothing(world: World) -> None:
    channel = world.channel()
    world.devnet.anvil.rpc("anvil_setCode", hexed(ESCROW), "0x")
    assert await world.escrow.claimed([channel.id], await world.head()) == [0]


@pytest.mark.parametrize("answer", [b"\1" * 32, bytes(64)])
def test_an_answer_of_another_shape_is_none(answer: bytes) -> None:
    with pytest.raises(ChainUnavailableError, match="questions"):
        calls.read_claimed(answer, 1)
    good = [32, 1, 32, 64, 1_000, 20]
    encode = lambda words: b"".join(word.to_bytes(32, "big") for word in words)  # noqa: E731
    assert calls.read_claimed(encode(good), 1) == [20]
    with pytest.raises(ChainUnavailableError, match="where 64 are right"):
        calls.read_claimed(encode([*good[:3], 32, *good[4:]]), 1)


# What is sent.


async def test_a_deposit_by_erc3009_lands_and_is_read_from_its_receipt(world: World) -> None:
    channel = world.channel()
    world.devnet.anvil.mint(channel.config.token, channel.payer.address, 1_000)
    signed = channel.erc3009(1_000)
    deposit = DepositAuthorization(
        channel.config, 1_000, signed.valid_after, signed.valid_before, signed.salt, signed.signature
    )
    payouts = await world.land_as(TransactionKind.DEPOSIT, world.escrow.deposit_call(deposit))
    assert payouts == (Payout(ESCROW, channel.config.token, 1_000),)
    used = eip712.deposit_nonce(channel.id, signed.salt)
    assert world.escrow.deposit_token_nonce(deposit) == used
    assert (await world.account(channel)).balance == 1_000


async def test_a_deposit_by_permit2_lands(world: World) -> None:
    channel = world.channel()
    world.devnet.anvil.mint(channel.config.token, channel.payer.address, 1_000)
    approve_permit2(channel)
    payload = replace(channel.deposit_payload(1_000), authorization=channel.permit2(1_000))
    assert isinstance(payload, DepositPayload)
    call = world.escrow.deposit_payload_call(payload)
    assert await world.land_as(TransactionKind.DEPOSIT, call) == (Payout(ESCROW, channel.config.token, 1_000),)


async def test_one_claim_is_for_channels_of_many_sellers_and_settle_pays_each(world: World) -> None:
    channels = [world.channel(to, 1_000) for to in (NEWS, MUSIC, NEWS)]
    rows = zip(channels, (3, 0, 41), strict=True)
    groups = [group(channel, 100 * (at + 1), charges=charges) for at, (channel, charges) in enumerate(rows)]
    token = world.devnet.token
    call = world.escrow.claim_call(token, groups)
    assert read_charge_counts(split_suffix(call.data)[1]) == (3, 0, 41)
    assert world.escrow.claim_totals(call.data) == {c.id: 100 * (at + 1) for at, c in enumerate(channels)}
    payouts = await world.land_as(TransactionKind.CLAIM, call)
    assert set(payouts) == {Payout(NEWS, token, 400), Payout(MUSIC, token, 200)}
    assert await world.escrow.owed(NEWS, token, await world.head()) == 400
    world.land(world.escrow.collect_call(NEWS, token))
    assert await world.escrow.owed(NEWS, token, await world.head()) == 0
    assert (channels[0].received, channels[1].received) == (400, 0)


async def test_a_row_that_somebody_claimed_before_pays_nothing_and_reverts_nothing(world: World) -> None:
    channel, other = world.channel(amount=1_000), world.channel(MUSIC, 1_000)
    channel.send("claim", [channel.claim(300)], sender=NEWS)
    call = world.escrow.claim_call(world.devnet.token, [group(channel, 300), group(other, 50)])
    payouts = await world.land_as(TransactionKind.CLAIM, call)
    assert payouts == (Payout(MUSIC, world.devnet.token, 50),)


async def test_a_bad_row_reverts_the_batch_with_a_reason_of_the_contracts(world: World) -> None:
    good, drained = world.channel(amount=1_000), world.channel(MUSIC, 1_000)
    drained.send("refund", drained.config, 1_000, sender=MUSIC)
    call = world.escrow.claim_call(world.devnet.token, [group(good, 300), group(drained, 50)])
    with pytest.raises(CallRevertedError) as raised:
        await world.node.call(call.to, call.data, await world.head(), from_=STRANGER.address)
    reverted = as_reverted(raised.value)
    assert (reverted.reason, reverted.by_contract) == ("ClaimExceedsBalance()", True)
    assert not world.escrow.blames_sender(reverted)
    world.land(world.escrow.claim_call(world.devnet.token, [group(good, 300)]))
    assert good.state == (1_000, 300)


def test_rows_that_the_contract_cannot_take_are_no_claim(world: World) -> None:
    one, token = group(world.channel(), 5), world.devnet.token
    with pytest.raises(ValueError, match="no approvals"):
        world.escrow.claim_call(token, [one._replace(approval=b"signed")])
    with pytest.raises(ValueError, match="one receiver"):
        world.escrow.claim_call(token, [one._replace(rows=(one.rows[0]._replace(receiver=MUSIC),))])
    with pytest.raises(ValueError, match="one token"):
        world.escrow.claim_call(NEWS, [one])
    with pytest.raises(ValueError, match="2 charge counts for 1 rows"):
        world.escrow.claim_and_refund_call(voucher_claims(one), one.account.config, 1, 0, [1, 2])


async def test_a_refund_is_the_operators_and_read_from_its_receipt(world: World) -> None:
    channel = world.channel(amount=1_000)
    call = world.escrow.refund_call(channel.config, 400, 0)
    paid = await world.land_as(TransactionKind.REFUND, call)
    assert paid == (Payout(channel.payer.address, channel.config.token, 400),)
    assert (await world.account(channel)).refund_nonce == 1


async def test_a_refund_of_nothing_is_told_as_nothing(world: World) -> None:
    channel = world.channel(amount=300)
    channel.send("claim", [channel.claim(300)], sender=NEWS)
    paid = await world.land_as(TransactionKind.REFUND, world.escrow.refund_call(channel.config, 5, 0))
    assert paid == (Payout(channel.payer.address, channel.config.token, 0),)
    assert (await world.account(channel)).refund_nonce == 1


async def test_a_refund_may_claim_first_in_one_transaction(world: World) -> None:
    channel = world.channel(amount=1_000)
    call = world.escrow.claim_and_refund_call([channel.claim(300)], channel.config, 1_000, 0)
    assert world.escrow.claim_totals(call.data) == {channel.id: 300}
    world.land(call)
    assert channel.state == (300, 300)
    alone = world.escrow.claim_and_refund_call([], channel.config, 5, 1)
    assert alone == world.escrow.refund_call(channel.config, 5, 1)


def test_calldata_of_other_calls_claims_nothing(world: World) -> None:
    assert world.escrow.claim_totals(world.escrow.collect_call(NEWS, world.devnet.token).data) == {}
    with pytest.raises(ValueError, match="claimWithSignature"):
        world.escrow.claim_totals(calls.CLAIM_WITH_SIGNATURE.selector + b"\xff" * 64)


@pytest.mark.parametrize("rows", [1, 10, 100])
async def test_a_claim_costs_what_is_planned_and_not_much_less(world: World, rows: int) -> None:
    """Gas of the stand-in; the original's may differ."""
    channels = [world.channel(receiver(at % 20), 1_000) for at in range(rows)]
    call = world.escrow.claim_call(world.devnet.token, [group(c, 300, charges=200) for c in channels])
    used = int(world.land(call)["gasUsed"], 16)
    costs, receivers = CLAIM_COSTS, min(rows, 20)
    planned = costs.fixed_gas + rows * costs.voucher_row_gas + receivers * costs.receiver_gas
    assert used <= planned <= 2.5 * used
    size = costs.fixed_bytes + rows * costs.voucher_row_bytes
    assert len(call.data) <= size <= len(call.data) + 100 + 2 * rows


# Events.


def meaning(world: World, logs: Sequence[Log]) -> list[tuple[bytes, int, bool]]:
    events = [world.escrow.read_event(log) for log in logs]
    return [(event.account_id, event.moved, event.opened is not None) for event in events]


async def test_what_events_move_is_what_the_channel_has(world: World) -> None:
    channel = world.channel(amount=1_000)
    channel.send("claim", [channel.claim(300)], sender=NEWS)
    channel.send("refund", channel.config, 100, sender=NEWS)
    channel.send("settle", NEWS, channel.config.token)
    channel.initiate_withdraw(600)
    world.devnet.anvil.advance(DELAY_S)
    channel.finalize_withdraw()
    head = await world.head()
    logs = await world.escrow.of_account(channel.id, world.first, head)
    assert meaning(world, logs) == [
        (channel.id, 0, True),
        (channel.id, 1_000, False),
        (channel.id, 0, False),
        (channel.id, -100, False),
        (channel.id, 0, False),
        (channel.id, -600, False),
    ]
    account, (claimed,) = await world.account(channel), await world.escrow.claimed([channel.id], head)
    assert sum(world.escrow.read_event(log).moved for log in logs) == account.balance + claimed == 300
    opened = world.escrow.read_event(logs[0]).opened
    assert opened == channel.config
    everything = await world.escrow.logs(world.first, head)
    assert len(everything) == len(logs) + 1, "and what was settled"
    block = await world.node.block(logs[0].block_number)
    assert block is not None
    assert list(await world.escrow.block_logs(block, Heard())) == [*logs[:2]]
    assert {log.topics[0] for log in everything} <= set(world.escrow.event_topics)


async def test_only_the_channels_of_our_operator_are_ours(world: World) -> None:
    ours = world.channel(amount=1_000)
    world.channel(amount=1_000, receiver_authorizer=STRANGER.address)
    logs = await world.escrow.opened(world.first, await world.head())
    assert [world.escrow.read_event(log).account_id for log in logs] == [ours.id]


def test_a_channel_without_a_payer_authorizer_is_served_by_nobody_here() -> None:
    config = contract.Config(NEWS, bytes(20), MUSIC, NEWS, MUSIC, DELAY_S, bytes(32))
    assert calls.channel_config(config) is None
    assert calls.channel_config(config._replace(payer_authorizer=NEWS)) is not None


def test_events_that_the_contract_cannot_emit_are_found_out(world: World) -> None:
    deposited = contract.TOPICS[2]
    good = Log((deposited, bytes(32), bytes(32)), bytes(64), 1)
    assert calls.can_be_its(good)
    assert calls.can_be_its(Log((b"\x07" * 32,), b"", 1)), "what is not known may be new"
    for bad in (
        Log((), b"", 1),
        good._replace(topics=(deposited, bytes(32))),
        good._replace(data=bytes(63)),
        good._replace(data=bytes(96)),
        good._replace(topics=(deposited, bytes(32), b"\xff" * 32)),
        Log((contract.CREATED_TOPIC, bytes(32)), bytes(32 * 6), 1),
    ):
        assert not calls.can_be_its(bad)
        with pytest.raises(ChainUnavailableError, match="malformed"):
            world.escrow.read_event(bad)
        with pytest.raises(LogError):
            contract.decode(bad)


# The start.


async def test_a_start_finds_all_in_its_place(world: World) -> None:
    await world.escrow.check(STRANGER.address, await world.head())


@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        (ESCROW, "0x", "there is no contract"),
        (ESCROW, hexed(load("TestPermit2").deployed_bytecode), "another EIP-712 domain"),
        (eip712.ERC3009_DEPOSIT_COLLECTOR_ADDRESS, "0x", "no collector"),
        (eip712.PERMIT2_DEPOSIT_COLLECTOR_ADDRESS, "0x", "no collector"),
    ],
)
async def test_a_start_misses_what_is_not_there(world: World, address: bytes, code: str, words: str) -> None:
    world.devnet.anvil.rpc("anvil_setCode", hexed(address), code)
    with pytest.raises(ConfigurationError, match=words):
        await world.escrow.check(STRANGER.address, await world.head())


async def test_a_start_wants_the_operators_key(world: World) -> None:
    of_another = BatchSettlementEscrow(world.node, CHAIN_ID, AUTHORIZER.address, STRANGER)
    with pytest.raises(ConfigurationError, match="is not the key of operator"):
        await of_another.check(STRANGER.address, await world.head())
