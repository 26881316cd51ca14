"""Sends bundles: gas money for a payer, its approval of Permit2, and the settlement, in one block or not at all.

Why the gas money is not lost
-----------------------------
1. None of it is given to a node's pool, where anybody could land the gas money alone: a bundle goes to the builder
   only, which includes all of its transactions in their order, or none.
2. It is journaled before it is offered (I8), as one transaction of the outbox: the settlement, with the other two in
   its memo. The same bytes are offered for every block until the payment's deadline.
3. Its sender is a key of its own, so nothing waits behind a bundle that no builder takes. There is one bundle at a
   time. One that is past its deadline cannot settle any more, and the next takes its nonces: one of them lands at most.
   Once a final block is from after the deadline, and the nonce is unused there, the bundle has ended without it, too.
4. Gas money is what the approval's signed limit and fee demand, both of them capped. What the approval does not use
   stays with the payer: that, and the gas of three transactions, is what a sponsored payment costs.

What is not guaranteed: a builder can break its word, and land the gas money alone. Then so much is lost, once a bundle.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.bundle_port import Bundle, BundleBusyError, FeeRange, PayerAccount
from tallystick_aggregator.chain.node import Node, OrderedCall
from tallystick_aggregator.chain.port import Block, Call, ChainUnavailableError, OutOfGasError, RevertedError, Send
from tallystick_aggregator.chain.rpc.endpoint import Endpoint
from tallystick_aggregator.chain.sending.bidding import bid, limit_for
from tallystick_aggregator.chain.sending.bundle_memo import pack_bundle, unpack_bundle
from tallystick_aggregator.chain.sending.sender import Sender
from tallystick_aggregator.chain.sending.waiters import Waiters
from tallystick_aggregator.chain.settings import ChainSettings
from tallystick_aggregator.store.port import OutboundTransaction, Outbox, TransactionStatus
from tallystick_chain.errors import RpcError
from tallystick_chain.transactions import Unsigned, sign

FUND_GAS: Final = 21_000
"""The payer has no code, so this is what a transfer of coin takes."""
FEE_MARGIN_PERCENT: Final = 125
"""An approval's highest fee may be so much of what we would bid: it was signed some blocks ago."""

_log = logging.getLogger(__name__)


