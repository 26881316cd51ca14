"""The protocol package is light: importing it brings no server, no transport and no chain library."""

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "proto/tallystick"
HEAVY = {
    "asyncio", "grpc", "google.protobuf", "web3", "eth_account", "eth_keyfile", "aiosqlite", "sqlite3", "httpx",
    "httpx2", "tallystick_aggregator", "tallystick_client", "tallystick_contracts",
}  # fmt: skip


def test_importing_every_module_loads_nothing_heavy() -> None:
    modules = [f"tallystick.{path.stem}" for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    assert len(modules) >= 14
    code = f"import sys, {', '.join(modules)}, tallystick.x402; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert HEAVY.isdisjoint(loaded.stdout.split())
