"""Deposits, top-ups and refunds: where the payer's money is.

One account per operator and token. Whoever needs it first opens it, everybody else waits for that one deposit. A
deposit's authorization and a refund's id are on disk before they are sent; after a crash or a lost answer the same one
is sent again, and the aggregator lands it once.

**No deposit beyond the payer's balance.** Such an authorization would lie about until it expires. So the aggregator is
asked for the balance first; where that covers what is needed and not all of what the policy allows, what there is is
deposited. A balance that is told too high makes the wallet sign no more than its policy does. Where none is told, by an
aggregator of an older version or one that strangers keep from answering, the wallet deposits as its policy says.

**A refused deposit** is money under way all the same: its authorization has left the wallet, and whoever holds it may
land it until it expires. So it is sent again instead of another being signed, until the aggregator credits it, or
refuses it after its time.

**A lost book.** An account that the aggregator knows with ceilings in it, and this book does not, was used under a book
that is gone. What was signed then is unknown here, and no server's word is taken for it: such an account is only
emptied by a refund, and the next salt names the account that is paid from.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from tallystick import eip712
from tallystick.channels import account_id
from tallystick.errors import RefusedError
from tallystick.hexadecimal import checksum
from tallystick.reasons import Reason
from tallystick.signatures import Signer
from tallystick.tokens import Token
from tallystick_client.payer.errors import DepositNotAllowedError
from tallystick_client.payer.policy.budgets import DepositPolicy
from tallystick_client.payer.policy.operators import Asset, Operator
from tallystick_client.payer.retries import retried
from tallystick_client.payer.texts import show, show_time
from tallystick_client.payer.wallet.accounts import AccountClient, AccountState, Refunded
from tallystick_client.payer.wallet.deposit_queue import DepositQueue
from tallystick_client.payer.wallet.grants import Clock
from tallystick_client.payer.wallet.rows import Account, Deposit, Refund
from tallystick_client.payer.wallet.store import Store
from tallystick_client.payer.wallet.timing import TIMING

DEPOSIT_VALID_S: Final = 3_600
"""How long an authorization may be landed."""
ACCOUNTS_MAX: Final = 64
"""How many accounts of a lost book are passed over before something must be wrong."""

T = TypeVar("T")

_log = logging.getLogger("tallystick.payer")


class Deposits:
    """The accounts of one payer, and the money in them."""

    def __init__(
        self,
        store: Store,
        signer: Signer,
        clients: Mapping[Operator, AccountClient],
        policy: DepositPolicy | None,
        clock: Clock = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        retry_pauses_s: tuple[float, ...] = TIMING.retry_pauses_s,
    ) -> None:
        self._store = store
        self._book = store.book
        self._signer = signer
        self._clients = clients
        self._policy = policy
        self._clock = clock
        self._sleep = sleep
        self._retry_pauses_s = retry_pauses_s
        self._queues: dict[tuple[Operator, bytes], DepositQueue] = {}
        self._emptied: set[bytes] = set()

    def known_account(self, operator: Operator, token: Token) -> Account | None:
        """The account that is paid from, None where it is not opened yet."""
        asset = Asset(str(operator.network), token.address)
        for account in self._book.accounts.values():
            if account.active and account.asset == asset and self.operator_of(account) is operator:
                return account
        return None

    def may_open(self) -> bool:
        """Whether the wallet was told to deposit."""
        return self._policy is not None

    def operator_of(self, account: Account) -> Operator | None:
        """Whose account this is, None where that operator is not on the allow-list (any more)."""
        config, index = account.config, _salt(account.index)
        for operator in self._clients:
            same = account.asset.network == str(operator.network) and account.escrow == operator.escrow
            if same and config == operator.account(config.payer, config.token, index):
                return operator
        return None

    async def account(self, operator: Operator, token: Token) -> Account:
        """The account that is paid from; makes a place for it in the book, and deposits nothing yet."""
        known = self.known_account(operator, token)
        if known is not None:
            return known
        queue = self._queue(operator, token)
        seen = queue.failure
        async with queue.turn:
            known = self.known_account(operator, token)
            if known is not None:
                return known
            with queue.one_failure(seen, lambda: 0):
                return await self._open(operator, token)

    async def fund(self, account: Account, operator: Operator, token: Token, need: int) -> None:
        """Return when the account has `need` atomic units free, after deposits if it must be.

        Raises DepositNotAllowedError where the policy or the payer's balance does not allow it, RefusedError where the
        aggregator does not take it.
        """

        def lack() -> int:
            return need - account.free

        queue = self._queue(operator, token)
        seen = queue.failure
        async with queue.turn:
            while lack() > 0:
                with queue.one_failure(seen, lack):
                    await self._deposit(account, operator, token, lack)

    async def fill(self, account: Account, operator: Operator, token: Token) -> None:
        """Deposit up to the policy's high mark, if less than that is left: all of it, or nothing.

        Raises DepositNotAllowedError where the payer's balance does not cover that, RefusedError.
        """
        policy = self._policy
        if policy is None:
            raise DepositNotAllowedError("this wallet has no deposit policy")

        def lack() -> int:
            high = policy.marks(token.decimals)[1]
            return min(high, high - account.unspent)

        async with self._queue(operator, token).turn:
            pending = self._pending(account)
            if pending is not None:
                await self._land(account, operator, token, pending)
            if lack() > 0:
                await self._deposit(account, operator, token, lack)

    async def top_up(self, account: Account, operator: Operator, token: Token) -> None:
        """Deposit up to the policy's high mark where less than its low mark is left; nothing where the payer holds too
        little for that one.
        """

        def lack() -> int:
            return self._below_low(account, token)

        async with self._queue(operator, token).turn:
            if lack() > 0:
                await self._deposit(account, operator, token, lack)

    def is_low(self, account: Account, token: Token) -> bool:
        """Whether a top-up is due."""
        return self._below_low(account, token) > 0

    def _below_low(self, account: Account, token: Token) -> int:
        if self._policy is None or account.id in self._emptied:
            return 0
        low, high = self._policy.marks(token.decimals)
        return min(high, low - account.unspent)

    def leave_empty(self, account: Account) -> None:
        """Top the account up no more until it is paid from again: its money goes back."""
        self._emptied.add(account.id)

    def paid_from(self, account: Account) -> None:
        """Top the account up again."""
        self._emptied.discard(account.id)

    async def resume(self, account: Account, operator: Operator, token: Token) -> None:
        """Send a deposit and a refund again whose answers are missing. A deposit that is refused is only logged."""
        async with self._queue(operator, token).turn:
            deposit = self._pending(account)
            if deposit is not None:
                try:
                    await self._land(account, operator, token, deposit)
                except RefusedError as refused:
                    # It stays under way; what the account holds already can be looked after meanwhile.
                    _log.warning("the deposit at %s is not credited: %s", operator.aggregator, refused)
        if self._pending_refund(account) is not None:
            await self.refund(account, operator, 0)

    async def refund(self, account: Account, operator: Operator, amount: int) -> Refunded:
        """Bring `amount` atomic units back to the payer, or all that is available for 0.

        Where nothing is available, nothing is refunded: the amount is 0 and there is no transaction.
        """
        refund = self._pending_refund(account)
        if refund is None:
            refund = Refund(os.urandom(32), account.id, amount)
            self._book.add(refund)
            await self._store.commit()
        client = self._clients[operator]
        try:
            refunded = await self._retry(lambda: client.refund(account.id, refund.refund_id, refund.amount))
        except RefusedError as refused:
            if refused.reason not in {Reason.REFUND_EXCEEDS_AVAILABLE, Reason.ACCOUNT_UNKNOWN}:
                raise
            await self._end_refund(account, refund, 0, "refused")
            if refund.amount:
                raise
            return Refunded(0, b"")
        await self._end_refund(account, refund, refunded.amount, "done")
        return refunded

    async def _end_refund(self, account: Account, refund: Refund, returned: int, status: str) -> None:
        refund.returned, refund.status = returned, status
        account.returned += returned
        self._book.changed(refund)
        self._book.changed(account)
        await self._store.commit()

    async def _open(self, operator: Operator, token: Token) -> Account:
        client = self._clients[operator]
        asset = Asset(str(operator.network), token.address)
        for index in range(ACCOUNTS_MAX):
            config = operator.account(self._signer.address, token.address, _salt(index))
            id_ = account_id(operator.domain, config)
            if id_ in self._book.accounts:
                continue
            state = await self._retry(lambda id_=id_: client.read(id_))  # type: ignore[misc]
            account = Account(id_, asset, operator.escrow, config, index, active=not _was_used(state))
            account.deposited = state.funds if state else 0
            self._book.add(account)
            await self._store.commit()
            if account.active:
                return account
        raise DepositNotAllowedError(f"the aggregator tells of {ACCOUNTS_MAX} used accounts that are not in this book")

    def _pending(self, account: Account) -> Deposit | None:
        deposits = self._book.deposits.values()
        return next((d for d in deposits if d.account_id == account.id and d.status == "pending"), None)

    def _pending_refund(self, account: Account) -> Refund | None:
        refunds = self._book.refunds.values()
        return next((r for r in refunds if r.account_id == account.id and r.status == "pending"), None)

    async def _deposit(self, account: Account, operator: Operator, token: Token, lack: Callable[[], int]) -> None:
        """Land the deposit that is under way, else a new one of at least what is lacking, in atomic units."""
        deposit = self._pending(account) or await self._sign(account, operator, token, lack)
        if deposit is not None:
            await self._land(account, operator, token, deposit)

    async def _sign(
        self, account: Account, operator: Operator, token: Token, lack: Callable[[], int]
    ) -> Deposit | None:
        """A new authorization, on disk: nobody but our escrow can use it, and only for this account.

        None where nothing is lacking any more, once the balance is known.
        """
        self._deposit_amount(account, token, lack())  # what the policy forbids needs no balance
        balance = await self._balance(account, operator)
        # The account may have changed meanwhile; nothing is awaited between this look at it and the entry.
        least = lack()
        if least <= 0:
            return None
        amount = self._deposit_amount(account, token, least)
        promised = self._book.promised(account.asset, self._clock())
        if balance is not None and balance - promised < amount:
            least, there_is = max(least, token.min_deposit), max(0, balance - promised)
            if there_is < least:
                sees = f"{_show(balance, token)} at {checksum(self._signer.address)} on {operator.network}"
                under_way = f", {_show(promised, token)} of it for deposits and transfers under way" if promised else ""
                raise DepositNotAllowedError(
                    f"deposit: got {_show(least, token)}, allowed at most {_show(there_is, token)}; the aggregator "
                    f"sees {sees}{under_way}; nothing was signed"
                )
            amount = there_is
        salt = os.urandom(32)
        valid_before = int(self._clock()) + DEPOSIT_VALID_S
        struct_hash = eip712.hash_receive_with_authorization(
            self._signer.address, operator.escrow, amount, 0, valid_before, eip712.deposit_nonce(account.id, salt)
        )
        signature = self._signer.sign(eip712.digest(token.domain(operator.network.chain_id), struct_hash))
        deposit = Deposit(salt, account.id, amount, 0, valid_before, signature)
        self._book.add(deposit)
        await self._store.commit()
        return deposit

    def _deposit_amount(self, account: Account, token: Token, lack: int) -> int:
        """How much the policy deposits where so much is lacking at least."""
        if self._policy is None:
            raise DepositNotAllowedError(
                f"the account lacks {_show(lack, token)} and this wallet makes no deposits; give it a deposit "
                "policy, or let sellers that take `exact` be paid so"
            )
        _, high = self._policy.marks(token.decimals)
        wanted = max(lack, token.min_deposit)
        if wanted > high:
            raise DepositNotAllowedError(
                f"deposit.high: got {_show(high, token)}, allowed at least {_show(wanted, token)}"
            )
        amount = min(high, high - account.unspent)
        if amount < lack:  # the rest is under way with other payments: not a transaction for each of them
            amount = high
        return max(amount, token.min_deposit)

    async def _balance(self, account: Account, operator: Operator) -> int | None:
        """What the payer holds of the account's token, as the aggregator tells; None where it does not."""
        client = self._clients[operator]
        try:
            balance = await self._retry(lambda: client.balance(account.config))
        except RefusedError as refused:
            if refused.reason is not Reason.OVERLOADED:
                raise
            return None  # strangers who ask for balances must not keep others from depositing
        return balance.amount if balance is not None else None

    async def _land(self, account: Account, operator: Operator, token: Token, deposit: Deposit) -> None:
        client = self._clients[operator]
        try:
            await self._retry(lambda: client.deposit(account.config, deposit))
        except RefusedError as refused:
            if refused.retry and refused.reason is not Reason.INSUFFICIENT_BALANCE:
                raise
            if self._clock() < deposit.landable_until:
                raise _under_way(refused, deposit, token) from refused
            # It lies in the book too long to be landed any more; the caller signs a new one.
            deposit.status = "refused"
            self._book.changed(deposit)
            await self._store.commit()
            return
        deposit.status = "landed"
        account.deposited += deposit.amount
        self._book.changed(deposit)
        self._book.changed(account)
        await self._store.commit()

    async def _retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        return await retried(attempt, self._retry_pauses_s, self._sleep)

    def _queue(self, operator: Operator, token: Token) -> DepositQueue:
        return self._queues.setdefault((operator, token.address), DepositQueue())


def _salt(index: int) -> bytes:
    return index.to_bytes(32, "big")


def _was_used(state: AccountState | None) -> bool:
    return state is not None and any(c.ceiling or c.charged or c.reserved for c in state.channels)


def _under_way(refused: RefusedError, deposit: Deposit, token: Token) -> RefusedError:
    """The refusal of a deposit that may be landed nevertheless, and what the wallet makes of it."""
    message = (
        f"{refused.message} The deposit of {_show(deposit.amount, token)} may still be landed by others; this wallet "
        "sends the same one again when it needs it, and signs no other before "
        f"{show_time(deposit.landable_until)} unless this one is credited."
    )
    return RefusedError(refused.reason, message, refused.field, refused.got, refused.allowed, refused.state)


def _show(amount: int, token: Token) -> str:
    return show(amount, token.decimals, token.symbol)
