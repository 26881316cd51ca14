"""The timed way out, on a real chain: it asks neither the operator nor the aggregator."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from anvil import CHAIN_ID, DELAY_S, Devnet, Payer
from tallystick.tokens import Token
from tallystick.x402 import Network
from tallystick_client import Operator
from tallystick_client.payer.cli.onchain import EscrowCaller
from tallystick_client.payer.errors import ChainError

AMOUNT = 5_000_000


@pytest.fixture
def payer(devnet: Devnet) -> Payer:
    payer = devnet.payer()
    payer.deposit(AMOUNT)
    return payer


@pytest.fixture
def operator(devnet: Devnet) -> Operator:
    token = Token(devnet.token, "USDC", 6, "USD Coin", "2")
    return Operator(
        Network(CHAIN_ID), "127.0.0.1:1", devnet.operator.address, devnet.escrow, DELAY_S, (token,), insecure=True
    )


async def test_everything_comes_back_after_the_delay(devnet: Devnet, payer: Payer, operator: Operator) -> None:
    async with EscrowCaller(devnet.anvil.url, operator, payer.signer) as escrow:
        assert (await escrow.account(payer.config)).balance == AMOUNT
        await escrow.initiate(payer.config)
        assert (await escrow.account(payer.config)).withdrawable_at > 0
        with pytest.raises(ChainError, match="the escrow refuses finalizeWithdraw: WithdrawTooEarly"):
            await escrow.finalize(payer.config)
        with pytest.raises(ChainError, match="WithdrawPending"):
            await escrow.initiate(payer.config, 1)
        devnet.anvil.advance(DELAY_S + 1)
        returned, transaction = await escrow.finalize(payer.config)
        assert returned == AMOUNT == devnet.balance(payer.signer.address)
        assert len(transaction) == 32
        assert (await escrow.account(payer.config)) == (0, 0, 0, False)


async def test_a_withdrawal_can_be_given_up(devnet: Devnet, payer: Payer, operator: Operator) -> None:
    async with EscrowCaller(devnet.anvil.url, operator, payer.signer) as escrow:
        await escrow.initiate(payer.config, 1_000)
        assert (await escrow.account(payer.config)).withdraw_amount == 1_000
        await escrow.cancel(payer.config)
        assert (await escrow.account(payer.config)) == (AMOUNT, 0, 0, False)
        with pytest.raises(ChainError, match="NoWithdrawPending"):
            await escrow.cancel(payer.config)


async def test_c2_the_payer_gets_out_although_its_session_key_is_stolen(devnet: Devnet, operator: Operator) -> None:
    thief = devnet.payer()
    payer = devnet.payer()
    payer = replace(payer, config=replace(payer.config, payer_authorizer=thief.signer.address))
    payer.deposit(AMOUNT)
    devnet.anvil.set_ether(thief.signer.address, 10**18)
    async with (
        EscrowCaller(devnet.anvil.url, operator, payer.signer) as escrow,
        EscrowCaller(devnet.anvil.url, operator, thief.signer) as stolen,
    ):
        await stolen.initiate(payer.config, 1)
        assert not (await escrow.account(payer.config)).withdraw_by_payer
        await escrow.initiate(payer.config)  # replaces it
        assert (await escrow.account(payer.config)).withdraw_by_payer
        with pytest.raises(ChainError, match="the escrow refuses cancelWithdraw: WithdrawOfPayer"):
            await stolen.cancel(payer.config)
        with pytest.raises(ChainError, match="WithdrawPending"):
            await stolen.initiate(payer.config, 1)
        devnet.anvil.advance(DELAY_S + 1)
        with pytest.raises(ChainError, match="WithdrawOfPayer"):
            await stolen.cancel(payer.config)
        returned, _ = await escrow.finalize(payer.config)
        assert returned == AMOUNT == devnet.balance(payer.signer.address)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda operator: replace(operator, network=Network(1)), "rpc: got chain 31337, allowed 1"),
        (lambda operator: replace(operator, escrow=bytes([7] * 20)), "there is no contract at 0x0707"),
    ],
)
async def test_another_chain_or_contract_is_told(
    devnet: Devnet, payer: Payer, operator: Operator, change: Callable[[Operator], Any], sentence: str
) -> None:
    with pytest.raises(ChainError, match=sentence):
        async with EscrowCaller(devnet.anvil.url, change(operator), payer.signer):
            pytest.fail("it was entered")


async def test_a_node_that_is_away_is_told(payer: Payer, operator: Operator) -> None:
    with pytest.raises(ChainError, match="does not answer"):
        async with EscrowCaller("http://127.0.0.1:1", operator, payer.signer):
            pytest.fail("it was entered")


async def test_a_payer_without_gas_is_told(devnet: Devnet, payer: Payer, operator: Operator) -> None:
    devnet.anvil.set_ether(payer.signer.address, 0)
    async with EscrowCaller(devnet.anvil.url, operator, payer.signer) as escrow:
        with pytest.raises(ChainError, match="initiateWithdraw could not be sent"):
            await escrow.initiate(payer.config)
