"""Our own wallet and paywall by batch-settlement, over `tallystick serve` on Anvil."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from market import BatchSettlementMarket

from batch_channels import ESCROW, BatchChannel, batch_channel, call_data
from tallystick import eip712
from tallystick.hexadecimal import to_hex
from tallystick.signatures import Signer
from tallystick_client import DepositPolicy, PayingTransport, Wallet, payment_of
from tallystick_client.payer.cli.withdrawals import withdraw_all
from tallystick_client.payer.http.refunds import ask_back
from tallystick_client.payer.wallet.schemes.batch_settlement import BatchSettlementScheme
from tallystick_client.payer.wallet.schemes.standard import STANDARD_SCHEMES

PRICE = 1_000
DEPOSIT = 100 * PRICE
DOMAIN = eip712.batch_settlement_domain(31_337)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchSettlementMarket]:
    with BatchSettlementMarket(tmp_path_factory.mktemp("batch")) as running:
        yield running


class Flaky(httpx2.AsyncHTTPTransport):
    """Loses the answers to payments: as many as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.lose = 0
        self.payments: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if "payment-signature" in request.headers:
            self.payments.append(request.headers["payment-signature"])
            if self.lose:
                self.lose -= 1
                await response.aread()
                await response.aclose()
                raise httpx2.ReadError("the answer is lost")
        return response


class Payer:
    """A wallet that pays by this scheme alone, and its HTTP client."""

    def __init__(self, wallet: Wallet, transport: Flaky, http: httpx2.AsyncClient) -> None:
        self.wallet = wallet
        self.transport = transport
        self.http = http

    @property
    def channel(self) -> Any:
        (channel,) = self.wallet.channels.known
        return channel

    async def get_until_it_comes(self, name: str) -> httpx2.Response:
        """A page; asked for again where all answers to the transport's own retries were lost."""
        for _ in range(8):
            with suppress(httpx2.ReadError):
                return await self.http.get(f"/paid/page/{name}")
        raise AssertionError("no answer")


@asynccontextmanager
async def payer_of(
    market: BatchSettlementMarket, signer: Signer, folder: Path, **settings: Any
) -> AsyncIterator[Payer]:
    settings.setdefault("schemes", (BatchSettlementScheme(),))
    wallet = await Wallet.open(
        folder / "wallet.db",
        key=signer,
        operators=[market.operator],
        deposit=DepositPolicy(low=0, high="1"),
        **settings,
    )
    flaky = Flaky()
    transport = PayingTransport(wallet, flaky)
    async with wallet, httpx2.AsyncClient(transport=transport, base_url=market.url, timeout=60) as http:
        yield Payer(wallet, flaky, http)


@pytest.fixture
async def payer(market: BatchSettlementMarket, tmp_path: Path) -> AsyncIterator[Payer]:
    """Somebody whose channel with the shop has a deposit that somebody else has landed."""
    operator = market.operator
    channel: BatchChannel = batch_channel(
        market.devnet(),
        market.receiver,
        receiver_authorizer=operator.operator,
        withdraw_delay_s=operator.withdraw_delay_s,
    )
    channel.deposit(DEPOSIT)
    async with payer_of(market, Signer(channel.key), tmp_path) as found:
        async with asyncio.timeout(20):
            while await held(found.wallet, channel.id) != DEPOSIT:  # noqa: ASYNC110 - the aggregator follows the chain
                await asyncio.sleep(0.05)
        yield found


async def held(wallet: Wallet, channel_id: bytes) -> int:
    """What the aggregator says that a channel holds."""
    state = await next(iter(wallet._clients.values())).read(channel_id, DOMAIN)
    return state.funds if state is not None else 0


def claimed(market: BatchSettlementMarket, channel_id: bytes) -> int:
    """What is claimed of a channel on chain; its receiver is owed it by the contract."""
    return int.from_bytes(market.anvil.call(ESCROW, call_data("channels", channel_id))[32:64], "big")


async def charged(payer: Payer) -> int:
    """What the aggregator has charged on the payer's channel."""
    state = await next(iter(payer.wallet._clients.values())).read(payer.channel.id, DOMAIN)
    return sum(totals.charged for totals in state.channels) if state is not None else 0


async def test_pages_are_bought_and_paid_for_one_after_the_other(market: BatchSettlementMarket, payer: Payer) -> None:
    names = [f"one-{number}" for number in range(20)]
    answers = await asyncio.gather(*(payer.http.get(f"/paid/page/{name}") for name in names))
    assert [answer.json() for answer in answers] == [f"page {name}" for name in names]
    assert all(market.handled(f"page {name}") == 1 for name in names)
    receipts = [payment_of(answer) for answer in answers]
    assert [receipt and (receipt.scheme, receipt.charged) for receipt in receipts] == [("batch-settlement", PRICE)] * 20
    assert payer.channel.counted == payer.channel.signed == 20 * PRICE
    assert await charged(payer) == 20 * PRICE


