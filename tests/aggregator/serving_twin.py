"""A market behind the real gRPC edge: SQLite, real tokens, a real server and channel on loopback."""

from __future__ import annotations  # the stubs have types of their own only in their .pyi

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from batch_market import BatchMarket
from doubles import MUSIC, NEWS
from marketplace import Marketplace, marketplace

from tallystick.amounts import encode_amount
from tallystick.settlements import LeftOut
from tallystick.v1 import (
    account_pb2_grpc,
    charge_pb2,
    charge_pb2_grpc,
    facilitator_pb2_grpc,
    settlement_pb2_grpc,
)
from tallystick_aggregator.api.grpc.account import AccountService
from tallystick_aggregator.api.grpc.charge import ChargeLimits, ChargeService
from tallystick_aggregator.api.grpc.concurrency_limits import CallLimits
from tallystick_aggregator.api.grpc.facilitator import FacilitatorService
from tallystick_aggregator.api.grpc.server import GrpcServer, Services
from tallystick_aggregator.api.grpc.settlement import SettlementService
from tallystick_aggregator.api.tls import Tls
from tallystick_aggregator.auth.credentials import Credentials, Principals, Scope
from tallystick_aggregator.auth.transfer_limits import NO_LIMITS as NO_TRANSFER_LIMITS
from tallystick_aggregator.auth.transfer_limits import TransferLimits
from tallystick_aggregator.charging import UncheckedPayment
from tallystick_aggregator.claims.claiming import Claimed
from tallystick_aggregator.facilitator import Facilitator
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.listing import Listing
from tallystick_aggregator.schemes.port import Scheme
from tallystick_aggregator.store.port import OutboundTransaction
from tallystick_aggregator.store.sqlite.store import SqliteStore

Metadata = tuple[tuple[str, str], ...]


class SettlesNothing:
    """A settlement side that remembers what it was asked, and answers as told."""

    def __init__(self) -> None:
        self.asked: list[frozenset[bytes] | None] = []
        self.answer: Sequence[OutboundTransaction] | Exception = ()
        self.left_out: Sequence[LeftOut] = ()

    async def settle_now(self, receivers: Collection[bytes] | None = None) -> Claimed:
        self.asked.append(None if receivers is None else frozenset(receivers))
        if isinstance(self.answer, Exception):
            raise self.answer
        return Claimed(self.answer, self.left_out)


NOW_S = 1_800_000_000
"""The time of the listing."""


@dataclass
class Edge:
    """A server, its parts, and stubs that reach it."""

    market: Marketplace
    credentials: Credentials
    settlement: SettlesNothing
    services: Services
    server: GrpcServer
    channel: grpc.aio.Channel
    news: Metadata
    """The token of NEWS, for everything."""
    music: Metadata
    """The token of MUSIC, for everything."""
    batch: BatchMarket | None = None
    """Where a scheme of a market of its own is served beside."""

    @property
    def charges(self) -> charge_pb2_grpc.ChargeServiceAsyncStub:
        return charge_pb2_grpc.ChargeServiceStub(self.channel)

    @property
    def facilitator(self) -> facilitator_pb2_grpc.FacilitatorServiceAsyncStub:
        return facilitator_pb2_grpc.FacilitatorServiceStub(self.channel)

    @property
    def accounts(self) -> account_pb2_grpc.AccountServiceAsyncStub:
        return account_pb2_grpc.AccountServiceStub(self.channel)

    @property
    def settlements(self) -> settlement_pb2_grpc.SettlementServiceAsyncStub:
        return settlement_pb2_grpc.SettlementServiceStub(self.channel)

    def token(self, name: str, *scopes: Scope, receiver: bytes = NEWS) -> Metadata:
        """A new seller's token."""
        return bearer(self.credentials.add(name, [receiver], scopes))


@asynccontextmanager
async def serving(
    folder: Path,
    limits: ChargeLimits | None = None,
    tls: Tls | None = None,
    rules: Rules | None = None,
    schemes: Sequence[Scheme[Any, Any]] = (),
    call_limits: CallLimits | None = None,
    transfers: TransferLimits = NO_TRANSFER_LIMITS,
    with_upto: bool = False,
) -> AsyncIterator[Edge]:
    """Serve a market from a store in this folder; `schemes` are those beside `deferred` and `exact`."""
    store = await SqliteStore.open(folder / "store.db")
    credentials = Credentials.open(folder / "tokens.db")
    settlement, limits = SettlesNothing(), limits or ChargeLimits()
    try:
        async with marketplace(store=store, rules=rules, limits=transfers) as market:
            principals = Principals(credentials.lookup)
            facilitator = Facilitator(
                principals, [market.deferred, market.exact, *([market.upto] if with_upto else []), *schemes]
            )
            listing = Listing(store.listings, credentials.origins, clock=lambda: NOW_S)
            services = Services(
                FacilitatorService(facilitator, listing, market.rules, limits),
                ChargeService(principals, market.batcher, market.writer, limits),
                AccountService(principals, market.accounts, market.deposits, market.refunds),
                SettlementService(principals, market.outbox, settlement),
            )
            server = GrpcServer(services, "127.0.0.1:0", tls, call_limits)
            await server.start()
            await server.tell_health(serving=True)
            try:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                    news = bearer(credentials.add("news", [NEWS], list(Scope)))
                    music = bearer(credentials.add("music", [MUSIC], list(Scope)))
                    yield Edge(market, credentials, settlement, services, server, channel, news, music)
            finally:
                await server.stop(0)
    finally:
        credentials.close()
        await store.close()


def bearer(token: str) -> Metadata:
    """The metadata that shows a token."""
    return (("authorization", f"Bearer {token}"),)


def charge_of(payment: UncheckedPayment) -> charge_pb2.Charge:
    """A payment as sellers send it."""
    message = charge_pb2.Charge(
        channel_id=payment.channel_id,
        payment_id=payment.payment_id,
        amount=encode_amount(payment.amount),
        request_hash=payment.request_hash,
        ceiling=encode_amount(payment.ceiling),
        signature=payment.signature,
    )
    if payment.spend is not None:
        message.spend_proof.key_id = payment.spend.key_id
        message.spend_proof.max_amount = encode_amount(payment.spend.max_amount)
        message.spend_proof.mac = payment.spend.mac
    return message
