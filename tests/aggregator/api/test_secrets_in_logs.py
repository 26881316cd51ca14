"""A whole run with every library at its loudest: no secret reaches a log record, a log line or stderr (threat 32)."""

import asyncio
import base64
import io
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest
from serving_twin import bearer, charge_of

from _anvil import DEV_KEYS
from anvil import NETWORK, Devnet, Payer, receiver
from tallystick import eip712
from tallystick.amounts import encode_amount
from tallystick.channels import ChannelConfig
from tallystick.hexadecimal import checksum
from tallystick.payment_ids import new
from tallystick.spend_keys import SpendProver, key_hash
from tallystick.v1 import (
    account_pb2,
    account_pb2_grpc,
    charge_pb2,
    charge_pb2_grpc,
    common_pb2,
    settlement_pb2,
    settlement_pb2_grpc,
)
from tallystick_aggregator.auth.credentials import Credentials, Scope
from tallystick_aggregator.charging import UncheckedPayment, UncheckedSpendProof
from tallystick_aggregator.runtime import logs
from tallystick_aggregator.runtime.app import running
from tallystick_aggregator.runtime.config.file import Config
from tallystick_aggregator.store.opening import sqlite_path
from tallystick_aggregator.store.sqlite.store import SqliteStore

NEWS = receiver(1)
PRICE = 1_000
SECRET, KEY_ID = os.urandom(32), os.urandom(32)
PROVIDERS_KEY = "9f3c-providers-key"
LIBRARIES = ("aiohttp.client", "aiosqlite", "asyncio", "concurrent.futures", "grpc", "grpc._cython.cygrpc", "web3")


class Recorder(logging.Handler):
    """Keeps each record as any handler could show it."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.shown: list[str] = []
        self.names: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.names.add(record.name)
        self.shown.append(f"{record.getMessage()} {record.__dict__!r}")
        if record.exc_info:
            self.shown.append(logging.Formatter().formatException(record.exc_info))


@pytest.fixture
def heard() -> Iterator[tuple[Recorder, io.StringIO]]:
    """All loggers at their loudest, after the server was configured for debugging; and our own log's text."""
    root, text, recorder = logging.getLogger(), io.StringIO(), Recorder()
    handlers, level = root.handlers[:], root.level
    logs.configure("debug", as_json=False, stream=text)
    root.addHandler(recorder)
    names = {*root.manager.loggerDict, *LIBRARIES}
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield recorder, text
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.setLogRecordFactory(logging.LogRecord)


def write_site(folder: Path, devnet: Devnet) -> Config:
    for name, key in (("operator", DEV_KEYS[1]), ("sender", DEV_KEYS[2])):
        file = folder / f"{name}.key"
        file.write_text(key.hex())
        file.chmod(0o600)
    path = folder / "aggregator.toml"
    path.write_text(f"""\
[server]
listen = "127.0.0.1:0"
log_level = "debug"
[[chain]]
network = "{NETWORK}"
rpc_urls = ["{devnet.anvil.url}/?key={PROVIDERS_KEY}"]
escrow = "{checksum(devnet.escrow)}"
escrow_block = {devnet.escrow_block}
operator_key = "file:operator.key"
sender_key = "file:sender.key"
confirmations = 0
poll_s = 0.05
[[chain.token]]
address = "{checksum(devnet.token)}"
symbol = "USDC"
decimals = 6
name = "USD Coin"
version = "2"
min_deposit = "1000"
""")
    return Config.load(path)


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


def signed(payer: Payer, struct_hash: bytes, deadline: int) -> account_pb2.CallAuthorization:
    signature = payer.signer.sign(eip712.digest(payer.devnet.domain, struct_hash))
    return account_pb2.CallAuthorization(deadline=deadline, signature=signature)


