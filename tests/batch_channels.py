"""The scheme batch-settlement on a chain for tests: its contracts at their canonical addresses, and payers' channels.

The contracts are stand-ins of ours (contracts/src/test), since the originals' code is not in this project.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from hashlib import sha256
from typing import Any, Final

from eth_abi.abi import encode
from eth_utils.abi import function_abi_to_4byte_selector, get_abi_input_types

from _anvil import DEV_KEYS, DevChain, function, hexed
from anvil import CHAIN_ID, FOR_EVER, Devnet
from tallystick import eip712
from tallystick.channels import ChannelConfig, channel_id
from tallystick.eip712 import Domain
from tallystick.signatures import Signer
from tallystick.vouchers import UncheckedVoucher, Voucher, sign_voucher
from tallystick.x402.batch_settlement import DepositPayload, Erc3009Deposit, Permit2Deposit, VoucherClaim
from tallystick_contracts import ContractName, load

DOMAIN: Final = eip712.batch_settlement_domain(CHAIN_ID)
ESCROW: Final = eip712.BATCH_SETTLEMENT_ADDRESS
MULTICALL3: Final = bytes.fromhex("cA11bde05977b3631167028862bE2a173976CA11")
CONTRACTS: Final[dict[bytes, ContractName]] = {
    ESCROW: "TestBatchSettlement",
    eip712.ERC3009_DEPOSIT_COLLECTOR_ADDRESS: "TestERC3009DepositCollector",
    eip712.PERMIT2_DEPOSIT_COLLECTOR_ADDRESS: "TestPermit2DepositCollector",
    eip712.PERMIT2_ADDRESS: "TestPermit2",
    MULTICALL3: "TestTryAggregate",
}
DELAY_S: Final = 3_600
AUTHORIZER: Final = Signer(DEV_KEYS[3])
"""The receiverAuthorizer of all channels that are not made otherwise."""
_FUNCTIONS: Final[dict[str, Any]] = {e["name"]: e for e in load("TestBatchSettlement").abi if e["type"] == "function"}
_numbers = itertools.count()


def put_batch_settlement(anvil: DevChain) -> None:
    """Put the contracts where every chain has them, and what official facilitators read with."""
    for address, name in CONTRACTS.items():
        anvil.rpc("anvil_setCode", hexed(address), hexed(load(name).deployed_bytecode))


def call_data(name: str, *arguments: Any) -> bytes:
    """Calldata of the contract's function with this name."""
    entry = _FUNCTIONS[name]
    return function_abi_to_4byte_selector(entry) + encode(get_abi_input_types(entry), [*map(_plain, arguments)])


def _plain(argument: Any) -> Any:
    """The argument as the encoder takes it."""
    if isinstance(argument, ChannelConfig):
        return astuple(argument)
    if isinstance(argument, VoucherClaim):
        voucher = (astuple(argument.config), argument.max_claimable_amount)
        return (voucher, argument.signature, argument.total_claimed)
    return [*map(_plain, argument)] if isinstance(argument, list | tuple) else argument


