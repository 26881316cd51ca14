"""A seeded simulation of the chain side: the real sender, watcher and settlement on a chain in memory, with deposits,
charges, withdrawals, refunds, reorganisations, fee spikes, lost transactions and replies, dead endpoints, answers that
are wrong once, crashes and somebody else on the sender's key. Whatever happens, every seller ends up with what was
charged, to the unit.

A failing seed replays: SIM_SEED=n pytest tests/aggregator/chain/test_simulation.py
"""

import contextlib
import os
import random
from hashlib import sha256

import pytest
from failing_disk import CrashedError, Fault, MemoryDisk, Operation
from faults import LyingNode
from harness import Side, chain_side
from memory_chain.contracts import Contracts, call_data
from memory_chain.node import GWEI, MemoryNode

from anvil import FOR_EVER, Payer, receiver
from tallystick import eip712
from tallystick.signatures import Signer
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain.contradictions import read_account
from tallystick_aggregator.chain.node import CallRevertedError
from tallystick_aggregator.chain.port import ChainUnavailableError, DepositAuthorization, RevertedError, Send
from tallystick_aggregator.chain.sending.bidding import bid
from tallystick_aggregator.claims.planner import EVERYTHING
from tallystick_aggregator.claims.service import ClaimService, SettlementSettings
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.invariants import check_invariants
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.store.port import StoreUnavailableError, TransactionKind, TransactionStatus
from tallystick_aggregator.store.transactions import decode_outgoing
from tallystick_chain.fees import MarketFees
from tallystick_chain.transactions import Unsigned, sign

CONFIRMATIONS = 3
SELLERS = [receiver(number) for number in range(4)]
STEPS = 150
SEEDS = [int(os.environ["SIM_SEED"])] if "SIM_SEED" in os.environ else range(12)
MANY = range(1_000, 1_400)


class MemoryDevnet:
    """What `anvil.Devnet` is, over a chain in memory."""

    def __init__(self) -> None:
        from anvil import Devnet  # noqa: PLC0415

        self.contracts = Contracts(31337, b"\xe5" * 20, b"\x70" * 20)
        self.node = MemoryNode(self.contracts)
        operator, sender = (Signer(sha256(name).digest()) for name in (b"operator", b"sender"))
        self.devnet = Devnet(_NoAnvil(), self.contracts.escrow, self.contracts.token, operator, sender, 0)  # type: ignore[arg-type]
        data = call_data("Escrow", "setSender", sender.address, True)
        self.node.execute(operator.address, self.contracts.escrow, data)
        self.node.mine(CONFIRMATIONS)


class _NoAnvil:
    url = "http://127.0.0.1:1"


