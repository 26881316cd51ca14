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
  What a withdrawal puts at stake, and all before it, may bid up to a higher cap (`bidding`); what waits is told.
- That a transaction does what it did in simulation: the state may change before it is mined. A revert is reported once
  it is final; claims are then planned again from what the chain says.
- The key must be this sender's alone. Somebody else's use of it shows as SUPERSEDED and costs time, no money.
- A reorganisation deeper than `confirmations` can take back what was called FINAL. Claims heal by themselves, since
  `claimed` is read from the chain; for the rest the outbox's bytes are gone from the pools.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from tallystick.hashing import keccak256
from tallystick_aggregator.chain.node import Node, Receipt, RejectedError
from tallystick_aggregator.chain.port import (
    Block,
    Call,
    ChainUnavailableError,
    PaymentIdTakenError,
    RevertedError,
    Send,
)
from tallystick_aggregator.chain.sending.bidding import bid, bid_of, raises
from tallystick_aggregator.chain.sending.lookups import Lookups
from tallystick_aggregator.chain.sending.nonces import GAP_MAX, free_nonce, surely_used_by
from tallystick_aggregator.chain.sending.trial import Trial
from tallystick_aggregator.chain.sending.waiters import ENDED, Waiters
from tallystick_aggregator.chain.settings import TRANSACTION_BYTES_MAX, ChainSettings
from tallystick_aggregator.store.port import (
    Attempt,
    OutboundTransaction,
    Outbox,
    Payout,
    TransactionKind,
    TransactionStatus,
)
from tallystick_aggregator.tasks import Shared
from tallystick_chain.fees import Bid
from tallystick_chain.transactions import Unsigned, sign

_GWEI: Final = 10**9

_log = logging.getLogger(__name__)
_alarm = logging.getLogger("tallystick.alarm")
_MOVING: Final = frozenset({TransactionKind.CLAIM, TransactionKind.DEPOSIT, TransactionKind.REFUND})

PayoutsOf = Callable[[OutboundTransaction, Receipt], tuple[Payout, ...]]


