"""Channels: TLS by default, plain text only where nothing leaves the machine, and errors that say what to do."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from payer_fakes import FakeAggregator

from tallystick.codec.common import read_refusal
from tallystick.errors import MalformedError, RefusedError
from tallystick.reasons import Reason
from tallystick.v1 import account_pb2, account_pb2_grpc, common_pb2
from tallystick_client import Wallet
from tallystick_client.payer.fleet.serving import ServerCredentials, WalletServer
from tallystick_client.rpc import (
    AggregatorUnavailableError,
    CallRejectedError,
    bearer,
    call,
    failure,
    open_channel,
)

FILES = Path(__file__).parents[2] / "aggregator" / "api" / "tls"
CA, SERVER, SERVER_KEY, CLIENT, CLIENT_KEY = (
    (FILES / name).read_bytes() for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
)


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "gr\u00fc\u00dfe", "\x00"])
def test_a_token_that_no_header_carries_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(MalformedError) as caught:
        bearer(token)
    assert not token or token not in str(caught.value)


async def test_beyond_this_machine_nothing_is_sent_in_the_clear(
    aggregator: FakeAggregator, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(grpc.aio, "insecure_channel", lambda target, **_: opened.append(f"plain {target}"))
    monkeypatch.setattr(grpc.aio, "secure_channel", lambda target, *_args, **_: opened.append(f"tls {target}"))
    open_channel("a.example:1")
    open_channel("a.example:1", insecure=True)
    open_channel(aggregator.target)
    open_channel(aggregator.target, root_certificates=CA)
    open_channel(aggregator.target, certificate_chain=CLIENT, private_key=CLIENT_KEY)
    local = aggregator.target
    assert opened == ["tls a.example:1", "plain a.example:1", f"plain {local}", f"tls {local}", f"tls {local}"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, AggregatorUnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, AggregatorUnavailableError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, AggregatorUnavailableError),
        (grpc.StatusCode.INTERNAL, AggregatorUnavailableError),
        (grpc.StatusCode.UNAUTHENTICATED, CallRejectedError),
        (grpc.StatusCode.PERMISSION_DENIED, CallRejectedError),
        (grpc.StatusCode.INVALID_ARGUMENT, CallRejectedError),
        (grpc.StatusCode.UNIMPLEMENTED, CallRejectedError),
    ],
)
def test_a_failed_call_says_whether_to_try_again(status: grpc.StatusCode, error: type[Exception]) -> None:
    metadata = grpc.aio.Metadata()
    failed = failure(grpc.aio.AioRpcError(status, metadata, metadata, details="why"))
    assert type(failed) is error
    assert "why" in str(failed)
    assert failed.status is status


async def test_an_aggregator_that_is_not_there_is_unavailable() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        stub = account_pb2_grpc.AccountServiceStub(channel)
        with pytest.raises(AggregatorUnavailableError):
            await call(stub.Deposit, account_pb2.DepositRequest(), timeout_s=2)


def test_a_refusal_becomes_an_exception_with_the_channels_totals() -> None:
    totals = common_pb2.ChannelTotals(channel_id=bytes(32), receiver=bytes(20), ceiling=b"\x05", charged=b"\x03")
    error = read_refusal(
        common_pb2.Refusal(
            reason=common_pb2.REASON_INSUFFICIENT_CEILING,
            message="sign higher",
            field="ceiling",
            got="5",
            allowed="at least 6",
            totals=totals,
        )
    )
    assert isinstance(error, RefusedError)
    assert (error.reason, error.field, error.got, error.allowed) == (
        Reason.INSUFFICIENT_CEILING,
        "ceiling",
        "5",
        "at least 6",
    )
    assert error.state is not None
    assert (error.state.ceiling, error.state.charged, error.state.reserved) == (5, 3, 0)
    assert read_refusal(common_pb2.Refusal(reason=9_999)).reason is Reason.UNSPECIFIED  # type: ignore[arg-type]


async def test_a_wallet_is_served_over_mutual_tls(open_wallet: Any) -> None:
    wallet = await open_wallet(keep_workers=True)
    credentials = ServerCredentials(SERVER, SERVER_KEY, client_ca=CA)
    async with WalletServer(wallet, "localhost:0", "token", credentials=credentials) as server:
        worker = await Wallet.connect(
            server.target, token="token", root_certificates=CA, certificate_chain=CLIENT, private_key=CLIENT_KEY
        )
        async with worker:
            assert worker.address == wallet.address
        for settings in ({"root_certificates": CA}, {"insecure": True}):
            with pytest.raises(AggregatorUnavailableError):
                await Wallet.connect(server.target, token="token", retry_pauses_s=(), **settings)
