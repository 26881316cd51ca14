"""A few transactions of one key, each sent after the receipt of the one before: what commands of people need.

The aggregator sends through its outbox instead, which outlives a crash (`tallystick_aggregator.chain.sending`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple, cast

from eth_typing import ChecksumAddress, Hash32, HexAddress, HexStr
from web3 import AsyncWeb3
from web3.exceptions import TransactionNotFound, Web3Exception
from web3.types import TxParams, TxReceipt

from tallystick.hexadecimal import checksum, to_hex
from tallystick.signatures import Signer
from tallystick_chain.errors import ChainUnavailableError, RpcError
from tallystick_chain.fees import Bid, MarketFees, market_fees, usual_bid
from tallystick_chain.provider import Provider
from tallystick_chain.transactions import Unsigned, sign
from tallystick_contracts import ContractName, load

TIMEOUT_S: Final = 20.0
"""For one answer."""
RECEIPT_TIMEOUT_S: Final = 180.0
RECEIPT_POLL_S_MAX: Final = 1.0


class TransactionFailedError(Exception):
    """A transaction was sent, and reverted in its block or is in none yet; says which, with its hash."""


class Event(NamedTuple):
    """An event of a mined transaction, and the contract that it came from."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


class Mined(NamedTuple):
    """A transaction that did its work. `created`: the contract that it made, empty for none."""

    transaction_hash: bytes
    block_number: int
    created: bytes
    events: tuple[Event, ...]


class Caller:
    """One endpoint, asked and sent to. `close` it in the end.

    What is asked raises RpcError where the endpoint refuses, and ChainUnavailableError where it does not answer.
    """

    def __init__(
        self,
        url: str,
        *,
        offer: Callable[[MarketFees], Bid] = usual_bid,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`offer`: what to bid at today's fees."""
        self._provider = Provider(url, timeout_s=TIMEOUT_S)
        self.name = self._provider.name
        self._web3 = AsyncWeb3(self._provider)
        self._offer = offer
        self._clock = clock
        self._pause = pause

    async def chain_id(self) -> int:
        with self._reading():
            return await self._web3.eth.chain_id

    async def balance(self, holder: bytes) -> int:
        """Wei at the head."""
        with self._reading():
            return await self._web3.eth.get_balance(_address(holder))

    async def bid(self) -> Bid:
        """What a transaction would offer now."""
        return self._offer(await market_fees(self._provider))

    async def code(self, address: bytes) -> bytes:
        """The code at an address at the head; empty for a plain key's."""
        with self._reading():
            return bytes(await self._web3.eth.get_code(_address(address)))

    async def read(self, address: bytes, name: ContractName, function: str, *arguments: Any) -> Any:
        """What a view of a contract returns at the head, by the ABI of one of this project's; structs by their fields.

        Raises ValueError for an answer that is not of its types, and as above.
        """
        contract = self._web3.eth.contract(_address(address), abi=load(name).abi, decode_tuples=True)
        try:
            return await cast("Any", contract.functions)[function](*arguments).call()
        except (Web3Exception, LookupError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{function}(): {type(error).__name__}") from error

    def encode(self, name: ContractName, function: str, *arguments: Any) -> bytes:
        """Calldata of a function of one of this project's contracts. Addresses are bytes or with their checksum."""
        contract = self._web3.eth.contract(abi=load(name).abi)
        return bytes.fromhex(contract.encode_abi(function, arguments)[2:])

    async def gas_limit(self, sender: bytes, to: bytes, data: bytes) -> int:
        """A fifth more than the call would take now; `to` empty: it creates a contract."""
        call: TxParams = {"from": _address(sender), "data": data}
        if to:
            call["to"] = _address(to)
        with self._reading():
            return await self._web3.eth.estimate_gas(call) * 12 // 10

    async def send(self, signer: Signer, to: bytes, data: bytes) -> Mined:
        """Send a transaction and wait until it is mined.

        Raises TransactionFailedError once it is sent; before that RpcError and ChainUnavailableError.
        """
        gas_limit = await self.gas_limit(signer.address, to, data)
        unsigned = Unsigned(await self.chain_id(), await self._next_nonce(signer.address), gas_limit, to, data)
        signed = sign(signer, unsigned, await self.bid())
        with self._reading():
            await self._web3.eth.send_raw_transaction(signed.raw)
        return await self._mined(signed.transaction_hash)

    async def close(self) -> None:
        """Let the connections go."""
        await self._provider.disconnect()

    @contextmanager
    def _reading(self) -> Generator[None]:
        """Make what web3 cannot read of an answer one that never came."""
        try:
            yield
        except (Web3Exception, LookupError, TypeError, ValueError, OverflowError) as error:
            raise ChainUnavailableError(f"{self.name}: an answer is malformed: {type(error).__name__}") from error

    async def _next_nonce(self, sender: bytes) -> int:
        """With what waits in the pool; without it where an endpoint has no such block."""
        with self._reading():
            try:
                return await self._web3.eth.get_transaction_count(_address(sender), "pending")
            except RpcError:
                return await self._web3.eth.get_transaction_count(_address(sender), "latest")

    async def _mined(self, transaction_hash: bytes) -> Mined:
        shown = to_hex(transaction_hash)
        until, pause_s = self._clock() + RECEIPT_TIMEOUT_S, 0.05
        while self._clock() < until:
            receipt = None
            # It is sent and paid for: an endpoint's trouble is no answer.
            with suppress(TransactionNotFound, RpcError, ChainUnavailableError), self._reading():
                receipt = _read(await self._web3.eth.get_transaction_receipt(Hash32(transaction_hash)))
            if receipt is not None:
                succeeded, mined = receipt
                if not succeeded:
                    raise TransactionFailedError(f"transaction {shown} reverted")
                return mined
            await self._pause(pause_s)
            pause_s = min(2 * pause_s, RECEIPT_POLL_S_MAX)
        raise TransactionFailedError(
            f"transaction {shown} is in no block after {RECEIPT_TIMEOUT_S:g} s; see what becomes of it"
        )


def _address(address: bytes) -> ChecksumAddress:
    return ChecksumAddress(HexAddress(HexStr(checksum(address))))


def _read(receipt: TxReceipt) -> tuple[bool, Mined]:
    """Whether it succeeded, and what it did."""
    created: Any = receipt.get("contractAddress")
    events = tuple(
        Event(bytes.fromhex(log["address"][2:]), tuple(map(bytes, log["topics"])), bytes(log["data"]))
        for log in receipt["logs"]
    )
    hash_, number = bytes(receipt["transactionHash"]), receipt["blockNumber"]
    return receipt["status"] == 1, Mined(hash_, number, bytes.fromhex(created[2:]) if created else b"", events)
