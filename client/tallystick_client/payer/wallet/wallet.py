"""The payer's wallet: one key, one book, one budget, any number of payments at once.

    operator = Operator.load("operator.json")
    async with await Wallet.open("wallet.db", key="env:PAYER_KEY", operators=[operator],
                                 budgets=Budgets(per_request="0.01", per_day="5"),
                                 deposit=DepositPolicy(low="0.5", high="2")) as wallet:
        async with httpx2.AsyncClient(transport=PayingTransport(wallet)) as http:
            page = await http.get("https://example.org/articles/1")

It alone signs. What it may sign is bounded by its own book, its budgets and its allow-list; nothing that a server says
widens any of them.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self, get_args

from tallystick.errors import MalformedError, TallystickError
from tallystick.hexadecimal import checksum
from tallystick.keys import load_signer
from tallystick.reasons import Reason
from tallystick.signatures import Signer
from tallystick.tokens import Permit2Approval, Token
from tallystick.x402 import ExactAuthorization
from tallystick_client.payer.errors import BookUnavailableError
from tallystick_client.payer.policy.budgets import Budgets, DepositPolicy
from tallystick_client.payer.policy.offers import Offer, Offered, choose
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.wallet.accounts import AccountClient, Refunded
from tallystick_client.payer.wallet.allocator import Allocator, Proof
from tallystick_client.payer.wallet.approvals import Approver
from tallystick_client.payer.wallet.balances import Balances
from tallystick_client.payer.wallet.deposits import Deposits
from tallystick_client.payer.wallet.exact import ExactPayer
from tallystick_client.payer.wallet.grants import Clock
from tallystick_client.payer.wallet.local_grants import LocalGrants
from tallystick_client.payer.wallet.permit_turns import PermitTurns
from tallystick_client.payer.wallet.reconcile import Reconciled, Reconciler
from tallystick_client.payer.wallet.recovery import Remedies
from tallystick_client.payer.wallet.rows import Account
from tallystick_client.payer.wallet.schemes.port import Scheme, by_name
from tallystick_client.payer.wallet.schemes.standard import STANDARD_SCHEMES
from tallystick_client.payer.wallet.seller_channels import SellerChannels
from tallystick_client.payer.wallet.spend_keys import KEY_TTL_S, SELF, SpendKeys
from tallystick_client.payer.wallet.status import WalletStatus, read_status
from tallystick_client.payer.wallet.store import Store
from tallystick_client.payer.wallet.timing import TIMING, Timing

RECONCILE_EVERY_S: Final = 600.0
WORKER_KEY_SPARED_S: Final = 3_600.0
"""How old a worker's key has to be to be replaced for what the worker returned, where nobody lacks it."""

_log = logging.getLogger("tallystick.payer")


@dataclass(frozen=True, slots=True)
class WalletCore:
    """The parts of a wallet, for what serves it to others."""

    store: Store
    operators: tuple[Operator, ...]
    deposits: Deposits
    allocator: Allocator
    keys: SpendKeys
    exact: ExactPayer
    reconciler: Reconciler
    remedies: Remedies
    budgets: Budgets
    max_headroom: int


class RefundedAccount(NamedTuple):
    """What came back from one account: atomic units of a token, and the transaction (empty where there was nothing)."""

    token: Token
    amount: int
    transaction: bytes


