"""How fast the journal is: for the benchmark script and the long tests.

python tests/aggregator/store/measure.py DIRECTORY [channels] [payments]
"""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from tallystick.channels import ChannelConfig
from tallystick.payment_ids import new_payment_id
from tallystick.quantities import ZERO_ADDRESS
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.sqlite.store import SqliteJournal, SqliteStore

START_MS = 1_800_000_000_000
ESCROW_REF = EscrowRef("eip155:31337", bytes.fromhex("e5" * 20))
KEY_ID = b"k" * 32
CHANNELS_PER_ACCOUNT = 100


def digest(*words: object) -> bytes:
    """32 bytes that follow from the words."""
    return sha256(repr(words).encode()).digest()


def opened(channels: int) -> Iterator[list[ev.Event]]:
    """The commits that make so many channels, a hundred to an account, each account with a spend key."""
    for account in range(-(-channels // CHANNELS_PER_ACCOUNT)):
        account_id, payer = digest("account", account), digest("payer", account)[:20]
        config = ChannelConfig(payer, payer, ZERO_ADDRESS, b"o" * 20, b"t" * 20, 86_400, bytes(32))
        commit: list[ev.Event] = [
            ev.AccountOpened(account_id, ESCROW_REF, config),
            ev.AccountMirrored(account_id, 10**18, 0, 0),
            ev.SpendKeyRegistered(account_id, KEY_ID, bytes(32), 10**18, 2**40),
        ]
        for number in range(account * CHANNELS_PER_ACCOUNT, min(channels, (account + 1) * CHANNELS_PER_ACCOUNT)):
            receiver = digest("receiver", number % CHANNELS_PER_ACCOUNT)[:20]
            commit.append(ev.ChannelOpened(channel_id(number), account_id, receiver, 0))
            commit.append(ev.CeilingRaised(channel_id(number), 10**15, b"s" * 65))
        yield commit


def channel_id(number: int) -> bytes:
    """The id of the channel with this number."""
    return digest("channel", number)


def charges(channel_ids: list[bytes], start: int, count: int, size: int, per_ms: int = 50) -> Iterator[list[ev.Event]]:
    """Commits of `size` charges by spend key, spread over the channels, `per_ms` a millisecond."""
    page = digest("page")
    for first in range(start, start + count, size):
        yield [
            ev.Charged(
                channel_ids[number * 7_919 % len(channel_ids)],
                new_payment_id(START_MS + number // per_ms, os.urandom(10)),
                3,
                page,
                0,
                KEY_ID,
            )
            for number in range(first, min(first + size, start + count))
        ]


async def commit(journal: SqliteJournal, ledger: Ledger, events: list[ev.Event]) -> float:
    """Append and adopt; return how many seconds the append took."""
    draft = Draft(ledger)
    for event in events:
        draft.record(event)
    began = time.perf_counter()
    await journal.append(draft.events)
    took = time.perf_counter() - began
    draft.adopt()
    journal.trim()
    return took


async def fill(path: Path, channels: int, payments: int, *, checkpoint_every: int = 200_000) -> None:
    """Make a store with so many channels and payments, all covered by checkpoints."""
    store = await SqliteStore.open(path)
    try:
        journal, ledger = store.journal, await store.journal.load()
        ids = [channel_id(number) for number in range(channels)]
        for commits in (opened(channels), charges(ids, 0, payments, 4_096)):
            for events in commits:
                await commit(journal, ledger, events)
                if journal.backlog >= checkpoint_every:
                    await journal.checkpoint(START_MS)
        await journal.checkpoint(START_MS)
    finally:
        await store.close()


async def appends(path: Path, size: int, count: int, *, checkpoints: bool) -> dict[str, Any]:
    """Commits of `size` charges, one after another, into the store with this path; perhaps beside a checkpoint."""
    store = await SqliteStore.open(path)
    try:
        journal, ledger = store.journal, await store.journal.load()
        ids = list(ledger.channels)[:100_000]
        first = (time.time_ns() // 1_000_000 - START_MS) * 50
        batches = list(charges(ids, first, size * count, size))
        if checkpoints:
            for events in charges(ids, first - 200_000, 200_000, 4_096):
                await commit(journal, ledger, events)
        beside = asyncio.create_task(journal.checkpoint(START_MS)) if checkpoints else None
        began = time.perf_counter()
        took = sorted([await commit(journal, ledger, events) for events in batches])
        wall = time.perf_counter() - began
        figures: dict[str, Any] = {
            "events_per_commit": size,
            "append_ms": {name: took[int(len(took) * share)] * 1e3 for name, share in _SHARES.items()},
            "durable_events_per_s": size * count / wall,
        }
        if beside is not None:
            figures["checkpoint_done_before_the_last_append"] = beside.done()
            await beside
        return figures
    finally:
        await store.close()


_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 0.99999}


async def load(path: Path) -> dict[str, Any]:
    """Open and load the store with this path."""
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, began_cpu_s = time.perf_counter(), time.process_time()
    store = await SqliteStore.open(path)
    opened_s = time.perf_counter() - began
    try:
        ledger = await store.journal.load()
        return {
            "channels": len(ledger.channels),
            "accounts": len(ledger.accounts),
            "payments_in_memory": len(ledger.payments),
            "open_s": opened_s,
            "load_s": time.perf_counter() - began - opened_s,
            "cpu_s": time.process_time() - began_cpu_s,
            "peak_growth_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024,
        }
    finally:
        await store.close()


async def main(directory: Path, channels: int, payments: int) -> dict[str, Any]:
    """Measure everything once."""
    full, empty = directory / "full.db", directory / "empty.db"
    figures: dict[str, Any] = {}
    began = time.perf_counter()
    await fill(full, channels, payments)
    await fill(empty, min(channels, 1_000), 0)
    figures["fill_s"] = time.perf_counter() - began
    figures["file_mib"] = full.stat().st_size / 2**20
    figures["load"] = await load(full)
    for name, path in (("empty", empty), ("full", full)):
        for size in (16, 64, 256):
            figures[f"append_{name}_{size}"] = await appends(path, size, 1_500, checkpoints=False)
        figures[f"append_{name}_64_beside_a_checkpoint"] = await appends(path, 64, 4_000, checkpoints=True)
    return figures


if __name__ == "__main__":
    where, *sizes = sys.argv[1:]
    counts = [int(size) for size in sizes] or [1_000_000, 1_000_000]
    sys.stdout.write(json.dumps(asyncio.run(main(Path(where), *counts)), indent=2) + "\n")