async def test_two_workers_lose_no_revenue(market: BatchSettlementMarket, payer: Payer) -> None:
    """Two workers lose 27 % of revenue: not here. Two paywalls, each a process, take the same channel's payments."""
    second = market.start_shop("second worker")
    urls = [market.url, second.wait_for("running on ")]
    names = [f"worker-{number}" for number in range(20)]
    answers = await asyncio.gather(
        *(payer.http.get(f"{urls[number % 2]}/paid/page/{name}") for number, name in enumerate(names))
    )
    assert [answer.json() for answer in answers] == [f"page {name}" for name in names]
    assert all(market.handled(f"page {name}") == 1 for name in names)
    assert await charged(payer) == len(names) * PRICE
    second.stop()


async def test_what_was_used_is_charged_and_nothing_for_failures(payer: Payer) -> None:
    assert (await payer.http.get("/paid/metered/300")).json() == "used 300"
    assert payer.channel.counted == 300
    for path, status in (("/paid/broken", 500), ("/paid/missing", 404)):
        assert (await payer.http.get(path)).status_code == status
    assert payer.channel.counted == 300
    assert (await payer.http.get("/paid/page/after")).status_code == 200, "the channel is free"
    assert payer.channel.counted == 300 + PRICE


async def test_a_streamed_page_is_paid_for_and_had_again_after_a_lost_answer(payer: Payer) -> None:
    payer.transport.lose = 1
    assert (await payer.http.get("/paid/stream")).text == "part 0\npart 1\npart 2\n"
    assert len(set(payer.transport.payments)) == 1
    assert payer.channel.counted == await charged(payer) == PRICE
    assert (await payer.http.get("/paid/page/after-stream")).status_code == 200


async def test_a_lost_answer_is_had_again_and_charged_once(market: BatchSettlementMarket, payer: Payer) -> None:
    payer.transport.lose = 2
    name = f"lost-{to_hex(payer.wallet.address)[:8]}"
    assert (await payer.http.get(f"/paid/page/{name}")).json() == f"page {name}"
    assert len(set(payer.transport.payments)) == 1
    assert market.handled(f"page {name}") == 1
    assert payer.channel.counted == PRICE


async def test_twenty_requests_at_once_with_lost_answers_are_each_charged_once(
    market: BatchSettlementMarket, payer: Payer
) -> None:
    payer.transport.lose = 12
    names = [f"many-{to_hex(payer.wallet.address)[:8]}-{number}" for number in range(20)]
    answers = await asyncio.gather(*map(payer.get_until_it_comes, names))
    assert [answer.json() for answer in answers] == [f"page {name}" for name in names]
    assert [market.handled(f"page {name}") for name in names] == [1] * 20
    assert await charged(payer) == 20 * PRICE == payer.channel.counted == payer.channel.signed


async def test_a_lost_answer_is_had_after_a_restart_of_the_wallet(
    market: BatchSettlementMarket, payer: Payer, tmp_path: Path
) -> None:
    name = f"restart-{to_hex(payer.wallet.address)[:8]}"
    payer.transport.lose = 10
    with pytest.raises(httpx2.ReadError):
        await payer.http.get(f"/paid/page/{name}")
    signer = payer.wallet.signer
    await payer.wallet.close()
    async with payer_of(market, signer, tmp_path) as again:
        assert (await again.http.get(f"/paid/page/{name}")).json() == f"page {name}"
        assert market.handled(f"page {name}") == 1
        assert (await again.http.get("/paid/page/next")).status_code == 200
        assert again.channel.counted == 2 * PRICE


async def test_an_aggregator_that_restarts_goes_on_where_it_was(market: BatchSettlementMarket, payer: Payer) -> None:
    assert (await payer.http.get("/paid/page/before")).status_code == 200
    market.server.stop()
    market.serve()
    assert (await payer.http.get("/paid/page/after-restart")).status_code == 200
    assert payer.channel.counted == 2 * PRICE


async def test_a_new_book_goes_on_by_what_its_wallet_signed(
    market: BatchSettlementMarket, payer: Payer, tmp_path: Path
) -> None:
    for number in range(3):
        assert (await payer.http.get(f"/paid/page/book-{number}")).status_code == 200
    await payer.wallet.close()
    (tmp_path / "anew").mkdir()
    async with payer_of(market, payer.wallet.signer, tmp_path / "anew") as again:
        assert (await again.http.get("/paid/page/anew")).status_code == 200
        assert again.channel.counted == 4 * PRICE
        assert len(again.transport.payments) == 2, "one correction"


