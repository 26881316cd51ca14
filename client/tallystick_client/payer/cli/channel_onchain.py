"""The timed way out of a channel with one seller alone, by the payer's own transactions: neither seller nor operator is
asked. The contract is the standard's; it has no way to give a withdrawal up.

Needs the extra `chain` (web3), and some of the chain's coin for gas.
"""

from contextlib import suppress
from dataclasses import astuple
from typing import Final, NamedTuple

from tallystick.eip712 import BATCH_SETTLEMENT_ADDRESS
from tallystick.signatures import Signer
from tallystick_client.payer.cli.onchain import ContractCaller
from tallystick_client.payer.wallet.rows import SellerChannel
from tallystick_contracts.batch_settlement import WithdrawFinalized, decode
from tallystick_contracts.log_words import LogError

_ABI: Final = "TestBatchSettlement"
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


class ChannelCaller(ContractCaller):
    """The standard's contract on one chain, called by one payer."""

    def __init__(self, rpc_url: str, chain_id: int, signer: Signer) -> None:
        super().__init__(rpc_url, chain_id, signer, BATCH_SETTLEMENT_ADDRESS, _ABI, "x402BatchSettlement")

    async def channel(self, channel: SellerChannel) -> OnChainChannel:
        """The channel at the chain's head. Raises ChainError."""
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
