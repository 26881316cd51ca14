"""Events are read as the ABI has them, and the escrow rebuilt from its logs is the one that its views show."""

from collections.abc import Callable
from typing import Any, Final

import pytest
from escrow_histories import RawLog, Views, World, new_world
from eth_abi.abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from _anvil import Anvil
from tallystick.hashing import keccak256
from tallystick_contracts import load
from tallystick_contracts.events import (
    SIGNATURES,
    AccountOpened,
    Claimed,
    Collected,
    Deposited,
    Event,
    LogError,
    Owed,
    Refunded,
    RowSkipped,
    SkipReason,
    WithdrawCancelled,
    WithdrawFinalized,
    WithdrawInitiated,
    decode,
)
from tallystick_contracts.logs import EscrowState, apply, rebuild

ABI: Final = {
    entry["name"]: entry
    for entry in load("Escrow").abi
    if entry["type"] == "event" and entry["name"] != "EIP712DomainChanged"  # ERC-5267's; never emitted
}


def rows(inputs: dict[str, Any]) -> bool:
    return str(inputs["type"]) == "tuple[]"


def typed(inputs: dict[str, Any]) -> str:
    """The canonical type of an argument."""
    if rows(inputs):
        return f"({','.join(part['type'] for part in inputs['components'])})[]"
    return str(inputs["type"])


values: Final[dict[str, st.SearchStrategy[Any]]] = {
    "address": st.binary(min_size=20, max_size=20),
    "bytes32": st.binary(min_size=32, max_size=32),
    "uint8": st.sampled_from(SkipReason),
    "uint40": st.integers(0, 2**40 - 1),
    "uint128": st.integers(0, 2**128 - 1),
    "uint256": st.integers(0, 2**256 - 1),
    "bool": st.booleans(),
}
values["(address,uint128)[]"] = st.lists(st.tuples(values["address"], values["uint128"]), max_size=5).map(tuple)


def raw(entry: dict[str, Any], arguments: list[Any]) -> RawLog:
    """The log that Solidity would make."""
    types = [typed(i) for i in entry["inputs"]]
    topics = [keccak256(f"{entry['name']}({','.join(types)})".encode())]
    data = []
    for inputs, kind, value in zip(entry["inputs"], types, arguments, strict=True):
        if inputs["indexed"]:
            topics.append(encode([kind], [value]))
        else:
            data.append((kind, value))
    return RawLog(tuple(topics), encode([kind for kind, _ in data], [value for _, value in data]))


def test_every_event_of_the_abi_is_known() -> None:
    assert {f"{name}({','.join(typed(i) for i in entry['inputs'])})" for name, entry in ABI.items()} == set(SIGNATURES)


@pytest.mark.parametrize("name", ABI)
@settings(max_examples=50)
@given(data=st.data())
def test_decode_reads_every_field_in_its_place(name: str, data: st.DataObject) -> None:
    arguments = [data.draw(values[typed(i)]) for i in ABI[name]["inputs"]]
    event = decode(raw(ABI[name], arguments))
    assert type(event).__name__ == name
    assert list(event) == arguments


def test_skip_reasons_are_the_contracts() -> None:
    skip_reason = next(i for i in ABI["RowSkipped"]["inputs"] if i["name"] == "reason")
    assert skip_reason["internalType"] == "enum IEscrow.SkipReason"
    assert [reason.value for reason in SkipReason] == list(range(6))


GOOD = raw(ABI["Deposited"], [bytes(32), 5, 9])
CLAIMED = raw(ABI["Claimed"], [bytes(32), [(b"\x01" * 20, 5)]])


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (RawLog((), b""), "topic: got none"),
        (RawLog((bytes(32),), b""), "topic: got 00"),
        (GOOD._replace(topics=GOOD.topics[:1]), r"Deposited\(.*got 1 topics"),
        (GOOD._replace(data=GOOD.data[:-1]), r"Deposited\(.*63 bytes of data"),
        (GOOD._replace(data=GOOD.data[:-32]), r"Deposited\(.*2 words that do not fit"),
        (CLAIMED._replace(data=CLAIMED.data[:-32]), "Claimed: 1 rows announced, 1 words given"),
        (CLAIMED._replace(data=CLAIMED.data[:-64] + b"\xff" * 64), "an address: got ffff"),
        (raw(ABI["RowSkipped"], [bytes(32), bytes(20), 5, 9]), r"RowSkipped\(.*do not fit"),
    ],
)
def test_what_is_no_event_of_the_escrow_is_named(log: RawLog, message: str) -> None:
    with pytest.raises(LogError, match=f"^{message}"):
        decode(log)


