"""The whole aggregator against Anvil: `tallystick serve` as a process, and what stops it at its start."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_twin import Metadata, bearer, charge_of

import site_files
from _anvil import DEV_KEYS, function
from anvil import NETWORK, Devnet, Payer, receiver
from tallystick import eip712
from tallystick.amounts import decode_amount, encode_amount
from tallystick.channels import ChannelConfig
from tallystick.hexadecimal import checksum
from tallystick.payment_ids import new
from tallystick.reasons import Reason
from tallystick.v1 import (
    account_pb2,
    account_pb2_grpc,
    charge_pb2,
    charge_pb2_grpc,
    common_pb2,
    facilitator_pb2,
    facilitator_pb2_grpc,
    settlement_pb2,
    settlement_pb2_grpc,
)
from tallystick.vouchers import sign_voucher
from tallystick_aggregator.charging import UncheckedPayment
from tallystick_aggregator.runtime.app import StartError, running
from tallystick_aggregator.runtime.config.file import Config
from tallystick_aggregator.store.sqlite.store import SqliteStore

NEWS = receiver(1)
PRICE = 1_000
START_TIMEOUT_S = 30.0


def write_site(folder: Path, devnet: Devnet, *, rpc_url: str = "", version: str = "2", **chain: str) -> Path:
    """A configuration for this chain, its keys beside it; what is named replaces values."""
    endpoints = {"rpc_urls": [rpc_url]} if rpc_url else {}
    return site_files.write_site(folder, devnet, chain=endpoints | chain, token={"version": version})


class Process:
    """`tallystick serve`, and the address that it printed."""

    def __init__(self, config: Path) -> None:
        self._log = (config.parent / "serve.log").open("w+")
        command = [sys.executable, "-m", "tallystick_aggregator", "--config", str(config)]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL)
        try:
            self.target = self._wait_for_target()
        except BaseException:
            self.kill()
            raise

    @property
    def log(self) -> str:
        """All that it has written."""
        return Path(self._log.name).read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop; return its exit code."""
        self._process.send_signal(number)
        return self._process.wait(timeout=20)

    def kill(self) -> None:
        """End it like a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(timeout=20)
        self._log.close()

    def _wait_for_target(self) -> str:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            for line in self.log.splitlines():
                if line.startswith("listening on "):
                    return line.removeprefix("listening on ")
            time.sleep(0.02)
        raise AssertionError(f"serve did not start:\n{self.log}")


@dataclass
class Client:
    """Stubs over one channel, and the seller's token."""

    channel: grpc.aio.Channel
    token: Metadata

    def __post_init__(self) -> None:
        self.charges = charge_pb2_grpc.ChargeServiceStub(self.channel)
        self.facilitator = facilitator_pb2_grpc.FacilitatorServiceStub(self.channel)
        self.accounts = account_pb2_grpc.AccountServiceStub(self.channel)
        self.settlements = settlement_pb2_grpc.SettlementServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)


@pytest.fixture
def site(tmp_path: Path, devnet: Devnet) -> Path:
    return write_site(tmp_path, devnet)


@pytest.fixture
def token(site: Path) -> Metadata:
    return bearer(site_files.add_seller(site, "news", [NEWS]))


Start = Callable[[], Process]


@pytest.fixture
def start(site: Path) -> Iterator[Start]:
    """Starts the server; it is gone after the test, whatever the test does."""
    started: list[Process] = []

    def run() -> Process:
        started.append(Process(site))
        return started[-1]

    yield run
    for process in started:
        process.kill()


@contextlib.asynccontextmanager
async def connected(process: Process, token: Metadata) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(process.target) as channel:
        yield Client(channel, token)


def config_of(config: ChannelConfig) -> common_pb2.ChannelConfig:
    return common_pb2.ChannelConfig(
        payer=config.payer,
        payer_authorizer=config.payer_authorizer,
        receiver=config.receiver,
        receiver_authorizer=config.receiver_authorizer,
        token=config.token,
        withdraw_delay_s=config.withdraw_delay_s,
        salt=config.salt,
    )


