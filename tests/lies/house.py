"""A whole aggregator over endpoints that have faults, with sellers and payers; the last word has the chain itself."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from anvil import DELAY_S, Devnet, receiver
from rpc_faults import FaultProxy, Rule
from site_files import add_seller, write_site
from tallystick.errors import RefusedError
from tallystick.settlements import Settlement
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.runtime.app import running
from tallystick_aggregator.runtime.config.file import Config
from tallystick_client.rpc import AggregatorUnavailableError
from trade import Customer, Stall, operator_of
from waiting import until

ALARM = "tallystick.alarm"


@dataclass
class House:
    """What a test works with. `proxies` are the aggregator's endpoints, in its order of preference."""

    devnet: Devnet
    proxies: Sequence[FaultProxy]
    target: str
    stalls: Sequence[Stall]
    alarms: Sequence[logging.LogRecord]
    customers: list[Customer] = field(default_factory=list)
    before: Mapping[bytes, int] = field(default_factory=dict)

    @property
    def stall(self) -> Stall:
        return self.stalls[0]

    def alarmed(self) -> list[str]:
        """The alarms so far."""
        return [record.getMessage() for record in self.alarms if record.name == ALARM]

    def customer(self, *, by_key: bool = False) -> Customer:
        """A payer without a deposit."""
        operator = operator_of(self.devnet, self.target, DELAY_S)
        customer = Customer(self.devnet.payer(), operator, by_key=by_key)
        self.customers.append(customer)
        return customer

    async def depositor(self, amount: int, *, by_key: bool = False) -> Customer:
        """A payer whose deposit is credited."""
        customer = self.customer(by_key=by_key)
        await asyncio.to_thread(customer.payer.deposit, amount)
        await customer.funded(amount)
        return customer

    def lie(self, rule: Rule, *proxies: FaultProxy) -> Rule:
        """Have these endpoints go by the rule (none: all of them); one that is spent by one is spent by all."""
        for proxy in proxies or self.proxies:
            proxy.add(rule)
        return rule

    async def told(self, rule: Rule, timeout_s: float = 10) -> None:
        """Wait until it has happened."""
        await asyncio.wait_for(rule.made.wait(), timeout_s)

    def claimed(self, customer: Customer, stall: Stall) -> int:
        """What the chain says that the escrow paid of this channel."""
        query = calls.words_query(calls.CLAIMED, [customer.payer.channel_id(stall.receiver)])
        return calls.read_claimed(self.devnet.anvil.call(self.devnet.escrow, query), 1)[0]

    async def books_agree(self, timeout_s: float = 30) -> None:
        """Have everything settled, and find the same figures in the sellers' books, in the ledger and on chain."""

        async def settled() -> bool:
            if all(
                self.claimed(customer, stall) >= customer.book.accepted[stall.receiver]
                for customer in self.customers
                for stall in self.stalls
            ):
                return True
            for stall in self.stalls:
                await self.settle(stall)
            return False

        await until(settled, timeout_s)
        earned: Counter[bytes] = Counter()
        for customer in self.customers:
            state = await customer.state()
            charged = {channel.receiver: channel.charged for channel in state.channels} if state else {}
            for stall in self.stalls:
                accepted = customer.book.accepted[stall.receiver]
                earned[stall.receiver] += accepted
                assert charged.get(stall.receiver, 0) == accepted, "the ledger has what the seller saw accepted"
                assert self.claimed(customer, stall) == accepted, "and the chain has paid just that"
            for sale in customer.book.exact:
                assert sale.accepted is not None
                earned[sale.authorization.to] += sale.amount if sale.accepted else 0
        for stall in self.stalls:
            got = self.devnet.balance(stall.receiver) - self.before[stall.receiver]
            assert got == earned[stall.receiver]

    async def settle(self, stall: Stall) -> list[Settlement] | RefusedError | AggregatorUnavailableError:
        """Have the seller's channels settled; what it was told, refusals included."""
        try:
            return await stall.aggregator.settle_now()
        except (RefusedError, AggregatorUnavailableError) as error:
            return error


@asynccontextmanager
async def house(
    devnet: Devnet,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    *rules: Sequence[Rule],
    sellers: int = 1,
    chain: Mapping[str, Any] | None = None,
    settlement: Mapping[str, Any] | None = None,
) -> AsyncIterator[House]:
    """Start an aggregator whose endpoints are proxies: one for each of `rules`, which it goes by from the start."""
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(FaultProxy(devnet.anvil.url, of_one, name=f"endpoint-{number}"))
            for number, of_one in enumerate(rules)
        ]
        endpoints = {"rpc_urls": [proxy.url for proxy in proxies], "rpc_timeout_s": 2.0}
        config = write_site(folder, devnet, chain=endpoints | dict(chain or {}), settlement=settlement)
        receivers = [receiver(500 + number) for number in range(sellers)]
        tokens = [add_seller(config, f"seller-{number}", [address]) for number, address in enumerate(receivers)]
        aggregator = await stack.enter_async_context(running(Config.load(config)))
        stalls = [
            Stall(devnet, aggregator.address, token, address) for token, address in zip(tokens, receivers, strict=True)
        ]
        home = House(devnet, proxies, aggregator.address, stalls, caplog.records)
        home.before = {address: devnet.balance(address) for address in receivers}
        try:
            yield home
        finally:
            for stall in stalls:
                await stall.aggregator.close()
            for customer in home.customers:
                await customer.close()
