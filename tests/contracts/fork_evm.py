"""An escrow, a token and their users on an EVM under the rules of one hard fork (contracts/evm.mjs)."""

import json
import shutil
import subprocess
from dataclasses import astuple
from hashlib import sha256
from itertools import count
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from eth_abi.abi import encode

from _anvil import DEV_KEYS, ROOT, function, hexed
from tallystick import eip712
from tallystick.channels import ChannelConfig, account_id, channel_id
from tallystick.hashing import keccak256
from tallystick.quantities import ZERO_ADDRESS
from tallystick.signatures import Signer
from tallystick.vouchers import sign_voucher
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain.escrow_calls import CONFIG_TYPE, selector
from tallystick_aggregator.chain.port import DepositAuthorization
from tallystick_contracts import load
from tallystick_contracts.claim_batch import AccountClaim, ClaimBatch, ClaimRow
from tallystick_contracts.claim_batch import encode as encode_batch

CHAIN_ID: Final = 31337
GAS_MAX: Final = 16_777_216
"""EIP-7825's limit of a transaction; beyond it, EIP-8037 lets it carry gas for new state."""
CREATION_GAS: Final = {"osaka": GAS_MAX, "amsterdam": 60_000_000}
"""By hard fork: code is state, which Amsterdam charges some 30 million for the escrow."""
DELAY_S: Final = 86_400
FOR_EVER: Final = 2**48
START_S: Final = 1_800_000_000
OWED_TOPIC: Final = hexed(calls.event_topic("Owed"))


class Done(NamedTuple):
    """What became of a transaction. `refused`: no block may take it; then nothing else is said."""

    ok: bool
    gas_used: int
    state_gas: int
    output: bytes
    logs: tuple[dict[str, Any], ...]
    refused: str

    @property
    def owed(self) -> int:
        """How many transfers failed, and left an amount owed."""
        return sum(log["topics"][0] == OWED_TOPIC for log in self.logs)


class ForkEvm:
    """The process. Use it as a context manager."""

    def __init__(self, hardfork: str) -> None:
        self._creation_gas = CREATION_GAS[hardfork]
        self._now_s = START_S
        node = shutil.which("node") or str(ROOT / ".venv/bin/node")
        self._process = subprocess.Popen(
            [node, "evm.mjs", hardfork],
            cwd=ROOT / "contracts",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=10)

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request, one answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def send(self, signer_key: bytes, to: bytes, data: bytes, *, gas: int = GAS_MAX, keep: bool = True) -> Done:
        """Send a transaction; with `keep` false only see what would become of it."""
        answer = self.ask(key=hexed(signer_key), to=hexed(to), data=hexed(data), gas=gas, keep=keep)
        if "refused" in answer:
            return Done(ok=False, gas_used=0, state_gas=0, output=b"", logs=(), refused=answer["refused"])
        return Done(
            answer["ok"],
            answer["gas_used"],
            answer["state_gas"],
            bytes.fromhex(answer["output"][2:]),
            tuple(answer["logs"]),
            "",
        )

    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self._now_s += seconds
        self.ask(time=self._now_s)

    def create(self, name: Any, arguments: bytes = b"") -> bytes:
        """Deploy a contract of this project."""
        data = hexed(load(name).bytecode + arguments)
        answer = self.ask(key=hexed(DEV_KEYS[0]), data=data, gas=self._creation_gas)
        assert answer.get("ok"), answer
        return bytes.fromhex(answer["created"][2:])


