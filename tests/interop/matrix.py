"""The interoperability matrix: official clients and servers of x402, and ours, with Tallystick as the facilitator.

Each pair of a client and a server buys and sells one page by each scheme that both can, on a chain and with processes
of its own. A pair passes if the page came, the answer told of the payment, and the seller's address on chain got what
the page cost, to the unit; what is paid by deferred or batch-settlement is claimed at the end. By batch-settlement
each pair trades three pages, a deposit and two vouchers; the rest must be in the payer's channel, or come back where
the client asks for it.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import Any, Final, NamedTuple

from cells import CLIENTS, SCHEMES, SERVERS, Cell, Scheme, all_cells, covering
from trading_site import PRICE, PURCHASE_TIMEOUT_S, USED, Market, Seller

from _anvil import Anvil
from _arguments import add_json_option
from _children import ChildFailedError, Children
from _figures import table, write

PASS: Final = "pass"
FAIL: Final = "fail"
NONE: Final = "none"
WIDTH: Final = 80
PAYOUT_TIMEOUT_S: Final = 180.0
"""The aggregator looks once a minute for what it has claimed by batch-settlement, and pays it out."""
POLL_S: Final = 0.2
MANAGED: Final = frozenset({"facilitator-managed", "server-managed"})
REFUNDED: Final = frozenset({"httpx", "fetch"})
"""Clients that ask for the rest of their channels at the end."""
LATER: Final = MANAGED | {"deferred"}
"""What a settlement pays, after the pages."""


class Result(NamedTuple):
    """What became of a cell: `pass`, `fail`, or `none` where the pair cannot exist; `why` for the last two."""

    cell: Cell
    result: str
    why: str = ""

    def as_json(self) -> dict[str, str]:
        """As `--json` writes it."""
        client, server, scheme, _ = self.cell
        return {"client": client, "server": server, "scheme": scheme, "result": self.result, "why": self.why}


class Matrix:
    """One run over some cells."""

    def __init__(self, market: Market, tell: Callable[[Result], None]) -> None:
        """`tell` is called with each result as soon as it is known."""
        self._market = market
        self._tell = tell
        self._sellers: dict[str, Seller] = {}
        self._owed: dict[str, int] = {}
        self._paid_at_once: Counter[str] = Counter()
        self._server_managed: set[str] = set()
        self._channels: dict[str, tuple[str, int, int]] = {}

    async def run(self, cells: Sequence[Cell]) -> list[Result]:
        """Run these cells; those that cannot exist are only named."""
        # What a refund has claimed is paid out while other pages are bought: after all that is paid at once.
        possible = sorted((cell for cell in cells if not cell.why_not), key=lambda cell: cell.scheme in MANAGED)
        pages: dict[str, list[Scheme]] = {}
        for cell in possible:
            sold = pages.setdefault(cell.server, [])
            if cell.scheme not in sold:
                sold.append(cell.scheme)
        self._sellers = await self._market.start_sellers(pages)
        results = [Result(cell, NONE, cell.why_not) for cell in cells if cell.why_not]
        for (client, scheme), group in groupby(possible, lambda cell: (cell.client, cell.scheme)):
            async with self._buyer(client, scheme) as buy:
                for cell in group:
                    result = await self._try(cell, buy)
                    self._tell(result)
                    results.append(result)
        unpaid = await self._settle()
        return [Result(r.cell, FAIL, unpaid[r.cell.server]) if _is_unpaid(r, unpaid) else r for r in results]

    async def _try(self, cell: Cell, buy: "Buy") -> Result:
        seller = self._sellers[cell.server]
        for _ in range(3 if cell.scheme in MANAGED else 1):
            before = self._market.balance(seller)
            try:
                answer = await buy(f"{seller.url}/{cell.scheme}")
            except ChildFailedError as error:
                return Result(cell, FAIL, str(error).strip().splitlines()[-1])
            if why := self._wrong(cell, answer, self._market.balance(seller) - before):
                return Result(cell, FAIL, why)
        if cell.scheme in MANAGED and cell.client in REFUNDED:
            return await self._refund(cell, f"{seller.url}/{cell.scheme}", buy)
        return Result(cell, PASS)

    async def _refund(self, cell: Cell, url: str, buy: "Buy") -> Result:
        """Have the payer ask for its money back: all that was not charged comes, and no page."""
        try:
            receipt = (await buy(url, is_refund=True))["receipt"] or {}
        except ChildFailedError as error:
            return Result(cell, FAIL, str(error).strip().splitlines()[-1])
        if not receipt.get("success"):
            return Result(cell, FAIL, f"no refund: {receipt}")
        channel_id = receipt["extra"]["channelState"]["channelId"]
        server, balance, charged = self._channels[channel_id]
        if receipt["amount"] != str(balance - charged):
            return Result(cell, FAIL, f"refunded {receipt['amount']}, left were {balance - charged}: {receipt}")
        self._channels[channel_id] = (server, charged, charged)
        return Result(cell, PASS)

    def _wrong(self, cell: Cell, answer: dict[str, Any], received: int) -> str:
        """What is not as it should be; empty if all is well."""
        price = USED if cell.scheme == "upto" else PRICE
        receipt = answer["receipt"] or {}
        if answer["status"] != 200 or cell.scheme not in answer["body"]:
            return f"answered {answer['status']} with {answer['body'][:500]!r} and {receipt}"
        if not receipt.get("success"):
            return f"served without a receipt of success: {receipt}"
        if cell.scheme in LATER:
            self._note_channel(cell, receipt, price)
            self._owed[cell.server] = self._owed.get(cell.server, 0) + price
            received = int((receipt.get("extra") or {}).get("chargedAmount", -1))
        elif not self._market.moved_by(cell.scheme, receipt["transaction"]):
            return f"{receipt['transaction']} is no transfer by {SCHEMES[cell.scheme]}"
        else:
            self._paid_at_once[cell.server] += received
        if received != price:
            return f"the seller got {received}, the price is {price}: {receipt}"
        return ""

    def _note_channel(self, cell: Cell, receipt: dict[str, Any], price: int) -> None:
        """Remember what a channel of batch-settlement must have on chain at the end."""
        if cell.scheme not in MANAGED:
            return
        if cell.scheme == "server-managed":
            self._server_managed.add(cell.server)
        state = receipt["extra"]["channelState"]
        _, _, charged = self._channels.get(state["channelId"], ("", 0, 0))
        self._channels[state["channelId"]] = (cell.server, int(state["balance"]), charged + price)

    async def _settle(self) -> dict[str, str]:
        """Have what is owed claimed; why not, by the server, where a seller did not get all of it."""
        if not self._owed:
            return {}
        sellers = {name: self._sellers[name] for name in self._owed}
        for name in self._server_managed:
            await self._market.claim(sellers[name])
        await self._market.settle()
        got = await self._received(sellers)
        wrong = {name: f"claimed {got[name]}, charged {owed}" for name, owed in self._owed.items() if got[name] != owed}
        for channel_id, (name, balance, charged) in self._channels.items():
            found = self._market.channel(channel_id)
            if found != (balance, charged):
                wrong.setdefault(name, f"channel {channel_id} has {found} on chain, expected {(balance, charged)}")
        return wrong

    async def _received(self, sellers: dict[str, Seller]) -> dict[str, int]:
        """What each seller has got of what was owed. Waits for it: payouts of batch-settlement follow their claims."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + PAYOUT_TIMEOUT_S
        while True:
            got = {name: self._market.balance(seller) - self._paid_at_once[name] for name, seller in sellers.items()}
            if all(got[name] >= self._owed[name] for name in got) or clock.time() > deadline:
                return got
            await asyncio.sleep(POLL_S)

    @asynccontextmanager
    async def _buyer(self, client: str, scheme: Any) -> AsyncIterator["Buy"]:
        """A buyer that is started when it is needed, and anew after it has failed."""
        children = []

        async def buy(url: str, *, is_refund: bool = False) -> dict[str, Any]:
            if not children or children[-1].exit_code is not None:
                children.append(await self._market.start_buyer(client, scheme))
            await children[-1].tell({"url": url, "is_refund": is_refund})
            return await children[-1].read(PURCHASE_TIMEOUT_S)

        yield buy
        for child in children:
            await child.end()