class Simulation:
    """One history. `charged` is what sellers were promised; the chain must come to the same."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = MemoryDevnet()
        self.node = self.world.node
        self.devnet = self.world.devnet
        self.disk = MemoryDisk()
        self.payers = [self.devnet.payer(f"simulated {seed} {number}") for number in range(3)]
        self.charged = dict.fromkeys(SELLERS, 0)
        self.deposits = 0
        self.minted = 0
        self.trouble: set[str] = set()
        self.told = LyingNode(self.node)
        """What the aggregator hears of the chain."""

    async def run(self) -> None:
        steps = STEPS
        while steps > 0:
            with contextlib.suppress(CrashedError):
                async with self._aggregator() as side:
                    settlement = self._settlement(side)
                    life = self.rng.randrange(20, 80)
                    for _ in range(min(life, steps)):
                        steps -= 1
                        await self._step(side, settlement)
            self.disk.plan = lambda _: Fault.NONE
        await self._come_to_rest()

    @contextlib.asynccontextmanager
    async def _aggregator(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
        clock = lambda: float(self.node.timestamp)  # noqa: E731
        changes = {"confirmations": CONFIRMATIONS, "reorg_depth": 8, "replace_after_s": 40.0}
        async with chain_side(self.devnet, disk=self.disk, node=self.told, start=False, clock=clock, **changes) as side:
            self._heal()
            await side.chain.check()
            await side.chain._sender.tick(await self.node.head())
            await side.chain._watcher.look()
            check_invariants(side.ledger)
            yield side

    def _settlement(self, side: Side) -> ClaimService:
        settings = SettlementSettings(interval_s=300, mirror_wait_s=0.0)
        return ClaimService(side.chain, side.writer, side.outbox, settings, clock=lambda: float(self.node.timestamp))

    async def _step(self, side: Side, settlement: ClaimService) -> None:
        rng, payer, seller = self.rng, self.rng.choice(self.payers), self.rng.choice(SELLERS)
        actions = {
            "deposit": 6, "send deposit": 3, "charge": 30, "withdraw": 3, "cancel": 1, "finalize": 3, "refund": 2,
            "settle": 3, "approve": 2, "mine": 20, "reorg": 6, "fault": 4, "lie": 8, "heal": 6, "crash": 1,
            "stranger": 1,
        }  # fmt: skip
        action = rng.choices(list(actions), list(actions.values()))[0]
        try:
            match action:
                case "deposit":
                    self._deposit(payer)
                case "send deposit":
                    await self._send_deposit(side, payer)
                case "charge":
                    await self._charge(side, payer, seller)
                case "withdraw":
                    self._call(payer, "initiateWithdraw", rng.randrange(1, 50_000))
                case "cancel":
                    self._call(payer, "cancelWithdraw")
                case "finalize":
                    await self._finalize(side, settlement, payer)
                case "refund":
                    await self._refund(side, payer)
                case "settle":
                    with contextlib.suppress(ChainUnavailableError, StoreUnavailableError):
                        async with settlement._one:
                            await settlement._settle(EVERYTHING)
                case "approve":
                    await self._approve(side, payer)
                case "mine":
                    self.node.mine(rng.randrange(1, 4))
                case "reorg":
                    self.node.reorg(rng.randrange(1, CONFIRMATIONS + 1), forget=rng.random() < 0.5)
                case "fault":
                    self._fault()
                case "lie":
                    self._lie()
                case "heal":
                    self._heal()
                case "crash":
                    crash = rng.choice([Fault.CRASH_BEFORE, Fault.CRASH_AFTER])
                    self.disk.plan = lambda operation: crash if operation is Operation.OUTBOX else Fault.NONE
                case _:
                    self._use_key_elsewhere()
            await self._poll(side, settlement)
        except CrashedError:
            self.trouble.add("crash")
            raise
        check_invariants(side.ledger)
        self._check_paid()

    async def _poll(self, side: Side, settlement: ClaimService) -> None:
        """What the background tasks do, in a random order and not always."""
        polls = [side.chain._watcher.look, side.chain._shared.tick, settlement._check]
        self.rng.shuffle(polls)
        for poll in polls:
            if self.rng.random() < 0.7:
                try:
                    await poll()
                except (ChainUnavailableError, StoreUnavailableError) as error:
                    self.trouble.add(type(error).__name__)

    # What payers, sellers and strangers do.

    def _authorization(self, payer: Payer) -> DepositAuthorization:
        amount = self.rng.randrange(1_000, 100_000)
        self.deposits += 1
        self.minted += amount
        mint = call_data("TestUSDC", "mint", payer.signer.address, amount)
        self.node.execute(payer.signer.address, self.devnet.token, mint)
        salt = sha256(b"deposit %d" % self.deposits).digest()
        nonce = eip712.deposit_nonce(payer.account_id, salt)
        typed = eip712.hash_receive_with_authorization(
            payer.signer.address, self.devnet.escrow, amount, 0, FOR_EVER, nonce
        )
        signature = payer.signer.sign(eip712.digest(self.devnet.token_domain, typed))
        return DepositAuthorization(payer.config, amount, 0, FOR_EVER, salt, signature)

    def _deposit(self, payer: Payer) -> None:
        data = calls.deposit_with_authorization(self._authorization(payer))
        self.node.execute(payer.signer.address, self.devnet.escrow, data)

    async def _send_deposit(self, side: Side, payer: Payer) -> None:
        authorization = self._authorization(payer)
        call = side.chain.escrow.deposit_call(authorization)
        reference = side.chain.escrow.deposit_token_nonce(authorization)
        with contextlib.suppress(ChainUnavailableError, RevertedError, StoreUnavailableError):
            await side.chain.send(Send(TransactionKind.DEPOSIT, reference, call))

    async def _charge(self, side: Side, payer: Payer, seller: bytes) -> None:
        if payer.account_id not in side.ledger.accounts:
            return
        if payer.channel_id(seller) not in side.ledger.channels:
            await side.open_channel(payer, seller)
        available = side.account(payer).available
        # Often all there is: only an account without slack shows that too much was promised.
        amount = available if available and self.rng.random() < 0.4 else self.rng.randrange(1, 3_000)
        if isinstance(await side.charge(payer, seller, amount), Accepted):
            self.charged[seller] += amount

    async def _approve(self, side: Side, payer: Payer) -> None:
        known = [seller for seller in SELLERS if payer.channel_id(seller) in side.ledger.channels]
        if known:
            await side.approve(payer, known)

    def _call(self, payer: Payer, function: str, *amounts: int) -> None:
        data = call_data("Escrow", function, payer.config, *amounts)
        with contextlib.suppress(CallRevertedError):
            self.node.execute(payer.signer.address, self.devnet.escrow, data)

    async def _finalize(self, side: Side, settlement: ClaimService, payer: Payer) -> None:
        """The payer takes its money as soon as it may. The aggregator has had a healthy day to see it coming (I9)."""
        held = self.node.world.escrow.accounts.get(payer.account_id)
        if held is None or not held.withdrawable_at:
            return
        self._heal()
        for _ in range(30):  # a claim may be superseded, and comes again with the next settlement
            self.node.mine(seconds=50)
            await side.chain._watcher.look()
            await side.chain._shared.tick()
            await settlement._check()
        account = side.account(payer)
        if account.withdraw_finalizes_at:
            assert account.exposure == 0
            self.node.timestamp = max(self.node.timestamp, account.withdraw_finalizes_at)
            self._call(payer, "finalizeWithdraw")

    async def _refund(self, side: Side, payer: Payer) -> None:
        account = side.ledger.accounts.get(payer.account_id)
        if account is None or account.available == 0:
            return
        try:
            state = await read_account(side.chain.escrow, payer.account_id, await side.chain.final())
        except ChainUnavailableError:
            return
        refund_id = self.rng.randbytes(32)
        amount = self.rng.randrange(1, account.available + 1)

        def decision(draft: Draft, _ledger: Ledger, moment: DecisionContext) -> ev.RefundStarted | Refusal:
            return accounts.start_refund(draft, payer.account_id, refund_id, state.refund_nonce, amount, moment)

        if not isinstance(await side.writer.run(decision), Refusal):
            await self._send_refunds(side)

    async def _send_refunds(self, side: Side) -> None:
        """Send what was started, as the aggregator resumes it."""
        for account in list(side.ledger.accounts.values()):
            if account.refund is None:
                continue
            call = side.chain.escrow.refund_call(account.config, account.refund.amount, account.refund.nonce)
            with contextlib.suppress(ChainUnavailableError, RevertedError, StoreUnavailableError):
                await side.chain.send(Send(TransactionKind.REFUND, account.refund.refund_id, call))

    def _fault(self) -> None:
        faults = self.node.faults
        match self.rng.randrange(5):
            case 0:
                faults.down = True
            case 1:
                faults.losing_sends = True
            case 2:
                faults.losing_replies = True
            case 3:
                faults.blind = True
            case _:
                self.node.base_fee = 2_000 * GWEI

    def _lie(self) -> None:
        """The next answer of one kind is wrong, once: other amounts, times and nonces, or no events."""
        kind, word, by = self.rng.randrange(3), self.rng.choice([1, 2, 4, 5]), self.rng.randrange(1, 200_000)
        lower = self.rng.random() < 0.5

        def state(truth: bytes, _to: bytes, data: bytes, *_more: object) -> bytes:
            if data[:4] not in (calls.selector(calls.ACCOUNTS), calls.selector(calls.CLAIMED)) or len(truth) <= 64:
                return truth
            at = 64 + 32 * (word if data[:4] == calls.selector(calls.ACCOUNTS) else 0)
            value = int.from_bytes(truth[at : at + 32], "big")
            value = max(0, value - by) if lower else value + by
            return truth[:at] + value.to_bytes(32, "big") + truth[at + 32 :]

        self.told.honest()
        match kind:
            case 0:
                self.told.lie("call", state)
            case 1:
                self.told.lie("block_logs", lambda _truth, *_asked: [])
            case _:
                self.told.lie("logs", lambda _truth, *_asked: [])

    def _heal(self) -> None:
        faults = self.node.faults
        faults.down = faults.losing_sends = faults.losing_replies = faults.blind = False
        self.node.base_fee = GWEI

    def _use_key_elsewhere(self) -> None:
        """Somebody sends nothing to nobody with the sender's key, right now and at a good price."""
        sender = self.devnet.sender
        fees = bid(MarketFees(5_000 * GWEI, 100 * GWEI), self.devnet.settings().fees)
        nonce = self.node.world.nonces.get(sender.address, 0)
        attempt = sign(sender, Unsigned(31337, nonce, 21_000, SELLERS[0], b""), fees)
        self.node.pool.pop((sender.address, nonce), None)
        self.node.take(attempt.raw)
        self.node.mine()

    # What must hold.

    def _check_paid(self) -> None:
        world = self.node.world
        for seller in SELLERS:
            assert world.balances.get(seller, 0) + world.owed(seller) <= self.charged[seller]
        held = sum(account.balance for account in world.escrow.accounts.values()) + sum(world.escrow.owed.values())
        assert world.balances.get(self.devnet.escrow, 0) == held  # I7

    async def _come_to_rest(self) -> None:
        self._heal()
        self.disk.plan = lambda _: Fault.NONE
        async with self._aggregator() as side:
            settlement = self._settlement(side)
            for _ in range(60):
                self.node.mine(2, seconds=20)
                await side.chain._watcher.look()
                await side.chain._shared.tick()
                await self._send_refunds(side)
                async with settlement._one:
                    await settlement._settle(EVERYTHING)
            world = self.node.world
            paid = {seller: world.balances.get(seller, 0) + world.owed(seller) for seller in SELLERS}
            assert paid == self.charged
            for account in side.ledger.accounts.values():
                state = world.escrow.account(account.id)
                assert account.exposure == 0
                assert account.refund is None
                assert account.funds - account.claimed == state.balance
            unsettled = {TransactionStatus.PENDING, TransactionStatus.MINED}
            stored = [decode_outgoing(id_, body) for id_, body in self.disk.outbound.items()]
            assert not [outbound for outbound in stored if outbound.status in unsettled]
            # A nonce is ours once: what took the place of a superseded one came from elsewhere.
            ours = {attempt.transaction_hash for outbound in stored for attempt in outbound.attempts}
            superseded = [outbound for outbound in stored if outbound.status is TransactionStatus.SUPERSEDED]
            assert ours.isdisjoint(outbound.transaction_hash for outbound in superseded)


@pytest.mark.parametrize("seed", SEEDS)
async def test_sellers_get_what_was_charged_whatever_happens(seed: int) -> None:
    await Simulation(seed).run()


@pytest.mark.full
@pytest.mark.parametrize("seed", MANY)
async def test_sellers_get_what_was_charged_whatever_happens_on_many_seeds(seed: int) -> None:
    await Simulation(seed).run()
