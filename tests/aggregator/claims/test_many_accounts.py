"""A settlement looks through all accounts there are, and lets others have their turn meanwhile."""

import asyncio
from types import SimpleNamespace
from typing import Any

from doubles import DOMAIN, ESCROW_REF, NETWORK, Payer

from tallystick.quantities import AccountId
from tallystick_aggregator.chain.deferred_escrow import CLAIM_COSTS
from tallystick_aggregator.chain.port import Block
from tallystick_aggregator.claims.service import ACCOUNTS_PER_SLICE, ClaimService
from tallystick_aggregator.ledger.state import Account, Ledger
from tallystick_aggregator.ledger.values import EscrowRef

EMPTY = EscrowRef(NETWORK, b"\x07" * 20)


class EmptyEscrow:
    """A chain whose escrow has no account; another one of its network has them all."""

    network = NETWORK
    escrow = SimpleNamespace(ref=EMPTY, address=EMPTY.address, domain=DOMAIN, claim_costs=CLAIM_COSTS)

    async def head(self, *, fresh: bool = True) -> Block:
        del fresh
        return Block(7, bytes(32), 7)

    async def mirrored(self, _number: int, _timeout_s: float) -> None:
        return None

    def on_withdrawal(self, listener: object) -> None:
        del listener


class EmptyOutbox:
    async def open(self, _network: str) -> list[object]:
        return []


async def test_a_settlement_that_passes_by_the_accounts_of_another_escrow_holds_nobody_up() -> None:
    ledger, config = Ledger(), Payer("alice").config
    for number in range(5 * ACCOUNTS_PER_SLICE):
        id_ = AccountId(number.to_bytes(32, "big"))
        ledger.accounts[id_] = Account(id_, ESCROW_REF, config)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    chain: Any = EmptyEscrow()
    outbox: Any = EmptyOutbox()
    settlement = ClaimService(chain, SimpleNamespace(ledger=ledger), outbox)
    waiting = asyncio.create_task(others())
    assert not await settlement.settle_now()
    waiting.cancel()
    assert turns >= 5
