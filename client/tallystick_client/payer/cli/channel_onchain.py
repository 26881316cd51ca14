"""The timed way out of a channel with one seller alone, by the payer's own transactions: neither seller nor operator is
asked. The contract is the standard's; it has no way to give a withdrawal up.

Needs the extra `chain` (web3), and some of the chain's coin for gas.
"""

from contextlib import suppress
from dataclasses import astuple
from typing import Any, Final, NamedTuple

from tallystick.eip712 import BATCH_SETTLEMENT_ADDRESS
from tallystick.hexadecimal import checksum
from tallystick.signatures import Signer
from tallystick_chain.caller import Caller, Mined
from tallystick_client.payer.cli.onchain import told
from tallystick_client.payer.errors import ChainError
from tallystick_client.payer.wallet.rows import SellerChannel
from tallystick_contracts.batch_settlement import WithdrawFinalized, decode
from tallystick_contracts.log_words import LogError

_CONTRACT: Final = "TestBatchSettlement"
"""Ours has the interface of the standard's."""


class OnChainChannel(NamedTuple):
    """A channel as the contract holds it; amounts in atomic units, `withdrawable_at` in seconds (0: none pending)."""

    balance: int
    claimed: int
    withdraw_amount: int
    withdrawable_at: int

    @property
    def left(self) -> int:
        """What a withdrawal can take now."""
        return self.balance - self.claimed


class ChannelCaller:
    """The standard's contract on one chain, called by one payer. Use it as an async context manager."""

    def __init__(self, rpc_url: str, chain_id: int, signer: Signer) -> None:
        self._chain_id = chain_id
        self._signer = signer
        self._caller = Caller(rpc_url)

    async def __aenter__(self) -> "ChannelCaller":
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
        with told("chainId"):
            chain_id, code = await self._caller.chain_id(), await self._caller.code(BATCH_SETTLEMENT_ADDRESS)
        if chain_id != self._chain_id:
            raise ChainError(f"rpc: got chain {chain_id}, allowed {self._chain_id}")
        if not code:
            address = checksum(BATCH_SETTLEMENT_ADDRESS)
            raise ChainError(f"x402BatchSettlement: there is no contract at {address} on chain {chain_id}")

    async def channel(self, channel: SellerChannel) -> OnChainChannel:
        """The channel at the chain's head. Raises ChainError."""
        with told("channels"):
            balance, claimed = await self._read("channels", channel.id)
            amount, initiated_at = await self._read("pendingWithdrawals", channel.id)
        withdrawable_at = initiated_at + channel.config.withdraw_delay_s if initiated_at else 0
        return OnChainChannel(balance, claimed, amount, withdrawable_at)

    async def initiate(self, channel: SellerChannel, amount: int) -> bytes:
        """Start to withdraw; returns the transaction's hash once it is mined."""
        return (await self._send("initiateWithdraw", astuple(channel.config), amount)).transaction_hash

    async def finalize(self, channel: SellerChannel) -> tuple[int, bytes]:
        """End the pending withdrawal after the delay: what came back, in atomic units, and the transaction's hash."""
        mined = await self._send("finalizeWithdraw", astuple(channel.config))
        returned = 0
        for event in mined.events:
            with suppress(LogError):
                decoded = decode(event) if event.address == BATCH_SETTLEMENT_ADDRESS else None
                returned += decoded.amount if isinstance(decoded, WithdrawFinalized) else 0
        return returned, mined.transaction_hash

    async def _read(self, function: str, *arguments: Any) -> Any:
        return await self._caller.read(BATCH_SETTLEMENT_ADDRESS, _CONTRACT, function, *arguments)

    async def _send(self, function: str, *arguments: Any) -> Mined:
        with told(function):  # a ChannelConfig has its fields in the order of the ABI
            data = self._caller.encode(_CONTRACT, function, *arguments)
            return await self._caller.send(self._signer, BATCH_SETTLEMENT_ADDRESS, data)
