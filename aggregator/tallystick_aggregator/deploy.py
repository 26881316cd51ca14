"""`tallystick deploy`: puts the escrow on a chain and writes the two files that everybody starts from.

`aggregator.toml` is what `tallystick serve` takes; `operator.json` is what payers put on their wallet's allow-list.
Nothing is overwritten, and no key is written into either. With `--dev`, on a development chain, it also deploys a test
token, and writes the keys that such chains give to everybody.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tallystick.amounts import parse_amount
from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum, parse_address, to_hex
from tallystick.keys import load_signer
from tallystick.signatures import Signer
from tallystick_aggregator.chain.port import ChainUnavailable
from tallystick_aggregator.chain.rpc import Endpoint, RpcNode
from tallystick_aggregator.chain.rpc_answers import RpcError
from tallystick_aggregator.chain.settings import DEV_CHAIN_IDS, ConfigurationError, FeeSettings
from tallystick_aggregator.chain.transactions import Unsigned, bid, sign
from tallystick_aggregator.config_chains import read_endpoint
from tallystick_contracts import ContractName, load

RECEIPT_TIMEOUT_S: Final = 180
RPC_TIMEOUT_S: Final = 20.0
CONFIG_NAME: Final = "aggregator.toml"
OPERATOR_NAME: Final = "operator.json"
DEV_PAYER_FUNDS: Final = 1_000_000_000
"""1,000 test USDC, in atomic units."""

DEV_KEYS: Final = {
    "sender": "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "operator": "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "payer": "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
}
"""Keys that every development chain funds, known to the whole world; refused on any other chain."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to deploy and what to write. `min_deposit` in atomic units; `token` None: deploy a test token.

    `rpc_url` may be env:NAME, and is written as such: some endpoints hold a provider's key.
    """

    rpc_url: str
    operator: Signer
    operator_key: str
    sender: Signer
    sender_key: str
    token: bytes | None
    listen: str
    interval_s: int
    withdraw_delay_s: int
    min_deposit: int
    dev: bool

    @classmethod
    def of_options(
        cls, *, sender_key: str | None, operator_key: str | None, token: str | None, min_deposit: str, **rest: Any
    ) -> Self:
        """From the command line. Raises ConfigurationError and MalformedError, which name the option."""
        if not (sender_key and operator_key and token):
            raise ConfigurationError("--sender-key, --operator-key and --token are needed (or --dev)")
        return cls(
            operator=load_signer(operator_key, "--operator-key"),
            operator_key=operator_key,
            sender=load_signer(sender_key, "--sender-key"),
            sender_key=sender_key,
            token=parse_address(token, "--token"),
            min_deposit=parse_amount(min_deposit, "--min-deposit"),
            dev=False,
            **rest,
        )

    @classmethod
    def of_dev_chain(
        cls, *, sender_key: str | None, operator_key: str | None, token: str | None, min_deposit: str, **rest: Any
    ) -> Self:
        """The same with a test token and the development keys."""
        if sender_key or operator_key or token:
            raise ConfigurationError("--dev brings its own keys and token: leave --sender-key and the like out")
        return cls(
            operator=_dev_signer("operator"),
            operator_key="file:operator.key",
            sender=_dev_signer("sender"),
            sender_key="file:sender.key",
            token=None,
            min_deposit=parse_amount(min_deposit, "--min-deposit"),
            dev=True,
            **rest,
        )


async def carry_out(plan: Plan, out: Path, say: Callable[[str], None]) -> None:
    """Deploy as planned and write the files; `say` is told of each step."""
    _check_free(out, dev=plan.dev)
    deployer = Deployer(plan.rpc_url, say)
    try:
        chain_id = await deployer.chain_id()
        if plan.dev and chain_id not in DEV_CHAIN_IDS:
            raise ConfigurationError(
                f"--dev: got chain {chain_id}, allowed {sorted(DEV_CHAIN_IDS)}: its keys are public"
            )
        deployment = await deployer.deploy(plan.sender, plan.operator, plan.token)
        if plan.dev:
            await deployer.mint(plan.sender, deployment.token.address, _dev_signer("payer").address, DEV_PAYER_FUNDS)
    finally:
        await deployer.close()
    written = [out / CONFIG_NAME, out / OPERATOR_NAME]
    _write_new(out / CONFIG_NAME, _configuration(deployment, plan))
    _write_new(out / OPERATOR_NAME, _operator_file(deployment, plan))
    for name, key in DEV_KEYS.items() if plan.dev else ():
        _write_new(out / f"{name}.key", key + "\n", mode=0o600)
        written.append(out / f"{name}.key")
    say("wrote      " + ", ".join(str(path) for path in written))


@dataclass(frozen=True, slots=True)
class DeployedToken:
    """The token that deposits will be in, as it describes itself."""

    address: bytes
    symbol: str
    decimals: int
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is on the chain now."""

    chain_id: int
    escrow: bytes
    escrow_block: int
    operator: bytes
    token: DeployedToken