# Rebuilding.

ACCOUNT, SELLER, TOKEN = b"\x01" * 32, b"\x02" * 20, b"\x03" * 20
OPENED = AccountOpened(ACCOUNT, b"\x04" * 20, b"\x05" * 20, b"\x06" * 20, TOKEN, 900, bytes(32), 100)
WITHDRAWING = WithdrawInitiated(ACCOUNT, 1, 9, 0, True)
BY_AUTHORIZER = WithdrawInitiated(ACCOUNT, 1, 9, 0, False)


def after(*events: Event) -> EscrowState:
    state = EscrowState()
    for event in events:
        apply(state, event)
    return state


def test_a_life_of_an_account() -> None:
    state = after(
        OPENED,
        Deposited(ACCOUNT, 20, 120),
        Claimed(ACCOUNT, ((SELLER, 30),)),
        WithdrawInitiated(ACCOUNT, 50, 1_000, 0, True),
        Claimed(ACCOUNT, ((SELLER, 40),)),
        Refunded(ACCOUNT, 10, 70, 0, 40),
    )
    account = state.accounts[ACCOUNT]
    assert (account.balance, account.claimed) == (70, {SELLER: 40})
    assert (account.refund_nonce, account.withdraw_nonce) == (1, 1)
    assert (account.withdraw_amount, account.withdrawable_at) == (40, 1_000)
    apply(state, WithdrawFinalized(ACCOUNT, 40, 30))
    apply(state, Owed(OPENED.payer, TOKEN, 40, 40))
    assert (account.balance, account.withdraw_amount, account.withdrawable_at) == (30, 0, 0)
    assert state.liabilities(TOKEN) == 70
    assert state.liabilities(SELLER) == 0


def test_c2_a_replaced_withdrawal_is_the_payers_with_its_own_amount_time_and_nonce() -> None:
    state = after(OPENED, BY_AUTHORIZER, WithdrawInitiated(ACCOUNT, 70, 1_000, 0, True))
    account = state.accounts[ACCOUNT]
    assert (account.withdraw_amount, account.withdrawable_at, account.withdraw_by_payer) == (70, 1_000, True)
    assert (account.withdraw_nonce, account.authorizer_nonce) == (1, 1)
    apply(state, WithdrawCancelled(ACCOUNT, 1, True))
    assert (account.withdraw_amount, account.withdrawable_at, account.withdraw_by_payer) == (0, 0, False)
    apply(state, WithdrawInitiated(ACCOUNT, 5, 2_000, 1, False))
    apply(state, WithdrawCancelled(ACCOUNT, 2, False))
    assert (account.withdraw_nonce, account.authorizer_nonce) == (2, 3)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([Deposited(ACCOUNT, 5, 5)], f"Deposited: account {ACCOUNT.hex()} was never opened"),
        ([OPENED, OPENED], f"AccountOpened: account {ACCOUNT.hex()} was opened before"),
        ([OPENED, Deposited(ACCOUNT, 5, 110)], "Deposited.balance: got 110; after the logs so far it is 105"),
        ([OPENED, Claimed(ACCOUNT, ((SELLER, 101),))], "Claimed: 101 paid; the logs so far leave a balance of 100"),
        ([OPENED, Claimed(ACCOUNT, ((SELLER, 5), (SELLER, 5)))], "Claimed: receiver .* got up to 5 after 5"),
        ([OPENED, WITHDRAWING._replace(nonce=1)], "WithdrawInitiated.nonce: got 1; after the logs so far it is"),
        ([OPENED, BY_AUTHORIZER, WITHDRAWING._replace(nonce=1)], "WithdrawInitiated.nonce: got 1"),
        ([OPENED, WITHDRAWING, WITHDRAWING._replace(nonce=1)], "WithdrawInitiated: .* cannot replace"),
        ([OPENED, WITHDRAWING, BY_AUTHORIZER], "WithdrawInitiated: .* cannot replace"),
        ([OPENED, BY_AUTHORIZER, BY_AUTHORIZER._replace(nonce=1)], "WithdrawInitiated: .* cannot replace"),
        ([OPENED, WITHDRAWING, WithdrawCancelled(ACCOUNT, 0, False)], "WithdrawCancelled: the payerAuthorizer cannot"),
        ([OPENED, WithdrawCancelled(ACCOUNT, 3, True)], "WithdrawCancelled.nonce: got 3"),
        ([OPENED, WithdrawFinalized(ACCOUNT, 1, 99)], "WithdrawFinalized: the logs so far have no withdrawal pending"),
        ([OPENED, WITHDRAWING, WithdrawFinalized(ACCOUNT, 1, 98)], "WithdrawFinalized.balance: got 98"),
        ([OPENED, WITHDRAWING, WithdrawFinalized(ACCOUNT, 2, 98)], "WithdrawFinalized.amount: got 2"),
        ([OPENED, WITHDRAWING, Refunded(ACCOUNT, 1, 99, 0, 1)], "Refunded.withdrawAmount: got 1"),
        ([OPENED, Refunded(ACCOUNT, 1, 98, 0, 0)], "Refunded.balance: got 98"),
        ([OPENED, Refunded(ACCOUNT, 1, 99, 1, 0)], "Refunded.nonce: got 1"),
        ([Owed(SELLER, TOKEN, 5, 6)], "Owed.total: got 6"),
        ([Collected(SELLER, TOKEN, 5)], "Collected.amount: got 5; after the logs so far it is 0"),
    ],
)
def test_a_missing_log_is_found_and_changes_nothing(events: list[Event], message: str) -> None:
    state = after(*events[:-1])
    untouched = after(*events[:-1])
    with pytest.raises(LogError, match=f"^{message}"):
        apply(state, events[-1])
    assert state == untouched


