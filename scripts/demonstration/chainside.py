"""What the demo reads from the chain itself, so that no figure rests on the word of the software that it shows."""

from collections import Counter

from eth_utils.abi import function_abi_to_4byte_selector

from _anvil import Anvil, hexed
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
        amounts = self._transfers(payer, self._escrow)
        return len(amounts), sum(amounts)

    def returned(self, payer: bytes) -> int:
        """What the escrow sent back to the payer."""
        return sum(self._transfers(self._escrow, payer))

    def paid_exactly(self, payer: bytes, receiver: bytes) -> int:
        """What the payer itself transferred to the receiver."""
        return sum(self._transfers(payer, receiver))

    def received(self, receiver: bytes) -> int:
        """The receiver's balance."""
        return self._anvil.token_balance(self._token, receiver)

    def gas(self) -> tuple[Counter[str], Counter[str]]:
        """Transactions and gas, by what they are for."""
        kinds = {
            function_abi_to_4byte_selector(item): KINDS[item["name"]]
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

    def _transfers(self, sender: bytes, receiver: bytes) -> list[int]:
        asked = {
            "address": hexed(self._token),
            "fromBlock": hex(self._first),
            "topics": [hexed(keccak256(b"Transfer(address,address,uint256)")), *map(_topic, (sender, receiver))],
        }
        return [int(log["data"], 16) for log in self._anvil.rpc("eth_getLogs", asked)]


def _topic(address: bytes) -> str:
    return hexed(address.rjust(32, b"\0"))
