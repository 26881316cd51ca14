"""A chain for end-to-end tests: one Anvil per worker, contracts deployed once, every test starts from the same state.

Ask for the fixture `devnet`. Its keys, token and escrow are ready; payers deposit without gas, as in production.
"""

import itertools
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from hashlib import sha256
from typing import Any, Final

import pytest
from eth_abi.abi import encode

from _anvil import DEV_KEYS, Anvil, DevChain, function, hexed
from tallystick import eip712
from tallystick.channels import ChannelConfig, account_id, channel_id
from tallystick.eip712 import Domain
from tallystick.quantities import ZERO_ADDRESS
from tallystick.signatures import Signer
from tallystick.vouchers import Voucher, sign_voucher
from tallystick_aggregator.chain.escrow_calls import CONFIG_TYPE, selector
from tallystick_aggregator.chain.multicall import MULTICALL3_ADDRESS
from tallystick_aggregator.chain.port import DepositAuthorization
from tallystick_aggregator.chain.settings import ChainSettings, TokenSettings
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_contracts import load
from tallystick_contracts.artifact import ContractName

CHAIN_ID: Final = 31337
NETWORK: Final = f"eip155:{CHAIN_ID}"
DELAY_S: Final = 86_400
FOR_EVER: Final = 2**48
PERMIT2_CONTRACTS: Final[dict[bytes, ContractName]] = {
    eip712.PERMIT2_ADDRESS: "TestPermit2",
    eip712.EXACT_PERMIT2_PROXY_ADDRESS: "TestExactPermit2Proxy",
    eip712.UPTO_PERMIT2_PROXY_ADDRESS: "TestUptoPermit2Proxy",
}
_numbers = itertools.count()


@dataclass(frozen=True)
class Payer:
    """Somebody with a deposit, or about to have one."""

    devnet: "Devnet"
    signer: Signer
    config: ChannelConfig

    @property
    def account_id(self) -> bytes:
        return account_id(self.devnet.domain, self.config)

    def channel_id(self, receiver: bytes) -> bytes:
        return channel_id(self.devnet.domain, self.config.channel(receiver))

    def voucher(self, receiver: bytes, ceiling: int) -> Voucher:
        return sign_voucher(self.signer, self.devnet.domain, self.channel_id(receiver), ceiling)

    def authorization(self, amount: int) -> DepositAuthorization:
        """A signed deposit that anybody may land."""
        salt = sha256(f"deposit {next(_numbers)}".encode()).digest()
        nonce = eip712.deposit_nonce(self.account_id, salt)
        struct = eip712.hash_receive_with_authorization(
            self.signer.address, self.devnet.escrow, amount, 0, FOR_EVER, nonce
        )
        signature = self.signer.sign(eip712.digest(self.devnet.token_domain, struct))
        return DepositAuthorization(self.config, amount, 0, FOR_EVER, salt, signature)

    def deposit(self, amount: int) -> dict[str, Any]:
        """Mint so much and deposit it with the payer's own transaction."""
        self.devnet.anvil.mint(self.devnet.token, self.signer.address, amount)
        return self.deposit_own(amount)

    def deposit_own(self, amount: int) -> dict[str, Any]:
        """The same of what the payer has already."""
        devnet = self.devnet
        devnet.anvil.set_ether(self.signer.address, 10**18)
        devnet.anvil.send(
            self.signer.address, devnet.token, function("approve(address,uint256)", devnet.escrow, amount)
        )
        return self._send(f"deposit({CONFIG_TYPE},uint128)", amount)

    def initiate_withdraw(self, amount: int) -> dict[str, Any]:
        self.devnet.anvil.set_ether(self.signer.address, 10**18)
        return self._send(f"initiateWithdraw({CONFIG_TYPE},uint128)", amount)

    def cancel_withdraw(self) -> dict[str, Any]:
        return self._send(f"cancelWithdraw({CONFIG_TYPE})")

    def finalize_withdraw(self) -> dict[str, Any]:
        return self._send(f"finalizeWithdraw({CONFIG_TYPE})")

    def _send(self, signature: str, *amounts: int) -> dict[str, Any]:
        types = [CONFIG_TYPE, *["uint128"] * len(amounts)]
        data = selector(signature) + encode(types, [astuple(self.config), *amounts])
        return self.devnet.anvil.send(self.signer.address, self.devnet.escrow, data)


