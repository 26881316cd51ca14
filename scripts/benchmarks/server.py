"""The aggregator under measurement: its real gRPC edge, intake, ledger and SQLite journal, without a chain.

What is missing on purpose: the watcher (accounts are mirrored by the events that fill the store) and the settler. What
is there: authentication by a seller's token, TLS if asked for, fsync before every answer, timers and checkpoints.
"""

import asyncio
import gc
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop
from benchmarks import world
from benchmarks.children import say, settings_of_child

from tallystick.v1 import charge_pb2_grpc
from tallystick_aggregator.edges.grpc.charge import ChargeLimits, ChargeService
from tallystick_aggregator.edges.grpc.principals import Principals
from tallystick_aggregator.edges.grpc.server import _OPTIONS
from tallystick_aggregator.intake import Intake, LedgerWriter
from tallystick_aggregator.intake.signature_processes import SignatureProcesses
from tallystick_aggregator.intake.upkeep import Upkeep
from tallystick_aggregator.journal.credentials import Credentials, Scope
from tallystick_aggregator.journal.sqlite import SqliteStore
from tallystick_aggregator.ledger.commands import Rules


async def serve(settings: dict[str, Any]) -> None:
    """Serve until told to stop."""
    sys.setswitchinterval(0.0005)
    store = await SqliteStore.open(settings["store"])
    ledger = await store.journal.load()
    gc.collect()
    gc.freeze()
    writer = LedgerWriter(ledger, store.journal)
    rules = Rules()
    signatures = SignatureProcesses(settings["processes"]) if settings["processes"] else None
    if signatures is not None:
        await signatures.start()
    intake = Intake(writer, {world.NETWORK: world.DOMAIN.separator}, rules, signatures=signatures)
    upkeep = Upkeep(writer, store.journal, rules)
    credentials = Credentials.open(Path(settings["store"] + ".credentials"))
    token = credentials.add("bench", [world.RECEIVER], [Scope.CHARGE])
    server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=8192)
    charges = ChargeService(Principals(credentials.lookup), intake, writer, ChargeLimits())
    charge_pb2_grpc.add_ChargeServiceServicer_to_server(charges, server)
    if settings.get("tls_certificate"):
        pair = Path(settings["tls_key"]).read_bytes(), Path(settings["tls_certificate"]).read_bytes()
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    working = asyncio.create_task(writer.serve())
    timers = [
        asyncio.create_task(timer())
        for timer in (upkeep.checkpoint, upkeep.forget_payments, upkeep.expire_reservations)
    ]
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    say({"ready": True, "port": port, "token": token})
    await stop.wait()
    await server.stop(1)
    for timer in timers:
        timer.cancel()
    writer.stop()
    await working
    intake.close()
    await store.close()


def main() -> None:
    """Be the child that the settings ask for."""
    settings = settings_of_child()
    if settings.get("profile"):
        import cProfile

        profile = cProfile.Profile()
        profile.enable()
        try:
            uvloop.run(serve(settings))
        finally:
            profile.disable()
            profile.dump_stats(settings["profile"])
    else:
        uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
