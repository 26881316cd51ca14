"""`scripts/chaos intake`: the aggregator is killed again and again while sellers charge, and the books are compared.

Several seller processes with retries; one server process, ended by SIGKILL at a random moment after it is ready and
started again on the same store. Its checkpoints are made often, so that many kills fall into one. Afterwards every
charge that a seller saw accepted must be in the ledger once, no refused one may be, and every channel's total must be
the sum of its seller's book.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from _children import Child, Children
from benchmarks import world
from chaos_runs import carry_out, is_true_of, kill_count, parser_of
from tallystick_aggregator.ledger.invariants import check_invariants
from tallystick_aggregator.ledger.payments import Payment, unpack_payment
from tallystick_aggregator.ledger.state import Ledger, payment_key
from tallystick_aggregator.store.sqlite.store import SqliteStore

KILLS: Final = 100
SELLERS: Final = 4
PAYERS_PER_SELLER: Final = 16
AT_ONCE: Final = 48
"""Charges that each seller has under way."""
ALIVE_S: Final = (0.05, 1.5)
"""A server lives this long after it is ready, at least and at most."""
CHECKPOINT_BACKLOG: Final = 2_000
START_TIMEOUT_S: Final = 60.0
RECALLED_AT_ONCE: Final = 1_000


async def run(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Trade, kill, compare."""
    started = time.monotonic()
    chance = random.Random(seed)  # noqa: S311 - a repeatable run, no secret
    payers = folder / "payers"
    await asyncio.to_thread(world.write_payers, payers, SELLERS * PAYERS_PER_SELLER, 1)
    async with Children(folder) as children:
        await _fill(children, folder, payers)
        server, ready = await _start_server(children, folder, {})
        sellers = [await _start_seller(children, payers, number, ready, seed) for number in range(SELLERS)]
        for seller in sellers:
            await seller.tell({})
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(*ALIVE_S))
            await server.kill()
            server, _ = await _start_server(children, folder, ready)
        for seller in sellers:
            await seller.tell({})
        books = [await seller.read(START_TIMEOUT_S) for seller in sellers]
        await server.end()
    result = await _compare(folder / "store", books)
    return {"kills": kills, **result, "seed": seed, "took_s": round(time.monotonic() - started, 1)}


async def _fill(children: Children, folder: Path, payers: Path) -> None:
    """Open the accounts: those of the first half pay by voucher, the others by spend key."""
    total = SELLERS * PAYERS_PER_SELLER
    common = {"mode": "fill", "payers": str(payers), "store": str(folder / "store"), "checkpoint": False}
    await children.ask(
        "benchmarks.store", {**common, "channels": total, "spend_keys": False, "spend_keys_from": total // 2}, 60
    )


async def _start_server(children: Children, folder: Path, ready: Mapping[str, Any]) -> tuple[Child, dict[str, Any]]:
    settings = {
        "store": str(folder / "store"),
        "processes": 1,
        "port": ready.get("port", 0),
        "token": ready.get("token", ""),
        "checkpoint_backlog": CHECKPOINT_BACKLOG,
    }
    server = await children.start_with("benchmarks.server", settings)
    return server, await server.read(START_TIMEOUT_S)


async def _start_seller(children: Children, payers: Path, number: int, ready: Mapping[str, Any], seed: int) -> Child:
    total = SELLERS * PAYERS_PER_SELLER
    numbers = list(range(number, total, SELLERS))
    settings = {
        "port": ready["port"],
        "token": ready["token"],
        "payers": str(payers),
        "numbers": numbers,
        "by_key": [one for one in numbers if one >= total // 2],
        "seed": seed * 1_000 + number,
        "at_once": AT_ONCE,
    }
    seller = await children.start_with("chaos_runs.seller", settings)
    await seller.read(START_TIMEOUT_S)
    return seller


async def _compare(store_path: Path, books: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compare the sellers' books with the ledger that the next start would have."""
    store = await SqliteStore.open(store_path)
    ledger = await store.journal.load()
    check_invariants(ledger)
    entries = {key: entry for book in books for key, entry in book["book"].items()}
    known = await _payments(store, ledger, entries)
    await store.close()
    lost, doubled, charged_though_refused = [], [], []
    sums: Counter[str] = Counter()
    for key, entry in entries.items():
        payment = known.get(key)
        if not entry["accepted"]:
            if payment is not None:
                charged_though_refused.append(key)
            continue
        sums[entry["channel"]] += entry["amount"]
        if payment is None or payment.captured != entry["amount"]:
            lost.append(key)
        elif payment.charged != entry["charged"]:
            doubled.append(key)
    wrong_totals = 0
    for channel_id, channel in ledger.channels.items():
        beyond = channel.charged - sums[channel_id.hex()]
        wrong_totals += beyond != 0
        if beyond > 0:
            doubled.append(f"{channel_id.hex()}: {beyond} more than its seller's book")
    return {
        "accepted": sum(entry["accepted"] for entry in entries.values()),
        "lost": len(lost),
        "doubled": len(doubled),
        "refused": sum(not entry["accepted"] for entry in entries.values()),
        "charged_though_refused": len(charged_though_refused),
        "wrong_totals": wrong_totals,
        "contradictions": [text for book in books for text in book["contradictions"]],
        "details": [*lost[:20], *doubled[:20], *charged_though_refused[:20]],
    }


async def _payments(store: SqliteStore, ledger: Ledger, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Payment]:
    """What the ledger and its journal know of these payment ids."""
    pairs = [(bytes.fromhex(entry["channel"]), bytes.fromhex(key)) for key, entry in entries.items()]
    known: dict[str, Payment] = {}
    absent: list[tuple[bytes, bytes]] = []
    for channel_id, payment_id in pairs:
        key = payment_key(channel_id, payment_id)
        payment = ledger.payments.get(key)
        if payment is None:
            absent.append((channel_id, payment_id))
        else:
            known[payment_id.hex()] = unpack_payment(key, payment)
    for start in range(0, len(absent), RECALLED_AT_ONCE):
        found = await store.journal.recall(absent[start : start + RECALLED_AT_ONCE])
        known.update({key[:16].hex(): unpack_payment(key, payment) for key, payment in found.items()})
    return known


def is_clean(result: Mapping[str, Any]) -> bool:
    """Whether no money was lost, taken twice, or taken from somebody who was told otherwise."""
    none = ("lost", "doubled", "charged_though_refused", "wrong_totals", "contradictions")
    return is_true_of(result, none, ["accepted"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write JSON if asked to; 0 if the books agree."""
    parser = parser_of("intake", __doc__, "three kills only")
    parser.add_argument("--kills", type=kill_count, default=KILLS, metavar="N", help=f"how often ({KILLS})")
    options = parser.parse_args(arguments)
    kills = 3 if options.quick else options.kills
    return carry_out(options, lambda folder: run(kills, options.seed, folder), is_clean)