class Sender:
    """Sends, follows, replaces and repairs. `tick` does all that time asks for; call it every few seconds."""

    def __init__(
        self,
        settings: ChainSettings,
        node: Node,
        outbox: Outbox,
        *,
        payouts_of: PayoutsOf | None = None,
        follows: Callable[[OutboundTransaction], bool] = lambda _: True,
        on_revert: Callable[[OutboundTransaction], None] = lambda _: None,
        waiters: Waiters | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`payouts_of` reads from a receipt what a claim, a deposit or a refund has moved in fact.

        `follows`: which of the outbox's transactions are this sender's to look after, where another has its own.
        `on_revert`: called at each look with one that has reverted, before that is final. `waiters`: shared with
        another sender.
        """
        self._settings = settings
        self._node = node
        self._outbox = outbox
        self._signer = settings.sender
        self._payouts_of = payouts_of
        self._follows = follows
        self._on_revert = on_revert
        self._clock = clock
        self._nonces = asyncio.Lock()
        self._next_nonce = Shared[None, int]()
        self._lookups = Lookups(settings.limits.look_again_s, clock)
        self._blocks = Shared[int, Block | None]()
        self._offered_at: dict[int, float] = {}
        self._passed_since: dict[int, float] = {}
        self._first_waiting: tuple[int, float] = (-1, 0.0)
        self.waiters = waiters or Waiters(outbox)
        self.trial = Trial(settings, node, outbox)
        self.problem = ""
        """Why the first waiting transaction is not taken, in a node's words; empty if it is."""
        self.capped = ""
        """Which transaction needs a higher bid than its cap allows; empty if none does."""
        self.late = ""
        """Which transaction has waited for so long that withdrawals behind it may be missed; empty if none has."""
        self._stakes: Mapping[int, int | None] = {}

    @property
    def address(self) -> bytes:
        """Who pays for gas."""
        return self._signer.address

    async def send(self, send: Send) -> OutboundTransaction:
        known = await self._outbox.by_reference(send.kind, send.reference)
        if known is not None and known.status is not TransactionStatus.SUPERSEDED:
            return known
        gas_limit = await self.trial.gas_limit(send.call, send.gas_max)
        offer = bid(await self.trial.market(), self._settings.fees, urgent=send.urgent)
        told = await self._next_nonce.answer(None, lambda: self._node.next_nonce(self.address))
        # One at a time from here: it asks nobody but the store.
        async with self._nonces:
            known = await self._outbox.by_reference(send.kind, send.reference)
            if known is not None and known.status is not TransactionStatus.SUPERSEDED:
                return known
            await self._check_identifier(send)
            stored = await self._outbox.next_nonce(self._settings.network, self.address)
            nonce = await free_nonce(self._node, self.address, stored, told)
            outbound = await self._journal(self._draft(send, gas_limit, offer, nonce), known)
        await self._offer(outbound)
        return outbound

    def hurry(self, stakes: Mapping[int, int | None]) -> bool:
        """See `EvmChain.hurry`; in wei, None where that is not known. Returns whether there is anything new in it."""
        is_new = bool(stakes.keys() - self._stakes.keys())
        self._stakes = dict(stakes)
        return is_new

    async def _check_identifier(self, send: Send) -> None:
        """Raise PaymentIdTakenError where the payment's identifier was sent for another one."""
        if not send.payment_id:
            return
        named = await self._outbox.by_payment_id(send.payment_id)
        if named is not None and (named.kind, named.reference) != (send.kind, send.reference):
            raise PaymentIdTakenError

    async def _journal(self, draft: OutboundTransaction, known: OutboundTransaction | None) -> OutboundTransaction:
        """Write it down, in the place of one with the same reference that never happened."""
        if known is None:
            return await self._outbox.add(draft)
        outbound = replace(draft, id=known.id)
        await self._outbox.update(outbound)
        return outbound

    def _draft(self, send: Send, gas_limit: int, offer: Bid, nonce: int) -> OutboundTransaction:
        now = int(self._clock())
        unsigned = Unsigned(self._settings.chain_id, nonce, gas_limit, send.call.to, send.call.data)
        attempt = self._signed(unsigned, offer, now)
        if len(attempt.raw) > TRANSACTION_BYTES_MAX:
            raise RevertedError(f"the transaction has {len(attempt.raw)} bytes, allowed {TRANSACTION_BYTES_MAX}")
        return OutboundTransaction(
            id=0,
            network=self._settings.network,
            kind=send.kind,
            reference=send.reference,
            sender=self.address,
            nonce=nonce,
            to=send.call.to,
            data=send.call.data,
            gas_limit=gas_limit,
            attempts=(attempt,),
            status=TransactionStatus.PENDING,
            created_at=now,
            rows=send.rows,
            payouts=send.payouts,
            memo=send.memo,
            payer=send.payer,
            payment_id=send.payment_id,
        )

    def _signed(self, unsigned: Unsigned, offer: Bid, now: int) -> Attempt:
        signed = sign(self._signer, unsigned, offer)
        return Attempt(signed.transaction_hash, signed.raw, offer.max_fee, offer.priority_fee, now)

    # What time asks for.

    async def tick(self, head: Block) -> None:
        """Look up what became of every open transaction, and push on those that wait. Raises ChainUnavailableError."""
        final_number = head.number - self._settings.confirmations
        outgoing = [sent for sent in await self._outbox.open(self._settings.network) if self._follows(sent)]
        found = await self._lookups.waiting(outgoing, head, lambda sent: self._follow(sent, final_number))
        waiting = await self._drop_superseded([_in_no_block(sent) for sent in found], final_number)
        await self._fill_gaps([outbound for outbound in waiting if outbound.sender == self.address], head)
        await self._push(waiting)

    async def _follow(self, outbound: OutboundTransaction, final_number: int) -> bool:
        """Record what the chain says of it; False if it is in no block."""
        receipt = await self._receipt(outbound)
        if receipt is None:
            if outbound.status is TransactionStatus.MINED:  # a reorganisation took it back
                await self._store(_in_no_block(outbound))
            return False
        final = receipt.block_number <= final_number and await self._is_canonical(receipt)
        if not receipt.succeeded:
            self._on_revert(outbound)
            if not final:
                return True
        status = TransactionStatus.FINAL if final else TransactionStatus.MINED
        if not receipt.succeeded:
            status = TransactionStatus.REVERTED
            _log.error("%s %d reverted in block %d", outbound.kind.name, outbound.id, receipt.block_number)
        followed = replace(
            outbound,
            status=status,
            block_number=receipt.block_number,
            block_hash=receipt.block_hash,
            transaction_hash=receipt.transaction_hash,
            gas_used=receipt.gas_used,
            effective_gas_price_wei=receipt.effective_gas_price_wei,
        )
        if receipt.succeeded and outbound.kind in _MOVING and self._payouts_of is not None:
            followed = replace(followed, payouts=self._payouts_of(outbound, receipt))
        if followed != outbound:
            await self._store(followed)
        return True

    async def _receipt(self, outbound: OutboundTransaction) -> Receipt | None:
        for attempt in reversed(outbound.attempts):
            receipt = await self._node.receipt(attempt.transaction_hash)
            if receipt is not None:
                return receipt
        return None

    async def _is_canonical(self, receipt: Receipt) -> bool:
        number = receipt.block_number
        block = await self._blocks.answer(number, lambda: self._node.block(number))
        return block is not None and block.block_hash == receipt.block_hash

    async def _drop_superseded(
        self, waiting: Sequence[OutboundTransaction], final_number: int
    ) -> list[OutboundTransaction]:
        """Those whose nonce nobody else has used for good."""
        still: list[OutboundTransaction] = []
        used: dict[bytes, int] = {}
        for outbound in waiting:
            if outbound.sender not in used:
                used[outbound.sender] = (
                    await self._node.nonce_at(outbound.sender, final_number) if final_number >= 0 else 0
                )
            if outbound.nonce >= used[outbound.sender]:
                self._passed_since.pop(outbound.id, None)
                still.append(outbound)
                continue
            other = await self._who_took_the_nonce(outbound, final_number)
            if other is not None:
                _log.error(
                    "%s %d: its nonce %d was used by another transaction, 0x%s",
                    outbound.kind.name, outbound.id, outbound.nonce, other.hex() or " unknown",
                )  # fmt: skip
                await self._store(replace(outbound, status=TransactionStatus.SUPERSEDED, transaction_hash=other))
        return still

    async def _who_took_the_nonce(self, outbound: OutboundTransaction, final_number: int) -> bytes | None:
        """The hash of the transaction that took this one's place for good, empty if nobody can tell any more; None
        as long as it may be this one, and its receipt only late.
        """
        since = self._passed_since.setdefault(outbound.id, self._clock())
        try:
            other = await surely_used_by(self._node, outbound.sender, outbound.nonce, final_number)
        except ChainUnavailableError as error:
            _log.warning("who used nonce %d cannot be looked up: %s", outbound.nonce, error)
            other = b""
        if other:
            return None if any(attempt.transaction_hash == other for attempt in outbound.attempts) else other
        return b"" if self._clock() - since >= self._settings.limits.unproven_s else None

    async def _fill_gaps(self, waiting: Sequence[OutboundTransaction], head: Block) -> None:
        """Send nothing, to ourselves, under nonces that neither the chain, the pools nor the outbox know."""
        if not waiting:
            return
        mined = await self._node.nonce_at(self.address, head.number)
        first = max(mined, await self._node.next_nonce(self.address))
        missing = set(range(first, waiting[-1].nonce)) - {outbound.nonce for outbound in waiting}
        if not missing:
            return
        offer = max(bid_of(outbound.attempts[-1]) for outbound in waiting)
        gas_limit = await self.trial.fill_gas_limit()
        for nonce in sorted(missing)[:GAP_MAX]:
            _log.warning("nonce %d is missing: it is filled, so that %d transactions can go on", nonce, len(waiting))
            gap = f"{self._settings.network} {self.address.hex()} {nonce} {self._clock()}"
            fill = Send(TransactionKind.NONCE_FILLER, keccak256(gap.encode()), Call(self.address, b""))
            await self._offer(await self._outbox.add(self._draft(fill, gas_limit, offer, nonce)))

    async def _push(self, waiting: Sequence[OutboundTransaction]) -> None:
        """Bid more where that is needed; offer again what waits."""
        now = self._clock()
        own = [outbound for outbound in waiting if outbound.sender == self.address]
        first = own[0].nonce if own else -1
        if first != self._first_waiting[0]:
            self._first_waiting = (first, now)
            self.problem = ""
        if not own:
            self.capped = self.late = ""
        raised = await self._raise_bids(own, now) if own else {}
        for outbound in waiting:
            if outbound.id in raised:
                await self._offer(raised[outbound.id])
            elif now - self._offered_at.get(outbound.id, 0.0) >= self._settings.limits.offer_again_s:
                await self._offer(outbound)

    async def _raise_bids(self, own: Sequence[OutboundTransaction], now: float) -> dict[int, OutboundTransaction]:
        """Those that bid more from now on, journaled. What a cap keeps from it, and what waits for long, is told."""
        newest = own[0].attempts[-1]
        stuck = now - max(self._first_waiting[1], newest.created_at) >= self._settings.replace_after_s
        self._tell_late(own[0], now)
        # Without this no fee has to be asked for at every look.
        is_behind = any(bid_of(newest).priority_fee < bid_of(other.attempts[-1]).priority_fee for other in own)
        if not stuck and not is_behind and not any(outbound.id in self._stakes for outbound in own):
            self.capped = ""
            return {}
        market = await self._node.fees()
        plan = raises(own, market, self._settings.fees, stuck=stuck, stakes=self._stakes)
        self._tell_capped(plan.blocked, plan.cap, market.base_fee_per_gas_wei)
        return {outbound.id: await self._raise_bid(outbound, offer) for outbound, offer in plan.bids}

    async def _raise_bid(self, outbound: OutboundTransaction, offer: Bid) -> OutboundTransaction:
        """The transaction with one more signed form, journaled."""
        unsigned = Unsigned(self._settings.chain_id, outbound.nonce, outbound.gas_limit, outbound.to, outbound.data)
        attempt = self._signed(unsigned, offer, int(self._clock()))
        raised = replace(outbound, attempts=(*outbound.attempts, attempt))
        await self._store(raised)
        _log.info("%s %d bids %d wei per gas now", outbound.kind.name, outbound.id, offer.max_fee)
        return raised

    def _tell_capped(self, blocked: OutboundTransaction | None, cap: Bid, base_fee: int) -> None:
        if blocked is None:
            self.capped = ""
            return
        newly = not self.capped
        offer = bid_of(blocked.attempts[-1])
        self.capped = (
            f"{blocked.kind.name} {blocked.id} (nonce {blocked.nonce}) and all behind it wait: it bids"
            f" {offer.max_fee / _GWEI:g} gwei, {offer.priority_fee / _GWEI:g} of it for the tip, blocks cost"
            f" {base_fee / _GWEI:g}, and the caps are {cap.max_fee / _GWEI:g} and {cap.priority_fee / _GWEI:g}"
        )
        if newly:
            _alarm.critical("%s: %s", self._settings.network, self.capped)

    def _tell_late(self, first: OutboundTransaction, now: float) -> None:
        """Nothing behind the first waiting nonce can land: it must not take as long as withdrawals do."""
        waits_s = now - first.created_at
        if waits_s < self._settings.stale_after_s:
            self.late = ""
            return
        newly = not self.late
        self.late = f"{first.kind.name} {first.id} (nonce {first.nonce}) and all behind it have waited {waits_s:.0f} s"
        if newly:
            _alarm.critical("%s: %s", self._settings.network, self.late)

    async def _offer(self, outbound: OutboundTransaction) -> None:
        """Give the newest signed bytes to the nodes. Whatever they say, only a block decides what became of it."""
        self._offered_at[outbound.id] = self._clock()
        try:
            await self._node.send(outbound.attempts[-1].raw)
        except (RejectedError, ChainUnavailableError) as error:
            if outbound.nonce == self._first_waiting[0]:
                self.problem = f"{outbound.kind.name} {outbound.id} waits: {error}"
            _log.warning("%s %d waits in the outbox: %s", outbound.kind.name, outbound.id, error)

    async def _store(self, outbound: OutboundTransaction) -> None:
        await self._outbox.update(outbound)
        if outbound.status in ENDED:
            self._offered_at.pop(outbound.id, None)
            self._passed_since.pop(outbound.id, None)
        self.waiters.tell(outbound)


def _in_no_block(outbound: OutboundTransaction) -> OutboundTransaction:
    """The transaction as it waits; a block that held it was taken back."""
    return replace(outbound, status=TransactionStatus.PENDING, block_number=0, block_hash=b"", gas_used=0)
