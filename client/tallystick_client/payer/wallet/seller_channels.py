"""Channels with one seller alone, on the contract of x402's `batch-settlement`: each has a deposit of its own.

Whoever pays waits for the channel's turn: the standard has one request in flight. Before a voucher is signed the book
that counts it is on disk (`channel_steps` has the rules of vouchers); so is a deposit's authorization, which is sent
with the payment that needs it, and again until it is known to have landed.

**What a channel holds** is this book's sum of deposits. The aggregator, which mirrors the chain, is asked for it where
a channel is new to the book, where a deposit's fate is not known, and where a seller says that there is too little. Its
word decides whether a payment carries a deposit. Together the channels of a token lock no more than the deposit
policy's `high`, by this book. What frees room in it: what is charged; what a seller says that it gave back; a deposit
past its time that never landed, as the aggregator says; and what the chain says (`record`).
"""

import os
import time
from collections.abc import Mapping
from typing import Final

from tallystick import eip712, payment_ids
from tallystick.channels import ChannelConfig, channel_id
from tallystick.errors import MalformedError, TallystickError
from tallystick.hexadecimal import to_hex
from tallystick.quantities import MAX_AMOUNT, PaymentId
from tallystick.signatures import Signer
from tallystick.tokens import Token
from tallystick.vouchers import UncheckedVoucher, sign_voucher
from tallystick.x402.batch_settlement import (
    DepositPayload,
    Erc3009Deposit,
    RefundPayload,
    VoucherPayload,
    pack_refund_authorizer,
)
from tallystick.x402.terms import BatchSettlementTerms, read_batch_settlement_terms
from tallystick_client.payer.errors import DepositNotAllowedError, WalletError
from tallystick_client.payer.policy.budgets import DepositPolicy
from tallystick_client.payer.policy.offers import Offer
from tallystick_client.payer.policy.operators import Asset, Operator
from tallystick_client.payer.texts import show, show_time
from tallystick_client.payer.wallet.accounts import AccountClient
from tallystick_client.payer.wallet.allocator import Allocator
from tallystick_client.payer.wallet.balances import Balances
from tallystick_client.payer.wallet.channel_steps import Lane, Step
from tallystick_client.payer.wallet.deposits import DEPOSIT_VALID_S
from tallystick_client.payer.wallet.grants import Clock
from tallystick_client.payer.wallet.rows import ChannelDeposit, SellerChannel
from tallystick_client.payer.wallet.store import Store

DEPOSIT_REQUESTS: Final = 10
"""A deposit pays for so many requests, where the seller names no `minDeposit`."""
INDEXES_MAX: Final = 64
"""Channels of one payer with one seller on the same terms."""
URL_CHARS_MAX: Final = 2_048


