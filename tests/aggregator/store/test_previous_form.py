"""A file from before accounts named their escrow: opened, and named for good at its next checkpoint."""

import sqlite3
from pathlib import Path

import pytest
from doubles import ESCROW, ESCROW_REF, NETWORK, NEWS, NOW_MS, OPERATOR, TOKEN, Payer

from tallystick.signatures import Signer
from tallystick_aggregator.chain.settings import ChainSettings, ConfigurationError, TokenSettings
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger, reservation_handle
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.runtime.foreign_accounts import refuse_foreign_accounts
from tallystick_aggregator.store.sqlite.schema import MIGRATIONS
from tallystick_aggregator.store.sqlite.store import SqliteStore

UNNAMED = EscrowRef(NETWORK, b"")
"""Stored as the network's name alone, as all were."""
ALICE, BOB = Payer("alice"), Payer("bob")


async def previous_form(path: Path) -> None:
    """Write one account into the tables of state and one into the log, and the version of that time."""
    store = await SqliteStore.open(path)
    ledger = await store.journal.load()
    for payer in (ALICE, BOB):
        draft = Draft(ledger)
        draft.record(ev.AccountOpened(payer.account_id, UNNAMED, payer.config))
        draft.record(ev.AccountMirrored(payer.account_id, 700, 0, 0))
        draft.record(ev.ChainAdvanced(UNNAMED, 41, bytes(32)))
        await store.journal.append(draft.events)
        draft.adopt()
        if payer is ALICE:
            await store.journal.checkpoint(NOW_MS)
    await store.close()
    connection = sqlite3.connect(path)
    assert [key for (key,) in connection.execute("SELECT key FROM heads")] == [NETWORK.encode()]
    connection.execute("DROP TABLE listings")
    connection.execute("DROP INDEX outbox_by_payment_id")
    connection.execute("ALTER TABLE outbox DROP COLUMN payment_id")
    connection.execute("PRAGMA user_version = 1")
    connection.close()


def configured(*escrows: bytes) -> list[ChainSettings]:
    """What the check reads of configured chains."""
    key = Signer(b"\x11" * 32)
    tokens = (TokenSettings(TOKEN, "USDC", 6, "USD Coin", "2"),)
    return [ChainSettings(NETWORK, ("http://127.0.0.1:1",), one, OPERATOR, key, key, tokens) for one in escrows]


def check(ledger: Ledger) -> None:
    assert [account.escrow for account in ledger.every_account()] == [ESCROW_REF] * 2
    assert [account.funds for account in ledger.accounts_of(ESCROW_REF)] == [700, 700]
    head = ledger.head(ESCROW_REF)
    assert head is not None
    assert head.number == 41
    assert [*ledger.heads] == [ESCROW_REF]


async def test_accounts_of_a_previous_form_are_in_the_escrow_that_their_ids_name(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await previous_form(path)
    store = await SqliteStore.open(path)
    ledger = await store.journal.load()
    assert {account.escrow for account in ledger.every_account()} == {UNNAMED}
    # Another escrow of the network was added since, and comes first.
    refuse_foreign_accounts(ledger, configured(bytes(19) + b"\x07", ESCROW), str(path))
    check(ledger)
    await store.journal.checkpoint(NOW_MS)
    await store.close()

    again = await SqliteStore.open(path)
    ledger = await again.journal.load()
    assert {account.escrow for account in ledger.every_account()} == {ESCROW_REF}, "it is named for good"
    refuse_foreign_accounts(ledger, configured(ESCROW), str(path))
    check(ledger)
    await again.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),), (
        "an earlier program is kept from it"
    )
    connection.close()


async def test_a_file_of_a_previous_form_does_not_start_where_its_escrow_is_not_configured(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await previous_form(path)
    store = await SqliteStore.open(path)
    ledger = await store.journal.load()
    with pytest.raises(ConfigurationError, match="does not serve"):
        refuse_foreign_accounts(ledger, configured(bytes(19) + b"\x07"), str(path))
    await store.close()


async def test_the_head_of_a_previous_form_without_accounts_is_read_again_from_the_beginning() -> None:
    ledger = Ledger()
    draft = Draft(ledger)
    draft.record(ev.ChainAdvanced(UNNAMED, 41, bytes(32)))
    draft.adopt()
    refuse_foreign_accounts(ledger, configured(ESCROW), "store.db")
    assert not ledger.heads


async def test_a_file_from_before_charges_were_counted_opens_and_counts_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    ledger = await store.journal.load()
    channel_id = ALICE.channel_id(NEWS)

    async def commit(*events: ev.Event) -> None:
        draft = Draft(ledger)
        for event in events:
            draft.record(event)
        await store.journal.append(draft.events)
        draft.adopt()

    def held(number: int) -> tuple[ev.Reserved, bytes]:
        payment_id = bytes(15) + bytes([number])
        handle = reservation_handle(channel_id, payment_id, bytes(16))
        return ev.Reserved(channel_id, payment_id, 5, bytes(32), 0, b"", handle, 0), payment_id

    await commit(
        ev.AccountOpened(ALICE.account_id, ESCROW_REF, ALICE.config),
        ev.AccountMirrored(ALICE.account_id, 700, 0, 0),
        ev.ChannelOpened(channel_id, ALICE.account_id, NEWS, 0),
        ev.CeilingRaised(channel_id, 100, bytes(65)),
    )
    for number in (1, 2):  # one comes into the tables of state, one stays in the log
        reserved, payment_id = held(number)
        await commit(reserved, ev.Captured(reserved.handle, channel_id, payment_id, b"", 5))
        if number == 1:
            await store.journal.checkpoint(NOW_MS)
    await store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 4")
    connection.close()

    store = await SqliteStore.open(path)
    ledger = await store.journal.load()
    assert ledger.known_channel(channel_id).charged == 10
    assert ledger.known_channel(channel_id).charge_count == 0
    reserved, payment_id = held(3)
    await commit(reserved, ev.CapturedInStep(reserved.handle, channel_id, payment_id, b"", 5))
    await store.journal.checkpoint(NOW_MS)
    await store.close()
    store = await SqliteStore.open(path)
    assert (await store.journal.load()).known_channel(channel_id).charge_count == 1
    await store.close()
