"""The folder that `tallystick serve` starts from, for a devnet: its configuration, and its keys beside it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _anvil import DEV_KEYS
from anvil import NETWORK, Devnet
from tallystick.hexadecimal import checksum
from tallystick_aggregator.auth.credentials import Credentials, Scope

STRANGER_KEY = bytes([7]) * 32

Table = Mapping[str, Any]


def write_site(
    folder: Path,
    devnet: Devnet,
    *,
    server: Table | None = None,
    settlement: Table | None = None,
    limits: Table | None = None,
    chain: Table | None = None,
    token: Table | None = None,
    http: Table | None = None,
    exact: Table | None = None,
    exact_open: Table | None = None,
) -> Path:
    """Write everything; returns the configuration's path. What the tables hold replaces what fits a devnet."""
    for name, key in (("operator", DEV_KEYS[1]), ("sender", DEV_KEYS[2]), ("stranger", STRANGER_KEY)):
        file = folder / f"{name}.key"
        file.write_text(key.hex())
        file.chmod(0o600)
    tables: list[tuple[str, dict[str, Any]]] = [
        ("[server]", {"listen": "127.0.0.1:0", "stop_grace_s": 1} | dict(server or {})),
        ("[settlement]", {"interval_s": 3_600} | dict(settlement or {})),
        ("[limits]", dict(limits or {})),
        *([] if http is None else [("[http]", dict(http))]),
        *([] if exact is None else [("[exact]", dict(exact))]),
        *([] if exact_open is None else [("[exact_open]", dict(exact_open))]),
        (
            "[[chain]]",
            {
                "network": NETWORK,
                "rpc_urls": [devnet.anvil.url],
                "escrow": checksum(devnet.escrow),
                "escrow_block": devnet.escrow_block,
                "operator_key": "file:operator.key",
                "sender_key": "file:sender.key",
                "confirmations": 0,
                "poll_s": 0.05,
            }
            | dict(chain or {}),
        ),
        (
            "[[chain.token]]",
            {
                "address": checksum(devnet.token),
                "symbol": "USDC",
                "decimals": 6,
                "name": "USD Coin",
                "version": "2",
                "min_deposit": "1000",
            }
            | dict(token or {}),
        ),
    ]
    lines = [line for title, values in tables for line in (title, *map(_line, values.items()), "")]
    path = folder / "aggregator.toml"
    path.write_text("\n".join(lines))
    return path


def add_seller(config: Path, name: str, receivers: Sequence[bytes]) -> str:
    """A seller that may do everything for these receivers; returns its token."""
    credentials = Credentials.open(config.parent / "tallystick.db.credentials")
    try:
        return credentials.add(name, receivers, list(Scope))
    finally:
        credentials.close()


def _line(setting: tuple[str, Any]) -> str:
    name, value = setting
    return f"{name} = {json.dumps(value)}"  # numbers, strings, booleans and lists of them are TOML as they are