@dataclass(frozen=True)
class BatchChannel:
    """A payer's channel, or one that it is about to open."""

    devnet: Devnet
    payer: Signer
    config: ChannelConfig
    key: bytes = field(repr=False)
    """The payer's, for wallets that are not ours."""

    @property
    def id(self) -> bytes:
        return channel_id(DOMAIN, self.config)

    def voucher(self, ceiling: int) -> Voucher:
        return sign_voucher(self.payer, DOMAIN, self.id, ceiling)

    def claim(self, total: int, ceiling: int | None = None) -> VoucherClaim:
        """A row that is right, or wrong only in its amounts."""
        most = total if ceiling is None else ceiling
        return VoucherClaim(self.config, most, self.voucher(most).signature, total)

    def erc3009(self, amount: int, valid_before: int = FOR_EVER) -> Erc3009Deposit:
        """A signed authorization of a deposit in TestUSDC."""
        salt = sha256(f"batch deposit {next(_numbers)}".encode()).digest()
        deposit = Erc3009Deposit(0, valid_before, salt, b"")
        signed = eip712.digest(self.devnet.token_domain, deposit.struct_hash(self.config, self.id, amount))
        return replace(deposit, signature=self.payer.sign(signed))

    def permit2(self, amount: int) -> Permit2Deposit:
        """A signed transfer of a deposit by Permit2, in the channel's token."""
        deposit = Permit2Deposit(
            from_=self.payer.address,
            token=self.config.token,
            permitted=amount,
            spender=eip712.PERMIT2_DEPOSIT_COLLECTOR_ADDRESS,
            nonce=sha256(f"permit2 deposit {next(_numbers)}".encode()).digest(),
            deadline=int(time.time()) + 86_400,
            channel_id=self.id,
            signature=b"",
        )
        signed = eip712.digest(eip712.permit2_domain(CHAIN_ID), deposit.struct_hash())
        return replace(deposit, signature=self.payer.sign(signed))

    def deposit_payload(self, amount: int, ceiling: int = 0) -> DepositPayload:
        """A deposit by ERC-3009 with a voucher, as a client sends it."""
        voucher = self.voucher(ceiling)
        unchecked = UncheckedVoucher(self.id, ceiling, voucher.signature)
        return DepositPayload(self.config, unchecked, amount, self.erc3009(amount))

    def deposit(self, amount: int) -> dict[str, Any]:
        """Mint so much and have it deposited, by ERC-3009 and anybody's transaction."""
        self.devnet.anvil.mint(self.config.token, self.payer.address, amount)
        data = erc3009_collector_data(self.erc3009(amount))
        return self.send("deposit", self.config, amount, eip712.ERC3009_DEPOSIT_COLLECTOR_ADDRESS, data)

    def send(self, name: str, *arguments: Any, sender: bytes | None = None) -> dict[str, Any]:
        """Send a transaction to the contract, as anybody unless it is said as whom."""
        return self.send_data(call_data(name, *arguments), sender)

    def send_data(self, data: bytes, sender: bytes | None = None) -> dict[str, Any]:
        """The same with calldata that is made already."""
        sender = sender or self.devnet.sender.address
        self.devnet.anvil.set_ether(sender, 10**18)
        return self.devnet.anvil.send(sender, ESCROW, data)

    def words(self, name: str, *arguments: Any) -> tuple[int, ...]:
        """What a view returns."""
        answer = self.devnet.anvil.call(ESCROW, call_data(name, *arguments))
        return tuple(int.from_bytes(answer[at : at + 32], "big") for at in range(0, len(answer), 32))

    @property
    def state(self) -> tuple[int, ...]:
        """Balance and totalClaimed."""
        return self.words("channels", self.id)

    @property
    def received(self) -> int:
        """What the receiver has of the token."""
        return self.devnet.anvil.token_balance(self.config.token, self.config.receiver)

    def sign_claims(self, claims: Sequence[VoucherClaim], signer: Signer = AUTHORIZER) -> bytes:
        """The receiverAuthorizer's signature over rows."""
        rows = [(channel_id(DOMAIN, row.config), row.max_claimable_amount, row.total_claimed) for row in claims]
        return signer.sign(eip712.digest(DOMAIN, eip712.hash_claim_batch(rows)))

    def sign_refund(self, amount: int, nonce: int, signer: Signer = AUTHORIZER) -> bytes:
        """The receiverAuthorizer's signature over a refund."""
        return signer.sign(eip712.digest(DOMAIN, eip712.hash_refund(self.id, nonce, amount)))

    def initiate_withdraw(self, amount: int) -> dict[str, Any]:
        """Start the payer's way out, by its own transaction."""
        return self.send("initiateWithdraw", self.config, amount, sender=self.payer.address)

    def finalize_withdraw(self) -> dict[str, Any]:
        """End it, once its time is over."""
        return self.send("finalizeWithdraw", self.config, sender=self.payer.address)


def batch_channel(devnet: Devnet, receiver: bytes, name: str = "", **changes: Any) -> BatchChannel:
    """A channel of a payer with a key of its own, who signs its vouchers itself."""
    key = sha256(f"batch payer {name or next(_numbers)}".encode()).digest()
    payer = Signer(key)
    config = ChannelConfig(
        payer=payer.address,
        payer_authorizer=payer.address,
        receiver=receiver,
        receiver_authorizer=AUTHORIZER.address,
        token=devnet.token,
        withdraw_delay_s=DELAY_S,
        salt=bytes(32),
    )
    return BatchChannel(devnet, payer, replace(config, **changes), key)


def erc3009_collector_data(deposit: Erc3009Deposit) -> bytes:
    """What the ERC-3009 collector decodes."""
    values = [deposit.valid_after, deposit.valid_before, int.from_bytes(deposit.salt, "big"), deposit.signature]
    return encode(["uint256", "uint256", "uint256", "bytes"], values)


def permit2_collector_data(deposit: Permit2Deposit, permit: bytes = b"") -> bytes:
    """What the Permit2 collector decodes; `permit` is an encoded EIP-2612 permit."""
    values = [int.from_bytes(deposit.nonce, "big"), deposit.deadline, deposit.signature, permit]
    return encode(["uint256", "uint256", "bytes", "bytes"], values)


def approve_permit2(channel: BatchChannel, amount: int = 2**256 - 1) -> None:
    """What a payer does once for a token, before Permit2 can move it."""
    anvil = channel.devnet.anvil
    anvil.set_ether(channel.payer.address, 10**18)
    approval = function("approve(address,uint256)", eip712.PERMIT2_ADDRESS, amount)
    anvil.send(channel.payer.address, channel.config.token, approval)


def token_domain(token: bytes, name: str, version: str) -> Domain:
    """A token's EIP-712 domain on the chain of the tests."""
    return Domain(name, version, CHAIN_ID, token)