def deposit_request(payer: Payer, amount: int) -> account_pb2.DepositRequest:
    authorization = payer.authorization(amount)
    return account_pb2.DepositRequest(
        network=NETWORK,
        account=config_of(payer.config),
        amount=encode_amount(amount),
        valid_after=authorization.valid_after,
        valid_before=authorization.valid_before,
        salt=authorization.salt,
        signature=authorization.signature,
        escrow=payer.devnet.escrow,
    )


def signed(payer: Payer, struct_hash: bytes, deadline: int) -> account_pb2.CallAuthorization:
    signature = payer.signer.sign(eip712.digest(payer.devnet.domain, struct_hash))
    return account_pb2.CallAuthorization(deadline=deadline, signature=signature)


def open_request(payer: Payer) -> account_pb2.OpenChannelRequest:
    deadline = int(time.time()) + 60
    call = signed(payer, eip712.hash_open_channel(payer.channel_id(NEWS), deadline), deadline)
    return account_pb2.OpenChannelRequest(
        network=NETWORK,
        config=config_of(payer.config.channel(NEWS)),
        authorization=call,
        escrow=payer.devnet.escrow,
    )


def charge_request(payer: Payer, ceiling: int) -> charge_pb2.ChargeRequest:
    payment_id, voucher = new(), payer.voucher(NEWS, ceiling)
    payment = UncheckedPayment(
        payer.channel_id(NEWS),
        payment_id,
        PRICE,
        bytes(32),
        ceiling,
        voucher.signature,
        None,
    )
    return charge_pb2.ChargeRequest(charge=charge_of(payment))


async def test_from_deposit_to_settlement_and_refund(devnet: Devnet, start: Start, token: Metadata) -> None:
    payer = devnet.payer()
    devnet.anvil.mint(devnet.token, payer.signer.address, 50 * PRICE)
    async with connected(start(), token) as client:
        deposited = await client.accounts.Deposit(deposit_request(payer, 20 * PRICE))
        assert len(deposited.transaction) == 32
        opened = await client.accounts.OpenChannel(open_request(payer))
        assert opened.channel.channel_id == payer.channel_id(NEWS)
        for number in range(1, 6):
            answer = await client.charges.Charge(charge_request(payer, number * PRICE), metadata=token)
            assert answer.result.accepted, answer
        settled = await client.settlements.SettleNow(settlement_pb2.SettleNowRequest(), metadata=token)
        assert not settled.HasField("refusal"), settled
        assert devnet.balance(NEWS) == 5 * PRICE
        deadline = int(time.time()) + 60
        call = signed(payer, eip712.hash_request_refund(payer.account_id, bytes(32), 0, deadline), deadline)
        refund = account_pb2.RequestRefundRequest(account_id=payer.account_id, refund_id=bytes(32), authorization=call)
        answers = [await client.accounts.RequestRefund(refund) for _ in range(2)]
        assert answers[0].transaction == answers[1].transaction != b""
        assert decode_amount(answers[0].amount, "") == 15 * PRICE
        assert devnet.balance(payer.signer.address) == 45 * PRICE


async def test_an_exact_payment_moves_money_once(devnet: Devnet, start: Start, token: Metadata) -> None:
    payer = devnet.payer()
    devnet.anvil.mint(devnet.token, payer.signer.address, 5 * PRICE)
    now_s = int(time.time())
    struct = eip712.hash_transfer_with_authorization(payer.signer.address, NEWS, PRICE, 0, now_s + 300, bytes(32))
    payment = facilitator_pb2.ExactPayment(
        **{"from": payer.signer.address},  # type: ignore[arg-type]
        to=NEWS,
        value=encode_amount(PRICE),
        valid_after=0,  # this chain mines only on demand: its head may be old
        valid_before=now_s + 300,
        nonce=bytes(32),
        signature=payer.signer.sign(eip712.digest(devnet.token_domain, struct)),
    )
    terms = facilitator_pb2.PaymentTerms(
        scheme="exact", network=NETWORK, amount=encode_amount(PRICE), asset=devnet.token, pay_to=NEWS
    )
    async with connected(start(), token) as client:
        verify = facilitator_pb2.VerifyRequest(terms=terms, exact=payment)
        verified = await client.facilitator.Verify(verify, metadata=token)
        assert verified.valid, verified
        settle = facilitator_pb2.SettleRequest(terms=terms, exact=payment)
        answers = [await client.facilitator.Settle(settle, metadata=token) for _ in range(2)]
        assert [answer.success for answer in answers] == [True, True], answers
        assert [answer.replayed for answer in answers] == [False, True]
        assert devnet.balance(NEWS) == PRICE
        payment.nonce = bytes([1]) * 32
        forged = await client.facilitator.Verify(
            facilitator_pb2.VerifyRequest(terms=terms, exact=payment), metadata=token
        )
        assert forged.refusal.reason == Reason.EXACT_SIGNATURE


