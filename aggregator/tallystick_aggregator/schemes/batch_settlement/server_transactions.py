"""What servers that manage vouchers have sent for them: claims, settles and refunds ("POST /settle").

Our key signs only for channels whose receiverAuthorizer it is, and only for the receiver whose token asks; a server
that has its own key sends its signature. Channels that the ledger counts charges or holds on are its own: a claim or a
refund by somebody else's count would take what is owed here.

Each transaction has a reference that follows from what it does, so the same call again finds it, after a restart too. A
refund's is its channel and nonce; a claim's its calldata; a settle's the receiver's total, which each claim raises.
"""

from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from tallystick.errors import InvalidSignatureError
from tallystick.facilitator import Settled
from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum
from tallystick.vouchers import UncheckedVoucher, check_voucher
from tallystick.x402 import PaymentTerms
from tallystick.x402.batch_settlement import BatchSettlementCode as Code
from tallystick.x402.batch_settlement import (
    ClaimPayload,
    RefundPayload,
    Settlement,
    SettlePayload,
    VoucherClaim,
)
from tallystick_aggregator.accounts.outcomes import (
    ATTEMPTS_MAX,
    NEVER_HAPPENED,
    newest_sent,
    overloaded,
    unless_unavailable,
    wait_until_mined,
)
from tallystick_aggregator.accounts.refunds import REFUND_GAS_MAX, REFUND_TIMEOUT_S, REFUNDS_MAX
from tallystick_aggregator.auth.limits import GasBudget, RateLimits
from tallystick_aggregator.chain.port import Call, RevertedError, Send
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.schemes.batch_settlement.locks import Locks
from tallystick_aggregator.schemes.batch_settlement.port import ChannelChain
from tallystick_aggregator.schemes.batch_settlement.requests import wait_s
from tallystick_aggregator.schemes.batch_settlement.server_payments import OnChain
from tallystick_aggregator.schemes.batch_settlement.under_way import Sent, UnderWay
from tallystick_aggregator.store.port import (
    OutboundTransaction,
    Outbox,
    Payout,
    TransactionKind,
    TransactionStatus,
)
from tallystick_aggregator.tasks import SingleFlight

CLAIM_EVERY_S: Final = 10.0
"""How often one receiver may have claims and settles sent in the long run: each costs the operator a transaction."""
CLAIM_BURST: Final = 60