async def test_deferred_is_preferred_where_both_are_offered(market: BatchSettlementMarket, tmp_path: Path) -> None:
    async with payer_of(market, market.payer(), tmp_path, schemes=STANDARD_SCHEMES) as both:
        answer = await both.http.get("/paid/page/preferred")
        receipt = payment_of(answer)
        assert receipt is not None
        assert (receipt.scheme, receipt.offer.instead_of) == ("deferred", ("batch-settlement",))


# Deposits of its own.


async def test_the_first_payment_brings_the_deposit(market: BatchSettlementMarket, tmp_path: Path) -> None:
    async with payer_of(market, market.payer(), tmp_path) as payer:
        before = market.anvil.token_balance(market.token, payer.wallet.address)
        receipt = payment_of(await payer.http.get("/paid/page/deposit"))
        assert receipt is not None
        assert (receipt.charged, len(receipt.transaction)) == (PRICE, 66)
        deposited = before - market.anvil.token_balance(market.token, payer.wallet.address)
        assert deposited == payer.channel.balance == await held(payer.wallet, payer.channel.id) > PRICE
        answers = await asyncio.gather(*(payer.http.get(f"/paid/page/deposited-{number}") for number in range(4)))
        assert [answer.status_code for answer in answers] == [200] * 4
        assert payer.channel.counted == 5 * PRICE
        assert payer.channel.balance == deposited, "one deposit for all"


async def test_a_deposit_whose_answer_is_lost_lands_once(market: BatchSettlementMarket, tmp_path: Path) -> None:
    async with payer_of(market, market.payer(), tmp_path) as payer:
        before = market.anvil.token_balance(market.token, payer.wallet.address)
        payer.transport.lose = 10
        name = f"lost-deposit-{to_hex(payer.wallet.address)[:8]}"
        with pytest.raises(httpx2.ReadError):
            await payer.http.get(f"/paid/page/{name}")
        signer = payer.wallet.signer
    async with payer_of(market, signer, tmp_path) as again:
        assert (await again.http.get(f"/paid/page/{name}")).json() == f"page {name}"
        assert market.handled(f"page {name}") == 1
        assert (await again.http.get("/paid/page/after")).status_code == 200
        deposited = before - market.anvil.token_balance(market.token, signer.address)
        assert deposited == again.channel.balance == await held(again.wallet, again.channel.id)
        assert again.channel.counted == 2 * PRICE


async def test_a_page_that_fails_is_no_reason_to_deposit(market: BatchSettlementMarket, tmp_path: Path) -> None:
    async with payer_of(market, market.payer(), tmp_path) as payer:
        before = market.anvil.token_balance(market.token, payer.wallet.address)
        assert (await payer.http.get("/paid/broken")).status_code == 500
        assert market.anvil.token_balance(market.token, payer.wallet.address) == before
        assert (await payer.http.get("/paid/page/first-good")).status_code == 200
        assert payer.channel.counted == PRICE


async def test_what_is_left_comes_back_and_the_seller_keeps_its_own(
    market: BatchSettlementMarket, tmp_path: Path
) -> None:
    async with payer_of(market, market.payer(), tmp_path) as payer, httpx2.AsyncClient(timeout=60) as plain:
        before = market.anvil.token_balance(market.token, payer.wallet.address)
        for number in range(3):
            assert (await payer.http.get(f"/paid/page/refund-{number}")).status_code == 200
        came = await ask_back(payer.wallet, plain, payer.channel)
        assert came.amount == payer.channel.deposited - 3 * PRICE
        assert market.anvil.token_balance(market.token, payer.wallet.address) == before - 3 * PRICE
        assert claimed(market, payer.channel.id) == 3 * PRICE
        assert (await payer.http.get("/paid/page/after-refund")).status_code == 200, "with another deposit"
        assert len(payer.wallet.channels.known) == 1
        assert payer.channel.counted == 4 * PRICE


async def test_a_channel_that_is_withdrawn_makes_room_for_another(
    market: BatchSettlementMarket, tmp_path: Path
) -> None:
    signer = market.payer()
    market.anvil.set_ether(signer.address, 10**18)
    async with payer_of(market, signer, tmp_path) as payer:
        assert (await payer.http.get("/paid/page/before-withdrawal")).status_code == 200
        (started,) = await withdraw_all(payer.wallet, market.anvil.url, "initiate")
        assert started.finalizes_at
        assert (await payer.http.get("/paid/page/during-withdrawal")).status_code == 200
        old, new = payer.wallet.channels.known
        assert (old.active, new.active, new.counted) == (False, True, PRICE)
