"""The journal's twin fails as it is told to, and keeps what a disk would have kept."""

import pytest
from driven import Driven
from failing_disk import CrashedError, Fault, MemoryDisk, Operation
from histories import BEGINNING, ESCROW_REF, NOW_MS, Advance, same_state

from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.memory import MemoryJournal
from tallystick_aggregator.store.port import StoreLockedError, StoreUnavailableError


class Plan:
    """Nothing goes wrong until `next` says what does, once."""

    def __init__(self) -> None:
        self.next = Fault.NONE
        self.asked: list[Operation] = []

    def __call__(self, operation: Operation) -> Fault:
        self.asked.append(operation)
        fault, self.next = self.next, Fault.NONE
        return fault


async def started() -> tuple[Plan, MemoryDisk, Driven]:
    plan = Plan()
    disk = MemoryDisk(plan=plan)
    journal = MemoryJournal(disk)
    driven = Driven(journal, await journal.load())
    await driven.commit(BEGINNING)
    return plan, disk, driven


async def test_a_refused_append_leaves_nothing_and_the_next_one_works() -> None:
    plan, disk, driven = await started()
    plan.next = Fault.REFUSED
    with pytest.raises(StoreUnavailableError, match="append: refused"):
        await driven.journal.append([ev.PaymentsForgotten(5)])
    await driven.commit([Advance(0, 1)])
    assert same_state(await MemoryJournal(disk).load(), driven.model)
    assert plan.asked == [Operation.APPEND] * 3


@pytest.mark.parametrize(("fault", "number"), [(Fault.CRASH_BEFORE, 1), (Fault.CRASH_AFTER, 2)])
async def test_a_crash_keeps_what_was_written_before_it(fault: Fault, number: int) -> None:
    plan, disk, driven = await started()
    await driven.commit([Advance(0, 1)])
    plan.next = fault
    _, draft = await driven.decide([Advance(0, 2)])
    with pytest.raises(CrashedError):
        await driven.journal.append(draft.events)
    assert (await MemoryJournal(disk).load()).heads[EscrowRef("eip155:0", ESCROW_REF.address)].number == number


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.CRASH_BEFORE, Fault.CRASH_AFTER])
async def test_a_checkpoint_that_goes_wrong_loses_nothing(fault: Fault) -> None:
    plan, disk, driven = await started()
    plan.next = fault
    with pytest.raises((StoreUnavailableError, CrashedError)):
        await driven.journal.checkpoint(NOW_MS)
    assert driven.journal.backlog > 0
    assert same_state(await MemoryJournal(disk).load(), driven.model)


async def test_a_second_opening_takes_over_and_a_closed_one_takes_nothing() -> None:
    _, disk, driven = await started()
    taken_over = MemoryJournal(disk)
    assert taken_over.epoch == driven.journal.epoch + 1
    with pytest.raises(StoreLockedError):
        await driven.journal.append([ev.PaymentsForgotten(5)])
    await taken_over.close()
    with pytest.raises(StoreUnavailableError, match="is closed"):
        await taken_over.load()
