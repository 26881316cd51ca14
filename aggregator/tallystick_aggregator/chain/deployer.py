"""Puts the escrow on a chain: a deployment's few transactions, sent one after the other before any aggregator runs."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum, to_hex
from tallystick.signatures import Signer
from tallystick.tokens import Token
from tallystick_aggregator.chain.node import RejectedError
from tallystick_aggregator.chain.port import ChainUnavailableError
from tallystick_aggregator.chain.rpc.answers import RpcError
from tallystick_aggregator.chain.rpc.endpoint import Endpoint
from tallystick_aggregator.chain.rpc.node import RpcNode
from tallystick_aggregator.chain.sending.bidding import Bid, bid
from tallystick_aggregator.chain.sending.transactions import Unsigned, sign
from tallystick_aggregator.chain.settings import ConfigurationError, FeeSettings
from tallystick_contracts import ContractName, load

RECEIPT_TIMEOUT_S: Final = 180
RECEIPT_POLL_S_MAX: Final = 1.0
RPC_TIMEOUT_S: Final = 20.0
CALL_GAS_MAX: Final = 320_000
"""Gas limit, at most, of setSender (some 56,000) and mint (88,000), which cannot be estimated before the contracts.
Under EIP-8037 each of the two storage slots that a mint fills takes some 98,000 more."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is on the chain now."""

    chain_id: int
    escrow: bytes
    escrow_block: int
    operator: bytes
    token: Token


class Deployer:
    """Sends a deployment's transactions, each after the receipt of the one before it."""

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        """`say` is told of each step."""
        self._endpoint = Endpoint(url, RPC_TIMEOUT_S)
        self._node = RpcNode([url], timeout_s=RPC_TIMEOUT_S)
        self._say = say

    async def chain_id(self) -> int:
        """The chain's id. Raises ConfigurationError if nobody answers there."""
        try:
            return await self._node.chain_id()
        except ChainUnavailableError as error:
            raise ConfigurationError(f"--rpc: nothing answers at {self._endpoint.name}: {error}") from None

    async def describe(self, token: bytes) -> Token:
        """What a token says of itself. Raises ConfigurationError if it is none that deposits can be in."""
        try:
            return Token(
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
        except ChainUnavailableError as error:
            raise self._unanswered(error) from None

    async def check_gas(
        self, signer: Signer, option: str, *, creations: Sequence[ContractName] = (), calls: int = 0
    ) -> None:
        """Raise ConfigurationError if whoever is to send so much has less than that may cost at today's fees."""
        try:
            balance = await self._node.balance(signer.address)
            max_fee = (await self._bid()).max_fee
            limits = [await self._gas_limit(signer.address, b"", load(name).bytecode) for name in creations]
        except (RpcError, ChainUnavailableError) as error:
            raise self._failure(signer, error) from None
        gas = sum(limits) + calls * CALL_GAS_MAX
        if balance < gas * max_fee:
            raise ConfigurationError(
                f"{option}: got {checksum(signer.address)}, which has {balance} wei to pay for gas with; allowed a key"
                f" with {gas * max_fee} or more: up to {gas} gas at up to {max_fee} wei"
            )

    async def deploy(self, sender: Signer, operator: Signer, token: Token | None) -> Deployment:
        """Deploy the escrow (and a test token if `token` is None), and let the sender claim for the operator."""
        chain_id = await self.chain_id()
        if token is None:
            token = await self.describe((await self._create(sender, chain_id, "TestUSDC"))[0])
        escrow, block = await self._create(sender, chain_id, "Escrow")
        if operator.address != sender.address:
            data = _selector("setSender(address,bool)") + _word(sender.address) + _word(b"\x01")
            await self._send(operator, chain_id, escrow, data)
            self._say(f"sender     {checksum(sender.address)} may claim for {checksum(operator.address)}")
        return Deployment(chain_id, escrow, block, operator.address, token)

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
        try:
            gas_limit = await self._gas_limit(signer.address, to, data)
            nonce = await self._node.next_nonce(signer.address)
            signed = sign(signer, Unsigned(chain_id, nonce, gas_limit, to, data), await self._bid(), int(time.time()))
            await self._node.send(signed.raw)
            return await self._receipt(signed.transaction_hash)
        except (RpcError, RejectedError, ChainUnavailableError) as error:
            raise self._failure(signer, error) from None

    async def _gas_limit(self, sender: bytes, to: bytes, data: bytes) -> int:
        call = {"from": to_hex(sender), "data": to_hex(data)} | ({"to": to_hex(to)} if to else {})
        return int(await self._endpoint.ask("eth_estimateGas", call), 16) * 12 // 10

    async def _bid(self) -> Bid:
        return bid(await self._node.fees(), FeeSettings())

    def _failure(self, signer: Signer, error: Exception) -> ConfigurationError:
        if isinstance(error, ChainUnavailableError):
            return self._unanswered(error)
        refused = str(error) if isinstance(error, RejectedError) else f"{self._endpoint.name}: {error}"
        return ConfigurationError(f"{checksum(signer.address)} cannot send to {refused}")

    def _unanswered(self, error: ChainUnavailableError) -> ConfigurationError:
        return ConfigurationError(f"{self._endpoint.name} does not answer: {error}")

    async def _receipt(self, transaction_hash: bytes) -> dict[str, Any]:
        deadline, pause_s = time.monotonic() + RECEIPT_TIMEOUT_S, 0.05
        while time.monotonic() < deadline:
            receipt = None
            with suppress(
                RpcError, ChainUnavailableError
            ):  # it is sent and paid for: an endpoint's trouble is no answer
                receipt = await self._endpoint.ask("eth_getTransactionReceipt", to_hex(transaction_hash))
            if receipt is not None:
                if receipt["status"] != "0x1":
                    raise ConfigurationError(f"transaction {to_hex(transaction_hash)} reverted")
                return dict(receipt)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RECEIPT_POLL_S_MAX)
        raise ConfigurationError(
            f"transaction {to_hex(transaction_hash)} is in no block after {RECEIPT_TIMEOUT_S} s; see what becomes of it"
        )

    async def _ask_token(self, token: bytes, getter: str) -> bytes:
        call = {"to": to_hex(token), "data": to_hex(_selector(getter))}
        return bytes.fromhex((await self._endpoint.ask("eth_call", call, "latest"))[2:])


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
