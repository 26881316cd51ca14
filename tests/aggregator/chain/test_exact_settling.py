"""X3 and X8 on a chain, the strangers' sender, and many settlements at once of which some go wrong."""

import asyncio
import logging
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from harness import chain_side
from test_exact_on_chain import CALLER, NEWS, VALUE, exact_over, rich, terms_of, transfer_of

from _anvil import hexed
from anvil import NETWORK, Devnet, Payer
from tallystick import eip712
from tallystick.facilitator import Settled, Verified
from tallystick.reasons import Reason
from tallystick.signatures import Signer
from tallystick.x402 import ExactAuthorization
from tallystick_aggregator.chain.settings import ChainLimits
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.exact import ExactPayments
from tallystick_aggregator.store.port import TransactionKind, TransactionStatus
from tallystick_aggregator.store.sqlite.store import SqliteStore

ONLY_FOR_FREE = bytes.fromhex("7f1626ba7e" + "00" * 28 + "3a150260005260206000f3")
"""Answers the magic value of ERC-1271 times `tx.gasprice == 0`."""
NOT_BY = "7f1626ba7e" + "00" * 28
GWEI = 10**9
log = logging.getLogger(__name__)
STRANGERS = Signer(sha256(b"the strangers' sender").digest())


async def test_x3_a_wallet_that_says_yes_only_where_gas_is_free_is_refused_by_verify(devnet: Devnet) -> None:
    payer = rich(devnet)
    devnet.anvil.rpc("anvil_setCode", hexed(payer.signer.address), hexed(ONLY_FOR_FREE))
    async with chain_side(devnet) as side:
        exact = exact_over(side, devnet)
        transfer = replace(transfer_of(devnet, payer), signature=b"whatever")
        for ask in (exact.verify, exact.settle):
            refusal = await ask(terms_of(devnet), transfer, CALLER)
            assert isinstance(refusal, Refusal)
            assert refusal.reason is Reason.EXACT_SIGNATURE
        assert await side.outbox.open(NETWORK) == []


async def test_x3_a_wallet_that_tells_blocks_apart_costs_one_transaction_and_no_more(devnet: Devnet) -> None:
    payer = rich(devnet)
    async with chain_side(devnet) as side:
        exact = exact_over(side, devnet)
        head = await side.chain.head()
        # Says yes up to the third block from now: the simulation passes, the transaction is mined later.
        code = f"{NOT_BY}63{head.number + 3:08x}43100260005260206000f3"
        devnet.anvil.rpc("anvil_setCode", hexed(payer.signer.address), hexed(bytes.fromhex(code)))
        devnet.anvil.automine(on=False)
        transfer = replace(transfer_of(devnet, payer), signature=b"whatever")
        settling = asyncio.create_task(exact.settle(terms_of(devnet), transfer, CALLER))
        while not await side.outbox.open(NETWORK) and not settling.done():  # noqa: ASYNC110 - the chain tells nobody
            await asyncio.sleep(0.01)
        (sent,) = await side.outbox.open(NETWORK)
        await ask(devnet, "anvil_dropTransaction", hexed(sent.attempts[-1].transaction_hash))
        for _ in range(4):
            await ask(devnet, "evm_mine")
        await ask(devnet, "eth_sendRawTransaction", hexed(sent.attempts[-1].raw))
        await ask(devnet, "evm_mine")
        refusal = await settling
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.TRANSACTION_FAILED
        another = replace(transfer_of(devnet, payer, 1), signature=b"whatever")
        refusal = await exact.settle(terms_of(devnet), another, CALLER)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.EXACT_PAYER_BARRED


async def test_x8_an_authorization_valid_from_now_on_is_verified_and_settled(devnet: Devnet) -> None:
    payer = rich(devnet)
    async with chain_side(devnet) as side:
        exact = exact_over(side, devnet)
        transfer = signed(devnet, payer, replace(transfer_of(devnet, payer), valid_after=int(time.time())))
        assert isinstance(await exact.verify(terms_of(devnet), transfer, CALLER), Verified)
        assert isinstance(await exact.settle(terms_of(devnet), transfer, CALLER), Settled)
    assert devnet.balance(NEWS) == VALUE


async def test_strangers_payments_leave_by_a_sender_of_their_own(devnet: Devnet) -> None:
    payer = rich(devnet)
    devnet.anvil.rpc("anvil_setBalance", hexed(STRANGERS.address), hex(10**18))
    before = devnet.anvil.rpc("eth_getBalance", hexed(devnet.sender.address), "latest")
    async with chain_side(devnet, strangers=STRANGERS) as side:
        view = side.chain.for_strangers()
        assert view is not None
        answers = await asyncio.gather(
            *(
                exact_over(side, devnet, view).settle(terms_of(devnet), transfer_of(devnet, payer, number))
                for number in range(3)
            )
        )
        assert all(isinstance(answer, Settled) for answer in answers), answers
        sent = await side.outbox.since(NETWORK, 0)
        assert {one.sender for one in sent} == {STRANGERS.address}
        assert view.gas.spent(TransactionKind.EXACT) > 0
        assert side.chain.gas.spent(TransactionKind.EXACT) == 0
    assert devnet.anvil.rpc("eth_getBalance", hexed(devnet.sender.address), "latest") == before
    assert devnet.balance(NEWS) == 3 * VALUE


async def test_a_strangers_sender_without_money_refuses_and_sellers_go_on(devnet: Devnet) -> None:
    payer = rich(devnet)
    async with chain_side(devnet, strangers=STRANGERS) as side:
        view = side.chain.for_strangers()
        refusal = await exact_over(side, devnet, view).settle(terms_of(devnet), transfer_of(devnet, payer))
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.EXACT_UNAVAILABLE
        settled = await exact_over(side, devnet).settle(terms_of(devnet), transfer_of(devnet, payer, 1))
        assert isinstance(settled, Settled)


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
async def test_many_settlements_at_once_all_land_once_though_one_is_dropped_and_one_is_stuck(
    devnet: Devnet, tmp_path: Path, count: int
) -> None:
    payers = [devnet.payer() for _ in range(10)]
    for payer in payers:
        devnet.anvil.mint(devnet.token, payer.signer.address, count * VALUE)
    store = await SqliteStore.open(tmp_path / "store.db")
    limits = ChainLimits(offer_again_s=1)
    async with chain_side(devnet, outbox=store.outbox, poll_s=0.2, replace_after_s=1, limits=limits) as side:
        exact, terms = exact_over(side, devnet), replace(terms_of(devnet), max_timeout_s=300)
        devnet.anvil.automine(on=False)
        settling = [asyncio.create_task(exact.settle(terms, transfer_of(devnet, payers[0], 0)))]
        await sent(side.outbox, 1, settling)
        # Stuck: the first nonce's bid is below what blocks cost from now on. All others wait behind it.
        await mine(devnet)
        settling += [
            asyncio.create_task(exact.settle(terms, transfer_of(devnet, payers[number % 10], number)))
            for number in range(1, count)
        ]
        await sent(side.outbox, count, settling)
        outgoing = await side.outbox.open(NETWORK)
        dropped = outgoing[count // 2].attempts[-1].transaction_hash
        await ask(devnet, "anvil_dropTransaction", hexed(dropped))
        latencies = await verified_meanwhile(exact, devnet, payers, settling)
        answers = await asyncio.gather(*settling)
        devnet.anvil.automine(on=True)
        outgoing = await side.outbox.since(NETWORK, 0)
    await store.close()
    assert all(isinstance(answer, Settled) for answer in answers)
    assert len({answer.transaction for answer in answers if isinstance(answer, Settled)}) == count
    assert devnet.balance(NEWS) == count * VALUE
    assert sorted(one.nonce for one in outgoing) == list(range(len(outgoing))), "no gap and no nonce twice"
    assert {one.status for one in outgoing} <= {TransactionStatus.MINED, TransactionStatus.FINAL}
    assert len(outgoing[0].attempts) > 1, "the stuck one was replaced by one that bids more"
    p50, p99 = (latencies[len(latencies) * part // 100] for part in (50, 99))
    log.info("%d settled; %d verified meanwhile, p50 %.4f s, p99 %.4f s", count, len(latencies), p50, p99)


async def ask(devnet: Devnet, method: str, *params: object) -> None:
    """A call of the chain that does not hold up the settlements."""
    await asyncio.to_thread(devnet.anvil.rpc, method, *params)


async def mine(devnet: Devnet, base_fee_wei: int = 100 * GWEI) -> None:
    await ask(devnet, "anvil_setNextBlockBaseFeePerGas", hex(base_fee_wei))
    await ask(devnet, "evm_mine")


async def sent(outbox: object, count: int, settling: list[asyncio.Task[Settled | Refusal]]) -> None:
    """Wait until so many transactions are in the outbox."""
    async with asyncio.timeout(240):
        while len(await outbox.open(NETWORK)) < count:  # type: ignore[attr-defined]
            for task in settling:
                assert not task.done(), task.result()
            await asyncio.sleep(0.05)


async def verified_meanwhile(
    exact: ExactPayments, devnet: Devnet, payers: list[Payer], settling: list[asyncio.Task[Settled | Refusal]]
) -> list[float]:
    """Mine blocks until all have settled, and verify new payments between them. Returns their sorted latencies."""
    latencies: list[float] = []
    async with asyncio.timeout(300):
        while not all(task.done() for task in settling):
            await mine(devnet)
            for number in range(5):
                transfer = transfer_of(devnet, payers[number], 1_000_000 + len(latencies))
                began = time.perf_counter()
                answer = await exact.verify(terms_of(devnet), transfer)
                latencies.append(time.perf_counter() - began)
                assert isinstance(answer, Verified), answer
    return sorted(latencies)


def signed(devnet: Devnet, payer: Payer, transfer: ExactAuthorization) -> ExactAuthorization:
    """The transfer signed anew, after a change."""
    struct = eip712.hash_transfer_with_authorization(
        transfer.from_, transfer.to, transfer.value, transfer.valid_after, transfer.valid_before, transfer.nonce
    )
    return replace(transfer, signature=payer.signer.sign(eip712.digest(devnet.token_domain, struct)))
