"""The whole aggregator, put together: opened in the order of who needs whom, closed in reverse.

`running` yields once calls are taken. What cannot work raises StartError before that: one sentence, nothing left open.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from tallystick.payment_ids import new_payment_id
from tallystick.quantities import PaymentId
from tallystick_aggregator.accounts.accounts import Accounts
from tallystick_aggregator.accounts.channels import Channels
from tallystick_aggregator.accounts.deposits import Deposits
from tallystick_aggregator.accounts.offers import EscrowOffer, Offers
from tallystick_aggregator.accounts.refunds import RESUME_EVERY_S, Refunds
from tallystick_aggregator.api.grpc.account import AccountService
from tallystick_aggregator.api.grpc.charge import ChargeService
from tallystick_aggregator.api.grpc.facilitator import FacilitatorService
from tallystick_aggregator.api.grpc.server import GrpcServer, Services
from tallystick_aggregator.api.grpc.settlement import SettlementService
from tallystick_aggregator.api.tls import LOOK_EVERY_S as TLS_LOOK_EVERY_S
from tallystick_aggregator.auth.credentials import Credentials, CredentialsError, Principals
from tallystick_aggregator.auth.limits import GasBudget
from tallystick_aggregator.chain.chain import EvmChain
from tallystick_aggregator.chain.network import EvmNetwork
from tallystick_aggregator.chain.port import ChainUnavailableError
from tallystick_aggregator.chain.settings import ConfigurationError
from tallystick_aggregator.charging import LedgerWriter, PaymentBatcher, Steps
from tallystick_aggregator.charging.maintenance import Maintenance
from tallystick_aggregator.charging.signature_processes import SignatureProcesses
from tallystick_aggregator.charging.signatures import SignatureChecker, SignatureThreads
from tallystick_aggregator.claims.collecting import Collecting
from tallystick_aggregator.claims.planner import Policy
from tallystick_aggregator.claims.service import SettlementSettings
from tallystick_aggregator.claims.settlements import Settlements
from tallystick_aggregator.facilitator import Facilitator
from tallystick_aggregator.ledger.invariants import InvariantError, check_invariants
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.listing import Listing
from tallystick_aggregator.runtime.config.chains import describe
from tallystick_aggregator.runtime.config.file import Config
from tallystick_aggregator.runtime.foreign_accounts import refuse_foreign_accounts
from tallystick_aggregator.runtime.health import LOOK_EVERY_S, PROBE_EVERY_S, Health, probe
from tallystick_aggregator.runtime.http_edge import HttpEdge
from tallystick_aggregator.schemes.batch_settlement import BatchSettlementPayments, Ports, RefundCalls
from tallystick_aggregator.schemes.batch_settlement.port import ChannelChain
from tallystick_aggregator.schemes.deferred.payments import DeferredPayments
from tallystick_aggregator.schemes.exact import Claims, ExactPayments
from tallystick_aggregator.schemes.port import Scheme
from tallystick_aggregator.schemes.upto import UptoPayments
from tallystick_aggregator.store.opening import open_store
from tallystick_aggregator.store.port import Store, StoreError
from tallystick_aggregator.tasks import PeriodicTask

StartError: Final = (ConfigurationError, StoreError, CredentialsError, InvariantError)
"""What may keep the aggregator from starting; each says why in one sentence."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """An aggregator that takes calls at `address`, and over HTTP at `http_url`, which is empty where it does not.

    `dead` is set once nothing it says can be relied on any more.
    """

    address: str
    health: Health
    dead: asyncio.Event
    http_url: str = ""


@asynccontextmanager
async def running(config: Config, *, clock: Callable[[], float] = time.time) -> AsyncGenerator[Running, None]:
    """Open everything, yield while it runs, close everything. Raises what StartError lists.

    `clock` tells the time in seconds since the epoch; payers, sellers and the chain must go by the same.
    """
    async with AsyncExitStack() as stack:
        store = await _open_store(stack, config)
        credentials = Credentials.open(config.credentials_path)
        stack.callback(credentials.close)
        dead = asyncio.Event()
        chains: dict[EscrowRef, EvmChain] = {}
        writer = await _start_writer(stack, config, store, chains, dead, clock)
        await _start_chains(stack, config, store, writer, chains, clock)
        parts = _Parts(config, store, writer, chains, await _start_signatures(stack, config), clock)
        stack.callback(parts.batcher.close)
        settlements = await _start_settlements(stack, parts)
        collecting = await _start_collecting(stack, parts)
        timers: list[PeriodicTask] = []
        principals = Principals(credentials.lookup)
        facilitator = parts.facilitator(principals)
        listing = Listing(store.listings, credentials.origins, config.listing_limits, clock=clock)
        await listing.load()
        services = parts.services(facilitator, principals, settlements, listing)
        server = GrpcServer(services, config.server.listen, config.tls)
        http = HttpEdge(config, facilitator, listing)
        stack.push_async_callback(http.stop)
        health = Health(
            [
                lambda: _store_problems(writer),
                parts.maintenance.problems,
                lambda: [timer.problem for timer in timers if timer.problem],
                lambda: _stale(chains),
                http.problems,
            ],
            _both(server.tell_health, http.tell_health),
            [
                lambda: _each_once(problem for chain in chains.values() for problem in chain.problems()),
                settlements.problems,
                parts.budget.problems,
                *(one.problems for one in collecting),
            ],
            settlement=[
                lambda: _each_once(problem for chain in chains.values() for problem in chain.sending_problems()),
                settlements.problems,
            ],
            tell_settling=_both(server.tell_settling, http.tell_settling),
        )
        timers += _start_timers(stack, parts, health)
        await health.look()
        await server.start()
        stack.push_async_callback(_stop_serving, services.charge, server, http, float(config.server.stop_grace_s))
        await http.start()
        host = config.server.listen.rpartition(":")[0]
        yield Running(f"{host}:{server.port}", health, dead, http.url)
        log.info("stopping")


def make_offers(config: Config, *, canonical: bool = False) -> Offers:
    """Return what the configuration accepts, by escrow: in escrows of ours, or in x402's own contracts."""
    return {
        chain.escrow_ref: EscrowOffer(
            network=chain.network,
            escrow=chain.escrow,
            escrow_name=chain.domain.name,
            escrow_version=chain.domain.version,
            operator=chain.operator,
            tokens={token.address: token for token in chain.tokens},
            withdraw_delay_s_min=chain.withdraw_delay_s_min,
            withdraw_delay_s_max=chain.withdraw_delay_s_max,
            withdraw_delay_s=config.withdraw_delays_s[chain.network],
        )
        for chain in config.chains
        if chain.is_canonical is canonical
    }


