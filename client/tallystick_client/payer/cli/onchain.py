"""The timed way out, by the payer's own transactions: it works without the operator and without the aggregator.

Needs the extra `chain` (web3), and some of the chain's coin for gas. Nothing else of the client imports this module.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import astuple
from typing import Any, NamedTuple, Self

from tallystick.channels import ChannelConfig, account_id
from tallystick.eip712 import PERMIT2_ADDRESS
from tallystick.hexadecimal import checksum
from tallystick.quantities import MAX_AMOUNT
from tallystick.signatures import Signer
from tallystick_chain.caller import Caller, Mined, TransactionFailedError
from tallystick_chain.errors import ChainUnavailableError, RpcError, is_revert
from tallystick_chain.reverts import describe
from tallystick_client.payer.errors import ChainError
from tallystick_client.payer.policy.operators import Operator
from tallystick_contracts import ContractName
from tallystick_contracts.events import WithdrawFinalized, decode


class OnChainAccount(NamedTuple):
    """An account as the escrow holds it; amounts in atomic units, `withdrawable_at` in seconds (0: none pending).

    `withdraw_by_payer`: the payer has started what is pending, so nobody else can cancel it; one that the
    payerAuthorizer has started the payer can replace.
    """

    balance: int
    withdraw_amount: int
    withdrawable_at: int
    withdraw_by_payer: bool


class ContractCaller:
    """A contract on one chain, called by one payer. Use it as an async context manager.

    `abi` is the artifact that has its functions, `name` what errors call it.
    """

    def __init__(
        self, rpc_url: str, chain_id: int, signer: Signer, address: bytes, abi: ContractName, name: str
    ) -> None:
        self._caller = Caller(rpc_url)
        self._chain_id = chain_id
        self._signer = signer
        self._address = address
        self._abi: ContractName = abi
        self._name = name

    async def __aenter__(self) -> Self:
        """Check that this is the chain, and that the contract is there."""
        try:
            await self._check()
        except BaseException:
            await self._caller.close()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Disconnect."""
        await self._caller.close()

    async def _check(self) -> None:
        try:
            chain_id, code = await self._caller.chain_id(), await self._caller.code(self._address)
        except (RpcError, ChainUnavailableError) as error:
            raise ChainError(f"the chain at {self._caller.name} does not answer: {error}") from error
        if chain_id != self._chain_id:
            raise ChainError(f"rpc: got chain {chain_id}, allowed {self._chain_id}")
        if not code:
            address = checksum(self._address)
            raise ChainError(f"{self._name}: there is no contract at {address} on chain {chain_id}")

    async def _read(self, function: str, *arguments: Any) -> Any:
        with told(function):
            return await self._caller.read(self._address, self._abi, function, *arguments)

    async def _send(self, function: str, *arguments: Any) -> Mined:
        with told(function):  # a ChannelConfig has its fields in the order of the ABI
            data = self._caller.encode(self._abi, function, *arguments)
            return await self._caller.send(self._signer, self._address, data)


class EscrowCaller(ContractCaller):
    """One operator's escrow, called by one payer."""

    def __init__(self, rpc_url: str, operator: Operator, signer: Signer) -> None:
        super().__init__(rpc_url, operator.network.chain_id, signer, operator.escrow, "Escrow", "escrow")
        self._domain = operator.domain

    async def account(self, config: ChannelConfig) -> OnChainAccount:
        """The account at the chain's head. Raises ChainError."""
        (state,) = await self._read("accounts", [account_id(self._domain, config)])
        return OnChainAccount(state.balance, state.withdrawAmount, state.withdrawableAt, state.withdrawByPayer)

    async def initiate(self, config: ChannelConfig, amount: int = MAX_AMOUNT) -> bytes:
        """Start to withdraw `amount` (by default everything); returns the transaction's hash once it is mined.

        By the payer it replaces a withdrawal that the payerAuthorizer has started, and the delay begins anew.
        """
        return (await self._send("initiateWithdraw", astuple(config), amount)).transaction_hash

    async def cancel(self, config: ChannelConfig) -> bytes:
        """Give up the pending withdrawal; the payerAuthorizer only what it has started itself."""
        return (await self._send("cancelWithdraw", astuple(config))).transaction_hash

    async def finalize(self, config: ChannelConfig) -> tuple[int, bytes]:
        """End the pending withdrawal after the delay: what came back, in atomic units, and the transaction's hash."""
        mined = await self._send("finalizeWithdraw", astuple(config))
        events = [decode(event) for event in mined.events if event.address == self._address]
        returned = sum(event.amount for event in events if isinstance(event, WithdrawFinalized))
        return returned, mined.transaction_hash


async def approve_permit2(rpc_url: str, operator: Operator, signer: Signer, token: bytes, amount: int) -> bytes:
    """Let Permit2 take `amount` of the payer's tokens, as far as the payer signs for it; the transaction's hash.

    In a transaction of the payer's own, which needs gas. Returns once it is mined; raises ChainError.
    """
    caller = Caller(rpc_url)
    try:
        with told("approve", "the token"):
            if await caller.chain_id() != operator.network.chain_id:
                raise ChainError(f"rpc: allowed an endpoint of {operator.network}")
            if not await caller.code(PERMIT2_ADDRESS):
                raise ChainError(f"there is no Permit2 at {checksum(PERMIT2_ADDRESS)} on {operator.network}")
            data = caller.encode("TestUSDC", "approve", PERMIT2_ADDRESS, amount)
            return (await caller.send(signer, token, data)).transaction_hash
    finally:
        await caller.close()


@contextmanager
def told(function: str, who: str = "the escrow") -> Generator[None]:
    """Tell what is in the way of a call as a ChainError."""
    try:
        yield
    except RpcError as error:
        refused = f"{who} refuses {function}" if is_revert(error) else f"{function} could not be sent"
        raise ChainError(f"{refused}: {describe(error)}") from error
    except (ChainUnavailableError, TransactionFailedError, ValueError) as error:
        raise ChainError(f"{function} could not be sent: {error}") from error
