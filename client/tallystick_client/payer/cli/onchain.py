"""The timed way out, by the payer's own transactions: it works without the operator and without the aggregator.

Needs the extra `chain` (web3), and some of the chain's coin for gas. Nothing else of the client imports this module.
"""

from typing import Any, Final, NamedTuple, cast

import aiohttp
import rlp  # type: ignore[import-untyped]  # it has none
from eth_abi.abi import decode
from web3 import AsyncHTTPProvider, AsyncWeb3
from web3.exceptions import ContractCustomError, ContractLogicError, Web3Exception
from web3.types import TxReceipt

from tallystick.channels import ChannelConfig, account_id
from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum
from tallystick.quantities import MAX_AMOUNT
from tallystick.signatures import Signer
from tallystick_client.payer.errors import ChainError
from tallystick_client.payer.policy.operators import Operator
from tallystick_contracts import load

_TYPE: Final = b"\x02"
_GAS_MARGIN: Final = 1.2
_FINALIZED_TOPIC: Final = keccak256(b"WithdrawFinalized(bytes32,uint128,uint128)")
RECEIPT_TIMEOUT_S: Final = 180.0


class OnChainAccount(NamedTuple):
    """An account as the escrow holds it; amounts in atomic units, `withdrawable_at` in seconds (0: none pending).

    `withdraw_by_payer`: the payer has started what is pending, so nobody else can cancel it; one that the
    payerAuthorizer has started the payer can replace.
    """

    balance: int
    withdraw_amount: int
    withdrawable_at: int
    withdraw_by_payer: bool