def test_a_row_skipped_on_an_account_that_does_not_exist_is_no_error() -> None:
    assert after(RowSkipped(ACCOUNT, SELLER, 5, SkipReason.ACCOUNT_EMPTY)) == EscrowState()


def shown(world: World, state: EscrowState) -> Views:
    """A rebuilt state in the form of what the contract's views show."""
    empty = (0,) * 8
    accounts = {
        one: (
            1,
            a.balance,
            a.refund_nonce,
            a.withdraw_nonce,
            a.authorizer_nonce,
            a.withdraw_amount,
            a.withdrawable_at,
            a.withdraw_by_payer,
        )
        for one, a in state.accounts.items()
    }
    configs = dict(zip(world.account_ids, world.configs, strict=True))
    claimed = {
        world.model.channel_id(configs[one], receiver): total
        for one, a in state.accounts.items()
        for receiver, total in a.claimed.items()
    }
    views = world.views()
    return Views(
        {one: accounts.get(one, empty) for one in views.accounts},
        {one: claimed.get(one, 0) for one in views.claimed},
        state.owed,
        state.senders,
        views.balances,
    )


def check_rebuilt(world: World) -> None:
    state = rebuild(world.logs())
    assert shown(world, state) == world.views()
    configs = dict(zip(world.account_ids, world.configs, strict=True))
    for one, account in state.accounts.items():
        config = configs[one]
        assert (account.payer, account.payer_authorizer, account.operator) == (
            config.payer,
            config.payer_authorizer,
            config.operator,
        )
        assert (account.token, account.withdraw_delay_s, account.salt) == (
            config.token,
            config.withdraw_delay_s,
            config.salt,
        )


def run(seeds: range, steps: int, check_every: int, visit: Callable[[World], None]) -> None:
    with Anvil() as anvil:
        for seed in seeds:
            world = new_world(anvil, seed)
            try:
                for number in range(1, steps + 1):
                    world.meddle() if world.random.random() < 0.08 else world.step()
                    if number % check_every == 0:
                        visit(world)
            finally:
                world.close()


def test_the_rebuilt_escrow_is_what_the_views_show() -> None:
    run(range(50, 53), 120, 20, check_rebuilt)


@pytest.mark.full
@pytest.mark.timeout(1_800)
def test_the_rebuilt_escrow_is_what_the_views_show_for_long() -> None:
    run(range(2_000, 2_040), 500, 50, check_rebuilt)