async def trade(payer: Payer, target: str, token: str) -> None:
    """Deposit, open, register a key, charge by it, settle, refund."""
    deposit, deadline = payer.authorization(20 * PRICE), int(time.time()) + 60
    expires_at, metadata = deadline + 3_600, bearer(token)
    channel_id, payment_id, voucher = payer.channel_id(NEWS), new(), payer.voucher(NEWS, PRICE)
    async with grpc.aio.insecure_channel(target) as channel:
        accounts = account_pb2_grpc.AccountServiceStub(channel)
        deposited = await accounts.Deposit(
            account_pb2.DepositRequest(
                network=NETWORK,
                account=config_of(payer.config),
                amount=encode_amount(deposit.amount),
                valid_after=deposit.valid_after,
                valid_before=deposit.valid_before,
                salt=deposit.salt,
                signature=deposit.signature,
            )
        )
        assert len(deposited.transaction) == 32, deposited
        opened = await accounts.OpenChannel(
            account_pb2.OpenChannelRequest(
                network=NETWORK,
                config=config_of(payer.config.channel(NEWS)),
                authorization=signed(payer, eip712.hash_open_channel(channel_id, deadline), deadline),
            )
        )
        assert not opened.HasField("refusal"), opened
        struct = eip712.hash_register_spend_key(
            payer.account_id, KEY_ID, key_hash(SECRET), 10 * PRICE, expires_at, deadline
        )
        registered = await accounts.RegisterSpendKey(
            account_pb2.RegisterSpendKeyRequest(
                account_id=payer.account_id,
                key_id=KEY_ID,
                secret=SECRET,
                cap=encode_amount(10 * PRICE),
                expires_at=expires_at,
                authorization=signed(payer, struct, deadline),
            )
        )
        assert not registered.HasField("refusal"), registered
        mac = SpendProver(SECRET).mac(channel_id, payment_id, PRICE, bytes(32))
        payment = UncheckedPayment(
            channel_id,
            payment_id,
            PRICE,
            bytes(32),
            PRICE,
            voucher.signature,
            UncheckedSpendProof(KEY_ID, PRICE, mac),
        )
        charges = charge_pb2_grpc.ChargeServiceStub(channel)
        charged = await charges.Charge(charge_pb2.ChargeRequest(charge=charge_of(payment)), metadata=metadata)
        assert charged.result.accepted, charged
        settlements = settlement_pb2_grpc.SettlementServiceStub(channel)
        settled = await settlements.SettleNow(settlement_pb2.SettleNowRequest(), metadata=metadata)
        assert len(settled.settlements) == 1, settled
        call = signed(payer, eip712.hash_request_refund(payer.account_id, bytes(32), 0, deadline), deadline)
        refund = account_pb2.RequestRefundRequest(account_id=payer.account_id, refund_id=bytes(32), authorization=call)
        refunded = await accounts.RequestRefund(refund)
        assert len(refunded.transaction) == 32, refunded


def forms_of(secret: bytes) -> set[str]:
    """How these bytes might show in a text."""
    shown = repr(secret)[2:-1]
    return {
        secret.hex(),
        secret.hex().upper(),
        base64.b64encode(secret).decode(),
        base64.urlsafe_b64encode(secret).decode(),
        base64.b64encode(secret).decode().rstrip("="),
        shown,
        repr(shown)[1:-1],  # as a text in a text
        str(list(secret)),
    }


async def test_g3_a_whole_run_at_debug_shows_no_secret(
    devnet: Devnet, tmp_path: Path, heard: tuple[Recorder, io.StringIO], capfd: pytest.CaptureFixture[str]
) -> None:
    recorder, text = heard
    asyncio.get_running_loop().set_debug(True)
    asyncio.get_running_loop().slow_callback_duration = 0.0
    payer = devnet.payer()
    devnet.anvil.mint(devnet.token, payer.signer.address, 50 * PRICE)
    config = write_site(tmp_path, devnet)
    credentials = Credentials.open(config.credentials_path)
    token = credentials.add("news", [NEWS], list(Scope))
    credentials.close()
    async with running(config) as server:
        await trade(payer, server.address, token)
    store = await SqliteStore.open(sqlite_path(config.store_url))
    sent = await store.outbox.since(NETWORK, 0)
    assert {outbound.kind.name for outbound in sent} == {"DEPOSIT", "CLAIM", "REFUND"}
    raws = [attempt.raw for outbound in sent for attempt in outbound.attempts]
    await store.close()

    secrets = {token, PROVIDERS_KEY}.union(*map(forms_of, (SECRET, DEV_KEYS[1], DEV_KEYS[2], *raws)))
    shown = [*recorder.shown, text.getvalue(), *capfd.readouterr()]
    assert not [line[:200] for line in shown if any(secret in line for secret in secrets)]
    assert {"aiosqlite", "asyncio"} <= recorder.names, "the libraries were as loud as they can be"
    assert "tallystick_aggregator" in text.getvalue(), "and we are heard"
