"""The gRPC server: what it binds to, who may read along, and what one peer may take up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tallystick.v1 import (
    account_pb2,
    account_pb2_grpc,
    charge_pb2,
    facilitator_pb2,
    facilitator_pb2_grpc,
    settlement_pb2,
    settlement_pb2_grpc,
)
from tallystick_aggregator.api.grpc.account import AccountService
from tallystick_aggregator.api.grpc.charge import ChargeService, add_charge_service
from tallystick_aggregator.api.grpc.concurrency_limits import CallLimits, ConcurrencyLimits
from tallystick_aggregator.api.grpc.facilitator import FacilitatorService
from tallystick_aggregator.api.grpc.settlement import SettlementService
from tallystick_aggregator.api.tls import Tls, TlsFiles
from tallystick_aggregator.chain.settings import ConfigurationError

MESSAGE_BYTES_MAX: Final = 1024 * 1024
"""A batch of 256 charges has about 90 KiB."""
CALLS_MAX: Final = 8_192
"""Calls of all peers under way at once; beyond that they are refused as RESOURCE_EXHAUSTED."""
CALLS_PER_CONNECTION_MAX: Final = 1_024

SETTLEMENT_SERVICE_NAME: Final = settlement_pb2.DESCRIPTOR.services_by_name["SettlementService"].full_name
SERVICE_NAMES: Final = (
    facilitator_pb2.DESCRIPTOR.services_by_name["FacilitatorService"].full_name,
    charge_pb2.DESCRIPTOR.services_by_name["ChargeService"].full_name,
    account_pb2.DESCRIPTOR.services_by_name["AccountService"].full_name,
    SETTLEMENT_SERVICE_NAME,
)

OPTIONS: Final[Sequence[tuple[str, Any]]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION_MAX),
    ("grpc.max_metadata_size", 16 * 1024),
    # Two servers on one port would share its calls: one process owns the store.
    ("grpc.so_reuseport", 0),
    # A peer that vanished without a word is noticed within a minute, and may ask as often itself.
    ("grpc.keepalive_time_ms", 40_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 10),
)


@dataclass(frozen=True, slots=True)
class Services:
    """What is served."""

    facilitator: FacilitatorService
    charge: ChargeService
    account: AccountService
    settlement: SettlementService


class GrpcServer:
    """One listening server. `port` is the bound one, once it is built."""

    def __init__(
        self, services: Services, listen: str, tls: Tls | TlsFiles | None, call_limits: CallLimits | None = None
    ) -> None:
        """Build and bind. Raises ConfigurationError where the address cannot be had. Needs a running event loop.

        Files are followed: a connection is made with what they hold by then.
        """
        self.limits = ConcurrencyLimits(services.charge.principals, call_limits)
        self._server = grpc.aio.server(
            interceptors=[self.limits],
            options=OPTIONS,
            maximum_concurrent_rpcs=CALLS_MAX,
        )
        facilitator_pb2_grpc.add_FacilitatorServiceServicer_to_server(services.facilitator, self._server)
        add_charge_service(services.charge, self._server)
        account_pb2_grpc.add_AccountServiceServicer_to_server(services.account, self._server)
        settlement_pb2_grpc.add_SettlementServiceServicer_to_server(services.settlement, self._server)
        # The library ships no types.
        self._health: Any = cast("Any", health).aio.HealthServicer()
        cast("Any", health_pb2_grpc).add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self.port = self._bind(listen, tls)

    async def start(self) -> None:
        """Take calls."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, and end those under way that last longer than `grace_s`."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    async def tell_health(self, *, serving: bool) -> None:
        """Set the health of all services, and of the server as a whole."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *SERVICE_NAMES):
            await self._health.set(name, status)

    async def tell_settling(self, *, settling: bool) -> None:
        """Set the health of SettlementService alone."""
        status = health_pb2.HealthCheckResponse.SERVING if settling else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(SETTLEMENT_SERVICE_NAME, status)

    def _bind(self, listen: str, tls: Tls | TlsFiles | None) -> int:
        try:
            if tls is None:
                port = self._server.add_insecure_port(listen)
            else:
                port = self._server.add_secure_port(listen, _credentials(tls))
        except RuntimeError:
            port = 0
        if port == 0:
            raise ConfigurationError(
                f"server.listen: {listen!r} cannot be bound; is it in use, or not of this machine?"
            )
        return port


def _credentials(tls: Tls | TlsFiles) -> grpc.ServerCredentials:
    def configuration(current: Tls) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(current.key, current.certificate)], current.client_ca)

    first = told = tls if isinstance(tls, Tls) else tls.current

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """Return what is new since the last connection; gRPC asks at each, on a thread of its own."""
        nonlocal told
        current = tls if isinstance(tls, Tls) else tls.current
        if current is told:
            return None
        told = current
        return configuration(current)

    # The library's types do not know that None means: nothing new.
    make: Any = grpc.dynamic_ssl_server_credentials
    credentials: grpc.ServerCredentials = make(
        configuration(first), fetch, require_client_authentication=first.client_ca is not None
    )
    return credentials