class LocalWallet:
    """See the module. Open it with `Wallet.open`, close it with `close` or as an async context manager."""

    def __init__(
        self,
        store: Store,
        signer: Signer,
        operators: Sequence[Operator],
        *,
        budgets: Budgets,
        deposit: DepositPolicy | None,
        max_headroom: int,
        proof: Proof,
        key_ttl_s: int,
        allow_exact: bool,
        schemes: Sequence[Scheme],
        timing: Timing,
        clock: Clock,
    ) -> None:
        _check_settings(operators, budgets, deposit, proof)
        self.signer = signer
        self.address = signer.address
        self.operators = tuple(operators)
        self._store = store
        self._book = store.book
        self.schemes = by_name(schemes)
        self.allows_exact = allow_exact
        self._timing = timing
        self._clock = clock
        self._clients = {operator: AccountClient(operator, signer, clock) for operator in operators}
        self._keys = SpendKeys(store, key_ttl_s, clock)
        self._deposits = Deposits(store, signer, self._clients, deposit, clock, retry_pauses_s=timing.retry_pauses_s)
        self._allocator = Allocator(
            store, signer, self._clients, self._deposits, self._keys, budgets, proof=proof, clock=clock
        )
        self.grants = LocalGrants(self._book, self._allocator, signer, max_headroom, clock)
        self.permit_turns = PermitTurns()
        balances = Balances(store, signer, self._clients, clock)
        self._exact = ExactPayer(store, signer, self._clients, self._allocator, balances, clock)
        self.channels = SellerChannels(store, signer, self._clients, self._allocator, balances, deposit, clock)
        self._reconciler = Reconciler(
            store, self._clients, self._keys, self.grants, self._allocator, clock, timing.drain_s
        )
        self._remedies = Remedies(
            self._clients, self._deposits, self._keys, self._reconciler, self.grants.retire, clock
        )
        self._approver = Approver(self._book, self._clients, self.grants)
        self.core = WalletCore(
            store=store,
            operators=self.operators,
            deposits=self._deposits,
            allocator=self._allocator,
            keys=self._keys,
            exact=self._exact,
            reconciler=self._reconciler,
            remedies=self._remedies,
            budgets=budgets,
            max_headroom=max_headroom,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closed = False

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        key: str | Signer,
        operators: Sequence[Operator],
        budgets: Budgets | None = None,
        deposit: DepositPolicy | None = None,
        max_headroom: int = 64,
        proof: Proof = "spend_key",
        key_ttl_s: int = KEY_TTL_S,
        allow_exact: bool = True,
        schemes: Sequence[Scheme] = STANDARD_SCHEMES,
        approve_every_s: float = 0,
        reconcile_every_s: float = RECONCILE_EVERY_S,
        keep_workers: bool = False,
        timing: Timing = TIMING,
        clock: Clock = time.time,
    ) -> Self:
        """Open or create the wallet file of this key; no other process can open it meanwhile.

        `key`: a signer, or a key reference (`tallystick.keys`). `operators`: the allow-list. `deposit`: None means that
        the wallet makes no deposits, and pays by exact where it has none. `max_headroom`: how many requests' worth a
        seller gets signed in advance. `proof`: how charges are proven; "voucher" signs one per request. `schemes`: how
        it pays, the preferred one first. The intervals are in seconds, 0 for never. What a former run left open is
        reconciled in the background. `keep_workers`: the workers of a wallet that was served are still there, and will
        report. `timing`: how long it waits for what.

        Raises MalformedError on a setting that cannot work, KeyReferenceError, BookUnavailableError.
        """
        signer = await asyncio.to_thread(load_signer, key, "key") if isinstance(key, str) else key
        store = await Store.open(path, signer.address)
        try:
            wallet = cls(
                store,
                signer,
                operators,
                budgets=budgets or Budgets(),
                deposit=deposit,
                max_headroom=max_headroom,
                proof=proof,
                key_ttl_s=key_ttl_s,
                allow_exact=allow_exact,
                schemes=schemes,
                timing=timing,
                clock=clock,
            )
            await wallet._start(approve_every_s, reconcile_every_s, keep_workers=keep_workers)
        except BaseException:
            await store.close()
            raise
        return wallet

    # What a transport asks.

    def can_defer(self, operator: Operator, token: Token) -> bool:
        """Whether there is, or may be, a deposit to pay from."""
        account = self._deposits.known_account(operator, token)
        return self._deposits.may_open() or (account is not None and account.unspent > 0)

    def channel_lack(self, offer: Offer) -> str:
        """What is lacking to pay this offer from a channel with its seller alone; empty where nothing is."""
        return self.channels.lack(offer)

    def choose(self, required: Offered) -> Offer:
        """The offer of a 402 to take; raises OfferNotAllowedError."""
        return choose(required, self)

    async def pay_exact(self, offer: Offer, host: str) -> ExactAuthorization:
        """A transfer of the offer's amount. Raises BudgetExceededError, BalanceTooLowError, BookUnavailableError."""
        return await self._exact.pay(offer.seller(host), offer.terms.amount, offer.accepted.max_timeout_seconds)

    def note_exact(self, nonce: bytes) -> None:
        """A seller says that the transfer of this nonce was made: it is spent for good."""
        self._book.exact_is_spent(nonce)

    async def spend(self, offer: Offer, host: str) -> None:
        """Count the offer's amount as spent, for a scheme that pays by itself; on disk when this returns.

        Raises BudgetExceededError, BookUnavailableError.
        """
        await self._allocator.spend(offer.seller(host), offer.terms.amount)

    async def permit2_approval(self, offer: Offer, host: str) -> Permit2Approval | None:
        """How far Permit2 may move the offer's token; see `Payer.permit2_approval`."""
        return await self._exact.permit2_approval(offer.seller(host), offer.terms.amount)

    async def recover_from(self, offer: Offer, reason: Reason, host: str = "", key_id: bytes = b"") -> bool:
        """Do what can be done about a refusal at this host: a new spend key where the aggregator does not take the one
        that proved the payment (`key_id`; empty: the present one), or a comparison of the books.

        Returns whether the payment is worth another try. Nothing of what the refusal says is believed: the next
        payment is made from this wallet's own book again.
        """
        seller = offer.seller(host or checksum(offer.terms.pay_to))
        return await self._remedies.recover_from(seller, SELF, reason, key_id, offer.terms.amount)

    # What a person asks.

    async def deposit(self) -> None:
        """Open an account with every operator of the allow-list, in its first token, and fill it to the high mark."""
        for operator in self.operators:
            token = operator.tokens[0]
            account = await self._deposits.account(operator, token)
            await self._deposits.fill(account, operator, token)

    async def refund(self) -> list[RefundedAccount]:
        """Bring back all that is not owed to sellers, from every account: instant, and without gas.

        What is under way at the moment is not available and stays; ask again when it has ended.
        """
        return [await self.refund_account(*found) for found in self.accounts()]

    async def refund_account(self, account: Account, operator: Operator, token: Token) -> RefundedAccount:
        """As `refund`, from one of `accounts`."""
        self._deposits.leave_empty(account)
        self.grants.retire(account.id)
        await self.grants.drained(account.id, timeout_s=5)
        refunded: Refunded = await self._deposits.refund(account, operator, 0)
        return RefundedAccount(token, *refunded)

    async def record_withdrawal(self, account_id: bytes, amount: int) -> None:
        """Enter what a timed withdrawal brought back, in atomic units: the chain told it, not the aggregator."""
        account = self._book.accounts[account_id]
        account.returned += amount
        self._book.changed(account)
        self._deposits.leave_empty(account)
        await self._store.commit()

    def accounts(self) -> list[tuple[Account, Operator, Token]]:
        """The accounts of the book that belong to an operator of the allow-list."""
        found: list[tuple[Account, Operator, Token]] = []
        for account in list(self._book.accounts.values()):
            operator = self._deposits.operator_of(account)
            token = operator.token(account.asset.token) if operator is not None else None
            if operator is not None and token is not None:
                found.append((account, operator, token))
        return found

    async def reconcile(self) -> Reconciled:
        """Learn what became of payments whose answer was lost or was only the seller's word, of grants that a former
        run left open, and of transfers that did not land in time.
        """
        return await self._reconcile(spare_s=0)

    async def _reconcile(self, spare_s: float = WORKER_KEY_SPARED_S) -> Reconciled:
        result = Reconciled()
        for account, operator, token in self.accounts():
            await self._deposits.resume(account, operator, token)
            result += await self._reconciler.reconcile(account, operator, spare_s=spare_s)
        await self.channels.reconcile()
        freed = await self._exact.free_unlanded() if self._book.exact_payments else 0
        return result + Reconciled(freed=freed)

    async def approve_totals(self) -> int:
        """Approve what the aggregators are about to claim; returns how many totals were approved.

        Raises ApprovalRefusedError where a total is above this wallet's own book of charges.
        """
        return sum([await self._approver.approve(account, operator) for account, operator, _ in self.accounts()])

    async def status(self) -> WalletStatus:
        """The book: accounts, channels, budgets. From memory; asks nobody."""
        self.grants.sync()
        return read_status(self._book, self.address, self.accounts(), self.operators, self._allocator.today())

    async def close(self) -> None:
        """Return unspent headroom, write the book and let go of the file. Payments under way become unknown."""
        if self._is_closed:
            return
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._allocator.finish()
        self.grants.abandon()
        await self._forget_keys()
        try:
            await self._store.close()
        finally:
            for client in self._clients.values():
                await client.close()

    async def _forget_keys(self) -> None:
        """Revoke this run's own keys, so that they do not count against the account's limit until they expire."""
        clients = {account.id: self._clients[operator] for account, operator, _ in self.accounts()}
        try:
            async with asyncio.timeout(self._timing.forget_keys_s):
                await self._keys.forget_own(clients)
        except (TallystickError, TimeoutError) as error:
            _log.info("spend keys of this run are not revoked, the next one does it: %s", error)

    async def __aenter__(self) -> Self:
        """Nothing to do: `open` did it."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def _start(self, approve_every_s: float, reconcile_every_s: float, *, keep_workers: bool) -> None:
        now_s = int(self._clock())
        left_open = [row for row in self._book.grants.values() if not row.closed_at]
        for row in left_open:
            if row.holder == SELF or not keep_workers:
                # Whoever held it is gone: all of it may have been sent.
                self._book.close(row, now_s)
        self._book.check()
        await self._store.commit()
        self._run_every(self._timing.flush_every_s, self.flush)
        if approve_every_s:
            self._run_every(approve_every_s, self.approve_totals)
        if reconcile_every_s:
            at_once = bool(self._book.accounts or self._book.exact_payments or self._book.channel_deposits)
            self._run_every(reconcile_every_s, self._reconcile, at_once=at_once)

    async def flush(self) -> None:
        """Bring the book on disk up to date; done every second anyway."""
        self.grants.sync()
        await self._store.commit()
        for account in self.accounts():
            self._allocator.look_after(*account)

    def _run_every(self, interval_s: float, work: Callable[[], Awaitable[object]], *, at_once: bool = False) -> None:
        async def run() -> None:
            if not at_once:
                await asyncio.sleep(interval_s)
            while True:
                try:
                    await work()
                except BookUnavailableError:
                    _log.exception("%s has stopped", work.__name__)
                    return
                except TallystickError as error:
                    _log.warning("%s failed: %s", work.__name__, error)
                except Exception:  # noqa: BLE001
                    # The next turn may do better; a wallet whose chores have stopped would only be harder to notice.
                    _log.exception("%s failed", work.__name__)
                await asyncio.sleep(interval_s)

        self._tasks.append(asyncio.create_task(run()))


def _check_settings(operators: Iterable[Operator], budgets: Budgets, deposit: DepositPolicy | None, proof: str) -> None:
    """Raises MalformedError on amounts that no token of the allow-list can hold, and on an unknown way to prove."""
    if not operators:
        raise MalformedError("operators", 0, "at least one operator")
    if proof not in get_args(Proof):
        raise MalformedError("proof", proof, " or ".join(get_args(Proof)))
    for operator in operators:
        for token in operator.tokens:
            budgets.limits(token.decimals)
            if deposit is not None:
                deposit.marks(token.decimals)
