"""What the rest of the aggregator asks of the ledger; only `ledger`, `charging` and the store look into it."""

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from histories import BEGINNING, ESCROW_REF, NOW, RECEIVERS, Mirror, account_id, channel_id, do

import tallystick_aggregator
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.ledger.values import EscrowRef

PACKAGE = Path(tallystick_aggregator.__path__[0])
ROOMS = ("accounts", "api", "auth", "chain", "claims", "runtime", "schemes")
COLLECTIONS = {one.name for one in fields(Ledger) if not isinstance(getattr(Ledger(), one.name), int)}


def walks(source: str) -> Iterator[str]:
    """Yield each look into a collection of something that is called a ledger, in the source's words."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in COLLECTIONS:
            owner = node.value.func if isinstance(node.value, ast.Call) else node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name.strip("_").endswith("ledger"):
                yield ast.unparse(node)


@pytest.mark.parametrize("room", ROOMS)
def test_nobody_outside_charging_and_store_looks_into_the_ledger(room: str) -> None:
    modules = [*(PACKAGE / room).rglob("*.py")]
    assert modules
    found = {module.name: walked for module in modules if (walked := [*walks(module.read_text())])}
    assert not found, f"ask one of Ledger's methods instead, or add one: {found}"


@pytest.mark.parametrize(
    "source",
    [
        "ledger.accounts[x]",
        "self._writer.ledger.channels.get(x)",
        "self._ledger().heads",
        "for one in writer.ledger.payments: pass",
    ],
)
def test_a_look_into_the_ledger_is_found(source: str) -> None:
    assert [*walks(source)]
    assert not [*walks("ledger.account(x), ledger.channels_of(x), world.accounts[x]")]


@pytest.fixture
def ledger() -> Ledger:
    """Two funded accounts with two channels each."""
    made = Ledger()
    draft = Draft(made)
    for command in BEGINNING:
        do(command, draft, made, NOW)
    draft.adopt()
    return made


def test_what_is_known_is_told_and_what_is_not_is_none(ledger: Ledger) -> None:
    account = ledger.known_account(account_id(0))
    assert ledger.account(account_id(0)) is account
    assert ledger.account(account_id(9)) is None
    channel = ledger.known_channel(channel_id(0, 1))
    assert ledger.channel(channel_id(0, 1)) is channel
    assert ledger.channel(channel_id(9, 1)) is None
    with pytest.raises(KeyError):
        ledger.known_account(account_id(9))
    with pytest.raises(KeyError):
        ledger.known_channel(channel_id(9, 1))
    assert ledger.size == (2, 4)
    assert ledger.head(ESCROW_REF) is None
    assert [key.account_id for key in ledger.spend_keys_of(account_id(1))] == [account_id(1)]


def test_channels_come_in_pages(ledger: Ledger) -> None:
    ids = [channel.id for channel in ledger.channels_of(account_id(0))]
    assert ids == [channel_id(0, receiver) for receiver in range(RECEIVERS)]
    assert ledger.channel_count(account_id(0)) == RECEIVERS

    def after(id_: bytes, count: int) -> list[bytes]:
        found = ledger.channels_after(account_id(0), id_, count)
        assert found is not None
        return [channel.id for channel in found]

    assert after(b"", 1) == ids[:1]
    assert after(ids[0], 9) == ids[1:]
    assert after(ids[-1], 9) == []
    assert ledger.channels_after(account_id(0), channel_id(1, 0), 9) is None
    assert ledger.channels_after(account_id(9), b"", 9) == []


def test_accounts_are_told_by_network_and_by_whether_they_withdraw(ledger: Ledger) -> None:
    assert [account.id for account in ledger.accounts_of(ESCROW_REF)] == [account_id(0), account_id(1)]
    assert not [*ledger.accounts_of(EscrowRef("eip155:9", bytes(20)))]
    assert not [*ledger.withdrawing(ESCROW_REF)]
    draft = Draft(ledger)
    do(Mirror(1, 3_000, (0,) * RECEIVERS, 100), draft, ledger, NOW)
    draft.adopt()
    assert [account.id for account in ledger.withdrawing(ESCROW_REF)] == [account_id(1)]


def test_a_walk_goes_on_over_commits_and_sees_what_is_there_now(ledger: Ledger) -> None:
    walk = ledger.every_account()
    next(walk)
    draft = Draft(ledger)
    do(Mirror(1, 5_000, (0,) * RECEIVERS, 0), draft, ledger, NOW)
    draft.adopt()
    assert [account.funds for account in walk] == [5_000]
    assert len([*ledger.every_channel()]) == 4


def test_a_stranger_is_a_channel_that_is_unknown_or_pays_somebody_else(ledger: Ledger) -> None:
    mine, other = channel_id(0, 0), channel_id(0, 1)
    receivers = {ledger.known_channel(mine).receiver}
    assert ledger.strangers_among({mine, other, b"unknown"}, receivers) == {other, b"unknown"}
