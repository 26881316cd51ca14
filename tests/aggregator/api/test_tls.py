"""The certificates in `tls/` are of an authority made for these tests; its key was thrown away."""

from pathlib import Path

import grpc
import grpc.aio
import pytest
from serving_twin import serving

from tallystick.v1 import facilitator_pb2, facilitator_pb2_grpc
from tallystick_aggregator.api.tls import Tls

FILES = Path(__file__).parent / "tls"
CA, SERVER, SERVER_KEY, CLIENT, CLIENT_KEY = (
    (FILES / name).read_bytes() for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
)


async def supported(port: int, metadata: object, credentials: grpc.ChannelCredentials | None) -> int:
    """The number of kinds that are supported, asked over a channel of its own."""
    target = f"localhost:{port}"
    channel = grpc.aio.insecure_channel(target) if credentials is None else grpc.aio.secure_channel(target, credentials)
    async with channel:
        stub = facilitator_pb2_grpc.FacilitatorServiceStub(channel)
        answer = await stub.Supported(facilitator_pb2.SupportedRequest(), metadata=metadata, timeout=5)
        return len(answer.kinds)


async def test_tls_serves_those_who_trust_its_authority(tmp_path: Path) -> None:
    async with serving(tmp_path, tls=Tls(SERVER, SERVER_KEY)) as edge:
        assert await supported(edge.server.port, edge.news, grpc.ssl_channel_credentials(CA)) == 2
        for credentials in (None, grpc.ssl_channel_credentials()):
            with pytest.raises(grpc.aio.AioRpcError):
                await supported(edge.server.port, edge.news, credentials)


async def test_mutual_tls_serves_only_those_with_a_certificate(tmp_path: Path) -> None:
    async with serving(tmp_path, tls=Tls(SERVER, SERVER_KEY, CA)) as edge:
        with_certificate = grpc.ssl_channel_credentials(CA, CLIENT_KEY, CLIENT)
        assert await supported(edge.server.port, edge.news, with_certificate) == 2
        with pytest.raises(grpc.aio.AioRpcError):
            await supported(edge.server.port, edge.news, grpc.ssl_channel_credentials(CA))
