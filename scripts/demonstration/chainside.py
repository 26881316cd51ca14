"""What the demo reads from the chain itself, so that no figure rests on the word of the software that it shows."""

from collections import Counter
from typing import Any

from _anvil import Anvil
from tallystick.hashing import keccak256
from tallystick_contracts import load

KINDS = {
    "depositWithAuthorization": "deposit",
    "claim": "claim",
    "refundWithSignature": "refund",
    "initiateWithdraw": "withdrawal",
    "finalizeWithdraw": "withdrawal",
    "transferWithAuthorization": "exact",
}
"""What a transaction is for, by the function that it calls."""


class ChainSide:
    """Reads a chain's blocks, logs and receipts from a block on."""

    def __init__(self, anvil: Anvil, escrow: bytes, token: bytes) -> None:
        """Count from the next block on: funding and deployment are not part of the show."""
        self._anvil = anvil
        self._escrow = escrow
        self._token = token
        self._first = anvil.block_number + 1

    def deposits(self, payer: bytes) -> tuple[int, int]:
        """How many deposits the payer made, and how much in all."""
        accounts = {
            log["topics"][1]
            for log in self._logs(self._escrow, "AccountOpened(bytes32,address,address,address,address,uint40,bytes32)")
            if bytes.fromhex(log["topics"][2][2:])[12:] == payer
        }
        amounts = [
            _word(log["data"], 0)
            for log in self._logs(self._escrow, "Deposited(bytes32,uint128,uint128)")
            if log["topics"][1] in accounts
        ]
        return len(amounts), sum(amounts)

    def returned(self, payer: bytes) -> int:
        """What the escrow sent back to the payer."""
        return self._transferred(self._escrow, payer)

    def paid_exactly(self, payer: bytes, receiver: bytes) -> int:
        """What the payer itself transferred to the receiver."""
        return self._transferred(payer, receiver)

    def received(self, receiver: bytes) -> int:
        """The receiver's balance."""
        return self._anvil.token_balance(self._token, receiver)

    def gas(self) -> tuple[Counter[str], Counter[str]]:
        """Transactions and gas, by what they are for."""
        kinds = {
            keccak256(f"{item['name']}({','.join(map(_type, item['inputs']))})".encode())[:4]: KINDS[item["name"]]
            for artifact in ("Escrow", "TestUSDC")
            for item in load(artifact).abi
            if item["type"] == "function" and item["name"] in KINDS
        }
        numbers: Counter[str] = Counter()
        gas: Counter[str] = Counter()
        for number in range(self._first, self._anvil.block_number + 1):
            for transaction in self._anvil.rpc("eth_getBlockByNumber", hex(number), True)["transactions"]:
                kind = kinds.get(bytes.fromhex(transaction["input"][2:10]))
                if kind is not None:
                    numbers[kind] += 1
                    receipt = self._anvil.rpc("eth_getTransactionReceipt", transaction["hash"])
                    gas[kind] += int(receipt["gasUsed"], 16)
        return numbers, gas

    def _transferred(self, sender: bytes, receiver: bytes) -> int:
        return sum(
            _word(log["data"], 0)
            for log in self._logs(self._token, "Transfer(address,address,uint256)")
            if (_address(log["topics"][1]), _address(log["topics"][2])) == (sender, receiver)
        )

    def _logs(self, address: bytes, event: str) -> list[dict[str, Any]]:
        return list(
            self._anvil.rpc(
                "eth_getLogs",
                {
                    "address": "0x" + address.hex(),
                    "fromBlock": hex(self._first),
                    "topics": ["0x" + keccak256(event.encode()).hex()],
                },
            )
        )


def _type(parameter: dict[str, Any]) -> str:
    if not parameter["type"].startswith("tuple"):
        return str(parameter["type"])
    inner = ",".join(map(_type, parameter["components"]))
    return f"({inner}){parameter['type'].removeprefix('tuple')}"


def _word(data: str, index: int) -> int:
    return int(data[2 + 64 * index : 66 + 64 * index], 16)


def _address(topic: str) -> bytes:
    return bytes.fromhex(topic[-40:])
