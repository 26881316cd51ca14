"""A whole market of real processes: Anvil, `tallystick serve`, and a seller's shop on uvicorn."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from _anvil import DEV_KEYS, Anvil
from anvil import Devnet
from batch_channels import put_batch_settlement
from tallystick.hexadecimal import checksum
from tallystick.signatures import Signer
from tallystick_client import Operator
from waiting import wait_until

START_TIMEOUT_S = 60
PRICE = 1_000
PRICE_TEXT = "0.001 USDC"
MONEY = 100_000_000
HERE = str(Path(__file__).parent)


class Process:
    """A child whose output goes to a file; ended by its id."""

    def __init__(self, name: str, folder: Path, command: list[str], environment: Mapping[str, str]) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=os.environ | environment
            )

    def wait_for(self, text: str, times: int = 1) -> str:
        """What follows this text in the output, up to a space, once it stands there so many times."""

        def found() -> list[str]:
            lines = [line for line in self.log.read_text().splitlines() if text in line]
            assert len(lines) >= times or self.popen.poll() is None, self.log.read_text()
            return lines if len(lines) >= times else []

        lines = wait_until(found, START_TIMEOUT_S, lambda: f"no {text!r} in:\n{self.log.read_text()}")
        return lines[0].partition(text)[2].strip().partition(" ")[0]

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.popen.kill()
        self.popen.wait()

    def stop(self) -> None:
        """Ask it to end, and see that it does."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
                raise


class Market:
    """Everything running; `url` is the shop's, `aggregator` the gRPC target."""

    price = PRICE_TEXT

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.anvil = Anvil()
        self.receiver = Signer(secrets.token_bytes(32)).address
        self._processes: list[Process] = []
        self.site = folder / "site"
        self.config = self.site / "aggregator.toml"
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        where = ("--listen", "127.0.0.1:0", "--public", "127.0.0.1:7402")  # `serve` writes the port that there is
        tallystick("deploy", "--dev", "--rpc", self.anvil.url, "--out", str(self.site), *where)
        self._terms = json.loads((self.site / "operator.json").read_text())
        self.token = bytes.fromhex(self._terms["tokens"][0]["token"][2:])
        self.prepare()
        self.serve()
        self.seller_token = self.add_seller("shop", [self.receiver], "charge", "read", "settle")
        self.shop = self.start_shop("shop")
        self.url = self.shop.wait_for("running on ")

    def prepare(self) -> None:
        """Change what was deployed before it is served: nothing, if not overridden."""

    def start_shop(self, name: str, *options: str) -> Process:
        """Start the shop, or one more like it: of the same seller, with further options of uvicorn."""
        # By its folder: the README has its readers save another shop.py in the project's.
        command = [sys.executable, "-m", "uvicorn", "--app-dir", HERE, "shop:app", "--port", "0", "--no-access-log"]
        return self.start(
            name,
            [*command, *options],
            SHOP_AGGREGATOR=self.aggregator,
            SHOP_TOKEN=self.seller_token,
            SHOP_RECEIVER=checksum(self.receiver),
            SHOP_PRICE=self.price,
            SHOP_LOG=str(self.folder / "handled.log"),
        )

    def serve(self) -> None:
        """Start the aggregator; again on the same port, if it ran before."""
        if hasattr(self, "aggregator"):
            text = self.config.read_text()
            self.config.write_text(text.replace('listen = "127.0.0.1:0"', f'listen = "{self.aggregator}"', 1))
            self.server.log.unlink()
        self.server = self.start(
            "aggregator", [sys.executable, "-m", "tallystick_client.cli", "serve", "--config", str(self.config)]
        )
        self.aggregator = self.server.wait_for("listening on ")
        self._terms["aggregator"] = self.aggregator
        (self.site / "operator.json").write_text(json.dumps(self._terms))

    def start(self, name: str, command: list[str], **environment: str) -> Process:
        """Start a process that ends with the market."""
        process = Process(name, self.folder, command, environment)
        self._processes.append(process)
        return process

    @property
    def operator(self) -> Operator:
        """The operator's terms, as wallets take them."""
        return Operator.load(self.site / "operator.json")

    def add_seller(self, name: str, receivers: list[bytes], *scopes: str) -> str:
        """Make a seller; returns its token."""
        arguments = [part for receiver in receivers for part in ("--receiver", checksum(receiver))]
        arguments += [part for scope in scopes for part in ("--scope", scope)]
        answer = tallystick("seller", "add", name, "--config", str(self.config), "--json", *arguments)
        return str(json.loads(answer)["token"])

    def payer(self, money: int = MONEY) -> Signer:
        """Somebody with test USDC and no deposit yet."""
        signer = Signer(secrets.token_bytes(32))
        self.anvil.mint(self.token, signer.address, money)
        return signer

    def received(self) -> int:
        """What the shop's address holds on chain."""
        return self.anvil.token_balance(self.token, self.receiver)

    def handled(self, what: str) -> int:
        """How many times the shop's handlers ran for this."""
        log = self.folder / "handled.log"
        return log.read_text().splitlines().count(what) if log.exists() else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process that was started here."""
        try:
            for process in reversed(self._processes):
                process.stop()
        finally:
            self.anvil.__exit__(None, None, None)


class HttpMarket(Market):
    """A market whose aggregator is a facilitator over HTTP too, at `http_url`."""

    def prepare(self) -> None:
        self.config.write_text(self.config.read_text() + '\n[http]\nlisten = "127.0.0.1:0"\n')

    def serve(self) -> None:
        super().serve()
        self.http_url = self.server.wait_for("HTTP facilitator at ")


class BatchSettlementMarket(HttpMarket):
    """The same, and it serves batch-settlement on stand-ins of x402's contracts at their canonical addresses."""

    def prepare(self) -> None:
        put_batch_settlement(self.anvil)
        text = self.config.read_text()
        self.config.write_text(text.replace("\noperator_key", "\nbatch_settlement = true\noperator_key", 1))
        super().prepare()

    def devnet(self) -> Devnet:
        """The chain as helpers for payers' channels take it (`batch_channels`)."""
        escrow, somebody = bytes.fromhex(self._terms["escrow"][2:]), Signer(DEV_KEYS[3])
        return Devnet(self.anvil, escrow, self.token, somebody, somebody, 0)


def tallystick(*arguments: str, **environment: Any) -> str:
    """What a command of ours prints; it must succeed."""
    command = [sys.executable, "-m", "tallystick_client.cli", *arguments]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, env=os.environ | environment
    )
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout
