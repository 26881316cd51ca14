"""A wallet served to workers: one deposit, one book, one budget, whoever dies."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from batch_seller import BatchSeller
from payer_buyer import REQUEST, Buyer, CrashError, OpenWallet, account_of, die
from payer_fakes import PRICE, FakeAggregator, FakeSeller, until, write_operator_file
from payer_fakes import RefusalError as FakeRefusal

from tallystick.errors import MalformedError, RefusedError
from tallystick.reasons import Reason
from tallystick.v1 import wallet_pb2 as pb
from tallystick.v1 import wallet_pb2_grpc
from tallystick.x402 import PaymentRequired
from tallystick_client import Budgets, DepositPolicy, PayingTransport, Wallet
from tallystick_client.payer.errors import (
    BookUnavailableError,
    BudgetExceededError,
    DepositNotAllowedError,
    OfferNotAllowedError,
    WalletError,
)
from tallystick_client.payer.fleet.remote import RemoteWallet
from tallystick_client.payer.fleet.serving import WalletServer
from tallystick_client.payer.wallet.accounts import AccountClient
from tallystick_client.payer.wallet.grants import Payment
from tallystick_client.payer.wallet.store import Statement
from tallystick_client.rpc import AggregatorUnavailableError, CallRejectedError, bearer

TOKEN = "fleet-token"


class Fleet:
    """A served wallet, and workers that connect to it."""

    def __init__(self, open_wallet: OpenWallet, seller: FakeSeller, socket: Path) -> None:
        self.open_wallet = open_wallet
        self.seller = seller
        self.socket = f"unix:{socket}"
        self.settings: dict[str, Any] = {"deposit": DepositPolicy(low="0", high="1"), "max_headroom": 8}
        self.lease_s = 30.0
        self.workers: list[RemoteWallet] = []
        self.wallet: Wallet
        self.server: WalletServer | None = None

    async def serve(self, **settings: Any) -> None:
        self.settings |= settings
        self.wallet = await self.open_wallet(keep_workers=True, **self.settings)
        self.server = WalletServer(self.wallet, self.socket, TOKEN, lease_s=self.lease_s, report_every_s=0.02)
        await self.server.__aenter__()

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.__aexit__(None, None, None)
            self.server = None
            await self.wallet.close()

    async def worker(self, **settings: Any) -> RemoteWallet:
        worker = await Wallet.connect(self.socket, token=TOKEN, **settings)
        self.workers.append(worker)
        return worker

    async def die(self, worker: RemoteWallet) -> None:
        """Go without a word."""
        worker._chores.cancel()
        await asyncio.gather(worker._chores, return_exceptions=True)
        for line in worker.grants._lines.values():
            line.stop()
        await worker._channel.close()

    async def pay(self, worker: RemoteWallet, host: str = "a.example", amount: int = PRICE) -> Payment:
        return await Buyer(worker, self.seller).pay(host, amount)

    async def buy(self, worker: RemoteWallet, host: str = "a.example") -> None:
        await Buyer(worker, self.seller).buy(host)

    async def account(self) -> Any:
        return await account_of(self.wallet)


@pytest.fixture
async def fleet(open_wallet: OpenWallet, seller: FakeSeller, tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(open_wallet, seller, tmp_path / "wallet.sock")
    yield fleet
    for worker in fleet.workers:
        await worker.close()
    await fleet.stop()


async def test_workers_share_one_deposit_and_one_book(fleet: Fleet, aggregator: FakeAggregator) -> None:
    await fleet.serve()
    workers = [await fleet.worker() for _ in range(5)]
    await asyncio.gather(*(fleet.buy(worker, host) for worker in workers for host in "abc" for _ in range(10)))
    for worker in workers:
        await worker.report()
    account = await fleet.account()
    assert (account.deposits, account.charged) == (1, 150 * PRICE)
    assert len(aggregator.account.keys) == 5
    assert aggregator.account.committed == 150 * PRICE


async def test_a_worker_taken_for_dead_again_and_again_gets_its_page(
    fleet: Fleet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    """Its lease runs out, and its key is revoked, each time while a payment is under way."""
    await fleet.serve()
    worker = await fleet.worker()

    def bury(_: httpx2.Request) -> None:
        assert fleet.server is not None
        fleet.server._workers._bury(worker.worker_id.hex())
        for key in aggregator.account.keys.values():
            key.revoked = True

    seller.before = [bury] * 3
    async with httpx2.AsyncClient(transport=PayingTransport(worker, seller)) as http:
        assert (await http.get("https://a.example/1")).status_code == 200
    assert (len(seller.paid_requests), aggregator.account.committed) == (4, PRICE)


async def test_a_worker_that_leaves_returns_what_it_did_not_spend(fleet: Fleet) -> None:
    await fleet.serve()
    worker = await fleet.worker()
    for _ in range(5):
        await fleet.buy(worker)
    await worker.close()
    account = await fleet.account()
    assert (account.charged, account.unknown, account.granted) == (5 * PRICE, 0, 0)
    assert account.spent_total == 5 * PRICE


async def test_a_worker_pays_over_http_like_any_wallet(fleet: Fleet, seller: FakeSeller) -> None:
    await fleet.serve()
    worker = await fleet.worker()
    async with httpx2.AsyncClient(transport=PayingTransport(worker, seller)) as http:
        answers = await asyncio.gather(*(http.get(f"https://a.example/{n}") for n in range(40)))
    assert {answer.status_code for answer in answers} == {200}
    await worker.close()
    assert (await fleet.account()).charged == 40 * PRICE


async def test_a_worker_pays_by_exact_through_the_wallet(fleet: Fleet, seller: FakeSeller) -> None:
    await fleet.serve(deposit=None, budgets=Budgets(total=2 * PRICE))
    worker = await fleet.worker()
    async with httpx2.AsyncClient(transport=PayingTransport(worker, seller)) as http:
        for _ in range(2):
            assert (await http.get("https://a.example/1")).status_code == 200
        with pytest.raises(BudgetExceededError, match="total"):
            await http.get("https://a.example/1")
    assert len(seller.exact) == 2
    await worker.report()
    assert not fleet.wallet._book.exact_payments, "its sellers have told that they are made"


async def test_no_budget_is_exceeded_by_all_workers_together(fleet: Fleet, aggregator: FakeAggregator) -> None:
    await fleet.serve(budgets=Budgets(total=60 * PRICE))
    workers = [await fleet.worker() for _ in range(6)]
    results = await asyncio.gather(
        *(fleet.buy(worker, host) for worker in workers for host in "ab" for _ in range(10)), return_exceptions=True
    )
    refused = [result for result in results if result is not None]
    assert all(isinstance(result, BudgetExceededError) for result in refused)
    assert aggregator.account.committed == 60 * PRICE
    assert len(refused) == 60


async def test_idle_headroom_is_called_back_for_who_needs_it(fleet: Fleet) -> None:
    await fleet.serve(budgets=Budgets(total=20 * PRICE))
    rich, poor = await fleet.worker(), await fleet.worker()
    for _ in range(4):
        await fleet.buy(rich)
    assert (await fleet.account()).granted > 0
    for _ in range(16):
        await fleet.buy(poor)
    with pytest.raises(BudgetExceededError):
        await fleet.buy(poor)


async def test_a_price_above_the_budget_is_stopped_in_the_worker(fleet: Fleet, aggregator: FakeAggregator) -> None:
    await fleet.serve(budgets=Budgets(per_request=PRICE))
    with pytest.raises(BudgetExceededError, match="per_request"):
        await fleet.pay(await fleet.worker(), amount=PRICE + 1)
    assert not aggregator.calls


async def test_a_dead_workers_grants_count_as_spent_until_they_are_reconciled(
    fleet: Fleet, aggregator: FakeAggregator
) -> None:
    fleet.lease_s = 0.2
    await fleet.serve(budgets=Budgets(total=100 * PRICE))
    await fleet.wallet.deposit()  # so that nobody lacks headroom, and no worker is asked to give its own back
    alive, dead = await fleet.worker(), await fleet.worker()
    for _ in range(4):
        await fleet.buy(dead)
    await fleet.buy(alive)
    await dead.report()
    lost = await fleet.pay(dead)
    aggregator.charge(lost.proof, PRICE, REQUEST)
    await fleet.die(dead)
    granted = (await fleet.account()).granted
    assert granted >= 3 * PRICE
    await alive.report()
    await until(lambda: sum(key.revoked for key in aggregator.account.keys.values()) == 1)
    channels = fleet.wallet._book.channels
    await until(lambda: sum(channel.charged + channel.unknown for channel in channels.values()) == 6 * PRICE)
    await fleet.buy(alive)
    await alive.report()
    account = await fleet.account()
    assert account.charged + account.unknown == aggregator.account.committed == 7 * PRICE


async def test_a_report_that_comes_while_totals_are_read_is_not_taken_for_the_deads_payment(
    fleet: Fleet, aggregator: FakeAggregator, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.lease_s = 0.2
    await fleet.serve(max_headroom=1)
    alive, dead = await fleet.worker(), await fleet.worker()
    await fleet.pay(dead)  # never charged
    payment = await fleet.pay(alive)
    read, reads = AccountClient.read, 0

    async def read_late(client: AccountClient, account_id: bytes) -> Any:
        nonlocal reads
        reads += 1
        if reads == 1:
            payment.settle(aggregator.charge(payment.proof, PRICE, REQUEST))
        state = await read(client, account_id)
        if reads == 1:
            await alive.report()
        return state

    monkeypatch.setattr(AccountClient, "read", read_late)
    await fleet.die(dead)
    await until(lambda: reads >= 1)
    await fleet.wallet.reconcile()
    account = await fleet.account()
    assert (account.charged, account.unknown) == (PRICE, 0)
    assert aggregator.account.committed == PRICE


async def test_a_worker_that_was_taken_for_dead_goes_on_with_new_grants(
    fleet: Fleet, aggregator: FakeAggregator, seller: FakeSeller
) -> None:
    fleet.lease_s = 0.15
    await fleet.serve()
    worker = await fleet.worker()
    await fleet.buy(worker)
    worker._chores.cancel()
    await asyncio.gather(worker._chores, return_exceptions=True)
    await until(lambda: any(key.revoked for key in aggregator.account.keys.values()))
    worker._chores = asyncio.create_task(worker._report_for_ever())
    async with httpx2.AsyncClient(transport=PayingTransport(worker, seller)) as http:
        answers = await asyncio.gather(*(http.get(f"https://a.example/{n}") for n in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    await worker.report()
    await fleet.wallet.reconcile()
    account = await fleet.account()
    assert account.charged == aggregator.account.committed == 21 * PRICE
    assert account.unknown == 0


async def test_workers_outlive_a_restart_of_the_wallet(fleet: Fleet, aggregator: FakeAggregator) -> None:
    await fleet.serve()
    worker = await fleet.worker()
    payments = [await fleet.pay(worker)]  # under way, so that the wallet does not call back what it granted
    (line,) = worker.grants._lines.values()
    while line.grant is None or not line.grant.can_pay(PRICE):  # what is granted ahead depends on how quickly they come
        payments.append(await fleet.pay(worker))
    await fleet.stop()
    payments.append(await fleet.pay(worker))
    for payment in payments:
        payment.settle(aggregator.charge(payment.proof, PRICE, REQUEST))
    await fleet.serve()
    for _ in range(20):
        await fleet.buy(worker)
    await worker.close()
    account = await fleet.account()
    assert account.charged == aggregator.account.committed == (len(payments) + 20) * PRICE
    assert (account.unknown, account.disputed, account.granted) == (0, 0, 0)


async def test_what_a_worker_never_heard_of_is_free_after_a_restart(fleet: Fleet, aggregator: FakeAggregator) -> None:
    """The wallet dies after a grant is on disk, and before its key is: nothing can be charged under that."""
    fleet.lease_s = 0.1
    await fleet.serve()
    await fleet.wallet.deposit()
    worker = await fleet.worker()
    await fleet.buy(worker)
    await worker.close()
    wallet = fleet.wallet
    offer = wallet.choose(PaymentRequired(accepts=[fleet.seller.offer("deferred", "a.example", PRICE)]))
    real_write = wallet._store.write

    async def write(statements: list[Statement]) -> None:
        if any("spend_keys" in sql for sql, _ in statements):
            raise CrashError
        await real_write(statements)

    wallet._store.write = write  # type: ignore[method-assign]
    with pytest.raises((CrashError, BookUnavailableError)):
        await wallet._allocator.allot(offer.seller("a.example"), "another worker", None, PRICE, PRICE)
    assert fleet.server is not None
    await fleet.server.__aexit__(None, None, None)
    await die(wallet)
    await fleet.serve()
    await until(lambda: all(row.closed_at for row in fleet.wallet._book.grants.values()))
    await fleet.wallet.reconcile()
    account = await fleet.account()
    assert (account.charged, account.unknown, account.granted) == (PRICE, 0, 0)
    assert aggregator.account.committed == PRICE


async def test_who_waits_while_the_wallet_is_away_is_served_when_it_is_back(fleet: Fleet) -> None:
    await fleet.serve()
    worker = await fleet.worker()
    await fleet.stop()
    task = asyncio.create_task(fleet.buy(worker))
    await until(lambda: any(not line.is_idle for line in worker.grants._lines.values()))
    await fleet.serve()
    await task


async def test_a_wallet_that_stays_away_is_told(fleet: Fleet) -> None:
    await fleet.serve()
    worker = await fleet.worker(retry_pauses_s=(0.01,))
    await fleet.stop()
    with pytest.raises(AggregatorUnavailableError):
        await fleet.buy(worker)


@pytest.mark.parametrize("seed", range(6))
async def test_books_are_equal_whoever_is_killed(fleet: Fleet, aggregator: FakeAggregator, seed: int) -> None:
    chance = random.Random(seed)
    fleet.lease_s = 0.3
    budget = 400 * PRICE
    await fleet.serve(budgets=Budgets(total=budget))
    workers = [await fleet.worker() for _ in range(4)]

    paid = 0

    async def live(index: int) -> None:
        nonlocal paid
        for _ in range(40):
            worker = workers[index]
            fate = chance.random()
            if fate < 0.03:
                await fleet.die(worker)
                workers[index] = await fleet.worker()
                continue
            payment = await fleet.pay(worker, chance.choice("abcd"))
            paid += 1
            if fate < 0.1:
                payment.lose()
                continue
            for _ in range(chance.randrange(5)):
                await asyncio.sleep(0)
            try:
                charged = aggregator.charge(payment.proof, PRICE, REQUEST)
            except FakeRefusal:
                # Taken for dead while it slept: a transport would ask for a recover_from and pay again.
                payment.release()
            else:
                payment.settle(charged)

    async def restart() -> None:
        for number in (1, 2):
            await until(lambda number=number: paid >= 40 * number)  # type: ignore[misc]
            await fleet.stop()
            await fleet.serve()

    await asyncio.gather(restart(), *(live(index) for index in range(4)))
    for worker in workers:
        await worker.close()
    await until(lambda: all(row.closed_at for row in fleet.wallet._book.grants.values()))
    await fleet.wallet.reconcile()
    account = await fleet.account()
    assert account.charged == aggregator.account.committed <= budget
    assert (account.unknown, account.disputed, account.granted) == (0, 0, 0)
    assert account.spent_total == account.charged
    fleet.wallet._book.check()


# At the door.


async def test_a_wrong_token_is_turned_away(fleet: Fleet) -> None:
    await fleet.serve()
    with pytest.raises(CallRejectedError, match="UNAUTHENTICATED"):
        await Wallet.connect(fleet.socket, token="guess")


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "example.org:7410", "[::]:0"])
async def test_nothing_is_served_in_the_clear_beyond_this_machine(wallet: Wallet, listen: str) -> None:
    with pytest.raises(MalformedError, match="listen"):
        WalletServer(wallet, listen, TOKEN)


async def test_a_wallet_of_vouchers_is_not_served(open_wallet: OpenWallet, tmp_path: Path) -> None:
    wallet = await open_wallet(proof="voucher")
    with pytest.raises(MalformedError, match="proof: got 'voucher', allowed spend_key"):
        WalletServer(wallet, f"unix:{tmp_path / 's'}", TOKEN)


def extension(**changes: Any) -> pb.ExtendGrantRequest:
    from payer_fakes import ESCROW, OPERATOR, USDC  # noqa: PLC0415

    payee = pb.Payee(
        network="eip155:31337", operator=OPERATOR, escrow=ESCROW, token=USDC, receiver=bytes([1] * 20), host="a"
    )
    request = pb.ExtendGrantRequest(worker_id=bytes(16), request_id=bytes(16), payee=payee, need=b"\x01", want=b"\x02")
    for name, value in changes.items():
        if name.startswith("payee_"):
            setattr(request.payee, name.removeprefix("payee_"), value)
        elif name == "reports":
            request.reports.extend(value)
        else:
            setattr(request, name, value)
    return request


MALFORMED: list[dict[str, Any]] = [
    {"worker_id": b""},
    {"worker_id": bytes(17)},
    {"request_id": bytes(3)},
    {"need": b""},
    {"need": b"\x03"},
    {"need": b"\x00\x01"},
    {"want": bytes([1] * 17)},
    {"payee_receiver": bytes(20)},
    {"payee_receiver": bytes([1] * 21)},
    {"payee_host": ""},
    {"payee_host": "x" * 256},
    {"reports": [pb.GrantReport(grant_id=1, charged=b"\x00")]},
    {"reports": [pb.GrantReport(grant_id=1, unknown=b"\x01", found_charged=b"\x02")]},
]


@pytest.mark.parametrize("changes", MALFORMED)
async def test_a_malformed_call_is_refused_by_the_name_of_its_field(fleet: Fleet, changes: dict[str, Any]) -> None:
    await fleet.serve()
    async with grpc.aio.insecure_channel(fleet.socket) as channel:
        stub = wallet_pb2_grpc.WalletServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ExtendGrant(extension(**changes), metadata=bearer(TOKEN))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert next(iter(changes)).removeprefix("payee_") in (caught.value.details() or "")


async def test_a_payee_that_is_not_on_the_allow_list_is_refused(fleet: Fleet, aggregator: FakeAggregator) -> None:
    await fleet.serve()
    async with grpc.aio.insecure_channel(fleet.socket) as channel:
        stub = wallet_pb2_grpc.WalletServiceStub(channel)
        for changes in ({"payee_token": bytes([9] * 20)}, {"payee_operator": bytes([8] * 20)}, {"payee_network": "x"}):
            response = await stub.ExtendGrant(extension(**changes), metadata=bearer(TOKEN))
            assert response.problem.kind == pb.WALLET_PROBLEM_KIND_OFFER_NOT_ALLOWED
    assert not aggregator.calls


async def test_a_lost_payment_that_was_charged_after_all_is_reported_as_charged(fleet: Fleet) -> None:
    await fleet.serve()
    worker = await fleet.worker()
    payment = await fleet.pay(worker)
    payment.lose()
    await worker.report()
    before = await fleet.account()
    payment.found_charged(PRICE)  # it was sent again, and its seller repeated its answer
    await worker.report()
    after = await fleet.account()
    assert [(told.charged, told.unknown) for told in (before, after)] == [(0, PRICE), (PRICE, 0)]


async def test_an_older_report_that_arrives_late_says_nothing_new(fleet: Fleet) -> None:
    await fleet.serve()
    lost = pb.GrantReport(grant_id=1, unknown=b"\x02")
    found = pb.GrantReport(grant_id=1, unknown=b"\x02", found_charged=b"\x01")
    async with grpc.aio.insecure_channel(fleet.socket) as channel:
        stub = wallet_pb2_grpc.WalletServiceStub(channel)
        await stub.ExtendGrant(extension(), metadata=bearer(TOKEN))
        for report in (lost, found, lost):
            await stub.Report(pb.ReportRequest(worker_id=bytes(16), reports=[report]), metadata=bearer(TOKEN))
    account = await fleet.account()
    assert (account.charged, account.unknown) == (1, 1)


async def test_the_same_request_is_answered_alike_and_given_once(fleet: Fleet) -> None:
    await fleet.serve()
    async with grpc.aio.insecure_channel(fleet.socket) as channel:
        stub = wallet_pb2_grpc.WalletServiceStub(channel)
        answers = await asyncio.gather(
            *(stub.ExtendGrant(extension(), metadata=bearer(TOKEN)) for _ in range(5))  # type: ignore[arg-type]
        )
    assert len({answer.SerializeToString() for answer in answers}) == 1
    assert (await fleet.account()).granted == 2


@pytest.mark.parametrize(
    "report",
    [
        pb.GrantReport(grant_id=1, charged=b"\x03"),
        pb.GrantReport(grant_id=1, charged=b"\x01", unknown=b"\x02"),
        pb.GrantReport(grant_id=1, returned=b"\x03"),
    ],
)
async def test_a_report_of_more_than_was_given_is_refused(fleet: Fleet, report: pb.GrantReport) -> None:
    await fleet.serve()
    async with grpc.aio.insecure_channel(fleet.socket) as channel:
        stub = wallet_pb2_grpc.WalletServiceStub(channel)
        await stub.ExtendGrant(extension(), metadata=bearer(TOKEN))
        with pytest.raises(grpc.aio.AioRpcError, match="grant 1"):
            await stub.Report(pb.ReportRequest(worker_id=bytes(16), reports=[report]), metadata=bearer(TOKEN))
        foreign = pb.ReportRequest(worker_id=bytes([1] * 16), reports=[pb.GrantReport(grant_id=1, is_final=True)])
        assert list((await stub.Report(foreign, metadata=bearer(TOKEN))).closed_grant_ids) == [1]
    assert (await fleet.account()).granted == 2


async def test_a_served_wallet_counts_for_no_scheme_that_pays_by_itself(fleet: Fleet) -> None:
    await fleet.serve()
    worker = await fleet.worker()
    with pytest.raises(WalletError, match="scheme deferred: a wallet that another process serves does not pay by it"):
        await worker.spend(Buyer(worker, fleet.seller).offer(), "a.example")


async def test_a_served_wallet_says_that_it_pays_from_no_channel_with_one_seller(fleet: Fleet) -> None:
    await fleet.serve()
    worker = await fleet.worker()
    shop = BatchSeller()
    problem = "a wallet that another process serves does not pay from channels with one seller"
    with pytest.raises(OfferNotAllowedError, match=problem):
        await PayingTransport(worker, shop).handle_async_request(httpx2.Request("GET", "https://a.example/1"))
    assert shop.payments == []


async def test_problems_reach_the_worker_as_they_are(fleet: Fleet, aggregator: FakeAggregator) -> None:
    await fleet.serve(deposit=DepositPolicy(low="0", high="0.0005"))
    worker = await fleet.worker()
    with pytest.raises(DepositNotAllowedError, match=r"deposit\.high"):
        await fleet.pay(worker)
    aggregator.refuse["Deposit"] = Reason.DEPOSIT_AUTHORIZATION
    with pytest.raises(RefusedError) as caught:
        await fleet.pay(worker, amount=400)
    assert caught.value.reason is Reason.DEPOSIT_AUTHORIZATION
    with pytest.raises(OfferNotAllowedError):
        worker.choose(PaymentRequired(accepts=[]))


async def test_a_wallet_is_served_from_the_command_line(
    tmp_path: Path, fleet: Fleet, aggregator: FakeAggregator
) -> None:
    import os  # noqa: PLC0415
    import sys  # noqa: PLC0415

    from payer_fakes import make_operator  # noqa: PLC0415

    write_operator_file(make_operator(aggregator.target), tmp_path / "operator.json")
    command = [sys.executable, "-m", "tallystick_client.cli", "wallet", "serve"]
    command += ["--wallet", "served.db", "--key", "env:FLEET_KEY", "--listen", "127.0.0.1:0", "--deposit-high", "1"]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=tmp_path,
        env=os.environ | {"FLEET_KEY": "11" * 32, "TALLYSTICK_WALLET_TOKEN": TOKEN},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
    fleet.socket = line.split()[-1]
    worker = await fleet.worker()
    for _ in range(3):
        await fleet.buy(worker)
    await worker.close()
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 30) == 0
    assert aggregator.account.committed == 3 * PRICE