class Town:
    """An operator, a payer with a deposit, sellers who have never had a token, on one token and one escrow."""

    def __init__(self, evm: ForkEvm, token: str) -> None:
        self.evm = evm
        self.escrow = evm.create("Escrow")
        self.token = evm.create("MinimalToken" if token == "proxied" else token)
        if token == "proxied":
            self.token = evm.create("TokenProxy", self.token.rjust(32, b"\0"))
        self.operator_key = DEV_KEYS[1]
        self.operator = Signer(self.operator_key)
        self.domain = eip712.escrow_domain(CHAIN_ID, self.escrow)
        self._token_separator = self.view(self.token, function("DOMAIN_SEPARATOR()"))
        self._numbers = count()

    # People.

    def payer(self) -> tuple[bytes, ChannelConfig]:
        """A payer's key, and its account, which has no deposit yet."""
        key = sha256(b"payer %d" % next(self._numbers)).digest()
        address = Signer(key).address
        return key, ChannelConfig(
            payer=address,
            payer_authorizer=address,
            receiver=ZERO_ADDRESS,
            receiver_authorizer=self.operator.address,
            token=self.token,
            withdraw_delay_s=DELAY_S,
            salt=bytes(32),
        )

    def sellers(self, number: int) -> list[bytes]:
        """Addresses that have never had anything."""
        return [sha256(b"seller %d" % next(self._numbers)).digest()[:20] for _ in range(number)]

    def fund(self, config: ChannelConfig, amount: int) -> Done:
        """Deposit for an account out of the operator's pocket; returns the deposit."""
        self.must(self.operator_key, self.token, function("mint(address,uint256)", self.operator.address, amount))
        self.must(self.operator_key, self.token, function("approve(address,uint256)", self.escrow, amount))
        return self.must(self.operator_key, self.escrow, self._with_config("deposit", config, ["uint128"], [amount]))

    def deposit_with_authorization(self, key: bytes, config: ChannelConfig, amount: int) -> Done:
        """The payer's signed deposit, landed by the operator."""
        self.must(self.operator_key, self.token, function("mint(address,uint256)", config.payer, amount))
        salt = sha256(b"salt %d" % next(self._numbers)).digest()
        nonce = eip712.deposit_nonce(account_id(self.domain, config), salt)
        struct = eip712.hash_receive_with_authorization(config.payer, self.escrow, amount, 0, FOR_EVER, nonce)
        signature = Signer(key).sign(keccak256(b"\x19\x01" + self._token_separator + struct))
        deposit = DepositAuthorization(config, amount, 0, FOR_EVER, salt, signature)
        return self.must(self.operator_key, self.escrow, calls.deposit_with_authorization(deposit))

    # What pays out.

    def claim(self, key: bytes, config: ChannelConfig, totals: dict[bytes, int]) -> bytes:
        """Calldata of a claim by voucher for these receivers."""
        rows = []
        for receiver, total in totals.items():
            voucher = sign_voucher(Signer(key), self.domain, channel_id(self.domain, config.channel(receiver)), total)
            rows.append(ClaimRow(receiver, total, total, voucher.signature))
        account = AccountClaim(config.payer, config.payer_authorizer, config.withdraw_delay_s, config.salt, tuple(rows))
        return calls.call_data("claim", encode_batch(ClaimBatch(self.operator.address, self.token, (account,))))

    def refund(self, config: ChannelConfig, amount: int, nonce: int = 0) -> bytes:
        """Calldata of a refund, signed by the operator."""
        digest = eip712.digest(self.domain, eip712.hash_refund(account_id(self.domain, config), nonce, amount))
        return calls.call_data("refundWithSignature", config, amount, nonce, self.operator.sign(digest))

    def initiate_withdraw(self, config: ChannelConfig, amount: int) -> bytes:
        """Calldata for the payer."""
        return self._with_config("initiateWithdraw", config, ["uint128"], [amount])

    def finalize_withdraw(self, config: ChannelConfig) -> bytes:
        """Calldata for anyone."""
        return self._with_config("finalizeWithdraw", config, [], [])

    # Looking.

    def must(self, key: bytes, to: bytes, data: bytes, *, gas: int = GAS_MAX) -> Done:
        """Send what has to succeed."""
        done = self.evm.send(key, to, data, gas=gas)
        assert done.ok, done
        return done

    def try_claim(self, data: bytes, gas: int) -> Done:
        """What would become of the operator's claim at this gas limit."""
        return self.evm.send(self.operator_key, self.escrow, data, gas=gas, keep=False)

    def view(self, to: bytes, data: bytes) -> bytes:
        """What a view returns."""
        return self.evm.send(DEV_KEYS[0], to, data, keep=False).output

    def balance(self, holder: bytes) -> int:
        return int.from_bytes(self.view(self.token, function("balanceOf(address)", holder)), "big")

    def owed(self, to: bytes) -> int:
        return int.from_bytes(self.view(self.escrow, function("owed(address,address)", to, self.token)), "big")

    def _with_config(self, name: str, config: ChannelConfig, types: list[str], values: list[Any]) -> bytes:
        signature = f"{name}({','.join([CONFIG_TYPE, *types])})"
        return selector(signature) + encode([CONFIG_TYPE, *types], [astuple(config), *values])
