"""The aggregator under measurement: its real gRPC edge, batcher, ledger and SQLite journal, without a chain.

What is missing on purpose: the watcher (accounts are mirrored by the events that fill the store) and the settler. What
is there: authentication by a seller's token, TLS if asked for, fsync before every answer, timers and checkpoints.
"""

import asyncio
import gc
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop

from _children import say, settings_of_child
from benchmarks import world
from tallystick_aggregator.api.grpc.charge import ChargeLimits, ChargeService, add_charge_service
from tallystick_aggregator.api.grpc.concurrency_limits import ConcurrencyLimits
from tallystick_aggregator.api.grpc.server import CALLS_MAX, OPTIONS
from tallystick_aggregator.auth.credentials import Credentials, Principals, Scope
from tallystick_aggregator.charging import LedgerWriter, PaymentBatcher
from tallystick_aggregator.charging.maintenance import Maintenance, MaintenanceSettings
from tallystick_aggregator.charging.signature_processes import SignatureProcesses
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.runtime.serve import tune
from tallystick_aggregator.store.sqlite.store import SqliteStore


async def serve(settings: dict[str, Any]) -> None:
    """Serve until told to stop, or until the parent is gone."""
    store = await SqliteStore.open(settings["store"])
    ledger = await store.journal.load()
    writer, rules = LedgerWriter(ledger, store.journal), Rules()
    signatures = SignatureProcesses(settings["processes"])
    await signatures.start()
    separators = {EscrowRef(world.NETWORK, world.DOMAIN.verifying_contract): world.DOMAIN.separator}
    batcher = PaymentBatcher(writer, separators, rules, signatures=signatures)
    usual = MaintenanceSettings()
    backlog = settings.get("checkpoint_backlog", usual.checkpoint_backlog)
    keeper = Maintenance(writer, store.journal, rules, replace(usual, checkpoint_backlog=backlog))
    credentials = Credentials.open(settings["store"] + ".credentials")
    token = settings.get("token") or credentials.add("seller", [world.RECEIVER], [Scope.CHARGE])
    charges = ChargeService(Principals(credentials.lookup), batcher, writer, ChargeLimits())
    server = grpc.aio.server(
        interceptors=[ConcurrencyLimits(charges.principals)], options=OPTIONS, maximum_concurrent_rpcs=CALLS_MAX
    )
    add_charge_service(charges, server)
    port = listen(server, settings)
    writing = asyncio.create_task(writer.serve())
    timers = keeper.timers()
    for timer in timers:
        timer.start()
    await server.start()
    gc.collect()
    gc.freeze()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    say({"ready": True, "port": port, "token": token})
    await stop.wait()
    await server.stop(1)
    for timer in timers:
        await timer.stop()
    writer.stop()
    await writing
    batcher.close()
    await signatures.closed()
    await store.close()


def listen(server: grpc.aio.Server, settings: dict[str, Any]) -> int:
    """Bind to a port of 127.0.0.1, with TLS if there is a certificate."""
    address = f"127.0.0.1:{settings.get('port', 0)}"
    if not settings.get("tls"):
        return server.add_insecure_port(address)
    folder = Path(settings["tls"])
    pair = (folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes()
    return server.add_secure_port(address, grpc.ssl_server_credentials([pair]))


def main() -> None:
    """Be the child that the settings ask for."""
    tune()
    uvloop.run(serve(settings_of_child()))


if __name__ == "__main__":
    main()
