"""What comes back from channels with one seller alone: by the seller, and on chain."""

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from batch_seller import DEFAULTS, BatchBuyer, BatchSeller
from payer_buyer import OpenWallet
from payer_commands import Run, command_runner
from payer_fakes import PRICE, FakeAggregator, make_operator, no_sleep, served

from anvil import CHAIN_ID, Devnet
from batch_channels import ESCROW, call_data, erc3009_collector_data, put_batch_settlement
from tallystick import eip712
from tallystick.reasons import Reason
from tallystick.signatures import Signer
from tallystick.tokens import Token
from tallystick.x402 import Network
from tallystick.x402.batch_settlement import BatchSettlementCode
from tallystick_client import DepositPolicy, Operator, PayingTransport, Wallet
from tallystick_client.payer.cli.channel_onchain import ChannelCaller
from tallystick_client.payer.cli.giving_back import refund_all
from tallystick_client.payer.cli.withdrawals import withdraw_all
from tallystick_client.payer.errors import ChainError, WalletError
from tallystick_client.payer.http.refunds import CameBack, ask_back
from tallystick_client.payer.wallet.schemes.batch_settlement import BatchSettlementScheme
from tallystick_client.payer.wallet.schemes.exact import ExactScheme


@pytest.fixture
def shop() -> BatchSeller:
    return BatchSeller()


@pytest.fixture
async def buyer(open_wallet: OpenWallet, shop: BatchSeller) -> BatchBuyer:
    """Who has bought a page for 1,000 of a deposit of 50,000."""
    wallet = await open_wallet(**DEFAULTS, schemes=(BatchSettlementScheme(sleep=no_sleep),))
    buyer = BatchBuyer(wallet, shop, PayingTransport(wallet, shop, sleep=no_sleep))
    assert (await buyer.get()).status_code == 200
    return buyer


async def ask(buyer: BatchBuyer) -> CameBack:
    async with httpx2.AsyncClient(transport=buyer.seller) as http:
        return await ask_back(buyer.wallet, http, buyer.channel)


async def test_the_seller_gives_back_what_is_left(buyer: BatchBuyer, shop: BatchSeller) -> None:
    before = shop.facilitator.balance
    came = await ask(buyer)
    assert came.amount == 49_000 == shop.facilitator.balance - before
    assert len(came.transaction) == 66
    assert shop.ceilings[-1] == PRICE, "its voucher charges nothing"
    assert (buyer.channel.returned, buyer.channel.balance, buyer.channel.counted) == (49_000, 1_000, 1_000)
    assert shop.served == ["/1"], "a refund is no page"


async def test_a_request_that_cannot_be_made_leaves_the_channel_to_the_next(buyer: BatchBuyer) -> None:
    def no_clock() -> float:
        raise RuntimeError("no clock")

    async with httpx2.AsyncClient(transport=buyer.seller) as http:
        with pytest.raises(RuntimeError, match="no clock"):
            await ask_back(buyer.wallet, http, buyer.channel, no_clock)
    async with asyncio.timeout(5):
        assert (await buyer.get("/2")).status_code == 200


async def test_a_channel_that_was_given_back_is_used_again(buyer: BatchBuyer, shop: BatchSeller) -> None:
    await ask(buyer)
    assert (await buyer.get("/2")).status_code == 200
    assert shop.kinds[-2:] == ["refund", "deposit"]
    assert shop.ceilings[-1] == 2 * PRICE
    assert len(shop.facilitator.channels) == 1


async def test_a_refund_over_another_total_is_asked_again(buyer: BatchBuyer, shop: BatchSeller) -> None:
    shop.facilitator.channel.charged = 400
    assert (await ask(buyer)).amount == 49_600
    assert (buyer.channel.counted, buyer.channel.signed) == (400, 1_000)
    assert shop.ceilings[-2:] == [1_000, 400]


async def test_a_busy_channel_is_waited_for(buyer: BatchBuyer, shop: BatchSeller) -> None:
    channel = shop.facilitator.channel
    channel.lock = ("somebody's", shop.facilitator.vouchers[0])

    def let_go() -> None:
        channel.lock = None

    shop.before = [lambda: None, let_go]
    assert (await ask(buyer)).amount == 49_000