async def test_what_was_accepted_is_there_after_a_power_cut(devnet: Devnet, start: Start, token: Metadata) -> None:
    payer = devnet.payer()
    devnet.anvil.mint(devnet.token, payer.signer.address, 20 * PRICE)
    process = start()
    async with connected(process, token) as client:
        await client.accounts.Deposit(deposit_request(payer, 20 * PRICE))
        await client.accounts.OpenChannel(open_request(payer))
        request = charge_request(payer, PRICE)
        assert (await client.charges.Charge(request, metadata=token)).result.accepted
    process.kill()
    async with connected(start(), token) as client:
        again = await client.charges.Charge(request, metadata=token)
        assert (again.result.accepted, again.result.replayed) == (True, True)
        assert decode_amount(again.result.charged, "") == PRICE


async def test_it_serves_until_it_is_told_to_stop_and_stops_with_0(start: Start, token: Metadata) -> None:
    process = start()
    async with connected(process, token) as client:
        assert (await client.health.Check(health_pb2.HealthCheckRequest())).status == 1
        assert len((await client.facilitator.Supported(facilitator_pb2.SupportedRequest(), metadata=token)).kinds) == 2
    assert process.stop() == 0
    assert "Traceback" not in process.log
    secrets = (DEV_KEYS[1].hex(), DEV_KEYS[2].hex(), token[0][1].removeprefix("Bearer "))
    assert all(secret not in process.log for secret in secrets)


def run_serve(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tallystick_aggregator", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ.copy())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network": "eip155:1"}, "its endpoints are of the chain eip155:31337"),
        ({"escrow": "0x" + "12" * 20}, "there is no contract at this address"),
        ({"escrow": "TOKEN"}, "is not a Tallystick escrow"),
        ({"operator_key": "file:missing.key"}, "chain[0].operator_key"),
        ({"operator_key": "file:stranger.key"}, "may not claim for operator"),
        ({"version": "1"}, "version"),
        ({"rpc_url": "http://127.0.0.1:9"}, "eip155:31337: its endpoints do not answer"),
    ],
)
async def test_what_the_chain_contradicts_stops_the_start_with_one_sentence(
    tmp_path: Path, devnet: Devnet, changes: dict[str, str], sentence: str
) -> None:
    changes = {name: checksum(devnet.token) if value == "TOKEN" else value for name, value in changes.items()}
    with pytest.raises(StartError) as refused:
        async with running(Config.load(write_site(tmp_path, devnet, **changes))):
            pass
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    # Nothing is left open: the store can be had at once.
    store = await SqliteStore.open(tmp_path / "tallystick.db")
    await store.close()


def test_serve_says_it_in_one_line_and_ends_with_2(tmp_path: Path, devnet: Devnet) -> None:
    result = run_serve(write_site(tmp_path, devnet, escrow="0x" + "12" * 20))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("tallystick: escrow 0x1212")
    assert "Traceback" not in result.stderr


def test_a_second_process_on_the_same_store_is_refused(start: Start, site: Path) -> None:
    start()
    result = run_serve(site)
    assert result.returncode == 2
    assert "is in use by another process" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_store_that_is_none_is_refused(site: Path) -> None:
    (site.parent / "tallystick.db").write_bytes(b"not a database, and not a short one either" * 100)
    result = run_serve(site)
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    assert "tallystick.db" in result.stderr


