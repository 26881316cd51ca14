"""What deposits and refunds did, read from the events of whoever landed them, on a real chain."""

from dataclasses import replace

import pytest
from eth_abi.abi import encode
from faults import LyingNode
from harness import Side, chain_side

from anvil import FOR_EVER, Devnet, Payer, receiver
from tallystick import eip712
from tallystick.hashing import keccak256
from tallystick.x402 import ExactAuthorization
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain.landings import Reach, find_deposit
from tallystick_aggregator.chain.node import Log, Receipt
from tallystick_aggregator.chain.port import ChainUnavailableError, DepositAuthorization, Send
from tallystick_aggregator.chain.rpc.node import RpcNode
from tallystick_aggregator.chain.settings import ChainLimits
from tallystick_aggregator.chain.token import TRANSFER_TOPIC, read_transfer
from tallystick_aggregator.store.port import OutboundTransaction, Payout, TransactionKind, TransactionStatus

AMOUNT = 5_000_000
ANYBODY = bytes.fromhex("00" * 19 + "77")


def funded(devnet: Devnet) -> tuple[Payer, DepositAuthorization]:
    payer = devnet.payer()
    devnet.anvil.mint(devnet.token, payer.signer.address, 2 * AMOUNT)
    devnet.anvil.set_ether(ANYBODY, 10**20)
    return payer, payer.authorization(AMOUNT)


def cancel(devnet: Devnet, payer: Payer, nonce: bytes) -> None:
    """The payer's own cancellation of an authorization."""
    type_hash = keccak256(b"CancelAuthorization(address authorizer,bytes32 nonce)")
    struct = keccak256(type_hash + payer.signer.address.rjust(32, b"\0") + nonce)
    signature = payer.signer.sign(eip712.digest(devnet.token_domain, struct))
    data = calls.selector("cancelAuthorization(address,bytes32,bytes)") + encode(
        ["address", "bytes32", "bytes"], [payer.signer.address, nonce, signature]
    )
    devnet.anvil.send(ANYBODY, devnet.token, data)


def pay_elsewhere(side: Side, payer: Payer, nonce: bytes) -> None:
    """A transfer to somebody else under the deposit's nonce."""
    transfer = ExactAuthorization(payer.signer.address, receiver(9), 7, 0, FOR_EVER, nonce, b"")
    struct = eip712.hash_transfer_with_authorization(payer.signer.address, receiver(9), 7, 0, FOR_EVER, nonce)
    signature = payer.signer.sign(eip712.digest(side.devnet.token_domain, struct))
    call = side.chain.tokens[side.devnet.token].transfer_call(replace(transfer, signature=signature))
    side.devnet.anvil.send(ANYBODY, call.to, call.data)


async def sent(side: Side, deposit: DepositAuthorization, reference: bytes = b"deposit") -> OutboundTransaction:
    """The deposit, landed by the aggregator."""
    outbound = await side.chain.send(Send(TransactionKind.DEPOSIT, reference, side.chain.escrow.deposit_call(deposit)))
    return await side.chain.wait(outbound, final=True, timeout_s=10)


async def test_a8_a_deposit_of_ours_is_told_by_its_own_event(devnet: Devnet) -> None:
    """The first opens the account, the second tops it up, and the same once more does nothing."""
    payer, first = funded(devnet)
    second = payer.authorization(AMOUNT - 1)
    escrow = devnet.escrow
    async with chain_side(devnet) as side:
        moved = [await sent(side, deposit, b"%d" % at) for at, deposit in enumerate((first, second, second))]
        assert [outbound.status for outbound in moved] == [TransactionStatus.FINAL] * 3
        assert [outbound.payouts for outbound in moved] == [
            (Payout(escrow, devnet.token, AMOUNT),),
            (Payout(escrow, devnet.token, AMOUNT - 1),),
            (Payout(escrow, devnet.token, 0),),
        ]
        landing = await side.chain.deposit_landing(second)
        assert landing is not None
        assert (landing.transaction_hash, landing.amount) == (moved[1].transaction_hash, AMOUNT - 1)


@pytest.mark.parametrize("how", ["cancelled", "used elsewhere", "never used"])
async def test_a8_a_nonce_that_made_no_deposit_is_told_apart(devnet: Devnet, how: str) -> None:
    payer, deposit = funded(devnet)
    async with chain_side(devnet) as side:
        await sent(side, payer.authorization(1_000_000))  # so that the account is there, and has events of its own
        nonce = side.chain.escrow.deposit_token_nonce(deposit)
        if how == "cancelled":
            cancel(devnet, payer, nonce)
        elif how == "used elsewhere":
            pay_elsewhere(side, payer, nonce)
        landing = await side.chain.deposit_landing(deposit)
        if how == "never used":
            assert landing is None
            return
        assert landing is not None
        assert landing.amount == 0
        late = await sent(side, deposit, b"late")
        assert (late.status, late.payouts[0].amount) == (TransactionStatus.FINAL, 0)


async def test_a8_a_landing_is_looked_for_in_steps_and_not_for_ever(
    devnet: Devnet,
) -> None:
    _, deposit = funded(devnet)
    async with chain_side(devnet) as side:
        outbound = await sent(side, deposit)
        devnet.anvil.mine(10)
        last, escrow = await side.chain.final(), side.chain.escrow
        for reach, is_found in ((Reach(50, 3), True), (Reach(10, 3), True), (Reach(9, 3), False)):
            landing = await find_deposit(side.chain._node, escrow, deposit, last, reach)
            assert (landing is not None) == is_found
            assert landing is None or landing.block_number == outbound.block_number