class SellerChannels:
    """The channels of one payer."""

    def __init__(
        self,
        store: Store,
        signer: Signer,
        clients: Mapping[Operator, AccountClient],
        allocator: Allocator,
        balances: Balances,
        policy: DepositPolicy | None,
        clock: Clock = time.time,
    ) -> None:
        self._store = store
        self._book = store.book
        self._signer = signer
        self._clients = clients
        self._allocator = allocator
        self._balances = balances
        self._policy = policy
        self._clock = clock
        self._lanes: dict[bytes, Lane] = {}

    def lack(self, offer: Offer) -> str:
        """What is lacking to pay this offer; empty where nothing is. Raises MalformedError."""
        terms = read_batch_settlement_terms(offer.accepted.extra)
        channel = self._channel(offer, terms)
        need = channel.counted + offer.terms.amount - channel.balance
        try:
            if need > 0 and not self._pending(channel):
                self._deposit_amount(offer, terms, need)
        except DepositNotAllowedError as error:
            return str(error)
        return ""

    async def pay(
        self, offer: Offer, host: str, url: str, request_hash: bytes, payment_id: PaymentId | None = None
    ) -> Step:
        """The next step of the channel with the offer's seller, for this request; on disk when this returns.

        `payment_id`: of an earlier payment of the same request that was refused. The caller ends the step.
        Raises BudgetExceededError, DepositNotAllowedError, BalanceTooLowError, BookUnavailableError.
        """
        terms, seller = read_batch_settlement_terms(offer.accepted.extra), offer.seller(host)
        self._allocator.check_request(seller, offer.terms.amount)
        lane = await self._turn(offer, terms)
        try:
            channel = lane.channel
            if channel.id not in self._book.seller_channels:
                self._allocator.check_budgets(seller, offer.terms.amount)
                await self._open(channel, offer.operator)
            page = url.partition("?")[0]  # queries may hold secrets, and a refund needs none
            channel.host, channel.url = host, page if len(page) <= URL_CHARS_MAX else channel.url
            return await self._step(lane, offer, terms, request_hash, payment_id)
        except BaseException:
            lane.turn.release()
            raise
        finally:
            self._leave(lane)

    async def look(self, channel: SellerChannel) -> bool:
        """Ask the aggregator what the channel holds; whether that is news. Raises what the call raises."""
        operator = self.operator_of(channel)
        state = None if operator is None else await self._clients[operator].read(channel.id, _domain(operator))
        if state is None:
            return False
        before = channel.balance
        self._note_landed(channel, state.funds)
        channel.missing = max(0, channel.deposited - channel.returned - state.funds)
        self._book.changed(channel)
        return channel.balance != before

    @property
    def known(self) -> list[SellerChannel]:
        """The channels of the book."""
        return list(self._book.seller_channels.values())

    def token_of(self, channel: SellerChannel) -> Token | None:
        """What the channel is counted in; None where the allow-list does not have it (any more)."""
        operator = self.operator_of(channel)
        return None if operator is None else operator.token(channel.asset.token)

    async def ask_back(self, channel: SellerChannel, offer: Offer) -> Step | None:
        """A step that asks the seller for a refund of all that is left: its voucher charges nothing.

        None where the offer is of another channel. The caller ends the step.
        """
        terms = read_batch_settlement_terms(offer.accepted.extra)
        if self._config(offer, terms, channel.index) != channel.config:
            return None
        lane = self._lanes.setdefault(channel.id, Lane(channel))
        lane.users += 1
        try:
            await lane.turn.acquire()
        finally:
            self._leave(lane)
        try:
            signed = sign_voucher(self._signer, _domain(offer.operator), channel.id, channel.counted)
            voucher = UncheckedVoucher(channel.id, channel.counted, signed.signature)
            payload = RefundPayload(channel.config, voucher)
            return Step(self._book, lane, payload, payment_ids.new(), 0, channel.counted, channel.counted)
        except BaseException:
            lane.turn.release()
            raise

    async def commit(self) -> None:
        """Return when what answers were entered as is on disk."""
        await self._store.commit()

    async def record(self, channel: SellerChannel, held: int, *, is_leaving: bool) -> None:
        """Enter what the chain itself says that the channel holds. `is_leaving`: its payer withdraws from it."""
        self._note_landed(channel, held)
        channel.deposited = max(channel.deposited, held + channel.returned)
        channel.returned, channel.missing = channel.deposited - held, 0
        channel.active = channel.active and not is_leaving
        self._book.changed(channel)
        await self._store.commit()

    async def reconcile(self) -> None:
        """Learn what became of deposits that are under way, and of what the aggregator saw missing."""
        for channel in list(self._book.seller_channels.values()):
            if channel.missing or self._pending(channel):
                await self.look(channel)
        await self._store.commit()

    def operator_of(self, channel: SellerChannel) -> Operator | None:
        """Whom of the allow-list the channel's token and network belong to, the one that claims on it first."""
        found = [
            operator
            for operator in self._clients
            if str(operator.network) == channel.asset.network and operator.token(channel.asset.token) is not None
        ]
        found.sort(key=lambda operator: operator.operator != channel.config.receiver_authorizer)
        return found[0] if found else None

    # Channels.

    def _config(self, offer: Offer, terms: BatchSettlementTerms, index: int) -> ChannelConfig:
        """What names the channel with the offer's seller on its terms ("402 Response")."""
        salt = index.to_bytes(32, "big")
        if terms.refund_authorizer is not None and terms.is_managed:
            salt = pack_refund_authorizer(salt, terms.refund_authorizer)
        payer = self._signer.address
        return ChannelConfig(
            payer=payer,
            payer_authorizer=payer,
            receiver=offer.terms.pay_to,
            receiver_authorizer=terms.receiver_authorizer,
            token=offer.terms.asset,
            withdraw_delay_s=terms.withdraw_delay_s,
            salt=salt,
        )

    def _channel(self, offer: Offer, terms: BatchSettlementTerms) -> SellerChannel:
        """The channel to pay from: the first that is not only emptied. One that is new is not in the book yet."""
        domain = _domain(offer.operator)
        for index in range(INDEXES_MAX):
            config = self._config(offer, terms, index)
            id_ = channel_id(domain, config)
            channel = self._book.seller_channels.get(id_)
            if channel is None:
                asset = Asset(str(offer.operator.network), offer.token.address)
                return SellerChannel(id_, asset, config, index, host="")
            if channel.active:
                return channel
        raise WalletError(f"{INDEXES_MAX} channels with this seller were given up already")

    async def _turn(self, offer: Offer, terms: BatchSettlementTerms) -> Lane:
        """The channel to pay from, once no other payment has it."""
        while True:
            channel = self._channel(offer, terms)
            lane = self._lanes.setdefault(channel.id, Lane(channel))
            lane.users += 1
            try:
                await lane.turn.acquire()
            except BaseException:
                self._leave(lane)
                raise
            if lane.channel.active:
                return lane
            lane.turn.release()
            self._leave(lane)

    def _leave(self, lane: Lane) -> None:
        """Forget a channel that was not opened after all, once nobody waits for it."""
        lane.users -= 1
        if not lane.users and lane.channel.id not in self._book.seller_channels:
            del self._lanes[lane.channel.id]

    async def _open(self, channel: SellerChannel, operator: Operator) -> None:
        """Enter a channel; with what the aggregator says that it holds, where a book before this one deposited."""
        try:
            state = await self._clients[operator].read(channel.id, _domain(operator))
        except TallystickError:
            state = None  # then it is opened with a deposit
        channel.deposited = state.funds if state is not None else 0
        self._book.add(channel)

    # Payments.

    async def _step(
        self,
        lane: Lane,
        offer: Offer,
        terms: BatchSettlementTerms,
        request_hash: bytes,
        payment_id: PaymentId | None,
    ) -> Step:
        channel, amount, seller = lane.channel, offer.terms.amount, offer.seller(lane.channel.host)
        base, ceiling = channel.counted, channel.counted + amount
        if ceiling > MAX_AMOUNT:
            raise MalformedError("amount", amount, f"at most {MAX_AMOUNT - base}: totals are below 2**128")
        # After a restart, or where the answer was lost: the same payment again, so that it is charged once.
        is_again = channel.open_request == request_hash and channel.open_amount == amount
        covered = base if is_again or payment_id is not None else channel.signed
        if not channel.signed and channel.deposited:
            covered = MAX_AMOUNT  # by a book before this one
        more = max(0, ceiling - channel.signed)
        if more:
            self._allocator.check_budgets(seller, more)
        deposit = await self._deposit(channel, offer, terms, ceiling)
        if more:
            # Others may have spent meanwhile; nothing is awaited between this look at the budgets and the entry.
            self._allocator.check_budgets(seller, more)
        kept_id = PaymentId(channel.open_id) if is_again else None
        id_ = payment_id or kept_id or payment_ids.new()
        channel.open_id, channel.open_request, channel.open_amount = id_, request_hash, amount
        self._book.sign_step(channel, seller.host, self._allocator.today(), ceiling)
        await self._store.commit()
        signed = sign_voucher(self._signer, _domain(offer.operator), channel.id, ceiling)
        voucher = UncheckedVoucher(channel.id, ceiling, signed.signature)
        payload: DepositPayload | VoucherPayload = VoucherPayload(channel.config, voucher)
        if deposit is not None:
            authorization = Erc3009Deposit(0, deposit.valid_before, deposit.salt, deposit.signature)
            payload = DepositPayload(channel.config, voucher, deposit.amount, authorization)
        return Step(self._book, lane, payload, id_, amount, base, covered, deposit)

    # Deposits.

    async def _deposit(
        self, channel: SellerChannel, offer: Offer, terms: BatchSettlementTerms, ceiling: int
    ) -> ChannelDeposit | None:
        """The deposit that has to come with a voucher over `ceiling`; None where the channel holds enough."""
        if ceiling <= channel.balance:
            return None
        for pending in self._pending(channel):
            if self._clock() >= pending.landable_until:
                await self._end_late(channel, offer, pending)
            elif ceiling <= channel.balance + pending.amount:
                return pending
            else:
                await self.look(channel)
                if pending.status == "pending":
                    raise DepositNotAllowedError(
                        f"a deposit of {_show(pending.amount, offer.token)} into channel {to_hex(channel.id)} is under "
                        f"way, and too little for what is asked; no other is signed before "
                        f"{show_time(pending.landable_until)} unless this one lands"
                    )
        need = ceiling - channel.balance
        if need <= 0:
            return None
        self._deposit_amount(offer, terms, need)  # what the policy forbids needs no balance
        await self._balances.check(offer.seller(channel.host), self._deposit_amount(offer, terms, need), "deposit")
        # Others may have deposited meanwhile; nothing is awaited between this look at the policy and the entry.
        return self._sign_deposit(channel, offer, self._deposit_amount(offer, terms, need))

    def _sign_deposit(self, channel: SellerChannel, offer: Offer, amount: int) -> ChannelDeposit:
        salt, valid_before = os.urandom(32), int(self._clock()) + DEPOSIT_VALID_S
        unsigned = Erc3009Deposit(0, valid_before, salt, b"")
        struct_hash = unsigned.struct_hash(channel.config, channel.id, amount)
        signature = self._signer.sign(eip712.digest(offer.token.domain(offer.operator.network.chain_id), struct_hash))
        deposit = ChannelDeposit(salt, channel.id, amount, valid_before, signature)
        self._book.add(deposit)
        return deposit

    async def _end_late(self, channel: SellerChannel, offer: Offer, deposit: ChannelDeposit) -> None:
        """End a deposit that can land no more; it may have landed before.

        An aggregator need not know channels that others claim on, but the token knows the authorization. Where nobody
        tells, such a deposit counts as landed: it is no room for another one.
        """
        operator, nonce = offer.operator, eip712.deposit_nonce(channel.id, deposit.salt)
        is_used = await self._balances.is_used(operator, offer.token, nonce, deposit.valid_before)
        if is_used is None:
            is_used = channel.config.receiver_authorizer != operator.operator
        if is_used and deposit.status == "pending":
            self._book.end_deposit(deposit, "landed")
        await self.look(channel)
        if deposit.status == "pending":
            self._book.end_deposit(deposit, "refused")

    def _deposit_amount(self, offer: Offer, terms: BatchSettlementTerms, need: int) -> int:
        """How much to deposit where `need` is lacking: what the seller wishes, within the policy.

        Raises DepositNotAllowedError.
        """
        token, amount = offer.token, offer.terms.amount
        if self._policy is None:
            raise DepositNotAllowedError(
                f"the channel with this seller lacks {_show(need, token)}, and there is no policy to make a deposit"
            )
        asset = Asset(str(offer.operator.network), token.address)
        high = self._policy.marks(token.decimals)[1]
        locked = self._locked(asset)
        wished = terms.min_deposit if terms.min_deposit is not None and terms.min_deposit >= amount else None
        least = max(need, wished or 0)
        if least > high - locked:
            raise DepositNotAllowedError(
                f"deposit.high: got {_show(high, token)}, of which channels lock {_show(locked, token)}, allowed at "
                f"least {_show(locked + least, token)} to pay this seller by a channel of its own"
            )
        return min(high - locked, max(need, wished or amount * DEPOSIT_REQUESTS))

    def _locked(self, asset: Asset) -> int:
        """What is in channels, or on the way there, and not charged."""
        book = self._book
        under_way = sum(
            deposit.amount
            for deposit in book.channel_deposits.values()
            if book.seller_channels[deposit.channel_id].asset == asset
        )
        return under_way + sum(channel.locked for channel in book.seller_channels.values() if channel.asset == asset)

    def _note_landed(self, channel: SellerChannel, held: int) -> None:
        """Note which deposits have landed, by what the channel holds."""
        for deposit in self._pending(channel):
            if held >= channel.deposited - channel.returned + deposit.amount:
                self._book.end_deposit(deposit, "landed")

    def _pending(self, channel: SellerChannel) -> list[ChannelDeposit]:
        return [deposit for deposit in self._book.channel_deposits.values() if deposit.channel_id == channel.id]


def _domain(operator: Operator) -> eip712.Domain:
    return eip712.batch_settlement_domain(operator.network.chain_id)


def _show(amount: int, token: Token) -> str:
    return show(amount, token.decimals, token.symbol)
