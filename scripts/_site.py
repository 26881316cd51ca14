"""An operator's site of real processes on a chain of our own, made as the README tells a newcomer to make one."""

import json
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from _anvil import Anvil
from _children import Child, Children
from tallystick.hexadecimal import checksum
from tallystick.signatures import Signer


class Site:
    """Contracts, an aggregator and its sellers' tokens; `config` and `operator` are its two files."""

    def __init__(self, folder: Path, anvil: Anvil, children: Children) -> None:
        """Nothing is started yet but the chain."""
        self.folder = folder / "site"
        self.config = self.folder / "aggregator.toml"
        self.operator = self.folder / "operator.json"
        self._anvil = anvil
        self._children = children

    async def deploy(self, *, http: bool = False) -> None:
        """Deploy the contracts and write the two files; with `http`, `serve` is a facilitator over HTTP too."""
        where = ("--listen", "127.0.0.1:0", "--public", "127.0.0.1:7402")  # `serve` writes the port that there is
        await self.tallystick("deploy", "--dev", "--rpc", self._anvil.url, "--out", str(self.folder), *where)
        if http:
            with self.config.open("a") as config:
                config.write('\n[http]\nlisten = "127.0.0.1:0"\n')
        self._http = http
        self.terms: dict[str, Any] = json.loads(self.operator.read_text())
        self.escrow = bytes.fromhex(self.terms["escrow"][2:])
        self.token = bytes.fromhex(self.terms["tokens"][0]["token"][2:])

    async def serve(self) -> None:
        """Start the aggregator, and write its port where payers look for it."""
        self.aggregator = await self.start("aggregator", "serve", "--config", str(self.config))
        self.address = await self.aggregator.said("listening on ")
        if self._http:
            self.facilitator = await self.aggregator.said("HTTP facilitator at ")
        self.terms["aggregator"] = self.address
        self.operator.write_text(json.dumps(self.terms))

    async def seller_token(self, name: str, receivers: Iterable[bytes], scopes: Iterable[str]) -> str:
        """A new seller's token."""
        options = [part for receiver in receivers for part in ("--receiver", checksum(receiver))]
        options += [part for scope in scopes for part in ("--scope", scope)]
        added = await self.tallystick("seller", "add", name, "--config", str(self.config), "--json", *options)
        return str(json.loads(added)["token"])

    async def start_seller(self, name: str, application: str, **environment: str) -> str:
        """Serve an ASGI application by uvicorn; returns its URL."""
        options = (application, "--port", "0", "--no-access-log")
        child = await self._children.start(name, "uvicorn", *options, environment=environment)
        return await child.said("running on ")

    async def start(self, name: str, *arguments: str, **environment: str) -> Child:
        """Start `tallystick` with these arguments."""
        return await self._children.start(name, "tallystick_client.cli", *arguments, environment=environment)

    async def tallystick(self, *arguments: str, **environment: str) -> str:
        """Run `tallystick` to its end; returns what it printed."""
        return await self._children.run(arguments[0], "tallystick_client.cli", *arguments, environment=environment)


def key_file(path: Path) -> Signer:
    """A new key, and a file that holds it; its reference is `file:<path>`."""
    key = secrets.token_bytes(32)
    path.touch(mode=0o600)
    path.write_text(key.hex())
    return Signer(key)
