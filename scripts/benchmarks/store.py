"""Stores that are filled before a run, through the journal's own code: events, drafts, appends and checkpoints.

The chain is left out: accounts are mirrored by the events that the watcher would have recorded. As a child it fills one
store, and with `measure` it loads one and tells how long that took and what it needs.
"""

import asyncio
import gc
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from _children import say, settings_of_child
from benchmarks import world
from benchmarks.measure import resident_bytes
from benchmarks.pool import REQUEST_HASH
from tallystick.payment_ids import new_payment_id
from tallystick.signatures import Signer
from tallystick.vouchers import sign_voucher
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.sqlite.store import SqliteStore

ESCROW: Final = EscrowRef(world.NETWORK, world.DOMAIN.verifying_contract)
EVENTS_AT_ONCE: Final = 4_096
CHECKPOINT_AFTER: Final = 200_000
EXPIRES_AT: Final = 2**40
PAST_CHANNELS: Final = 64
PAST_PAYERS: Final = 10_000_000
"""The number of the first payer whose charges are history."""


class Filler:
    """Appends events as the ledger's writer does: draft, append, adopt, and checkpoints in between."""

    def __init__(self, store: SqliteStore, ledger: Ledger) -> None:
        self._journal = store.journal
        self._ledger = ledger
        self._draft = Draft(ledger)

    async def record(self, event: ev.Event) -> None:
        """Record one event; commits whenever enough have gathered."""
        self._draft.record(event)
        if len(self._draft.events) >= EVENTS_AT_ONCE:
            await self.commit()

    async def commit(self) -> None:
        """Commit what has gathered."""
        if self._draft.events:
            await self._journal.append(self._draft.events)
            self._draft.adopt()
        self._draft = Draft(self._ledger)
        while self._journal.backlog >= CHECKPOINT_AFTER:
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Write down the state, and let memory go of what need not be in it."""
        await self._journal.checkpoint(time.time_ns() // 1_000_000)
        before = -1
        while len(self._ledger.payments) != before:
            before = len(self._ledger.payments)
            self._journal.trim()


async def fill(settings: dict[str, Any]) -> dict[str, Any]:
    """Fill one store with channels, or add payment ids to it; see the keys that are read."""
    store = await SqliteStore.open(settings["store"])
    filler = Filler(store, await store.journal.load())
    for number, payer in enumerate(world.read_payers(Path(settings["payers"]), count=settings.get("channels", 0))):
        with_key = settings.get("spend_keys") or number >= settings.get("spend_keys_from", math.inf)
        for event in opened(payer, spend_keys=bool(with_key)):
            await filler.record(event)
    if settings.get("payment_ids"):
        await _add_payments(filler, settings["payment_ids"], settings["age_s"])
    await filler.commit()
    if settings["checkpoint"]:
        await filler.checkpoint()
    await store.close()
    return {"filled": True}


def opened(payer: world.Payer, *, spend_keys: bool) -> Iterator[ev.Event]:
    yield ev.AccountOpened(payer.account_id, ESCROW, world.config_of(payer.private_key))
    yield ev.ChannelOpened(payer.channel_id, payer.account_id, world.RECEIVER, 0)
    yield ev.AccountMirrored(payer.account_id, world.FUNDS, 0, 0)
    if spend_keys:
        key_id, secret = world.spend_secret(payer)
        yield ev.SpendKeyRegistered(payer.account_id, key_id, secret, world.KEY_CAP, EXPIRES_AT)
        voucher = sign_voucher(Signer(payer.private_key), world.DOMAIN, payer.channel_id, world.FUNDS)
        yield ev.CeilingRaised(payer.channel_id, world.FUNDS, voucher.signature)


async def _add_payments(filler: Filler, count: int, age_s: int) -> None:
    """Charge `count` times under spend keys, with ids spread evenly over the last `age_s` seconds.

    By payers of their own, so that the channels under measurement are as they were.
    """
    payers = [world.make_payer(PAST_PAYERS + number) for number in range(PAST_CHANNELS)]
    for payer in payers:
        for event in opened(payer, spend_keys=True):
            await filler.record(event)
    keys = [world.spend_secret(payer).key_id for payer in payers]
    start_ms = time.time_ns() // 1_000_000 - age_s * 1000
    for number in range(count):
        payment_id = new_payment_id(start_ms + number * age_s * 1000 // count, os.urandom(10))
        which = number % PAST_CHANNELS
        await filler.record(ev.Charged(payers[which].channel_id, payment_id, world.PRICE, REQUEST_HASH, 0, keys[which]))


async def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Load a store; tell the time it took and what the ledger occupies."""
    store = await SqliteStore.open(settings["store"])
    gc.collect()
    before = resident_bytes(os.getpid())
    start = time.perf_counter()
    ledger = await store.journal.load()
    elapsed_s = time.perf_counter() - start
    gc.collect()
    after = resident_bytes(os.getpid())
    await store.close()
    return {
        "load_s": elapsed_s,
        "resident_bytes": after - before,
        "channels": len(ledger.channels),
        "payments_in_memory": len(ledger.payments),
    }


def main() -> None:
    """Fill or measure."""
    settings = settings_of_child()
    say(asyncio.run(measure(settings) if settings["mode"] == "measure" else fill(settings)))


if __name__ == "__main__":
    main()
