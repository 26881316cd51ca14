"""Puts the escrow on a chain: a deployment's few transactions, sent one after the other before any aggregator runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tallystick.hexadecimal import checksum
from tallystick.signatures import Signer
from tallystick.tokens import Token
from tallystick_aggregator.chain.port import ChainUnavailableError
from tallystick_aggregator.chain.sending.bidding import bid
from tallystick_aggregator.chain.settings import ConfigurationError, FeeSettings
from tallystick_chain.caller import Caller, Mined, TransactionFailedError
from tallystick_chain.errors import RpcError
from tallystick_chain.reverts import describe
from tallystick_contracts import ContractName, load

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
        self._caller = Caller(url, offer=lambda market: bid(market, FeeSettings()))
        self._say = say

    async def chain_id(self) -> int:
        """The chain's id. Raises ConfigurationError if nobody answers there."""
        try:
            return await self._caller.chain_id()
        except (RpcError, ChainUnavailableError) as error:
            raise ConfigurationError(f"--rpc: nothing answers at {self._caller.name}: {error}") from None

    async def describe(self, token: bytes) -> Token:
        """What a token says of itself. Raises ConfigurationError if it is none that deposits can be in."""
        try:
            symbol, decimals, name, version = [
                await self._caller.read(token, "TestUSDC", getter)
                for getter in ("symbol", "decimals", "name", "version")
            ]
            return Token(address=token, symbol=symbol, decimals=decimals, name=name, version=version)
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
        """Raise ConfigurationError if the sender's balance does not cover this at current fees."""
        try:
            balance = await self._caller.balance(signer.address)
            max_fee = (await self._caller.bid()).max_fee
            limits = [await self._caller.gas_limit(signer.address, b"", load(name).bytecode) for name in creations]
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
            token = await self.describe((await self._create(sender, "TestUSDC"))[0])
        escrow, block = await self._create(sender, "Escrow")
        if operator.address != sender.address:
            data = self._caller.encode("Escrow", "setSender", sender.address, True)
            await self._send(operator, escrow, data)
            self._say(f"sender     {checksum(sender.address)} may claim for {checksum(operator.address)}")
        return Deployment(chain_id, escrow, block, operator.address, token)

    async def mint(self, sender: Signer, token: bytes, holder: bytes, amount: int) -> None:
        """Give an address test money."""
        data = self._caller.encode("TestUSDC", "mint", holder, amount)
        await self._send(sender, token, data)

    async def close(self) -> None:
        """Let the connections go."""
        await self._caller.close()

    async def _create(self, sender: Signer, name: ContractName) -> tuple[bytes, int]:
        mined = await self._send(sender, b"", load(name).bytecode)
        self._say(f"{name:<10} {checksum(mined.created)}")
        return mined.created, mined.block_number

    async def _send(self, signer: Signer, to: bytes, data: bytes) -> Mined:
        try:
            return await self._caller.send(signer, to, data)
        except (RpcError, ChainUnavailableError) as error:
            raise self._failure(signer, error) from None
        except TransactionFailedError as failed:
            raise ConfigurationError(str(failed)) from None

    def _failure(self, signer: Signer, error: RpcError | ChainUnavailableError) -> ConfigurationError:
        if isinstance(error, ChainUnavailableError):
            return self._unanswered(error)
        return ConfigurationError(f"{checksum(signer.address)} cannot send to {self._caller.name}: {describe(error)}")

    def _unanswered(self, error: ChainUnavailableError) -> ConfigurationError:
        return ConfigurationError(f"{self._caller.name} does not answer: {error}")
