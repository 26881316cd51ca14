"""A paying process that kills itself at one of its wallet's disk writes: `batch_payer.py ORDER`, which is JSON.

It prints each page's path once it has the page, and at the end how many writes there were.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx2

from tallystick.signatures import Signer
from tallystick_client import Budgets, DepositPolicy, Operator, PayingTransport, Wallet
from tallystick_client.payer.wallet.schemes.batch_settlement import BatchSettlementScheme
from tallystick_client.payer.wallet.store import Statement, Store


class Killer:
    """Kills this process at its `at`-th write: "before" it, "within" its transaction, or "after" it is on disk."""

    def __init__(self, store: Store, at: int, moment: str) -> None:
        self.writes = 0
        self._store = store
        self._write = store.write
        self._at = at
        self._moment = moment

    async def write(self, statements: list[Statement]) -> None:
        """In place of the store's own."""
        self.writes += 1
        self._die("before")
        if self._moment == "within" and self.writes == self._at:
            connection = self._store._connection
            await connection.execute("BEGIN IMMEDIATE")
            for sql, values in statements:
                await connection.execute(sql, values)
            self._die("within")
        await self._write(statements)
        self._die("after")

    def _die(self, moment: str) -> None:
        if self.writes == self._at and self._moment == moment:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(order: dict[str, Any]) -> None:
    """Buy the pages one after the other."""
    wallet = await Wallet.open(
        order["wallet"],
        key=Signer(bytes.fromhex(order["key"])),
        operators=[Operator.load(Path(order["operator"]))],
        budgets=Budgets(total=order["budget"]),
        deposit=DepositPolicy(low=0, high="0.2"),
        schemes=(BatchSettlementScheme(),),
        reconcile_every_s=0,
    )
    killer = Killer(wallet._store, order["at"], order["moment"])
    wallet._store.write = killer.write  # type: ignore[method-assign]
    async with wallet, httpx2.AsyncClient(transport=PayingTransport(wallet), base_url=order["url"]) as http:
        for path in order["paths"]:
            response = await http.get(path)
            response.raise_for_status()
            sys.stdout.write(f"{path}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{killer.writes}\n")


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