@dataclass(frozen=True)
class Devnet:
    """Anvil with Escrow.sol and TestUSDC; `operator` claims through `sender`, who pays for gas."""

    anvil: DevChain
    escrow: bytes
    token: bytes
    operator: Signer
    sender: Signer
    escrow_block: int

    @property
    def escrow_ref(self) -> EscrowRef:
        return EscrowRef(NETWORK, self.escrow)

    @property
    def domain(self) -> Domain:
        return eip712.escrow_domain(CHAIN_ID, self.escrow)

    @property
    def token_domain(self) -> Domain:
        return Domain("USD Coin", "2", CHAIN_ID, self.token)

    @property
    def token_settings(self) -> TokenSettings:
        return TokenSettings(self.token, "USDC", 6, "USD Coin", "2", min_deposit=1_000)

    def put_permit2(self) -> bytes:
        """Put Permit2 and x402's proxies at their addresses; returns a token without ERC-3009 that takes permits."""
        for address, name in PERMIT2_CONTRACTS.items():
            self.anvil.rpc("anvil_setCode", hexed(address), hexed(load(name).deployed_bytecode))
        return self.anvil.deploy_contract("TestPermitToken")

    def put_multicall3(self) -> None:
        """Put what there is of Multicall3 at its address."""
        self.anvil.rpc("anvil_setCode", hexed(MULTICALL3_ADDRESS), hexed(load("TestMulticall3").deployed_bytecode))

    def permit_token_settings(self, token: bytes, **changes: Any) -> TokenSettings:
        """Settings of the token that `put_permit2` returns: moved by Permit2 only, its permits landed."""
        settings = TokenSettings(token, "PUSD", 6, "Permit Dollar", "1", min_deposit=1_000)
        return replace(settings, **{"by_eip3009": False, "by_permit2": True, "sponsors_permits": True, **changes})

    def settings(self, **changes: Any) -> ChainSettings:
        """Settings that fit this chain: blocks are final at once, polls are quick."""
        settings = ChainSettings(
            network=NETWORK,
            rpc_urls=(self.anvil.url,),
            escrow=self.escrow,
            operator=self.operator.address,
            operator_signer=self.operator,
            sender=self.sender,
            tokens=(self.token_settings,),
            escrow_block=self.escrow_block,
            confirmations=0,
            poll_s=0.05,
        )
        return replace(settings, **changes)

    def payer(self, name: str = "", withdraw_delay_s: int = DELAY_S) -> Payer:
        """A payer with a key of its own."""
        signer = Signer(sha256(f"payer {name or next(_numbers)}".encode()).digest())
        config = ChannelConfig(
            payer=signer.address,
            payer_authorizer=signer.address,
            receiver=ZERO_ADDRESS,
            receiver_authorizer=self.operator.address,
            token=self.token,
            withdraw_delay_s=withdraw_delay_s,
            salt=bytes(32),
        )
        return Payer(self, signer, config)

    def balance(self, holder: bytes) -> int:
        """What an address has of the token."""
        return self.anvil.token_balance(self.token, holder)


def receiver(number: int) -> bytes:
    """The address of the seller with this number."""
    return sha256(f"receiver {number}".encode()).digest()[:20]


def deploy(anvil: DevChain) -> Devnet:
    """Put the contracts on a chain that mines at once."""
    escrow, token = anvil.deploy_contract("Escrow"), anvil.deploy_contract("TestUSDC")
    deployed_at = anvil.block_number
    operator, sender = Signer(DEV_KEYS[1]), Signer(DEV_KEYS[2])
    anvil.send(operator.address, escrow, function("setSender(address,bool)", sender.address, 1))
    return Devnet(anvil, escrow, token, operator, sender, deployed_at - 1)


@pytest.fixture(scope="session")
def anvil_process() -> Iterator[Devnet]:
    """Started once per worker, with the contracts on it."""
    with Anvil() as anvil:
        yield deploy(anvil)


@pytest.fixture
def devnet(anvil_process: Devnet) -> Iterator[Devnet]:
    """The chain as it was deployed; whatever a test does to it is undone."""
    snapshot = anvil_process.anvil.snapshot()
    try:
        yield anvil_process
    finally:
        anvil_process.anvil.automine(on=True)
        anvil_process.anvil.revert(snapshot)