async def test_a8_one_answer_that_leaves_the_deposit_out_does_not_deny_it(devnet: Devnet) -> None:
    """Who is told that nothing was deposited signs another deposit."""
    node = LyingNode(RpcNode([devnet.anvil.url]))
    _, deposit = funded(devnet)
    async with chain_side(devnet, node=node) as side:
        outbound = await sent(side, deposit)
        node.lie("logs", lambda _truth, *_asked: [])
        landing = await side.chain.deposit_landing(deposit)
        assert node.told == ["logs"]
        assert landing is not None, "one answer without the event hid a deposit that was made"
        assert (landing.transaction_hash, landing.amount) == (outbound.transaction_hash, AMOUNT)


async def refund(side: Side, payer: Payer, amount: int, nonce: int = 0) -> OutboundTransaction:
    call = side.chain.escrow.refund_call(payer.config, amount, nonce)
    outbound = await side.chain.send(Send(TransactionKind.REFUND, b"%d" % nonce, call))
    return await side.chain.wait(outbound, final=True, timeout_s=10)


async def test_a7_a_refund_is_told_as_the_escrow_paid_it(devnet: Devnet) -> None:
    """In full, then what was left, then nothing: the nonce is used up each time."""
    payer = devnet.payer()
    payer.deposit(AMOUNT)
    async with chain_side(devnet) as side:
        paid = [await refund(side, payer, amount, nonce) for nonce, amount in enumerate((3_000_000, AMOUNT, AMOUNT))]
        payouts = [outbound.payouts for outbound in paid]
        token, address = devnet.token, payer.signer.address
        assert payouts == [(Payout(address, token, amount),) for amount in (3_000_000, AMOUNT - 3_000_000, 0)]
        for nonce, outbound in enumerate(paid):
            landing = await side.chain.refund_landing(payer.account_id, nonce)
            assert landing is not None
            assert (landing.transaction_hash, landing.amount) == (
                outbound.transaction_hash,
                outbound.payouts[0].amount,
            )
        assert await side.chain.refund_landing(payer.account_id, 3) is None


async def test_g1_gas_is_counted_from_the_outbox_after_a_restart_too(devnet: Devnet) -> None:
    payer, deposit = funded(devnet)
    now = 1_800_000_000.0
    async with chain_side(devnet, clock=lambda: now) as side:
        await sent(side, deposit)
        outbound = await side.outbox.by_reference(TransactionKind.DEPOSIT, b"deposit")
        assert outbound is not None
        used = side.chain.gas.spent(TransactionKind.DEPOSIT)
        assert used == outbound.gas_used > 50_000
        assert side.chain.gas.count(TransactionKind.DEPOSIT, payer.signer.address) == 1
        disk = side.disk
    async with chain_side(devnet, disk=disk, clock=lambda: now) as side:
        assert side.chain.gas.spent(TransactionKind.DEPOSIT) == used
        assert side.chain.gas.count(TransactionKind.DEPOSIT, payer.signer.address) == 1
        now += 3_600
        assert side.chain.gas.spent(TransactionKind.DEPOSIT) == 0
        assert side.chain.gas.count(TransactionKind.DEPOSIT, payer.signer.address) == 0


class ShortTopics(RpcNode):
    """Its receipts have events without the topics that such events have."""

    source, kept = b"", 0

    async def receipt(self, transaction_hash: bytes) -> Receipt | None:
        receipt = await super().receipt(transaction_hash)
        if receipt is None:
            return None
        logs = [
            (source, log._replace(topics=log.topics[: self.kept]) if source == self.source else log)
            for source, log in receipt.logs
        ]
        return receipt._replace(logs=tuple(logs))


@pytest.mark.parametrize("kept", [0, 1])
async def test_an_event_that_lacks_topics_is_an_unreadable_answer(devnet: Devnet, kept: int) -> None:
    """It neither stops the sender for good nor counts as nothing moved: the next answer is read."""
    _, deposit = funded(devnet)
    node = ShortTopics([devnet.anvil.url])
    node.source, node.kept = devnet.escrow, kept
    async with chain_side(devnet, node=node, limits=ChainLimits(look_again_s=0)) as side:
        call = side.chain.escrow.deposit_call(deposit)
        outbound = await side.chain.send(Send(TransactionKind.DEPOSIT, b"deposit", call))
        with pytest.raises(ChainUnavailableError, match="malformed"):
            await side.chain._shared.tick()
        node.source = b""
        landed = await side.chain.wait(outbound, final=True, timeout_s=10)
        assert landed.payouts == (Payout(devnet.escrow, devnet.token, AMOUNT),)
        node.source = devnet.escrow
        with pytest.raises(ChainUnavailableError, match="malformed"):
            await side.chain.deposit_landing(deposit)


@pytest.mark.parametrize("topics", [1, 2, 4])
def test_a_transfer_without_its_topics_is_an_unreadable_answer(topics: int) -> None:
    with pytest.raises(ChainUnavailableError, match="Transfer"):
        read_transfer(Log((TRANSFER_TOPIC, *[bytes(32)] * (topics - 1)), bytes(32), 1))


def test_other_events_of_a_token_are_none_of_ours() -> None:
    assert read_transfer(Log((), b"", 1)) is None
    assert read_transfer(Log((bytes(32),), b"", 1)) is None
