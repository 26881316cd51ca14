"""A chain of one's own: starts Anvil, deploys the contracts, and moves its clock, blocks and fees.

Imported by the tests and by scripts. It asks by tallystick_chain's provider, on a thread of its own: 0.7 ms a question
where Python's own HTTP client takes 0.4 ms.
"""

import asyncio
import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

from tallystick.hashing import keccak256
from tallystick.signatures import Signer
from tallystick_chain.errors import RpcError
from tallystick_chain.provider import Provider
from tallystick_contracts import load

ROOT: Final = Path(__file__).resolve().parent.parent
GAS_MAX: Final = 16_777_216
START_TIMEOUT_S: Final = 20.0
CALL_TIMEOUT_S: Final = 60.0

DEV_KEYS: Final = tuple(
    bytes.fromhex(key)
    for key in (
        "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
        "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
        "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
        "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
        "47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    )
)
"""Keys that every Anvil has, with 10,000 ether each. Known to the whole world: for chains like this one only."""

_LISTENING: Final = re.compile(r"Listening on 127\.0\.0\.1:(\d+)")


def anvil_binary() -> str:
    """Where Anvil is: $ANVIL, the contracts' toolchain, or PATH. Raises FileNotFoundError."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    packaged = ROOT / f"contracts/node_modules/@foundry-rs/anvil-{platform.system().lower()}-{machine}/bin/anvil"
    for candidate in (os.environ.get("ANVIL"), str(packaged) if packaged.exists() else None, shutil.which("anvil")):
        if candidate:
            return candidate
    raise FileNotFoundError("anvil: not found; run scripts/setup, install Foundry, or set $ANVIL")


class DevChain:
    """What can be asked of a running Anvil, from any thread."""

    def __init__(self, port: int, *, poll_s: float = 0.002) -> None:
        """`poll_s`: how often a transaction's block is asked for."""
        self.port = port
        self._poll_s = poll_s
        self._provider = Provider(self.url, timeout_s=CALL_TIMEOUT_S)

    @property
    def url(self) -> str:
        """Its JSON-RPC endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def disconnect(self) -> None:
        """Let the connections go; the next request opens one anew."""
        asyncio.run_coroutine_threadsafe(self._provider.disconnect(), _loop()).result()

    def rpc(self, method: str, *params: Any) -> Any:
        """The result of a JSON-RPC method. Raises RpcError, and ChainUnavailableError where Anvil does not answer."""
        return asyncio.run_coroutine_threadsafe(self._provider.ask(method, *params), _loop()).result()

    # Transactions and calls.

    def send(self, sender: bytes, to: bytes | None, data: bytes, *, value: int = 0) -> dict[str, Any]:
        """Send as any address at all, wait for the block, and return the receipt. Raises RpcError if it reverts."""
        transaction = {"from": hexed(sender), "data": hexed(data), "value": hex(value), "gas": hex(GAS_MAX)}
        if to is not None:
            transaction["to"] = hexed(to)
            self.rpc("eth_call", transaction, "pending")  # tells why, where the transaction would only revert
        self.rpc("anvil_impersonateAccount", hexed(sender))
        sent = self.rpc("eth_sendTransaction", transaction)
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while time.monotonic() < deadline:
            receipt = self.rpc("eth_getTransactionReceipt", sent)
            if receipt is not None:
                if receipt["status"] != "0x1":
                    raise RpcError(3, "reverted in its block", b"")
                return dict(receipt)
            time.sleep(self._poll_s)
        raise TimeoutError(f"no block has taken {sent}")

    def call(self, to: bytes, data: bytes) -> bytes:
        """Run a call on the newest state. Raises RpcError if it reverts."""
        return bytes.fromhex(self.rpc("eth_call", {"to": hexed(to), "data": hexed(data)}, "latest")[2:])

    def deploy(self, bytecode: bytes, arguments: bytes = b"") -> bytes:
        """Deploy a contract from the first dev account; returns its address."""
        receipt = self.send(Signer(DEV_KEYS[0]).address, None, bytecode + arguments)
        return bytes.fromhex(receipt["contractAddress"][2:])

    def deploy_contract(self, name: Any, arguments: bytes = b"") -> bytes:
        """Deploy one of this project's contracts by its name."""
        return self.deploy(load(name).bytecode, arguments)

    # What only a development chain can do.

    def mint(self, token: bytes, holder: bytes, amount: int) -> None:
        """Give an address TestUSDC, in atomic units."""
        self.send(Signer(DEV_KEYS[0]).address, token, function("mint(address,uint256)", holder, amount))

    def token_balance(self, token: bytes, holder: bytes) -> int:
        """An address's balance of a token, in atomic units."""
        return int.from_bytes(self.call(token, function("balanceOf(address)", holder)), "big")

    def set_ether(self, address: bytes, wei: int) -> None:
        """Set an address's ether."""
        self.rpc("anvil_setBalance", hexed(address), hex(wei))

    def mine(self, blocks: int = 1) -> None:
        """Mine so many blocks at once."""
        self.rpc("anvil_mine", hex(blocks))

    def automine(self, on: bool) -> None:
        """Whether every transaction gets its block at once."""
        self.rpc("evm_setAutomine", on)

    def advance(self, seconds: int) -> None:
        """Let time pass, and mine a block."""
        self.rpc("evm_increaseTime", hex(seconds))
        self.mine()

    def reorg(self, depth: int) -> None:
        """Replace the newest blocks by empty ones: what they held is gone."""
        self.rpc("anvil_reorg", depth, [])

    def snapshot(self) -> str:
        """Remember the present state."""
        return str(self.rpc("evm_snapshot"))

    def revert(self, snapshot: str) -> None:
        """Go back to a state that was remembered; it is forgotten by that. The chain's clock goes by ours again."""
        self.rpc("evm_revert", snapshot)
        self.rpc("evm_setTime", hex(int(time.time())))  # it would go on from the time of the snapshot
        # The next block would ask for the fee of the blocks that are gone.
        self.rpc("anvil_setNextBlockBaseFeePerGas", self.rpc("eth_getBlockByNumber", "latest", False)["baseFeePerGas"])

    @property
    def block_number(self) -> int:
        """The newest block's."""
        return int(self.rpc("eth_blockNumber"), 16)


class Anvil(DevChain):
    """A running Anvil of our own. Use it as a context manager, or call `stop`."""

    def __init__(
        self, *, chain_id: int = 31337, block_time_s: float | None = None, options: tuple[str, ...] = ()
    ) -> None:
        """Start it on a free port; returns once it answers. With `block_time_s` it mines on the clock as well."""
        # Old states take gigabytes, which it leaves in the user's home where it is killed; with `stop` these go.
        self._folder = tempfile.TemporaryDirectory(prefix="anvil-", ignore_cleanup_errors=True)
        # To a file: a pipe that nobody empties would stop the node after 64 KiB.
        self._log = Path(self._folder.name, "log").open("wb")  # noqa: SIM115 - closed by `stop`
        # Limits as on live chains, so that the sizes of batches are real.
        command = [anvil_binary(), "--port", "0", "--chain-id", str(chain_id), "--enable-tx-gas-limit"]
        command += ["--cache-path", self._folder.name, *options]
        if block_time_s is not None:
            command += ["--block-time", str(block_time_s), "--mixed-mining"]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL)
        try:
            super().__init__(self._wait_for_port())
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def stop(self) -> None:
        """End it; idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()
        self.stop()

    def _wait_for_port(self) -> int:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            text = Path(self._log.name).read_text(encoding="utf-8", errors="replace")
            match = _LISTENING.search(text)
            if match:
                return int(match[1])
            if self._process.poll() is not None:
                break
            time.sleep(0.005)
        raise RuntimeError(f"anvil did not start:\n{text[-2_000:]}")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The loop, on its thread, that all chains of this process are asked from."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="anvil", daemon=True).start()
    return loop


def function(signature: str, *arguments: int | bytes) -> bytes:
    """Calldata of a function whose arguments are all of one word: integers, addresses, bytes32."""
    words = (a.to_bytes(32, "big") if isinstance(a, int) else a.rjust(32, b"\0") for a in arguments)
    return keccak256(signature.encode())[:4] + b"".join(words)


def hexed(data: bytes) -> str:
    """Bytes as JSON-RPC writes them."""
    return "0x" + data.hex()