async def test_a_seller_cannot_say_that_more_came_back_than_was_there(buyer: BatchBuyer, shop: BatchSeller) -> None:
    def lie(_request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        said = json.loads(b64decode(response.headers["payment-response"]))
        header = b64encode(json.dumps({**said, "amount": str(2**127)}).encode()).decode()
        return httpx2.Response(200, headers={"payment-response": header})

    shop.faults = [lie]
    assert (await ask(buyer)).amount == 49_000
    assert buyer.channel.balance == 1_000


async def test_what_came_back_is_entered_though_it_was_seen_missing_meanwhile(
    buyer: BatchBuyer, shop: BatchSeller
) -> None:
    def look(_request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        # As a payment does that waits for the turn, or was answered late.
        buyer.channel.missing = 49_000
        return response

    shop.faults = [look]
    assert (await ask(buyer)).amount == 49_000
    channel = buyer.channel
    assert (channel.returned, channel.missing, channel.balance, channel.locked) == (49_000, 0, 1_000, 0)


async def test_what_came_back_is_entered_before_the_next_payment_has_the_turn(
    buyer: BatchBuyer, shop: BatchSeller
) -> None:
    waiting: list[asyncio.Task[httpx2.Response]] = []

    def pay(_request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        waiting.append(asyncio.create_task(buyer.get("/2")))
        return response

    shop.faults = [pay]
    assert (await ask(buyer)).amount == 49_000
    assert (await waiting[0]).status_code == 200
    assert shop.kinds == ["deposit", "refund", "deposit"]


async def test_a_seller_that_refuses_is_quoted(buyer: BatchBuyer, shop: BatchSeller) -> None:
    def refuse(request: httpx2.Request, _response: httpx2.Response) -> httpx2.Response:
        return shop.ask(request, BatchSettlementCode.REFUND_NO_BALANCE)

    shop.faults = [refuse]
    with pytest.raises(WalletError, match=r"a.example gives nothing back of channel 0x.*_refund_no_balance"):
        await ask(buyer)
    assert buyer.channel.returned == 0


async def test_an_offer_of_another_channel_is_none_to_refund_by(buyer: BatchBuyer, shop: BatchSeller) -> None:
    shop.receiver = lambda _: bytes([0x77] * 20)  # type: ignore[method-assign]
    with pytest.raises(WalletError, match=r"https://a.example/1: got no offer for channel 0x"):
        await ask(buyer)
    assert shop.kinds == ["deposit"]


async def test_a_page_that_asks_for_nothing_is_told(buyer: BatchBuyer) -> None:
    free = httpx2.MockTransport(lambda _: httpx2.Response(200))
    async with httpx2.AsyncClient(transport=free) as http:
        with pytest.raises(WalletError, match=r"https://a.example/1: got 200, allowed 402"):
            await ask_back(buyer.wallet, http, buyer.channel)


async def test_a_wallet_of_other_schemes_has_nobody_to_ask(open_wallet: OpenWallet, buyer: BatchBuyer) -> None:
    channel = buyer.channel
    await buyer.wallet.close()
    wallet: Wallet = await open_wallet(schemes=(ExactScheme(),))
    async with httpx2.AsyncClient(transport=buyer.seller) as http:
        with pytest.raises(WalletError, match="does not pay from channels"):
            await ask_back(wallet, http, channel)


async def test_one_seller_that_is_away_keeps_no_other_from_giving_back(
    open_wallet: OpenWallet, shop: BatchSeller
) -> None:
    wallet: Wallet = await open_wallet(**DEFAULTS)
    async with served(shop) as port:  # type: ignore[arg-type]
        transport = PayingTransport(wallet, sleep=no_sleep)
        async with httpx2.AsyncClient(transport=transport) as http:
            for host in ("127.0.0.1", "localhost"):
                assert (await http.get(f"http://{host}:{port}/1")).status_code == 200
        gone = next(channel for channel in wallet.channels.known if channel.host.startswith("localhost"))
        gone.url = "http://127.0.0.1:1/1"
        found = await refund_all(wallet)
    assert sorted((back.amount, bool(back.problem)) for back in found) == [(0, True), (49_000, False)]
    (came,) = [back for back in found if not back.problem]
    assert str(came) == f"0.049 USDC came back in {came.transaction}, as 127.0.0.1:{port} says"


async def test_an_operator_that_gives_nothing_back_keeps_no_seller_from_being_asked(
    run_command: Run, shop: BatchSeller, aggregator: FakeAggregator
) -> None:
    aggregator.refuse = {"RequestRefund": Reason.CHAIN_UNAVAILABLE}
    async with served(shop) as port:  # type: ignore[arg-type]
        await run_command("fetch", f"http://127.0.0.1:{port}/1", "--deposit", "0.2")
        await run_command("wallet", "deposit", "2")
        back = await run_command("wallet", "refund", "--json")
    operator, seller = json.loads(back.out)
    assert (back.code, operator["amount"], seller["amount"]) == (1, 0, 49_000)
    assert operator["problem"]


async def test_a_page_to_ask_at_is_kept_whole_and_without_its_query(buyer: BatchBuyer) -> None:
    assert (await buyer.get("/2?token=secret")).status_code == 200
    assert buyer.channel.url == "https://a.example/2"
    assert (await buyer.get("/" + "3" * 3_000)).status_code == 200
    assert buyer.channel.url == "https://a.example/2"


async def test_a_channel_without_a_page_to_ask_at_is_told(buyer: BatchBuyer) -> None:
    buyer.channel.url = ""
    (told,) = await refund_all(buyer.wallet)
    assert told.problem.startswith("the book knows no page of a.example to ask at")


# The commands.


@pytest.fixture
def run_command(tmp_path: Path, operator: Operator) -> Run:
    return command_runner(tmp_path, operator)


async def test_what_a_page_cost_and_what_is_left_is_told(
    run_command: Run, shop: BatchSeller, aggregator: FakeAggregator
) -> None:
    del aggregator
    async with served(shop) as port:  # type: ignore[arg-type]
        bought = await run_command("fetch", f"http://127.0.0.1:{port}/1", "--deposit", "0.2", "-v")
        assert (bought.code, bought.out, bought.err) == (0, "page", "it cost 0.001 USDC by batch-settlement\n")
        (channel,) = json.loads((await run_command("wallet", "status", "--json")).out)["seller_channels"]
        assert (channel["deposited"], channel["charged"], channel["left"]) == (50_000, 1_000, 49_000)
        shown = (await run_command("wallet", "status")).out
        assert "deposited 0.05, returned 0, charged 0.001, signed 0.001, left 0.049" in shown
        assert max(map(len, shown.splitlines())) <= 80, shown
        back = await run_command("wallet", "refund", "--json")
        (row,) = json.loads(back.out)
        assert (row["amount"], row["host"]) == (49_000, f"127.0.0.1:{port}")
        assert row["channel"] == channel["channel_id"]
        again = await run_command("wallet", "refund")
        assert (again.code, again.out) == (0, "Nothing to bring back.\n"), "it has a channel"


async def test_a_refund_that_fails_is_told_with_a_code(run_command: Run, shop: BatchSeller) -> None:
    async with served(shop) as port:  # type: ignore[arg-type]
        await run_command("fetch", f"http://127.0.0.1:{port}/1", "--deposit", "0.2")
    failed = await run_command("wallet", "refund")
    assert failed.code == 1
    assert failed.err.startswith("tallystick: ")
    failed = await run_command("wallet", "refund", "--json")
    (row,) = json.loads(failed.out)
    assert (failed.code, row["amount"], len(row["channel"])) == (1, 0, 66)
    assert row["problem"]


# On chain.


@pytest.fixture
def canonical(devnet: Devnet) -> Devnet:
    put_batch_settlement(devnet.anvil)
    return devnet


def operator_on(devnet: Devnet, aggregator: FakeAggregator) -> Operator:
    token = Token(devnet.token, "USDC", 6, "USD Coin", "2")
    mine = make_operator(aggregator.target)
    return Operator(Network(CHAIN_ID), aggregator.target, mine.operator, devnet.escrow, 86_400, (token,), insecure=True)


async def chain_buyer(
    canonical: Devnet, open_wallet: OpenWallet, aggregator: FakeAggregator, path: Path, signer: Signer
) -> BatchBuyer:
    """Buys from a seller whose deposits land on this chain, by whose clock everybody goes."""
    anvil = canonical.anvil
    anvil.mint(canonical.token, signer.address, 10**6)
    anvil.set_ether(signer.address, 10**18)
    aggregator.balance = None  # of before GetBalance
    aggregator.clock = lambda: float(int(anvil.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16))
    shop = BatchSeller(token=canonical.token, token_domain=canonical.token_domain, land=land_on(canonical))
    wallet: Wallet = await open_wallet(
        path=path,
        key=signer,
        operators=[operator_on(canonical, aggregator)],
        deposit=DepositPolicy(low=0, high="1"),
        schemes=(BatchSettlementScheme(sleep=no_sleep),),
        clock=aggregator.clock,
    )
    return BatchBuyer(wallet, shop, PayingTransport(wallet, shop, sleep=no_sleep))


async def test_what_is_left_is_withdrawn_on_chain(
    canonical: Devnet, open_wallet: OpenWallet, aggregator: FakeAggregator, tmp_path: Any
) -> None:
    signer, anvil = Signer(eip712.keccak256(b"who withdraws")), canonical.anvil
    buyer = await chain_buyer(canonical, open_wallet, aggregator, tmp_path / "chain.db", signer)
    wallet = buyer.wallet
    assert (await buyer.get()).status_code == 200
    before = anvil.token_balance(canonical.token, signer.address)
    assert before == 10**6 - 50_000

    (started,) = await withdraw_all(wallet, anvil.url, "initiate")
    assert started.finalizes_at is not None
    assert "channel 0x" in str(started)
    (again,) = await withdraw_all(wallet, anvil.url, "initiate")
    assert (again.transaction, again.finalizes_at) == (b"", started.finalizes_at)
    assert await withdraw_all(wallet, anvil.url, "cancel") == []
    with pytest.raises(ChainError, match="refuses finalizeWithdraw: WithdrawDelayNotElapsed"):
        await withdraw_all(wallet, anvil.url, "finalize")
    anvil.advance(86_401)
    (ended,) = await withdraw_all(wallet, anvil.url, "finalize")
    assert ended.returned == 50_000 == anvil.token_balance(canonical.token, signer.address) - before
    (status,) = (await wallet.status()).seller_channels
    assert (status.returned, status.left, status.active) == (50_000, 0, False)

    assert (await buyer.get("/2")).status_code == 200, "by another channel"
    assert len(wallet.channels.known) == 2
    assert wallet.channels.known[1].config.salt == (1).to_bytes(32, "big")


async def test_a_withdrawal_that_is_not_due_keeps_no_other_from_ending(
    canonical: Devnet, open_wallet: OpenWallet, aggregator: FakeAggregator, tmp_path: Any
) -> None:
    anvil, signer = canonical.anvil, Signer(eip712.keccak256(b"who withdraws from two"))
    buyer = await chain_buyer(canonical, open_wallet, aggregator, tmp_path / "two.db", signer)
    wallet = buyer.wallet
    for path in ("/1", "/2"):
        assert (await buyer.get(path)).status_code == 200
        await withdraw_all(wallet, anvil.url, "initiate")
        anvil.advance(86_401 if path == "/1" else 1)
    # The channel that is not due stands before the other.
    wallet._book.seller_channels = {channel.id: channel for channel in reversed(wallet.channels.known)}
    first, second = await withdraw_all(wallet, anvil.url, "finalize")
    assert (first.returned, first.problem) == (50_000, "")
    assert "WithdrawDelayNotElapsed" in second.problem
    assert second.as_dict()["problem"] == second.problem
    assert str(second).startswith("tallystick: channel 0x")


async def test_a_chain_without_the_contract_is_told(devnet: Devnet) -> None:
    devnet.anvil.rpc("anvil_setCode", "0x" + ESCROW.hex(), "0x")
    with pytest.raises(ChainError, match=r"x402BatchSettlement: there is no contract at 0x4020"):
        async with ChannelCaller(devnet.anvil.url, CHAIN_ID, Signer(bytes([1] * 32))):
            pass
    with pytest.raises(ChainError, match=f"rpc: got chain {CHAIN_ID}, allowed 1"):
        async with ChannelCaller(devnet.anvil.url, 1, Signer(bytes([1] * 32))):
            pass


def land_on(devnet: Devnet) -> Callable[[Any], None]:
    """Has deposits landed by anybody's transaction, as a facilitator does."""

    def land(payload: Any) -> None:
        data = erc3009_collector_data(payload.authorization)
        collector = eip712.ERC3009_DEPOSIT_COLLECTOR_ADDRESS
        deposit = call_data("deposit", payload.config, payload.amount, collector, data)
        devnet.anvil.set_ether(devnet.sender.address, 10**18)
        receipt = devnet.anvil.send(devnet.sender.address, ESCROW, deposit)
        assert int(receipt["status"], 16) == 1

    return land