class _Parts:
    """The middle: schemes over the batcher, the ledger and the chains."""

    def __init__(
        self,
        config: Config,
        store: Store,
        writer: LedgerWriter,
        chains: Mapping[EscrowRef, EvmChain],
        signatures: SignatureChecker,
        clock: Callable[[], float],
    ) -> None:
        self.config, self.store, self.writer, self.chains, self.clock = config, store, writer, chains, clock
        now_s, rules, outbox = self._now_s, config.rules, store.outbox
        separators = {escrow: chain.escrow.domain.separator for escrow, chain in chains.items()}
        self.batcher = PaymentBatcher(writer, separators, rules, signatures=signatures)
        self.steps = Steps(writer, separators, rules, signatures)
        self.maintenance = Maintenance(writer, store.journal, rules)
        offers = make_offers(config)
        own = {escrow: chains[escrow] for escrow in offers}
        channels = Channels(own, offers, writer, rules)
        self.budget = GasBudget(config.gas_limits)
        claims = Claims(now_s)
        self.schemes: list[Scheme[Any, Any]] = [
            DeferredPayments(offers, channels, self.batcher, writer),
            ExactPayments(own, offers, outbox, now_s, budget=self.budget, limits=config.exact_limits, claims=claims),
            UptoPayments(own, offers, outbox, now_s, budget=self.budget, limits=config.exact_limits, claims=claims),
        ]
        self.open_schemes: Sequence[Scheme[Any, Any]] = []
        if config.exact_open is not None:
            views = {ref: view for ref, chain in own.items() if (view := chain.for_strangers()) is not None}
            means = GasBudget(config.exact_open.gas_limits)
            limits = config.exact_open.limits
            self.open_schemes = [
                ExactPayments(views, offers, outbox, now_s, budget=means, limits=limits, claims=claims)
            ]
        self.accounts = Accounts(chains, offers, channels, writer, rules, now_s)
        self.deposits = Deposits(own, offers, writer, outbox, now_s, budget=self.budget)
        self.refunds = Refunds(own, self.accounts, writer, outbox, budget=self.budget)
        self.channel_refunds: Refunds | None = None
        if canonical := make_offers(config, canonical=True):
            self.schemes.append(self._batch_settlement(canonical))

    def _batch_settlement(self, offers: Offers) -> BatchSettlementPayments:
        """The scheme of x402's own contract, with channels, deposits and refunds of its own."""
        # A chain does not say which kind its escrow is of.
        chains = {escrow: cast("ChannelChain", self.chains[escrow]) for escrow in offers}
        writer, outbox, rules = self.writer, self.store.outbox, self.config.rules
        channels = Channels(chains, offers, writer, rules)
        payers = Accounts(chains, offers, channels, writer, rules, self._now_s)
        calls = RefundCalls(chains, writer)
        self.channel_refunds = Refunds(chains, payers, writer, outbox, budget=self.budget, call_of=calls)
        deposits = chains, offers, writer, outbox, self._now_s
        ports = Ports(
            chains=chains,
            offers=offers,
            channels=channels,
            deposits=Deposits(*deposits, budget=self.budget),
            server_deposits=Deposits(*deposits, budget=self.budget, is_credited=False),
            refunds=self.channel_refunds,
            outbox=outbox,
            budget=self.budget,
            steps=self.steps,
            writer=writer,
            new_id=self._new_payment_id,
            clock_s=self._now_s,
            hold_s=rules.reservation_s,
        )
        return BatchSettlementPayments(ports)

    def _now_s(self) -> int:
        return int(self.clock())

    def _new_payment_id(self) -> PaymentId:
        return new_payment_id(int(self.clock() * 1_000), os.urandom(10))

    def facilitator(self, principals: Principals) -> Facilitator:
        """Return x402's verbs, which all edges share."""
        return Facilitator(principals, self.schemes, self.open_schemes)

    def services(
        self, facilitator: Facilitator, principals: Principals, settlements: Settlements, listing: Listing
    ) -> Services:
        """Return what the gRPC server serves."""
        limits = self.config.charge_limits
        return Services(
            FacilitatorService(facilitator, listing, self.config.rules, limits),
            ChargeService(principals, self.batcher, self.writer, limits),
            AccountService(principals, self.accounts, self.deposits, self.refunds),
            SettlementService(principals, self.store.outbox, settlements),
        )


