"""The histories that other tests draw are worth drawing: they hold the invariants and reach every kind of event."""

import typing

from histories import NOW, History, do, histories, same_state
from hypothesis import given, settings

from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.invariants import check_invariants
from tallystick_aggregator.ledger.state import Ledger


def run(history: History) -> tuple[Ledger, list[ev.Event]]:
    ledger, events = Ledger(), list[ev.Event]()
    for commit in history:
        draft = Draft(ledger)
        for command in commit:
            do(command, draft, ledger, NOW)
        draft.adopt()
        events += draft.events
    return ledger, events


@given(histories())
def test_random_histories_hold_the_invariants(history: History) -> None:
    ledger, events = run(history)
    check_invariants(ledger)
    replayed = Ledger()
    draft = Draft(replayed)
    draft.replay(events)
    draft.adopt()
    assert same_state(replayed, ledger)
    assert replayed.payments == ledger.payments


def test_every_kind_of_event_is_reached() -> None:
    reached = set[type]()

    @settings(max_examples=1_500, derandomize=True, database=None)
    @given(histories())
    def explore(history: History) -> None:
        reached.update(map(type, run(history)[1]))

    explore()
    assert reached == set(typing.get_args(ev.Event))
