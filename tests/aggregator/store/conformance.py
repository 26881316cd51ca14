"""What every store promises (`store.port`), as tests: a store that passes them can stand behind the aggregator.

A subclass says in the fixture `site` where a store is and how it fails:

    class TestMine(StoreConformance):
        @pytest.fixture
        def site(self, tmp_path: Path) -> Site:
            return MySite(tmp_path)
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Protocol

import pytest
from driven import Driven
from histories import BEGINNING, NOW_MS, Advance, Attest, Command, Forget, Key, Pay, Refund, Settle, same_state

from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import (
    Attempt,
    OutboundTransaction,
    Outbox,
    Payout,
    Store,
    StoreLockedError,
    StoreUnavailableError,
    TransactionKind,
    TransactionStatus,
)

NETWORK = "eip155:1"
ALICE, BOB, CAROL = b"a" * 20, b"b" * 20, b"c" * 20
TOKEN = b"t" * 20


def outbound(nonce: int, *receivers: bytes, kind: TransactionKind = TransactionKind.CLAIM) -> OutboundTransaction:
    return OutboundTransaction(
        id=0,
        network=NETWORK,
        kind=kind,
        reference=b"reference %d" % nonce,
        sender=b"s" * 20,
        nonce=nonce,
        to=b"e" * 20,
        data=b"data",
        gas_limit=100_000,
        attempts=(Attempt(b"h" * 32, b"raw", 10, 1, 1_800_000_000),),
        status=TransactionStatus.PENDING,
        created_at=1_800_000_000,
        rows=len(receivers),
        payouts=tuple(Payout(receiver, TOKEN, 5) for receiver in receivers),
        memo=b"memo",
    )


HISTORY: list[list[Command]] = [
    list(BEGINNING),
    [Pay(0, 0, 1, 10, 10, None, reserve=False), Pay(1, 0, 2, 7, 1, 0, reserve=False)],
    [Pay(0, 1, 3, 20, 20, None, reserve=True), Pay(0, 0, 6, 5, 15, None, reserve=True)],
    [Settle(0, 1, 3, "capture", 12), Pay(1, 1, 7, 9, 1, 0, reserve=False)],
    [Key(1, 1, 300, revoke=False), Key(1, 0, 400, revoke=True), Advance(0, 7)],
    [Refund(0, 0, 50, end=False), Settle(0, 0, 6, "expire", 0)],
    [Settle(0, 0, 6, "capture", 5), Refund(0, 0, 50, end=True), Advance(1, 3)],
    [Pay(0, 1, 4, 8, 40, None, reserve=True), Settle(0, 1, 4, "step", 8), Attest(0, 1, 0)],
    [Pay(0, 1, 5, 2, 41, None, reserve=True), Settle(0, 1, 5, "step", 2)],
]
"""Everything that a ledger can hold, with a reservation that outlives a commit, a late capture, and charges that are
counted, one of them attested by a claim that is not confirmed."""
AGAIN: list[Command] = [
    Pay(0, 0, 1, 10, 10, None, reserve=False),
    Pay(1, 1, 7, 9, 1, 0, reserve=False),
    Pay(0, 0, 1, 11, 30, None, reserve=False),
]
"""Payment ids that were used before, the last for another amount."""
LATER_MS = NOW_MS + 48 * 3_600_000
"""So late that no payment of `HISTORY` has to stay in memory."""


class Site(Protocol):
    """A place for one store."""

    async def open(self) -> Store:
        """Open the store that is there, or make one."""
        ...

    def crashed(self) -> "Site":
        """Return a place with what would be found here if the machine lost its power now."""
        ...

    def refusing(self, store: Store) -> AbstractAsyncContextManager[None]:
        """Refuse all writes of this open store meanwhile."""
        ...


@pytest.fixture
async def store(site: Site) -> AsyncGenerator[Store]:
    """Return an open store, closed in the end."""
    opened = await site.open()
    yield opened
    await opened.close()


@pytest.fixture
def outbox(store: Store) -> Outbox:
    """Return its outbox."""
    return store.outbox


async def drive(store: Store, model: Ledger | None = None) -> Driven:
    """Drive the store's journal as the ledger's writer does."""
    return Driven(store.journal, await store.journal.load(), model)


async def holds(site: Site, model: Ledger) -> bool:
    """Whether the store that is there loads what the model knows; every payment is found."""
    store = await site.open()
    try:
        driven = await drive(store, model)
        await driven.check()
        return same_state(driven.ledger, model)
    finally:
        await store.close()


class JournalConformance:
    """The promises of `port.Journal`."""

    async def test_an_empty_store_loads_an_empty_ledger(self, site: Site) -> None:
        for _ in range(2):
            store = await site.open()
            assert await store.journal.load() == Ledger()
            assert store.journal.backlog == 0
            await store.journal.checkpoint(NOW_MS)
            await store.close()

    async def test_what_was_appended_is_there_after_a_crash(self, site: Site, store: Store) -> None:
        driven = await drive(store)
        for commit in HISTORY:
            await driven.commit(commit)
            assert await holds(site.crashed(), driven.model)

    async def test_what_is_loaded_is_what_was_in_memory_wherever_a_restart_is(self, site: Site) -> None:
        model = Ledger()
        for number, commit in enumerate(HISTORY):
            store = await site.open()
            driven = await drive(store, model)
            await driven.commit(commit)
            if number % 2:
                await store.journal.checkpoint(NOW_MS)
            await driven.check()
            await store.close()
        assert await holds(site, model)

    async def test_a_checkpoint_covers_the_backlog_and_changes_nothing(self, site: Site, store: Store) -> None:
        driven = await drive(store)
        for commit in HISTORY:
            await driven.commit(commit)
        assert store.journal.backlog >= len(BEGINNING)
        await store.journal.checkpoint(NOW_MS)
        assert store.journal.backlog == 0
        assert await holds(site.crashed(), driven.model)
        await driven.commit([Advance(0, 9)])
        assert store.journal.backlog == 1
        assert await holds(site.crashed(), driven.model)

    async def test_appends_go_on_while_a_checkpoint_is_made(self, site: Site, store: Store) -> None:
        driven = await drive(store)
        await driven.commit(BEGINNING)
        making = asyncio.create_task(store.journal.checkpoint(NOW_MS))
        for commit in HISTORY[1:]:
            await driven.commit(commit)
        await making
        await driven.check()
        assert await holds(site.crashed(), driven.model)
        await store.journal.checkpoint(NOW_MS)
        assert await holds(site.crashed(), driven.model)

    async def test_a_payment_that_left_memory_is_recalled_and_answered_as_before(self, site: Site) -> None:
        store = await site.open()
        driven = await drive(store)
        for commit in HISTORY:
            await driven.commit(commit)
        await store.journal.checkpoint(LATER_MS)
        store.journal.trim()
        await driven.check()
        await driven.commit(AGAIN)
        await store.close()
        store = await site.open()
        driven = await drive(store, driven.model)
        await store.journal.checkpoint(LATER_MS)
        store.journal.trim()
        await driven.commit(AGAIN)
        await driven.check()
        await store.close()

    async def test_recall_finds_nothing_of_what_never_was(self, store: Store) -> None:
        driven = await drive(store)
        await driven.commit(BEGINNING)
        await store.journal.checkpoint(NOW_MS)
        assert await store.journal.recall([]) == {}
        assert await store.journal.recall([(bytes(32), NOW_MS.to_bytes(6, "big") + bytes(10))]) == {}

    async def test_forgotten_payments_stay_forgotten(self, site: Site, store: Store) -> None:
        driven = await drive(store)
        for commit in [*HISTORY, [Forget(300)]]:
            await driven.commit(commit)
        await store.journal.checkpoint(NOW_MS)
        await driven.commit(AGAIN)
        assert await holds(site.crashed(), driven.model)

    async def test_a_refused_append_leaves_nothing_and_the_next_one_works(self, site: Site, store: Store) -> None:
        driven = await drive(store)
        await driven.commit(BEGINNING)
        async with site.refusing(store):
            with pytest.raises(StoreUnavailableError):
                await store.journal.append([ev.ChainAdvanced(EscrowRef("eip155:9", bytes(20)), 9, bytes(32))])
        assert await holds(site.crashed(), driven.model)
        await driven.commit([Advance(0, 1)])
        assert await holds(site.crashed(), driven.model)

    async def test_a_refused_checkpoint_loses_nothing_and_can_be_made_later(self, site: Site, store: Store) -> None:
        driven = await drive(store)
        for commit in HISTORY:
            await driven.commit(commit)
        backlog = store.journal.backlog
        async with site.refusing(store):
            with pytest.raises(StoreUnavailableError):
                await store.journal.checkpoint(NOW_MS)
        assert store.journal.backlog == backlog
        assert await holds(site.crashed(), driven.model)
        await store.journal.checkpoint(NOW_MS)
        assert store.journal.backlog == 0
        assert await holds(site.crashed(), driven.model)

    async def test_of_two_that_have_it_open_one_writes(self, site: Site, store: Store) -> None:
        driven = await drive(store)
        await driven.commit(BEGINNING)
        try:
            other = await site.open()
        except StoreLockedError:
            await driven.commit([Advance(0, 1)])
            return
        assert other.journal.epoch > store.journal.epoch
        with pytest.raises(StoreLockedError):
            await store.journal.append([ev.ChainAdvanced(EscrowRef("eip155:9", bytes(20)), 9, bytes(32))])
        await other.close()
        assert await holds(site.crashed(), driven.model)

    async def test_each_opening_has_a_higher_epoch(self, site: Site) -> None:
        epochs: list[int] = []
        for _ in range(3):
            store = await site.open()
            epochs.append(store.journal.epoch)
            assert store.lost_epochs == 0
            await store.close()
        assert epochs == [1, 2, 3]

    async def test_a_closed_store_takes_and_tells_nothing(self, store: Store) -> None:
        await drive(store)
        await store.close()
        await store.close()
        with pytest.raises(StoreUnavailableError):
            await store.journal.append([ev.ChainAdvanced(EscrowRef("eip155:9", bytes(20)), 9, bytes(32))])
        with pytest.raises(StoreUnavailableError):
            await store.outbox.add(outbound(0))


class OutboxConformance:
    """The promises of `port.Outbox`."""

    async def test_what_is_added_gets_an_id_and_is_found(self, outbox: Outbox) -> None:
        first = await outbox.add(outbound(0))
        second = await outbox.add(outbound(1))
        assert 0 < first.id < second.id
        assert first == replace(outbound(0), id=first.id)
        assert await outbox.by_reference(TransactionKind.CLAIM, b"reference 1") == second
        assert await outbox.by_reference(TransactionKind.REFUND, b"reference 1") is None
        assert await outbox.by_reference(TransactionKind.CLAIM, b"reference 2") is None

    async def test_the_same_reference_is_added_once_and_stays_as_it_was(self, outbox: Outbox) -> None:
        first = await outbox.add(outbound(0))
        assert await outbox.add(replace(outbound(7), reference=first.reference)) == first
        assert await outbox.open(NETWORK) == [first]
        other_kind = await outbox.add(replace(outbound(1), reference=first.reference, kind=TransactionKind.REFUND))
        assert other_kind.id != first.id

    async def test_a_transaction_is_found_by_the_id_that_its_payer_gave_it(self, outbox: Outbox) -> None:
        await outbox.add(outbound(0))
        named = await outbox.add(replace(outbound(1), payment_id=bytes([7]) * 32))
        assert await outbox.by_payment_id(bytes([7]) * 32) == named
        assert await outbox.by_payment_id(bytes(32)) is None
        assert await outbox.by_reference(named.kind, named.reference) == named

    async def test_an_update_replaces_everything(self, outbox: Outbox) -> None:
        added = await outbox.add(outbound(0, ALICE))
        mined = replace(
            added,
            status=TransactionStatus.MINED,
            attempts=(*added.attempts, Attempt(b"i" * 32, b"raw again", 2**90, 2**80, 1_800_000_001)),
            block_number=7,
            block_hash=b"b" * 32,
            transaction_hash=b"i" * 32,
            gas_used=99,
            effective_gas_price_wei=2**70,
            payouts=(Payout(BOB, TOKEN, 2**127),),
            memo=b"",
        )
        await outbox.update(mined)
        assert await outbox.by_reference(added.kind, added.reference) == mined
        assert await outbox.claims([ALICE], 0, 10) == []
        assert await outbox.claims([BOB], 0, 10) == [mined]

    async def test_an_update_of_nothing_is_an_error(self, outbox: Outbox) -> None:
        with pytest.raises(ValueError, match="has no transaction 41"):
            await outbox.update(replace(outbound(0), id=41))

    async def test_open_ones_come_by_nonce_and_final_ones_do_not(self, outbox: Outbox) -> None:
        added = [await outbox.add(outbound(nonce)) for nonce in (4, 2, 9, 1, 3)]
        for transaction, status in zip(added, TransactionStatus, strict=True):
            await outbox.update(replace(transaction, status=status))
        assert [transaction.nonce for transaction in await outbox.open(NETWORK)] == [2, 4]
        assert await outbox.open("eip155:2") == []

    async def test_claims_are_found_by_receiver_newest_first(self, outbox: Outbox) -> None:
        one = await outbox.add(outbound(0, ALICE, BOB))
        two = await outbox.add(outbound(1, BOB, BOB, CAROL))
        three = await outbox.add(outbound(2, ALICE))
        await outbox.add(replace(outbound(3, ALICE), kind=TransactionKind.REFUND))
        assert await outbox.claims([ALICE], 0, 10) == [three, one]
        assert await outbox.claims([BOB], 0, 10) == [two, one]
        assert await outbox.claims([ALICE, CAROL, BOB], 0, 10) == [three, two, one]
        assert await outbox.claims([ALICE, BOB], 0, 2) == [three, two]
        assert await outbox.claims([ALICE, BOB], two.id, 2) == [one]
        assert await outbox.claims([b"z" * 20], 0, 10) == []
        assert await outbox.claims([], 0, 10) == []

    async def test_a_claim_that_pays_a_thousand_receivers_is_found_by_each(self, outbox: Outbox) -> None:
        receivers = [number.to_bytes(20, "big") for number in range(1, 1_001)]
        claim = await outbox.add(outbound(0, *receivers))
        for receiver in (receivers[0], receivers[499], receivers[-1]):
            assert await outbox.claims([receiver], 0, 1) == [claim]

    async def test_the_next_nonce_is_one_above_the_highest(self, outbox: Outbox) -> None:
        sender = b"s" * 20
        assert await outbox.next_nonce(NETWORK, sender) == 0
        await outbox.add(outbound(0))
        await outbox.add(outbound(5))
        assert await outbox.next_nonce(NETWORK, sender) == 6
        assert await outbox.next_nonce("eip155:2", sender) == 0
        assert await outbox.next_nonce(NETWORK, b"x" * 20) == 0

    async def test_the_next_nonce_is_that_of_no_other_of_the_sender(self, outbox: Outbox) -> None:
        sender, other = b"s" * 20, b"r" * 20
        for status in TransactionStatus:
            nonce = await outbox.next_nonce(NETWORK, sender)
            added = await outbox.add(outbound(nonce))
            assert await outbox.add(outbound(nonce)) == added
            await outbox.update(replace(added, status=status))
        assert await outbox.next_nonce(NETWORK, sender) == len(TransactionStatus)
        await outbox.add(replace(outbound(9), reference=b"other sender", sender=other))
        await outbox.add(replace(outbound(9), reference=b"other network", network="eip155:2"))
        assert await outbox.next_nonce(NETWORK, sender) == len(TransactionStatus)
        filler = await outbox.add(replace(outbound(1), kind=TransactionKind.NONCE_FILLER, reference=b"filler"))
        assert await outbox.by_reference(TransactionKind.NONCE_FILLER, b"filler") == filler
        assert await outbox.next_nonce(NETWORK, sender) == len(TransactionStatus)

    async def test_those_since_a_time_come_in_their_order(self, outbox: Outbox) -> None:
        added = [await outbox.add(replace(outbound(nonce), created_at=nonce)) for nonce in range(5)]
        assert await outbox.since(NETWORK, 2) == added[3:]
        assert await outbox.since("eip155:2", 0) == []

    async def test_what_was_added_or_updated_is_there_after_a_crash(self, site: Site, outbox: Outbox) -> None:
        added = [await outbox.add(outbound(nonce, ALICE)) for nonce in range(3)]
        mined = replace(added[1], status=TransactionStatus.FINAL, block_number=5)
        await outbox.update(mined)
        found = await site.crashed().open()
        assert await found.outbox.open(NETWORK) == [added[0], added[2]]
        assert await found.outbox.claims([ALICE], 0, 9) == [added[2], mined, added[0]]
        assert await found.outbox.next_nonce(NETWORK, b"s" * 20) == 3
        await found.close()

    async def test_a_refused_write_leaves_nothing(self, site: Site, store: Store) -> None:
        added = await store.outbox.add(outbound(0))
        async with site.refusing(store):
            with pytest.raises(StoreUnavailableError):
                await store.outbox.add(outbound(1))
        async with site.refusing(store):
            with pytest.raises(StoreUnavailableError):
                await store.outbox.update(replace(added, status=TransactionStatus.FINAL))
        assert await store.outbox.open(NETWORK) == [added]
        second = await store.outbox.add(outbound(1))
        found = await site.crashed().open()
        assert await found.outbox.open(NETWORK) == [added, second]
        await found.close()


class ListingsConformance:
    """What sellers have published."""

    async def test_each_seller_has_the_text_that_came_last(self, site: Site, store: Store) -> None:
        assert await store.listings.all() == {}
        await store.listings.put("news", b"first")
        await store.listings.put("music", bytes(range(256)) * 1_000)
        await store.listings.put("news", b"second")
        expected = {"news": b"second", "music": bytes(range(256)) * 1_000}
        assert await store.listings.all() == expected
        found = await site.crashed().open()
        assert await found.listings.all() == expected
        await found.close()

    async def test_an_empty_text_removes_a_sellers(self, site: Site, store: Store) -> None:
        await store.listings.put("news", b"first")
        await store.listings.put("news", b"")
        await store.listings.put("nobody", b"")
        assert await store.listings.all() == {}
        found = await site.crashed().open()
        assert await found.listings.all() == {}
        await found.close()

    async def test_a_refused_text_leaves_the_one_before(self, site: Site, store: Store) -> None:
        await store.listings.put("news", b"first")
        async with site.refusing(store):
            with pytest.raises(StoreUnavailableError):
                await store.listings.put("news", b"second")
        assert await store.listings.all() == {"news": b"first"}

    async def test_a_closed_store_publishes_nothing(self, store: Store) -> None:
        await store.close()
        with pytest.raises(StoreUnavailableError):
            await store.listings.put("news", b"first")
        with pytest.raises(StoreUnavailableError):
            await store.listings.all()


class StoreConformance(JournalConformance, OutboxConformance, ListingsConformance):
    """All that is asked of a store."""