async def _open_store(stack: AsyncExitStack, config: Config) -> Store:
    store = await open_store(config.store_url)
    stack.push_async_callback(store.close)
    if store.lost_epochs:
        log.critical(
            "the store is a backup from before its last %d starts: charges since then are not in it", store.lost_epochs
        )
    return store


async def _start_writer(
    stack: AsyncExitStack,
    config: Config,
    store: Store,
    chains: Mapping[EscrowRef, EvmChain],
    dead: asyncio.Event,
    clock: Callable[[], float],
) -> LedgerWriter:
    ledger = await store.journal.load()
    check_invariants(ledger)
    refuse_foreign_accounts(ledger, config.chains, config.store_url)
    log.info("the ledger has %d accounts and %d channels", *ledger.size)
    writer = LedgerWriter(
        ledger,
        store.journal,
        stale_escrows=lambda: frozenset(escrow for escrow, chain in chains.items() if chain.stale()),
        clock_ms=lambda: int(clock() * 1_000),
    )
    task = asyncio.create_task(writer.serve(), name="ledger writer")

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("the ledger's writer has died; stopping", exc_info=task.exception())
        dead.set()

    async def finish() -> None:
        writer.stop()
        await asyncio.gather(task, return_exceptions=True)

    task.add_done_callback(ended)
    stack.push_async_callback(finish)
    return writer


