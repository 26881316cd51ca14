"""The one sender of transactions of a network: everything leaves through its outbox, under one key, in nonce order.

Why nothing is paid twice
-------------------------
1. A transaction's signed bytes, hash and nonce are on disk before its first byte leaves (I8). There is no moment at
   which something may be in the world and not in the outbox: after a crash the outbox is worked off as it was.
2. A reference is sent once. `send` with a known (kind, reference) returns what is there, under a lock.
3. "Unknown" is never "failed". A lost reply, a node that forgets, a timeout: all leave the transaction PENDING, and its
   very bytes are offered again until its nonce is used in a final block. Replacements keep the nonce, so at most one of
   all signed forms can ever be mined.
4. SUPERSEDED is told only if the nonce was used in a final block and the transaction that used it was found there and
   is not ours (or where nodes have dropped the state to find it by, after ten minutes in which none of them knew a
   receipt of any of our forms). Only then may the same call be signed under a new nonce.
5. And were all of this wrong, the contracts would still pay once: claims are cumulative, deposits and exact payments
   use up an ERC-3009 nonce, refunds the account's refund nonce.

What is not guaranteed
----------------------
- Time. A transaction waits while blocks cost more than the cap, while no endpoint answers, while the key has no ether.
- That a transaction does what it did in simulation: the state may change before it is mined. A revert is reported once
  it is final; claims are then planned again from what the chain says.
- The key must be this sender's alone. Somebody else's use of it shows as SUPERSEDED and costs time, no money.
- A reorganisation deeper than `confirmations` can take back what was called FINAL. Claims heal by themselves, since
  `claimed` is read from the chain; for the rest the outbox's bytes are gone from the pools.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from tallystick.hashing import keccak256
from tallystick_aggregator.chain.gas_limits import limit_for
from tallystick_aggregator.chain.node import CallReverted, Node, Receipt, Rejected
from tallystick_aggregator.chain.nonces import user_of_nonce
from tallystick_aggregator.chain.port import Block, Call, ChainUnavailable, Reverted
from tallystick_aggregator.chain.reverts import describe
from tallystick_aggregator.chain.settings import GAS_LIMIT_MAX, TRANSACTION_BYTES_MAX, ChainSettings
from tallystick_aggregator.chain.transactions import Bid, Unsigned, bid, bid_of, bump, sign
from tallystick_aggregator.journal.port import (
    Outbox,
    Outgoing,
    Payout,
    TransactionKind,
    TransactionStatus,
)

LOOKUPS_AT_ONCE: Final = 16
OFFER_AGAIN_S: Final = 15.0
"""How often the bytes of a waiting transaction are offered again to pools that may have dropped it."""
UNPROVEN_S: Final = 600.0
"""For so long a receipt may be late after a nonce was used in a final block, if nobody can tell by whom."""
_FILL_GAS: Final = 21_000

_log = logging.getLogger(__name__)
_ENDED: Final = frozenset({TransactionStatus.FINAL, TransactionStatus.REVERTED, TransactionStatus.SUPERSEDED})
_SETTLED: Final = _ENDED | {TransactionStatus.MINED}

PayoutsOf = Callable[[Outgoing, Receipt], tuple[Payout, ...]]


class Sender:
    """Sends, follows, replaces and repairs. `tick` does all that time asks for; call it every few seconds."""

    def __init__(
        self,
        settings: ChainSettings,
        node: Node,
        outbox: Outbox,
        *,
        payouts_of: PayoutsOf | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`payouts_of` reads from a claim's receipt what its receivers were paid in fact."""
        self._settings = settings
        self._node = node
        self._outbox = outbox
        self._signer = settings.sender
        self._payouts_of = payouts_of
        self._clock = clock
        self._nonces = asyncio.Lock()
        self._offered_at: dict[int, float] = {}
        self._passed_since: dict[int, float] = {}
        self._first_waiting: tuple[int, float] = (-1, 0.0)
        self._waiters: dict[int, list[tuple[bool, asyncio.Future[Outgoing]]]] = {}
        self.problem = ""
        """Why the first waiting transaction is not taken, in a node's words; empty if it is."""

    @property
    def address(self) -> bytes:
        """Who pays for gas."""
        return self._signer.address

    async def send(
        self,
        kind: TransactionKind,
        reference: bytes,
        call: Call,
        *,
        rows: int = 0,
        payouts: tuple[Payout, ...] = (),
        memo: bytes = b"",
        urgent: bool = False,
    ) -> Outgoing:
        """See `port.Chain.send`."""
        known = await self._outbox.by_reference(kind, reference)
        if known is not None and known.status is not TransactionStatus.SUPERSEDED:
            return known
        gas_limit = await self._gas_limit(call)
        offer = bid(await self._node.fees(), self._settings.fees, urgent=urgent)
        async with self._nonces:
            known = await self._outbox.by_reference(kind, reference)
            if known is not None and known.status is not TransactionStatus.SUPERSEDED:
                return known
            draft = await self._draft(kind, reference, call, gas_limit, offer)
            draft = replace(draft, rows=rows, payouts=payouts, memo=memo)
            if known is None:
                outgoing = await self._outbox.add(draft)
            else:
                outgoing = replace(draft, id=known.id)
                await self._outbox.update(outgoing)
        await self._offer(outgoing)
        return outgoing

    async def _draft(
        self, kind: TransactionKind, reference: bytes, call: Call, gas_limit: int, offer: Bid, nonce: int | None = None
    ) -> Outgoing:
        if nonce is None:
            stored = await self._outbox.next_nonce(self._settings.network, self.address)
            nonce = max(stored, await self._node.next_nonce(self.address))
        now = int(self._clock())
        unsigned = Unsigned(self._settings.chain_id, nonce, gas_limit, call.to, call.data)
        attempt = sign(self._signer, unsigned, offer, now)
        if len(attempt.raw) > TRANSACTION_BYTES_MAX:
            raise Reverted(f"the transaction has {len(attempt.raw)} bytes, allowed {TRANSACTION_BYTES_MAX}")
        return Outgoing(
            id=0,
            network=self._settings.network,
            kind=kind,
            reference=reference,
            sender=self.address,
            nonce=nonce,
            to=call.to,
            data=call.data,
            gas_limit=gas_limit,
            attempts=(attempt,),
            status=TransactionStatus.PENDING,
            created_at=now,
        )

    async def _gas_limit(self, call: Call) -> int:
        """What the call would take now, and a margin: the state may change before it is mined."""
        try:
            gas = await self._node.estimate_gas(self.address, call.to, call.data, gas_max=GAS_LIMIT_MAX)
        except CallReverted as reverted:
            raise Reverted(describe(reverted)) from reverted
        return limit_for(gas)

    async def _fill_gas_limit(self) -> int:
        """What it takes to send nothing: more than 21,000 on chains that charge for a transaction's bytes, too."""
        try:
            return max(_FILL_GAS, await self._gas_limit(Call(self.address, b"")))
        except Reverted:
            return _FILL_GAS

    async def wait(self, outgoing: Outgoing, *, final: bool, timeout_s: float) -> Outgoing:
        """See `port.Chain.wait`."""
        future: asyncio.Future[Outgoing] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(outgoing.id, [])
        waiters.append((final, future))
        try:
            # Only now, so that no news is missed in between.
            present = await self._outbox.by_reference(outgoing.kind, outgoing.reference)
            if present is not None and present.status in (_ENDED if final else _SETTLED):
                return present
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            waiters.remove((final, future))
            if not waiters:
                self._waiters.pop(outgoing.id, None)

    # What time asks for.

    async def tick(self, head: Block) -> None:
        """Look up what became of every open transaction, and push on those that wait. Raises ChainUnavailable."""
        final_number = head.number - self._settings.confirmations
        waiting: list[Outgoing] = []

        async def follow(outgoing: Outgoing) -> None:
            if not await self._follow(outgoing, final_number):
                waiting.append(outgoing)

        await _each(await self._outbox.open(self._settings.network), follow)
        waiting.sort(key=lambda outgoing: outgoing.nonce)
        waiting = await self._drop_superseded(waiting, final_number)
        await self._fill_gaps([outgoing for outgoing in waiting if outgoing.sender == self.address], head)
        await self._push(waiting)

    async def _follow(self, outgoing: Outgoing, final_number: int) -> bool:
        """Record what the chain says of it; False if it is in no block."""
        receipt = await self._receipt(outgoing)
        if receipt is None:
            if outgoing.status is TransactionStatus.MINED:  # a reorganisation took it back
                await self._store(
                    replace(outgoing, status=TransactionStatus.PENDING, block_number=0, block_hash=b"", gas_used=0)
                )
            return False
        final = receipt.block_number <= final_number and await self._is_canonical(receipt)
        if not receipt.succeeded and not final:
            return True
        status = TransactionStatus.FINAL if final else TransactionStatus.MINED
        if not receipt.succeeded:
            status = TransactionStatus.REVERTED
            _log.error("%s %d reverted in block %d", outgoing.kind.name, outgoing.id, receipt.block_number)
        followed = replace(
            outgoing,
            status=status,
            block_number=receipt.block_number,
            block_hash=receipt.block_hash,
            transaction_hash=receipt.transaction_hash,
            gas_used=receipt.gas_used,
            effective_gas_price_wei=receipt.effective_gas_price_wei,
        )
        if receipt.succeeded and outgoing.kind is TransactionKind.CLAIM and self._payouts_of is not None:
            followed = replace(followed, payouts=self._payouts_of(outgoing, receipt))
        if followed != outgoing:
            await self._store(followed)
        return True

    async def _receipt(self, outgoing: Outgoing) -> Receipt | None:
        for attempt in reversed(outgoing.attempts):
            receipt = await self._node.receipt(attempt.transaction_hash)
            if receipt is not None:
                return receipt
        return None

    async def _is_canonical(self, receipt: Receipt) -> bool:
        block = await self._node.block(receipt.block_number)
        return block is not None and block.block_hash == receipt.block_hash

    async def _drop_superseded(self, waiting: Sequence[Outgoing], final_number: int) -> list[Outgoing]:
        """Those whose nonce nobody else has used for good."""
        still: list[Outgoing] = []
        used: dict[bytes, int] = {}
        for outgoing in waiting:
            if outgoing.sender not in used:
                used[outgoing.sender] = (
                    await self._node.nonce_at(outgoing.sender, final_number) if final_number >= 0 else 0
                )
            if outgoing.nonce >= used[outgoing.sender]:
                still.append(outgoing)
                continue
            other = await self._who_took_the_nonce(outgoing, final_number)
            if other is not None:
                _log.error(
                    "%s %d: its nonce %d was used by another transaction, 0x%s",
                    outgoing.kind.name, outgoing.id, outgoing.nonce, other.hex() or " unknown",
                )  # fmt: skip
                await self._store(replace(outgoing, status=TransactionStatus.SUPERSEDED, transaction_hash=other))
        return still

    async def _who_took_the_nonce(self, outgoing: Outgoing, final_number: int) -> bytes | None:
        """The hash of the transaction that took this one's place for good, empty if nobody can tell any more; None
        as long as it may be this one, and its receipt only late.
        """
        since = self._passed_since.setdefault(outgoing.id, self._clock())
        try:
            other = await user_of_nonce(self._node, outgoing.sender, outgoing.nonce, final_number)
        except ChainUnavailable as error:
            _log.warning("who used nonce %d cannot be looked up: %s", outgoing.nonce, error)
            other = b""
        if other:
            return None if any(attempt.transaction_hash == other for attempt in outgoing.attempts) else other
        return b"" if self._clock() - since >= UNPROVEN_S else None

    async def _fill_gaps(self, waiting: Sequence[Outgoing], head: Block) -> None:
        """Send nothing, to ourselves, under nonces that neither the chain, the pools nor the outbox know."""
        if not waiting:
            return
        mined = await self._node.nonce_at(self.address, head.number)
        first = max(mined, await self._node.next_nonce(self.address))
        missing = set(range(first, waiting[-1].nonce)) - {outgoing.nonce for outgoing in waiting}
        if not missing:
            return
        offer = max(bid_of(outgoing.attempts[-1]) for outgoing in waiting)
        gas_limit = await self._fill_gas_limit()
        for nonce in sorted(missing):
            _log.warning("nonce %d is missing: it is filled, so that %d transactions can go on", nonce, len(waiting))
            gap = f"{self._settings.network} {self.address.hex()} {nonce} {self._clock()}"
            reference = keccak256(gap.encode())
            fill = await self._draft(
                TransactionKind.FILL, reference, Call(self.address, b""), gas_limit, offer, nonce=nonce
            )
            await self._offer(await self._outbox.add(fill))

    async def _push(self, waiting: Sequence[Outgoing]) -> None:
        """Offer again what waits; bid more for the one that holds up all others, if it has waited for long."""
        now = self._clock()
        own = [outgoing for outgoing in waiting if outgoing.sender == self.address]
        first = own[0].nonce if own else -1
        if first != self._first_waiting[0]:
            self._first_waiting = (first, now)
            self.problem = ""
        for outgoing in waiting:
            due = outgoing.nonce == first and outgoing.sender == self.address and self._is_due(own, now)
            raised = await self._raise_bid(outgoing, own) if due else None
            if raised is not None:
                await self._offer(raised)
            elif now - self._offered_at.get(outgoing.id, 0.0) >= OFFER_AGAIN_S:
                await self._offer(outgoing)

    def _is_due(self, own: Sequence[Outgoing], now: float) -> bool:
        """The first waits for too long, or one behind it is in more of a hurry."""
        newest = own[0].attempts[-1]
        since = max(self._first_waiting[1], newest.created_at)
        hurry = max(bid_of(outgoing.attempts[-1]).priority_fee for outgoing in own)
        return now - since >= self._settings.replace_after_s or bid_of(newest).priority_fee < hurry

    async def _raise_bid(self, outgoing: Outgoing, own: Sequence[Outgoing]) -> Outgoing | None:
        """The transaction with one more signed form, journaled; None where the cap does not allow a higher bid."""
        offers = [bid_of(other.attempts[-1]) for other in own]
        market = bid(await self._node.fees(), self._settings.fees)
        wanted = Bid(
            max(market.max_fee, *(offer.max_fee for offer in offers)),
            max(market.priority_fee, *(offer.priority_fee for offer in offers)),
        )
        offer = bump(offers[0], wanted, self._settings.fees)
        if offer is None:
            return None
        unsigned = Unsigned(self._settings.chain_id, outgoing.nonce, outgoing.gas_limit, outgoing.to, outgoing.data)
        attempt = sign(self._signer, unsigned, offer, int(self._clock()))
        raised = replace(outgoing, attempts=(*outgoing.attempts, attempt))
        await self._store(raised)
        _log.info("%s %d bids %d wei per gas now", outgoing.kind.name, outgoing.id, offer.max_fee)
        return raised

    async def _offer(self, outgoing: Outgoing) -> None:
        """Give the newest signed bytes to the nodes. Whatever they say, only a block decides what became of it."""
        self._offered_at[outgoing.id] = self._clock()
        try:
            await self._node.send(outgoing.attempts[-1].raw)
        except (Rejected, ChainUnavailable) as error:
            if outgoing.nonce == self._first_waiting[0]:
                self.problem = f"{outgoing.kind.name} {outgoing.id} waits: {error}"
            _log.warning("%s %d waits in the outbox: %s", outgoing.kind.name, outgoing.id, error)

    async def _store(self, outgoing: Outgoing) -> None:
        await self._outbox.update(outgoing)
        if outgoing.status in _ENDED:
            self._offered_at.pop(outgoing.id, None)
            self._passed_since.pop(outgoing.id, None)
        for final, future in self._waiters.get(outgoing.id, ()):
            if outgoing.status in (_ENDED if final else _SETTLED) and not future.done():
                future.set_result(outgoing)


async def _each(items: Sequence[Outgoing], work: Callable[[Outgoing], Awaitable[None]]) -> None:
    for at in range(0, len(items), LOOKUPS_AT_ONCE):
        outcomes = await asyncio.gather(
            *(work(item) for item in items[at : at + LOOKUPS_AT_ONCE]), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