class EscrowCaller:
    """One operator's escrow, called by one payer. Use it as an async context manager."""

    def __init__(self, rpc_url: str, operator: Operator, signer: Signer) -> None:
        self._operator = operator
        self._signer = signer
        self._rpc_url = rpc_url
        self._web3 = AsyncWeb3(AsyncHTTPProvider(rpc_url))
        address = self._web3.to_checksum_address(checksum(operator.escrow))
        self._abi = load("Escrow").abi
        self._escrow = self._web3.eth.contract(address=address, abi=self._abi)

    async def __aenter__(self) -> "EscrowCaller":
        """Check that this is the operator's chain."""
        try:
            chain_id = await self._web3.eth.chain_id
            code = await self._web3.eth.get_code(self._escrow.address)
        except (OSError, TimeoutError, aiohttp.ClientError, Web3Exception) as error:
            await self._web3.provider.disconnect()
            raise ChainError(f"the chain at {self._rpc_url} does not answer: {error}") from error
        problem = ""
        if chain_id != self._operator.network.chain_id:
            problem = f"rpc: got chain {chain_id}, allowed {self._operator.network.chain_id}"
        elif not code:
            problem = f"escrow: there is no contract at {self._escrow.address} on chain {chain_id}"
        if problem:
            await self._web3.provider.disconnect()
            raise ChainError(problem)
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Disconnect."""
        await self._web3.provider.disconnect()

    async def account(self, config: ChannelConfig) -> OnChainAccount:
        """The account at the chain's head."""
        id_ = account_id(self._operator.domain, config)
        (state,) = await self._escrow.functions.accounts([id_]).call()
        values = dict(zip(_fields(self._abi, "accounts"), cast("tuple[int, ...]", state), strict=True))
        return OnChainAccount(
            values["balance"], values["withdrawAmount"], values["withdrawableAt"], bool(values["withdrawByPayer"])
        )

    async def initiate(self, config: ChannelConfig, amount: int = MAX_AMOUNT) -> bytes:
        """Start to withdraw `amount` (by default everything); returns the transaction's hash once it is mined.

        By the payer it replaces a withdrawal that the payerAuthorizer has started, and the delay begins anew.
        """
        return _hash(await self._send("initiateWithdraw", _config(config), amount))

    async def cancel(self, config: ChannelConfig) -> bytes:
        """Give up the pending withdrawal; the payerAuthorizer only what it has started itself."""
        return _hash(await self._send("cancelWithdraw", _config(config)))

    async def finalize(self, config: ChannelConfig) -> tuple[int, bytes]:
        """End the pending withdrawal after the delay: what came back, in atomic units, and the transaction's hash."""
        receipt = await self._send("finalizeWithdraw", _config(config))
        returned = [
            int.from_bytes(bytes(log["data"])[:32], "big")
            for log in receipt["logs"]
            if log["address"] == self._escrow.address and bytes(log["topics"][0]) == _FINALIZED_TOPIC
        ]
        return sum(returned), _hash(receipt)

    async def _send(self, function: str, *arguments: Any) -> TxReceipt:
        call = self._escrow.functions[function](*arguments)
        sender = self._web3.to_checksum_address(checksum(self._signer.address))
        try:
            nonce = await self._web3.eth.get_transaction_count(sender, "pending")
            transaction = await call.build_transaction({"from": sender, "nonce": nonce})
            hash_ = await self._web3.eth.send_raw_transaction(self._sign(cast("dict[str, Any]", transaction)))
            receipt: TxReceipt = await self._web3.eth.wait_for_transaction_receipt(hash_, RECEIPT_TIMEOUT_S)
        except ContractCustomError as error:
            raise ChainError(f"the escrow refuses {function}: {self._explain(error.data)}") from error
        except ContractLogicError as error:
            raise ChainError(f"the escrow refuses {function}: {error.message}") from error
        except (OSError, TimeoutError, aiohttp.ClientError, Web3Exception, ValueError) as error:
            raise ChainError(f"{function} could not be sent: {error}") from error
        if receipt["status"] != 1:
            raise ChainError(f"{function} was mined and reverted: 0x{bytes(hash_).hex()}")
        return receipt

    def _sign(self, transaction: dict[str, Any]) -> bytes:
        """The raw EIP-1559 transaction: keys stay inside the signer, so no library signs it."""
        fields: list[Any] = [
            self._operator.network.chain_id,
            transaction["nonce"],
            transaction["maxPriorityFeePerGas"],
            transaction["maxFeePerGas"],
            int(transaction["gas"] * _GAS_MARGIN),
            self._operator.escrow,
            0,
            bytes.fromhex(str(transaction["data"]).removeprefix("0x")),
            [],
        ]
        signature = self._signer.sign(keccak256(_TYPE + _rlp(fields)))
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
        return _TYPE + _rlp([*fields, signature[64] - 27, r, s])

    def _explain(self, data: Any) -> str:
        """A custom error of the escrow by its name and values."""
        raw = bytes.fromhex(str(data).removeprefix("0x"))
        for entry in self._abi:
            if entry["type"] != "error":
                continue
            types = [part["type"] for part in entry["inputs"]]
            if keccak256(f"{entry['name']}({','.join(types)})".encode())[:4] == raw[:4]:
                values = zip(entry["inputs"], decode(types, raw[4:]), strict=True)
                told = ", ".join(f"{part['name']} {_show(value)}" for part, value in values)
                return f"{entry['name']} ({told})" if told else str(entry["name"])
        return f"0x{raw[:4].hex()}"


def _fields(abi: list[dict[str, Any]], function: str) -> list[str]:
    """The names of the fields of the struct that a function returns a list of."""
    entry = next(entry for entry in abi if entry.get("name") == function and entry["type"] == "function")
    return [part["name"] for part in entry["outputs"][0]["components"]]


def _hash(receipt: TxReceipt) -> bytes:
    return bytes(receipt["transactionHash"])


def _config(config: ChannelConfig) -> tuple[Any, ...]:
    return (
        checksum(config.payer),
        checksum(config.payer_authorizer),
        checksum(config.receiver),
        checksum(config.receiver_authorizer),
        checksum(config.token),
        config.withdraw_delay_s,
        config.salt,
    )


def _show(value: Any) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)


def _rlp(fields: list[Any]) -> bytes:
    return cast("bytes", cast("Any", rlp).encode(fields))
