"""Two ways to the same truth: the ledger's mirror, which reads state, and the escrow rebuilt from its logs alone."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from escrow_histories import CONFIG_TYPE, World, new_world
from eth_abi.abi import encode

sys.path.append(str(Path(__file__).parent.parent / "aggregator" / "chain"))
from harness import RULES, Side, chain_side

from _anvil import DEV_KEYS, Anvil, function
from anvil import Devnet
from tallystick.signatures import Signer
from tallystick_aggregator.chain.escrow_calls import selector
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.invariants import check_invariants
from tallystick_aggregator.ledger.state import Ledger
from tallystick_contracts.logs import rebuild


async def test_the_rebuilt_escrow_is_what_the_ledger_mirrors() -> None:
    for seed in range(2):
        await compare(seed, rounds=4, steps=20)


@pytest.mark.full
@pytest.mark.timeout(1_800)
async def test_the_rebuilt_escrow_is_what_the_ledger_mirrors_for_long() -> None:
    for seed in range(3_000, 3_020):
        await compare(seed, rounds=20, steps=20)


async def compare(seed: int, rounds: int, steps: int) -> None:
    """Run a history beside an aggregator's chain side; after each round both must say the same."""
    with Anvil() as anvil:
        world = new_world(anvil, seed)
        devnet = Devnet(
            anvil, world.escrow, world.tokens[0], world.operators[0], Signer(DEV_KEYS[3]), world.first_block
        )
        try:
            allow = function("setSender(address,bool)", devnet.sender.address, 1)
            anvil.send(devnet.operator.address, devnet.escrow, allow)
            fund(world)
            tokens = tuple(replace(devnet.token_settings, address=token, min_deposit=1) for token in world.tokens)
            async with chain_side(devnet, tokens=tokens) as side:
                await open_channels(side, world)
                for number in range(rounds):
                    for _ in range(steps):
                        world.meddle() if world.random.random() < 0.05 else world.step()
                    await side.mirrored()
                    check(side.ledger, world, f"seed {seed}, round {number}")
                assert any(channel.claimed for channel in side.ledger.channels.values())
        finally:
            world.close()


def fund(world: World) -> None:
    """A first deposit to every account, so that channels are known before they are claimed."""
    for config in world.configs[:6]:
        data = selector(f"deposit({CONFIG_TYPE},uint128)") + encode([CONFIG_TYPE, "uint128"], [config, 300])
        assert not world.send(config.payer, data).error
        world.model.deposit(config.payer, config, 300)


async def open_channels(side: Side, world: World) -> None:
    """Make the ledger know every channel of the operator's accounts."""

    def decision(draft: Draft, ledger: Ledger, _moment: object) -> None:
        for config in world.configs[:6]:
            account_id = world.model.account_id(config)
            if account_id in ledger.accounts:
                for receiver in filter(any, world.receivers):  # the zero address has no channel
                    channel_id = world.model.channel_id(config, receiver)
                    accounts.open_channel(draft, account_id, channel_id, receiver, 0, RULES)

    await side.mirrored()
    await side.writer.run(decision)


def check(ledger: Ledger, world: World, where: str) -> None:
    """Compare every account of the operator, and every channel of it."""
    check_invariants(ledger)
    rebuilt = rebuild(world.logs())
    ours = {one: a for one, a in rebuilt.accounts.items() if a.operator == world.operators[0].address}
    assert set(ledger.accounts) == set(ours), where
    for one, account in ours.items():
        mirrored = ledger.accounts[one]
        config = mirrored.config
        assert (config.payer, config.payer_authorizer, config.token, config.withdraw_delay_s, config.salt) == (
            account.payer,
            account.payer_authorizer,
            account.token,
            account.withdraw_delay_s,
            account.salt,
        )
        claimed = {c.receiver: c.claimed for c in ledger.channels_of(one) if c.claimed}
        assert claimed == account.claimed, where
        assert mirrored.funds == account.balance + sum(claimed.values()), where
        assert mirrored.withdrawing == min(account.withdraw_amount, account.balance), where
        assert mirrored.withdraw_finalizes_at == account.withdrawable_at, where
