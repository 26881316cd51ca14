"""TLS as on gRPC, from the same files; a new certificate needs no restart. The certificates are of the gRPC tests."""

import asyncio
import ssl
from pathlib import Path

import grpc
import httpx2
import pytest
from http_twin import HttpEdge, http_edge
from serving_twin import serving

from tallystick.v1 import facilitator_pb2, facilitator_pb2_grpc
from tallystick_aggregator.api.tls import Tls, TlsFiles

FILES = Path(__file__).parents[1] / "api" / "tls"


def files(folder: Path, *, mutual: bool = False) -> TlsFiles:
    """The server's certificate and key, in a folder where they may change."""
    for name in ("server.pem", "server.key"):
        (folder / name).write_bytes((FILES / name).read_bytes())
    ca = (FILES / "ca.pem").read_bytes() if mutual else None
    current = Tls((folder / "server.pem").read_bytes(), (folder / "server.key").read_bytes(), ca)
    return TlsFiles(folder / "server.pem", folder / "server.key", current)


def trusting(*, with_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=FILES / "ca.pem")
    if with_certificate:
        context.load_cert_chain(FILES / "client.pem", FILES / "client.key")
    return context


async def health(edge: HttpEdge, verify: ssl.SSLContext) -> int:
    async with httpx2.AsyncClient(verify=verify) as client:
        return (await client.get(f"https://localhost:{edge.server.port}/healthz")).status_code


async def served(port: int) -> bytes:
    """The certificate that a new connection gets, in DER."""
    context = ssl.create_default_context(cafile=FILES / "ca.pem")
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        return writer.get_extra_info("ssl_object").getpeercert(binary_form=True)  # type: ignore[no-any-return]
    finally:
        writer.transport.abort()


def der(name: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert((FILES / name).read_text())


async def test_tls_serves_those_who_trust_its_authority(tmp_path: Path) -> None:
    async with http_edge(tmp_path, tls=files(tmp_path)) as edge:
        assert edge.server.url.startswith("https://")
        assert await health(edge, trusting()) == 200
        with pytest.raises(httpx2.ConnectError):
            await health(edge, ssl.create_default_context())
        with pytest.raises(httpx2.HTTPError):
            await httpx2.AsyncClient().get(f"http://127.0.0.1:{edge.server.port}/healthz")


async def test_mutual_tls_serves_only_those_with_a_certificate(tmp_path: Path) -> None:
    async with http_edge(tmp_path, tls=files(tmp_path, mutual=True)) as edge:
        assert await health(edge, trusting(with_certificate=True)) == 200
        with pytest.raises(httpx2.HTTPError):
            await health(edge, trusting())


async def test_a9_a_new_certificate_is_taken_without_a_restart(tmp_path: Path) -> None:
    tls = files(tmp_path)
    async with http_edge(tmp_path, tls=tls) as edge:
        assert await served(edge.server.port) == der("server.pem")
        (tmp_path / "server.pem").write_bytes((FILES / "client.pem").read_bytes())
        (tmp_path / "server.key").write_bytes((FILES / "client.key").read_bytes())
        await tls.look()
        assert await served(edge.server.port) == der("client.pem")


async def test_a9_a_certificate_without_its_key_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = files(tmp_path)
    async with http_edge(tmp_path, tls=tls) as edge:
        (tmp_path / "server.pem").write_bytes((FILES / "client.pem").read_bytes())
        await tls.look()
        assert "stays" in caplog.text
        assert await served(edge.server.port) == der("server.pem")
        (tmp_path / "server.pem").unlink()
        await tls.look()
        assert await served(edge.server.port) == der("server.pem")


async def test_a9_grpc_takes_a_new_certificate_too(tmp_path: Path) -> None:
    tls = files(tmp_path)
    async with serving(tmp_path, tls=tls) as edge:
        credentials = grpc.ssl_channel_credentials((FILES / "ca.pem").read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{edge.server.port}", credentials) as channel:
            stub = facilitator_pb2_grpc.FacilitatorServiceStub(channel)
            answer = await stub.Supported(facilitator_pb2.SupportedRequest(), metadata=edge.news, timeout=5)
            assert len(answer.kinds) == 2
        (tmp_path / "server.pem").write_bytes((FILES / "client.pem").read_bytes())
        (tmp_path / "server.key").write_bytes((FILES / "client.key").read_bytes())
        await tls.look()
        context = ssl.create_default_context(cafile=FILES / "ca.pem")
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection("127.0.0.1", edge.server.port, ssl=context)
        assert writer.get_extra_info("ssl_object").getpeercert(binary_form=True) == der("client.pem")
        writer.transport.abort()