async def _start_signatures(stack: AsyncExitStack, config: Config) -> SignatureChecker:
    if not config.server.signature_processes:
        return SignatureThreads()
    processes = SignatureProcesses(config.server.signature_processes)
    stack.push_async_callback(processes.closed)
    await processes.start()
    return processes


async def _start_chains(
    stack: AsyncExitStack,
    config: Config,
    store: Store,
    writer: LedgerWriter,
    chains: dict[EscrowRef, EvmChain],
    clock: Callable[[], float],
) -> None:
    networks: dict[str, EvmNetwork] = {}
    made: list[EvmChain] = []
    for settings in config.chains:
        log.info("%s", describe(settings))
        if settings.network not in networks:
            strangers = config.exact_open.sender if config.exact_open else None
            networks[settings.network] = EvmNetwork(settings, store.outbox, strangers=strangers, clock=clock)
        made.append(EvmChain(settings, store.outbox, writer, network=networks[settings.network], clock=clock))
        stack.push_async_callback(made[-1].stop)
    # Only now: the outbox is taken up with the first escrow of a network, and may hold transactions to all of them.
    for chain in made:
        try:
            await chain.start()
        except ChainUnavailableError as error:
            raise ConfigurationError(f"{chain.network}: its endpoints do not answer: {error}") from error
        chains[chain.escrow.ref] = chain


async def _start_settlements(stack: AsyncExitStack, parts: _Parts) -> Settlements:
    config = parts.config
    settings = SettlementSettings(
        interval_s=config.interval_s,
        policy=Policy(config.claim_amount_min, config.claim_age_s_max),
        withdraw_margin_s=config.rules.withdraw_margin_s,
    )
    settlements = Settlements(parts.chains.values(), parts.writer, parts.store.outbox, settings, clock=parts.clock)
    stack.push_async_callback(settlements.stop)
    settlements.start()
    return settlements


async def _start_collecting(stack: AsyncExitStack, parts: _Parts) -> Sequence[Collecting]:
    amount_min = parts.config.claim_amount_min
    each = [
        Collecting(chain, parts.writer, parts.store.outbox, amount_min=amount_min, clock=parts.clock)
        for chain in parts.chains.values()
    ]
    for one in each:
        stack.push_async_callback(one.stop)
        one.start()
    return each


def _start_timers(stack: AsyncExitStack, parts: _Parts, health: Health) -> Sequence[PeriodicTask]:
    timers = (
        *parts.maintenance.timers(),
        PeriodicTask("refunds", parts.refunds.resume, RESUME_EVERY_S),
        *([PeriodicTask("refunds of channels", of.resume, RESUME_EVERY_S)] if (of := parts.channel_refunds) else []),
        PeriodicTask("store probe", lambda: probe(parts.writer), PROBE_EVERY_S),
        PeriodicTask("health", health.look, LOOK_EVERY_S),
        *([PeriodicTask("TLS files", tls.look, TLS_LOOK_EVERY_S)] if (tls := parts.config.tls) else []),
    )
    for timer in timers:
        stack.push_async_callback(timer.stop)
        timer.start()
        timer.wake()
    return timers


async def _stop_serving(charges: ChargeService, server: GrpcServer, http: HttpEdge, grace_s: float) -> None:
    """Take nothing new, answer what was taken."""
    stopping = asyncio.gather(server.stop(grace_s), http.stop())
    await asyncio.sleep(0)  # no new streams from here on
    charges.finish_streams()
    await stopping


def _both(*tell: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Tell each edge the same."""

    async def tell_all(**what: bool) -> None:
        for one in tell:
            await one(**what)

    return tell_all


def _store_problems(writer: LedgerWriter) -> Sequence[str]:
    if not writer.available:
        return ["the store cannot be written"]
    return ["too much waits for a checkpoint"] if writer.backed_up else []


def _stale(chains: Mapping[EscrowRef, EvmChain]) -> Sequence[str]:
    return _each_once(f"the mirror of {escrow.network} is stale" for escrow, chain in chains.items() if chain.stale())


def _each_once(problems: Iterable[str]) -> Sequence[str]:
    """The escrows of a network share its problems."""
    return list(dict.fromkeys(problems))