# Two escrows on one network.


@pytest.fixture
def second(devnet: Devnet) -> Devnet:
    """The same chain, token and operator, with another Escrow.sol."""
    escrow = devnet.anvil.deploy_contract("Escrow")
    devnet.anvil.send(devnet.operator.address, escrow, function("setSender(address,bool)", devnet.sender.address, 1))
    return replace(devnet, escrow=escrow, escrow_block=devnet.anvil.block_number - 2)


def serve_both(site: Path, devnet: Devnet, second: Devnet) -> None:
    """Have the configuration name both escrows."""
    text = site.read_text().replace(f"escrow_block = {devnet.escrow_block}\n", "")
    both = ", ".join(f'{{address = "{checksum(one.escrow)}", block = {one.escrow_block}}}' for one in (devnet, second))
    site.write_text(text.replace(f'escrow = "{checksum(devnet.escrow)}"', f"escrow = [{both}]"))


def read_request(payer: Payer) -> account_pb2.GetAccountRequest:
    deadline = int(time.time()) + 60
    call = signed(payer, eip712.hash_read_account(payer.account_id, deadline), deadline)
    return account_pb2.GetAccountRequest(account_id=payer.account_id, authorization=call)


async def test_accounts_of_one_payer_in_two_escrows_are_charged_and_claimed_side_by_side(
    devnet: Devnet, second: Devnet, site: Path, start: Start, token: Metadata
) -> None:
    serve_both(site, devnet, second)
    here = devnet.payer()
    there = Payer(second, here.signer, here.config)
    assert here.account_id != there.account_id
    devnet.anvil.mint(devnet.token, here.signer.address, 50 * PRICE)
    async with connected(start(), token) as client:
        supported = await client.facilitator.Supported(facilitator_pb2.SupportedRequest(), metadata=token)
        kinds = [(kind.scheme, kind.escrow) for kind in supported.kinds]
        assert kinds == [("deferred", devnet.escrow), ("deferred", second.escrow), ("exact", b"")]

        for payer, amount in ((here, 20 * PRICE), (there, 10 * PRICE)):
            assert len((await client.accounts.Deposit(deposit_request(payer, amount))).transaction) == 32
            assert (await client.accounts.OpenChannel(open_request(payer))).channel.channel_id == payer.channel_id(NEWS)
            told = await client.accounts.GetAccount(read_request(payer))
            assert (told.escrow, decode_amount(told.account.funds, "")) == (payer.devnet.escrow, amount)

        async def charge(payer: Payer, count: int) -> None:
            for number in range(1, count + 1):
                answer = await client.charges.Charge(charge_request(payer, number * PRICE), metadata=token)
                assert answer.result.accepted, answer

        await asyncio.gather(charge(here, 5), charge(there, 3))

        # A voucher is good in the escrow whose domain was signed, and in no other.
        foreign = charge_request(here, 9 * PRICE)
        foreign.charge.signature = sign_voucher(here.signer, second.domain, here.channel_id(NEWS), 9 * PRICE).signature
        refused = await client.charges.Charge(foreign, metadata=token)
        assert not refused.result.accepted
        assert refused.result.refusal.reason == Reason.VOUCHER_SIGNATURE
        # Nor is a call that was signed for the other escrow.
        stranger = read_request(there)
        stranger.account_id = here.account_id
        assert (await client.accounts.GetAccount(stranger)).refusal.reason == Reason.CALL_SIGNATURE

        settled = await client.settlements.SettleNow(settlement_pb2.SettleNowRequest(), metadata=token)
        assert not settled.HasField("refusal"), settled
        assert len(settled.settlements) == 2, settled
    assert devnet.balance(NEWS) == 8 * PRICE
    assert devnet.balance(devnet.escrow) == 15 * PRICE
    assert devnet.balance(second.escrow) == 7 * PRICE
