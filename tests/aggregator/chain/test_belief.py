"""The pure parts of what is believed of a chain: the worse of two answers, explained funds, turns to be read again."""

from doubles import ESCROW_REF, TOKEN, Payer

from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain.escrow_events import EscrowEvent
from tallystick_aggregator.chain.node import Log
from tallystick_aggregator.chain.port import EscrowAccount
from tallystick_aggregator.chain.watching.explained import Anchor, Explained
from tallystick_aggregator.chain.watching.mirror import AccountSnapshot, cautious, held_in_all, is_news, raises_credit
from tallystick_aggregator.chain.watching.reading import PARTS_OF_DELAY, REREADS_PER_LOOK, Rereads
from tallystick_aggregator.ledger.state import Account, Channel, Ledger

ALICE = Payer("alice")
OPERATOR = ALICE.config.receiver_authorizer


def ledger_of(*accounts: Account) -> Ledger:
    return Ledger(accounts={account.id: account for account in accounts})


def seen(balance: int, *, withdrawing: int = 0) -> AccountSnapshot:
    at = EscrowAccount(balance, 0, 0, withdrawing, 99 if withdrawing else 0)
    return AccountSnapshot(ALICE.account_id, ALICE.config, at, {}, at, {})


def event(name: str, amount: int, block_number: int = 5) -> EscrowEvent:
    topics = (calls.event_topic(name), ALICE.account_id)
    if name == "AccountOpened":
        config = ALICE.config
        topics += (config.payer.rjust(32, b"\0"), OPERATOR.rjust(32, b"\0"))
        data = config.payer_authorizer.rjust(32, b"\0") + config.token.rjust(32, b"\0")
        data += config.withdraw_delay_s.to_bytes(32, "big") + config.salt + amount.to_bytes(32, "big")
        return calls.read_event(Log(topics, data, block_number))
    words = 4 if name == "Refunded" else 2
    return calls.read_event(Log(topics, amount.to_bytes(32, "big") + bytes(32 * (words - 1)), block_number))


def test_r8_of_two_answers_the_worse_counts() -> None:
    one, other = EscrowAccount(100, 1, 4, 7, 900), EscrowAccount(90, 2, 3, 0, 0)
    worse = EscrowAccount(90, 1, 3, 7, 900)
    assert cautious(one, other) == cautious(other, one) == worse
    assert cautious(EscrowAccount(1, 0, 0, 1, 50), EscrowAccount(1, 0, 0, 1, 40)).withdrawable_at == 40


def test_r8_events_explain_what_an_account_has_to_the_unit() -> None:
    explained = Explained(OPERATOR)
    assert explained.funds(ALICE.account_id, []) is None
    events = [event("AccountOpened", 100), event("Deposited", 50, 6), event("Refunded", 30, 7)]
    explained.advance(events)
    assert explained.funds(ALICE.account_id, []) == sum(event.moved for event in events) == 120
    explained.settle(ALICE.account_id, 115, 0, 8)
    assert explained.funds(ALICE.account_id, []) == 115
    channel = Channel(ALICE.channel_id(), ALICE.account_id, bytes(20), claimed=9)  # type: ignore[arg-type]
    assert explained.funds(ALICE.account_id, [channel]) == 124, "a baseline of a channel that became known since"
    explained.forget([ALICE.account_id])
    assert explained.funds(ALICE.account_id, []) is None
    Explained(bytes(20)).advance(events)


def test_r8_an_anchor_that_is_corrected_keeps_what_moved_since() -> None:
    explained = Explained(OPERATOR)
    explained.settle(ALICE.account_id, 100, 0, 8)
    then = explained.anchor(ALICE.account_id)
    assert then == Anchor(100, 0, 8)
    explained.advance([event("Deposited", 5, 9)])
    explained.correct(ALICE.account_id, then, Anchor(170, 0, 8))
    assert explained.funds(ALICE.account_id, []) == 175
    explained.correct(ALICE.account_id, then, Anchor(999, 0, 8))
    assert explained.funds(ALICE.account_id, []) == 175, "the anchor is another one by now"


def test_r8_only_what_would_change_the_ledger_is_news() -> None:
    ledger = ledger_of(Account(ALICE.account_id, ESCROW_REF, ALICE.config, funds=100))  # type: ignore[arg-type]
    assert not is_news(ledger, seen(100))
    assert is_news(ledger, seen(101))
    assert is_news(ledger, seen(99))
    assert is_news(ledger, seen(100, withdrawing=3))
    assert is_news(ledger_of(), seen(100))
    assert raises_credit(ledger, seen(101))
    assert not raises_credit(ledger, seen(100))
    assert raises_credit(ledger_of(), seen(1))


def test_r8_what_all_accounts_hold_is_added_up_by_token() -> None:
    bob = Payer("bob")
    ledger = ledger_of(
        Account(ALICE.account_id, ESCROW_REF, ALICE.config, funds=100),  # type: ignore[arg-type]
        Account(bob.account_id, ESCROW_REF, bob.config, funds=50, claimed=20),  # type: ignore[arg-type]
    )
    assert held_in_all(ledger, ESCROW_REF, TOKEN, {}) == 130
    assert held_in_all(ledger, ESCROW_REF, TOKEN, {ALICE.account_id: seen(400)}) == 430
    assert held_in_all(ledger, ESCROW_REF, bytes(20), {ALICE.account_id: seen(400)}) == 0
    assert held_in_all(ledger, "eip155:1", TOKEN, {}) == 0


def test_r7_every_account_with_a_channel_has_its_turn_in_every_interval() -> None:
    payers = [Payer(f"payer {number}") for number in range(40)]
    accounts = [Account(p.account_id, ESCROW_REF, p.config, channels=1) for p in payers]  # type: ignore[arg-type]
    idle = Account(ALICE.account_id, ESCROW_REF, ALICE.config)  # type: ignore[arg-type]
    ledger, rereads = ledger_of(*accounts, idle), Rereads()
    for account in ledger.accounts.values():
        rereads.plan(account, 0.0)
        rereads.plan(account, 5.0)
    interval = idle.config.withdraw_delay_s / PARTS_OF_DELAY
    turns: list[bytes] = []
    for step in range(1, 101):
        turns += rereads.due(ledger, interval * step / 100)
    assert sorted(turns) == sorted(account.id for account in accounts)
    assert len(rereads.due(ledger, interval * 2)) == len(accounts) <= REREADS_PER_LOOK
    assert rereads.due(ledger, interval * 2) == set()