class ServerTransactions:
    """Sends them and tells what became of them."""

    def __init__(
        self,
        on_chain: OnChain,
        locks: Locks,
        under_way: UnderWay,
        writer: Writer,
        outbox: Outbox,
        budget: GasBudget | None = None,
    ) -> None:
        """`budget` bounds what refunds cost in gas; without one there is no bound."""
        self._on_chain = on_chain
        self._locks = locks
        self._sent = under_way
        self._writer = writer
        self._outbox = outbox
        self._budget = budget or GasBudget()
        self._under_way = SingleFlight[bytes, Settled | Refusal]()
        self._rates = RateLimits(1 / CLAIM_EVERY_S, CLAIM_BURST)

    async def claim(self, escrow: EscrowRef, terms: PaymentTerms, payload: ClaimPayload) -> Settled | Refusal:
        """Claim all rows, or none."""
        rows, signature = payload.claims, payload.claim_authorizer_signature
        refusal = self._may_claim(escrow, terms, rows, is_signed=signature is not None)
        if refusal is not None:
            return refusal
        call = self._chain(escrow).escrow.claim_rows_call(rows, signature)
        reference = keccak256(escrow.network.encode() + call.data)
        return await self._once(reference, lambda: self._claim(escrow, terms, rows, call, reference))

    async def settle(self, escrow: EscrowRef, terms: PaymentTerms, payload: SettlePayload) -> Settled | Refusal:
        """Pay the receiver what was claimed for it and not paid yet."""
        if (payload.receiver, payload.token) != (terms.pay_to, terms.asset):
            got, allowed = checksum(payload.receiver), checksum(terms.pay_to)
            return refuse(Why.RECEIVER_MISMATCH, got, allowed, field="payload.receiver")
        key = keccak256(b"settle" + escrow.network.encode() + payload.receiver + payload.token)
        return await self._once(key, lambda: self._settle(escrow, terms, payload, key))

    async def refund(self, escrow: EscrowRef, terms: PaymentTerms, payload: RefundPayload) -> Settled | Refusal:
        """Claim the rows that came along, and give back what was asked for, in one transaction."""
        channel_id, nonce, amount = payload.voucher.channel_id, payload.refund_nonce, payload.amount
        if nonce is None or not amount:
            missing = "payload.refundNonce" if nonce is None else "payload.amount"
            return refuse(Why.REFUND_INCOMPLETE, "none", "what the server adds", field=missing)
        refusal = self._may_refund(escrow, terms, payload)
        if refusal is not None:
            return refusal
        call = self._chain(escrow).escrow.refund_rows_call(payload)
        reference = keccak256(
            b"refund" + escrow.network.encode() + channel_id + nonce.to_bytes(32, "big") + amount.to_bytes(16, "big")
        )
        if reference not in self._under_way and len(self._under_way) >= REFUNDS_MAX:
            return overloaded("refunds", REFUNDS_MAX)
        return await self._once(reference, lambda: self._refund(escrow, terms, payload, call, reference))

    # Who may ask for what.

    def _may_claim(
        self, escrow: EscrowRef, terms: PaymentTerms, rows: Sequence[VoucherClaim], *, is_signed: bool
    ) -> Refusal | None:
        """Refuse the first row that is another receiver's, not ours to sign, or the ledger's own."""
        binding = self._chain(escrow).escrow
        seen: set[bytes] = set()
        for at, row in enumerate(rows):
            path, config = f"payload.claims[{at}].voucher.channel", row.config
            if config.receiver != terms.pay_to:
                got, allowed = checksum(config.receiver), checksum(terms.pay_to)
                return refuse(Why.RECEIVER_MISMATCH, got, allowed, field=f"{path}.receiver")
            if config.token != terms.asset:
                got, allowed = checksum(config.token), checksum(terms.asset)
                return refuse(Why.TOKEN_MISMATCH, got, allowed, field=f"{path}.token")
            refusal = self._is_ours_to_sign(escrow, config.receiver_authorizer, path, is_signed=is_signed)
            channel_id = binding.channel_id(config)
            refusal = refusal or self._is_the_servers(channel_id, path)
            if refusal is not None:
                return refusal
            if channel_id in seen:
                return refuse(Why.ROW_TWICE, "a channel of a row before", "each channel once", field=path)
            seen.add(channel_id)
        return None

    def _may_refund(self, escrow: EscrowRef, terms: PaymentTerms, payload: RefundPayload) -> Refusal | None:
        """The channel is this receiver's (the terms were met), and so are the rows that are claimed before."""
        config, path = payload.config, "payload.channelConfig"
        is_signed = payload.refund_authorizer_signature is not None
        refusal = self._is_ours_to_sign(escrow, config.receiver_authorizer, path, is_signed=is_signed)
        refusal = refusal or self._is_the_servers(payload.voucher.channel_id, path)
        signed = payload.claim_authorizer_signature is not None
        return refusal or self._may_claim(escrow, terms, payload.claims, is_signed=signed)

    def _is_ours_to_sign(self, escrow: EscrowRef, authorizer: bytes, path: str, *, is_signed: bool) -> Refusal | None:
        operator = self._chain(escrow).escrow.operator
        if is_signed or authorizer == operator:
            return None
        field = f"{path}.receiverAuthorizer"
        return refuse(Why.AUTHORIZER_OF_ANOTHER, checksum(authorizer), checksum(operator), field=field)

    def _is_the_servers(self, channel_id: bytes, path: str) -> Refusal | None:
        """Refuse a channel that the ledger counts something on that is not claimed yet."""
        ledger = self._writer.ledger
        channel, account = ledger.channel(channel_id), ledger.account(channel_id)
        is_charged = channel is not None and channel.charged > channel.claimed
        is_held = ledger.is_held(channel_id)
        is_refunded = account is not None and account.refund is not None
        if is_charged or is_held or is_refunded:
            return refuse(Why.CHANNEL_IS_MANAGED, field=path)
        return None

    # Sending.

    async def _claim(
        self, escrow: EscrowRef, terms: PaymentTerms, rows: Sequence[VoucherClaim], call: Call, reference: bytes
    ) -> Settled | Refusal:
        known = await self._newest(TransactionKind.CLAIM, reference)
        if isinstance(known, Refusal):
            return known
        newest, under = known
        if newest is None or newest.status in NEVER_HAPPENED:
            claimed = await self._claimed_before(escrow, rows)
            if isinstance(claimed, Refusal):
                return claimed
            paid = _paid_by(rows, claimed)
            if not any(one.amount for one in paid):
                return refuse(Why.NOTHING_TO_CLAIM)
            if not self._rates.of(terms.pay_to).take():
                return overloaded("claims of this receiver", CLAIM_BURST)
            send = Send(TransactionKind.CLAIM, under, call, len(rows), paid)
            newest = await self._chain(escrow).send(send)
        mined = await wait_until_mined(self._chain(escrow), newest, "claim", _wait_s(terms))
        if isinstance(mined, Refusal):
            return mined
        return Settled(b"", 0, 0, mined.transaction_hash, moves=False)

    async def _settle(
        self, escrow: EscrowRef, terms: PaymentTerms, payload: SettlePayload, key: bytes
    ) -> Settled | Refusal:
        chain = self._chain(escrow)
        call = chain.escrow.collect_call(payload.receiver, payload.token)
        total, settled = await chain.escrow.receiver_totals(payload.receiver, payload.token, await chain.head())
        known = await self._newest(TransactionKind.COLLECT, keccak256(key + total.to_bytes(16, "big")))
        if isinstance(known, Refusal):
            return known
        newest, under = known
        amount = total - settled
        if newest is None or newest.status in NEVER_HAPPENED:
            newest = await self._collecting(chain.network, call)
            if newest is None:
                if not amount:  # done, by nothing ("POST /settle": a no-op's amount is 0)
                    return Settled(b"", 0)
                if not self._rates.of(payload.receiver).take():
                    return overloaded("settles of this receiver", CLAIM_BURST)
                paid = (Payout(payload.receiver, payload.token, amount),)
                newest = await chain.send(Send(TransactionKind.COLLECT, under, call, payouts=paid))
        mined = await wait_until_mined(chain, newest, "settle", _wait_s(terms))
        if isinstance(mined, Refusal):
            return mined
        return Settled(b"", sum(one.amount for one in mined.payouts) or amount, 0, mined.transaction_hash)

    async def _refund(
        self, escrow: EscrowRef, terms: PaymentTerms, payload: RefundPayload, call: Call, reference: bytes
    ) -> Settled | Refusal:
        """Refund while no managed voucher takes the channel."""
        channel_id = payload.voucher.channel_id
        held = self._locks.take_again(channel_id, reference)
        if isinstance(held, Refusal):
            return held
        try:
            with self._locks.at_work(channel_id):
                return await self._refund_held(escrow, terms, payload, call, reference)
        finally:
            # What was sent keeps the channel by itself until the ledger has read what it did.
            self._locks.release(channel_id, reference)

    async def _refund_held(
        self, escrow: EscrowRef, terms: PaymentTerms, payload: RefundPayload, call: Call, reference: bytes
    ) -> Settled | Refusal:
        chain, channel_id, payer = self._chain(escrow), payload.voucher.channel_id, payload.config.payer
        known = await self._newest(TransactionKind.REFUND, reference)
        if isinstance(known, Refusal):
            return known
        newest, under = known
        if newest is None or newest.status in NEVER_HAPPENED:
            # Again, as a voucher may have been charged before the hold was taken.
            refusal = self._is_the_servers(channel_id, "payload.channelConfig") or await self._sent.refusal(
                escrow, payload.config, channel_id, reference
            )
            if refusal is not None:
                return refusal
            state = await self._on_chain.state(escrow, channel_id, await chain.head())
            claimed = await self._claimed_before(escrow, payload.claims)
            if isinstance(claimed, Refusal):
                return claimed
            if payload.refund_nonce != state.refund_nonce:
                return refuse(Why.REFUND_NONCE, payload.refund_nonce, state.refund_nonce)
            own = [row.total_claimed for row in payload.claims if row.config == payload.config]
            if state.balance <= max([state.total_claimed, *own]):
                return refuse(Why.REFUND_TOO_LARGE, "nothing left", "more than 0")._replace(code=Code.REFUND_NO_BALANCE)
            has_paid = bool(state.total_claimed or payload.claims)
            with self._budget.hold(chain, TransactionKind.REFUND, payer, has_paid=has_paid) as refusal:
                if refusal is not None:
                    return refusal
                send = Send(TransactionKind.REFUND, under, call, payer=payer, gas_max=REFUND_GAS_MAX)
                self._sent.follow(channel_id, Sent(TransactionKind.REFUND, under, reference))
                newest = await chain.send(send)
        mined = await wait_until_mined(chain, newest, "refund", _wait_s(terms))
        if isinstance(mined, Refusal):
            return mined
        extra = Settlement(await self._on_chain.state(escrow, channel_id, await chain.head())).extra()
        return Settled(payer, sum(one.amount for one in mined.payouts), 0, mined.transaction_hash, extra=extra)

    async def _claimed_before(self, escrow: EscrowRef, rows: Sequence[VoucherClaim]) -> Sequence[int] | Refusal:
        """Pre-flight at the head: what is claimed of each row's channel. The first that would revert is refused."""
        if not rows:
            return []
        chain = self._chain(escrow)
        head, binding = await chain.head(), chain.escrow
        ids = [binding.channel_id(row.config) for row in rows]
        held, claimed = await binding.accounts(ids, head), await binding.claimed(ids, head)
        for at, (row, id_, account, before) in enumerate(zip(rows, ids, held, claimed, strict=True)):
            path, balance = f"payload.claims[{at}]", account.balance + before
            if row.total_claimed <= before:
                continue  # the contract passes it by
            most = min(balance, row.max_claimable_amount)
            if row.total_claimed > most:
                field = f"{path}.totalClaimed"
                return refuse(Why.ROW_WOULD_FAIL, row.total_claimed, f"at most {most}", field=field, at=at)
            try:
                voucher = UncheckedVoucher(id_, row.max_claimable_amount, row.signature)
                check_voucher(binding.domain, voucher, row.config.payer_authorizer)
            except InvalidSignatureError:
                return refuse(Why.ROW_WOULD_FAIL, field=f"{path}.signature", at=at)
        return claimed

    async def _collecting(self, network: str, call: Call) -> OutboundTransaction | None:
        """The same payout, if it is under way already: our own collector may have been faster."""
        under_way = await self._outbox.open(network)
        return next((one for one in under_way if (one.to, one.data) == (call.to, call.data)), None)

    async def _newest(
        self, kind: TransactionKind, reference: bytes
    ) -> tuple[OutboundTransaction | None, bytes] | Refusal:
        """As `newest_sent`; refused where each that may be sent has reverted."""
        newest, under = await newest_sent(self._outbox, kind, reference)
        if newest is not None and newest.status is TransactionStatus.REVERTED and newest.reference == under:
            return overloaded("transactions of this call, all of which reverted", ATTEMPTS_MAX)
        return newest, under

    async def _once(
        self, reference: bytes, do: Callable[[], Coroutine[Any, Any, Settled | Refusal]]
    ) -> Settled | Refusal:
        """Do it once for all who ask for it now."""

        async def told() -> Settled | Refusal:
            try:
                return await unless_unavailable(do())
            except RevertedError as error:
                return refuse(Why.SERVERS_CALL_WOULD_FAIL, error=error.reason)

        return await self._under_way.run(reference, told)

    def _chain(self, escrow: EscrowRef) -> ChannelChain:
        return self._on_chain.chains[escrow]


def _wait_s(terms: PaymentTerms) -> float:
    """How long the caller waits; servers that ask for their own sake name no time."""
    return wait_s(terms) or REFUND_TIMEOUT_S


def _paid_by(rows: Sequence[VoucherClaim], claimed: Sequence[int]) -> tuple[Payout, ...]:
    """What a claim adds to what receivers are owed; `claimed`: of each row's channel before."""
    paid: Counter[tuple[bytes, bytes]] = Counter()
    for row, before in zip(rows, claimed, strict=True):
        paid[row.config.receiver, row.config.token] += max(0, row.total_claimed - before)
    return tuple(Payout(receiver, token, amount) for (receiver, token), amount in paid.items())