Buy = Callable[..., Any]


def _is_unpaid(result: Result, unpaid: dict[str, str]) -> bool:
    return result.result == PASS and result.cell.scheme in LATER and result.cell.server in unpaid


async def run(cells: Sequence[Cell], tell: Callable[[Result], None]) -> list[Result]:
    """The whole of it: a chain, an aggregator, sellers and buyers, and their end."""
    with tempfile.TemporaryDirectory(prefix="tallystick-interop-") as folder, Anvil() as anvil:
        async with Children(Path(folder)) as children:
            market = Market(Path(folder), anvil, children)
            await market.open()
            return await Matrix(market, tell).run(cells)


def text(results: Sequence[Result]) -> str:
    """A table for each scheme, clients against servers, a sentence for each cell that did not pass, and the counts."""
    by_cell = {result.cell[:3]: result.result for result in results}
    parts: list[str] = []
    for scheme, title in SCHEMES.items():
        found = {client: [by_cell.get((client, server, scheme), "") for server in SERVERS] for client in CLIENTS}
        rows = [[client, *answers] for client, answers in found.items() if any(answers)]
        if rows:
            parts.append(table([[title, *SERVERS], *rows]))
    whys: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.why:
            whys.setdefault((result.result, result.why), []).append(result.cell.name)
    parts += [_wrapped(f"{result}: {', '.join(names)}", why) for (result, why), names in whys.items()]
    counts = Counter(result.result for result in results)
    return "\n\n".join([*parts, ", ".join(f"{counts[name]} {name}" for name in (PASS, FAIL, NONE))])


def _wrapped(names: str, why: str) -> str:
    return "\n".join(
        fill(part, WIDTH, initial_indent=indent, subsequent_indent="  ") for part, indent in ((names, ""), (why, "  "))
    )


def choose(only: str) -> list[Cell]:
    """The cells that have all of these words, separated by commas; raises ArgumentTypeError where there are none."""
    words = only.split(",")
    known = (*CLIENTS, *SERVERS, *SCHEMES)
    unknown = [word for word in words if word not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"got {unknown[0]!r}, allowed {', '.join(known)}")
    # Of each kind any of its words, of all kinds one: httpx,requests,express is two clients at one server.
    kinds = [set(words) & set(kind) or set(kind) for kind in (CLIENTS, SERVERS, SCHEMES)]
    return [cell for cell in all_cells() if all(part in kind for part, kind in zip(cell[:3], kinds, strict=True))]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see scripts/interop."""
    parser = argparse.ArgumentParser(prog="scripts/interop", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--only", type=choose, metavar="NAMES", help=f"some cells: {', '.join((*CLIENTS, *SERVERS, *SCHEMES))}"
    )
    parser.add_argument(
        "--covering", action="store_true", help="each client, server and scheme once, as the tests run it"
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)
    cells = options.only or (covering() if options.covering else all_cells())

    def tell(result: Result) -> None:
        print(f"{result.cell.name}: {result.result}", flush=True)

    try:
        results = asyncio.run(run(cells, tell))
    except ChildFailedError as error:
        sys.exit(str(error))
    print("\n" + text(results))
    write(options.json, {"cells": [result.as_json() for result in results]})
    if any(result.result == FAIL for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