class Deployer:
    """Sends a deployment's transactions, each after the receipt of the one before it."""

    def __init__(self, rpc_url: str, say: Callable[[str], None]) -> None:
        """`say` is told of each step."""
        url = read_endpoint(rpc_url, "--rpc")
        self._endpoint = Endpoint(url, RPC_TIMEOUT_S)
        self._node = RpcNode([url], timeout_s=RPC_TIMEOUT_S)
        self._say = say

    async def chain_id(self) -> int:
        """The chain's id. Raises ConfigurationError if nobody answers there."""
        try:
            return await self._node.chain_id()
        except ChainUnavailable as error:
            raise ConfigurationError(f"--rpc: nothing answers at {self._endpoint.name}: {error}") from None

    async def deploy(self, sender: Signer, operator: Signer, token: bytes | None) -> Deployment:
        """Deploy the escrow (and a test token if `token` is None), and let the sender claim for the operator."""
        chain_id = await self.chain_id()
        if token is None:
            token = (await self._create(sender, chain_id, "TestUSDC"))[0]
        described = await self._describe(token)
        escrow, block = await self._create(sender, chain_id, "Escrow")
        if operator.address != sender.address:
            data = _selector("setSender(address,bool)") + _word(sender.address) + _word(b"\x01")
            await self._send(operator, chain_id, escrow, data)
            self._say(f"sender     {checksum(sender.address)} may claim for {checksum(operator.address)}")
        return Deployment(chain_id, escrow, block, operator.address, described)

    async def mint(self, sender: Signer, token: bytes, holder: bytes, amount: int) -> None:
        """Give an address test money."""
        data = _selector("mint(address,uint256)") + _word(holder) + amount.to_bytes(32, "big")
        await self._send(sender, await self.chain_id(), token, data)

    async def close(self) -> None:
        """Let the connections go."""
        await self._node.close()
        await self._endpoint.close()

    async def _create(self, sender: Signer, chain_id: int, name: ContractName) -> tuple[bytes, int]:
        receipt = await self._send(sender, chain_id, b"", load(name).bytecode)
        address = bytes.fromhex(receipt["contractAddress"][2:])
        self._say(f"{name:<10} {checksum(address)}")
        return address, int(receipt["blockNumber"], 16)

    async def _send(self, signer: Signer, chain_id: int, to: bytes, data: bytes) -> dict[str, Any]:
        call = {"from": to_hex(signer.address), "data": to_hex(data)} | ({"to": to_hex(to)} if to else {})
        try:
            gas = int(await self._endpoint.ask("eth_estimateGas", call), 16)
            nonce = await self._node.next_nonce(signer.address)
            offer = bid(await self._node.fees(), FeeSettings())
            signed = sign(signer, Unsigned(chain_id, nonce, gas * 12 // 10, to, data), offer, int(time.time()))
            await self._node.send(signed.raw)
            return await self._receipt(signed.transaction_hash)
        except RpcError as error:
            raise ConfigurationError(
                f"{checksum(signer.address)} cannot send to {self._endpoint.name}: {error}"
            ) from None
        except ChainUnavailable as error:
            raise ConfigurationError(f"{self._endpoint.name} does not answer: {error}") from None

    async def _receipt(self, transaction_hash: bytes) -> dict[str, Any]:
        deadline = time.monotonic() + RECEIPT_TIMEOUT_S
        while time.monotonic() < deadline:
            receipt = await self._endpoint.ask("eth_getTransactionReceipt", to_hex(transaction_hash))
            if receipt is not None:
                if receipt["status"] != "0x1":
                    raise ConfigurationError(f"transaction {to_hex(transaction_hash)} reverted")
                return dict(receipt)
            await asyncio.sleep(0.05)
        raise ConfigurationError(
            f"transaction {to_hex(transaction_hash)} is in no block after {RECEIPT_TIMEOUT_S} s; see what becomes of it"
        )

    async def _describe(self, token: bytes) -> DeployedToken:
        try:
            return DeployedToken(
                address=token,
                symbol=_string(await self._ask_token(token, "symbol()")),
                decimals=int.from_bytes(await self._ask_token(token, "decimals()"), "big"),
                name=_string(await self._ask_token(token, "name()")),
                version=_string(await self._ask_token(token, "version()")),
            )
        except (RpcError, ValueError):
            raise ConfigurationError(
                f"--token: {checksum(token)} does not answer name(), symbol(), version() and decimals();"
                " it is no ERC-20 with ERC-3009"
            ) from None

    async def _ask_token(self, token: bytes, getter: str) -> bytes:
        call = {"to": to_hex(token), "data": to_hex(_selector(getter))}
        return bytes.fromhex((await self._endpoint.ask("eth_call", call, "latest"))[2:])


def _check_free(out: Path, *, dev: bool) -> None:
    """Make the folder; raise ConfigurationError if a file of ours is there already, before anything is deployed."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--out: {out} cannot be made: {error.strerror}") from error
    for name in (CONFIG_NAME, OPERATOR_NAME, *(f"{name}.key" for name in DEV_KEYS if dev)):
        if (out / name).exists():
            raise ConfigurationError(f"--out: {out / name} is there already; nothing is overwritten")


def _dev_signer(name: str) -> Signer:
    return Signer(bytes.fromhex(DEV_KEYS[name]))


def _configuration(deployment: Deployment, plan: Plan) -> str:
    token = deployment.token
    pace = "confirmations = 0\npoll_s = 0.1\n" if deployment.chain_id in DEV_CHAIN_IDS else ""
    return f"""\
# Written by `tallystick deploy`. docs/configuration.md lists all settings.

[server]
listen = {json.dumps(plan.listen)}

[store]
path = "tallystick.db"

[settlement]
interval_s = {plan.interval_s}

[[chain]]
network = "eip155:{deployment.chain_id}"
rpc_urls = [{json.dumps(plan.rpc_url)}]
escrow = "{checksum(deployment.escrow)}"
escrow_block = {deployment.escrow_block}
operator_key = {json.dumps(plan.operator_key)}
sender_key = {json.dumps(plan.sender_key)}
{pace}
[[chain.token]]
address = "{checksum(token.address)}"
symbol = {json.dumps(token.symbol)}
decimals = {token.decimals}
name = {json.dumps(token.name)}
version = {json.dumps(token.version)}
min_deposit = "{plan.min_deposit}"
"""


def _operator_file(deployment: Deployment, plan: Plan) -> str:
    token = deployment.token
    listen_host = plan.listen.rpartition(":")[0]
    return (
        json.dumps(
            {
                "network": f"eip155:{deployment.chain_id}",
                "aggregator": plan.listen,
                "insecure": listen_host in {"127.0.0.1", "localhost", "[::1]"},
                "operator": checksum(deployment.operator),
                "escrow": checksum(deployment.escrow),
                "withdraw_delay_s": plan.withdraw_delay_s,
                "tokens": [
                    {
                        "token": checksum(token.address),
                        "symbol": token.symbol,
                        "decimals": token.decimals,
                        "name": token.name,
                        "version": token.version,
                        "min_deposit": str(plan.min_deposit),
                    }
                ],
            },
            indent=2,
        )
        + "\n"
    )


def _write_new(path: Path, text: str, mode: int = 0o644) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise ConfigurationError(f"--out: {path} is there already; nothing is overwritten") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _selector(signature: str) -> bytes:
    return keccak256(signature.encode())[:4]


def _word(data: bytes) -> bytes:
    return data.rjust(32, b"\0")


def _string(data: bytes) -> str:
    """An ABI-encoded string; raises ValueError on anything else."""
    length = int.from_bytes(data[32:64], "big")
    if len(data) < 64 + length or int.from_bytes(data[:32], "big") != 32:
        raise ValueError("no ABI string")
    return data[64 : 64 + length].decode()