class BundleSender(Sender):
    """Implements `bundle_port.Bundles`. `settings.sender` is the key of bundles alone."""

    def __init__(
        self,
        settings: ChainSettings,
        node: Node,
        outbox: Outbox,
        builder: Endpoint,
        *,
        on_revert: Callable[[OutboundTransaction], None] = lambda _: None,
        waiters: Waiters | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`builder` takes `eth_sendBundle`."""
        address = settings.sender.address
        super().__init__(
            settings,
            node,
            outbox,
            follows=lambda sent: sent.sender == address,
            on_revert=on_revert,
            waiters=waiters,
            clock=clock,
        )
        self._builder = builder

    async def account(self, payer: bytes, block: Block) -> PayerAccount:
        return PayerAccount(await self._node.nonce_at(payer, block.number), await self._node.balance(payer))

    async def fees(self) -> FeeRange:
        market = await self._node.fees()
        offer = bid(market, self._settings.fees)
        # A block can cost an eighth more than the one before it.
        return FeeRange(market.base_fee_per_gas_wei * 9 // 8, offer.max_fee * FEE_MARGIN_PERCENT // 100)

    async def simulate(self, bundle: Bundle, call: Call, block: Block, *, gas_max: int) -> int:
        approval = bundle.approval
        calls = [
            OrderedCall(bundle.payer, approval.to, approval.data, 0, approval.gas_limit),
            OrderedCall(self.address, call.to, call.data, 0, gas_max),
        ]
        if bundle.fund_wei:
            calls.insert(0, OrderedCall(self.address, bundle.payer, b"", bundle.fund_wei, FUND_GAS))
        outcomes = await self._node.run_in_order(calls, block)
        for outcome in outcomes:
            if not outcome.succeeded:
                kind = OutOfGasError if outcome.gas_used >= gas_max else RevertedError
                raise kind(outcome.problem)
        return outcomes[-1].gas_used

    async def send(self, send: Send, bundle: Bundle | None = None, until_s: int = 0) -> OutboundTransaction:
        """See `bundle_port.Bundles`."""
        assert bundle is not None, "nothing but bundles is sent under this key"
        head = await self._node.head()
        gas_limit = limit_for(await self.simulate(bundle, send.call, head, gas_max=send.gas_max), send.gas_max)
        offer = bid(await self._node.fees(), self._settings.fees)
        needed = bundle.fund_wei + (FUND_GAS + gas_limit) * offer.max_fee
        if await self._node.balance(self.address) < needed:
            raise ChainUnavailableError(f"the sender of bundles holds less than {needed} wei")
        async with self._nonces:
            known = await self._outbox.by_reference(send.kind, send.reference)
            if known is not None and known.status is not TransactionStatus.SUPERSEDED:
                return known
            if any(self._may_still_land(other) for other in await self._own()):
                raise BundleBusyError
            await self._check_identifier(send)
            # As of now: a bundle may have landed since the simulation, and its nonces would never do again.
            nonce = await self._node.nonce_at(self.address, (await self._node.head()).number)
            fund = b""
            if bundle.fund_wei:
                unsigned = Unsigned(self._settings.chain_id, nonce, FUND_GAS, bundle.payer, b"", bundle.fund_wei)
                fund = sign(self._signer, unsigned, offer).raw
                nonce += 1
            memo = pack_bundle(send.memo, until_s, fund, bundle.approval.raw)
            outbound = await self._journal(self._draft(replace(send, memo=memo), gas_limit, offer, nonce), known)
        await self._offer(outbound)
        return outbound

    async def close(self) -> None:
        """Let the builder's connections go."""
        await self._builder.close()

    async def _own(self) -> list[OutboundTransaction]:
        open_ones = await self._outbox.open(self._settings.network)
        return [one for one in open_ones if one.sender == self.address and one.status is TransactionStatus.PENDING]

    def _may_still_land(self, outbound: OutboundTransaction) -> bool:
        return unpack_bundle(outbound.memo).until_s >= self._clock()

    async def _drop_superseded(
        self, waiting: Sequence[OutboundTransaction], final_number: int
    ) -> list[OutboundTransaction]:
        """Besides, those that ended with their deadline: their payments are expired, no longer on the way."""
        still = await super()._drop_superseded(waiting, final_number)
        if final_number < 0 or all(self._may_still_land(outbound) for outbound in still):
            return still
        final = await self._node.block(final_number)
        used = await self._node.nonce_at(self.address, final_number)
        left: list[OutboundTransaction] = []
        for outbound in still:
            if final is None or final.timestamp <= unpack_bundle(outbound.memo).until_s or outbound.nonce < used:
                left.append(outbound)
                continue
            _log.warning("bundle %d did not land before its deadline", outbound.id)
            await self._store(replace(outbound, status=TransactionStatus.SUPERSEDED))
        return left

    async def _fill_gaps(self, waiting: Sequence[OutboundTransaction], head: Block) -> None:
        """There are none: the next bundle takes the nonces of one that did not land."""

    async def _push(self, waiting: Sequence[OutboundTransaction]) -> None:
        for outbound in waiting:
            if self._may_still_land(outbound):
                await self._offer(outbound)

    async def _offer(self, outbound: OutboundTransaction) -> None:
        """Offer it for the next block. Whatever the builder says, only a block decides what became of it."""
        parts = unpack_bundle(outbound.memo)
        transactions = [raw for raw in (parts.fund, parts.approval, outbound.attempts[-1].raw) if raw]
        try:
            head = await self._node.head()
            offered: dict[str, Any] = {
                "txs": [to_hex(raw) for raw in transactions],
                "blockNumber": hex(head.number + 1),
                "maxTimestamp": parts.until_s,
            }
            await self._builder.ask("eth_sendBundle", offered)
        except (RpcError, ChainUnavailableError) as error:
            self.problem = f"the builder does not take bundles: {error}"
            _log.warning("bundle %d is not taken: %s", outbound.id, error)
        else:
            self.problem = ""
