"""What `EvmChain.start` refuses, each with one sentence that names what is wrong and what is allowed."""

from dataclasses import replace
from typing import Any

import pytest
from eth_abi.abi import encode
from harness import chain_side

from _anvil import function
from anvil import Devnet
from tallystick.signatures import Signer
from tallystick_aggregator.chain.port import ChainUnavailableError
from tallystick_aggregator.chain.settings import ConfigurationError, FeeSettings

STRANGER = Signer(b"\x07" * 32)


async def refusal(devnet: Devnet, **changes: Any) -> str:
    with pytest.raises(ConfigurationError) as refused:
        async with chain_side(devnet, **changes):
            pass
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


async def test_a_chain_that_is_another(devnet: Devnet) -> None:
    assert "eip155:31337" in await refusal(devnet, network="eip155:8453")


async def test_an_escrow_that_is_not_there(devnet: Devnet) -> None:
    assert "no contract" in await refusal(devnet, escrow=b"\x01" * 20)


async def test_an_escrow_that_is_something_else(devnet: Devnet) -> None:
    assert "not a Tallystick escrow" in await refusal(devnet, escrow=devnet.token)


async def test_a_sender_that_may_not_claim(devnet: Devnet) -> None:
    devnet.anvil.set_ether(STRANGER.address, 10**18)
    sentence = await refusal(devnet, sender=STRANGER)
    assert "setSender" in sentence


async def test_a_sender_without_ether(devnet: Devnet) -> None:
    devnet.anvil.set_ether(devnet.sender.address, 0)
    assert "no ether" in await refusal(devnet)


async def test_an_operator_key_that_is_not_the_operators(devnet: Devnet) -> None:
    assert "is not the key of operator" in await refusal(devnet, operator_signer=STRANGER)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"address": b"\x01" * 20}, "no contract"),
        ({"name": "USDC"}, "EIP-712 domain"),
        ({"version": "1"}, "EIP-712 domain"),
        ({"decimals": 18}, "the contract has 6"),
    ],
)
async def test_a_token_that_is_not_as_configured(devnet: Devnet, change: dict[str, Any], words: str) -> None:
    assert words in await refusal(devnet, tokens=(replace(devnet.token_settings, **change),))


async def test_a_token_without_a_domain(devnet: Devnet) -> None:
    assert "EIP-712 domain" in await refusal(devnet, tokens=(replace(devnet.token_settings, address=devnet.escrow),))


async def test_endpoints_that_do_not_answer_are_no_configuration_error(devnet: Devnet) -> None:
    with pytest.raises(ChainUnavailableError):
        async with chain_side(devnet, rpc_urls=("http://127.0.0.1:9",)):
            pass


async def test_an_operator_contract_signs_through_its_signers(devnet: Devnet) -> None:
    signer = Signer(b"\x08" * 32)
    arguments = encode(
        ["address", "uint40", "address", "address[]", "address[]", "address[]"],
        [devnet.operator.address, 86_400, devnet.escrow, [signer.address], [devnet.sender.address], []],
    )
    operator = devnet.anvil.deploy_contract("Operator", arguments)
    assert "not an active signer" in await refusal(devnet, operator=operator, operator_signer=STRANGER)
    async with chain_side(devnet, operator=operator, operator_signer=signer) as side:
        assert side.chain.escrow.operator == operator


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"network": "solana:1"}, "network"),
        ({"network": "eip155:one"}, "network"),
        ({"network": "eip155:031337"}, "network"),
        ({"rpc_urls": ()}, "rpc_urls"),
        ({"tokens": ()}, "token"),
        ({"confirmations": -1}, "confirmations"),
        ({"confirmations": 65}, "reorg_depth"),
        ({"poll_s": 0.0}, "poll_s"),
        ({"withdraw_delay_s_min": 899}, "withdraw_delay_s"),
        ({"withdraw_delay_s_min": 7_200, "withdraw_delay_s_max": 3_600}, "withdraw_delay_s"),
        ({"fees": FeeSettings(max_fee_per_gas_wei=1)}, "fees"),
    ],
)
async def test_settings_that_cannot_work(devnet: Devnet, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        devnet.settings(**changes)


async def test_a_right_configuration_starts(devnet: Devnet) -> None:
    devnet.anvil.send(devnet.sender.address, devnet.token, function("balanceOf(address)", devnet.escrow))
    async with chain_side(devnet) as side:
        assert not side.chain.stale()
        assert side.chain.problems() == []
