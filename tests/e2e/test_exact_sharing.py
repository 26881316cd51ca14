"""X1: whatever several sellers and workers do with one authorization, at once or in turn, it sells one page.

Random interleavings, first of the aggregator's calls, then of whole paywalls over one aggregator.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from doubles import MUSIC, NETWORK, NEWS, NOW_S, TOKEN, Payer
from hypothesis import given, settings
from hypothesis import strategies as st
from marketplace import EXACT_TERMS, OFFERS, Marketplace, marketplace, transfer_of
from seller_shop import Exchange

from tallystick import x402
from tallystick.errors import RefusedError
from tallystick.facilitator import Attempt, Kind, Limits, Settled, Supported, Verified
from tallystick.hexadecimal import checksum
from tallystick.tokens import Token
from tallystick.x402 import ExactAuthorization, PaymentTerms
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.exact import ExactPayments
from tallystick_aggregator.schemes.port import Caller
from tallystick_client import Paywall, Rule
from tallystick_client.rpc import AggregatorUnavailableError

ALICE = Payer("alice")
ADDRESS = ALICE.signer.address


def exact_over(market: Marketplace) -> ExactPayments:
    """An aggregator's exact payments; another one over the same market is a restart."""
    return ExactPayments({NETWORK: market.chain}, OFFERS, market.outbox, lambda: NOW_S, settle_timeout_s=0.003)


# The aggregator's calls.

VARIANTS: list[Callable[[], ExactAuthorization]] = [
    lambda: transfer_of(ALICE),
    lambda: transfer_of(ALICE, to=MUSIC),
    lambda: transfer_of(ALICE, value=200),
    lambda: replace(transfer_of(ALICE), signature=b"junk"),
    lambda: replace(transfer_of(ALICE), to=MUSIC),
]
STEPS = st.lists(st.sampled_from(["verify", "settle", "settle", "give back", "yield", "wait"]), max_size=8)
WORKERS = st.tuples(
    st.integers(0, len(VARIANTS) - 1), st.sampled_from(["one", "two"]), st.integers(0, 1), st.booleans(), STEPS
)


@dataclass
class Seen:
    """What was delivered, and what happened that may matter."""

    delivered: list[tuple[ExactAuthorization, str, bytes]] = field(default_factory=list)


async def work(
    exact: list[ExactPayments], seen: Seen, number: int, worker: tuple[int, str, int, bool, list[str]]
) -> None:
    """One process of a seller. It delivers what it has settled, unless it has given that back, and then is done."""
    variant, principal, request, names_attempt, steps = worker
    payment = VARIANTS[variant]()
    terms = replace(EXACT_TERMS, pay_to=payment.to, amount=payment.value)
    attempt = bytes([number]) * 16 if names_attempt else b""
    caller = Caller(principal, attempt, bytes([request]) * 32 if attempt else b"")
    for step in steps:
        if step == "yield":
            await asyncio.sleep(0)
        elif step == "wait":
            await asyncio.sleep(0.001)
        elif step == "verify":
            await exact[-1].verify(terms, payment, caller)
        elif step == "give back" and attempt:
            await exact[-1].release(terms, payment, caller)
        elif step == "settle":
            answer = await exact[-1].settle(terms, payment, caller)
            if isinstance(answer, Settled) and not answer.replayed:
                assert answer.amount == payment.value
                seen.delivered.append((payment, principal, caller.request_hash))
                return


@settings(max_examples=120, deadline=None)
@given(
    workers=st.lists(WORKERS, min_size=2, max_size=6),
    held_steps=st.integers(0, 4),
    restart_at=st.none() | st.integers(0, 3),
)
def test_x1_random_interleavings_of_verify_and_settle_deliver_once(
    workers: list[tuple[int, str, int, bool, list[str]]], held_steps: int, restart_at: int | None
) -> None:
    async def run() -> None:
        async with marketplace() as market:
            market.chain.balances[ADDRESS] = 1_000
            market.chain.held = True
            exact, seen = [exact_over(market)], Seen()

            async def world() -> None:
                for step in range(4):
                    if step == restart_at and not any("give back" in worker[-1] for worker in workers):
                        exact.append(exact_over(market))
                    market.chain.held = step < held_steps
                    await asyncio.sleep(0.002)
                market.chain.held = False

            tasks = [work(exact, seen, number, worker) for number, worker in enumerate(workers)]
            await asyncio.gather(world(), *tasks)
            assert len(seen.delivered) <= 1, seen.delivered
            assert len(market.chain.sent) <= 1
            for payment, _, _ in seen.delivered:
                assert market.chain.balances[payment.to] == payment.value

    asyncio.run(run())


# Whole paywalls.


class Direct:
    """The seller's side of an aggregator without a wire: `lost` says of which calls the answers get lost, in turn."""

    def __init__(self, exact: ExactPayments, principal: str, lost: list[bool]) -> None:
        self._exact, self._principal, self._lost = exact, principal, lost
        asset = Token(TOKEN, "USDC", 6, "USD Coin", "2", 0)
        kind = Kind("exact", NETWORK, (asset,))
        self._supported = Supported((kind,), Limits(64, 8, 300, 172_800), frozenset(), frozenset())

    async def supported(self) -> Supported:
        return self._supported

    def derived_key(self, purpose: bytes) -> bytes:
        return purpose

    async def close(self) -> None:
        """Nothing to close."""

    async def verify(self, terms: PaymentTerms, payment: ExactAuthorization, attempt: Attempt) -> Verified:
        return await self._call(self._exact.verify(terms, payment, self._caller(attempt)))

    async def settle(self, terms: PaymentTerms, payment: ExactAuthorization, attempt: Attempt) -> Settled:
        return await self._call(self._exact.settle(terms, payment, self._caller(attempt)))

    async def release(self, terms: PaymentTerms, payment: ExactAuthorization, attempt: Attempt) -> Settled:
        return await self._call(self._exact.release(terms, payment, self._caller(attempt)))

    def _caller(self, attempt: Attempt) -> Caller:
        return Caller(self._principal, attempt.id, attempt.request_hash)

    async def _call(self, call: Coroutine[Any, Any, Any]) -> Any:
        answer = await call
        if self._lost and self._lost.pop(0):
            raise AggregatorUnavailableError("lost", grpc.StatusCode.UNAVAILABLE)
        if isinstance(answer, Refusal):
            raise RefusedError(answer.reason, answer.message, answer.field, answer.got, answer.allowed)
        return answer


class Worker:
    """One process of a seller: a paywall whose handler makes a page that no other run makes."""

    def __init__(self, name: str, aggregator: Direct, receiver: bytes) -> None:
        self.name, self.runs = name, 0
        rules = [Rule(path="*", price="0.0001 USDC")]
        self._now = 0.0
        self.paywall = Paywall(
            self._app,
            aggregator=aggregator,  # type: ignore[arg-type]
            pay_to=checksum(receiver),
            rules=rules,
            clock=lambda: self._now,
            sleep=self._pause,
        )

    async def _pause(self, seconds: float) -> None:
        self._now += seconds
        await asyncio.sleep(0.0005)

    async def _app(self, scope: Any, _receive: Any, send: Any) -> None:
        self.runs += 1
        page = f"{self.name} {scope['path']} {self.runs}".encode()
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": page})


def header_of(payment: ExactAuthorization, identifier: str) -> bytes:
    """The PAYMENT-SIGNATURE of this payment."""
    a = payment
    authorization = ExactAuthorization(a.from_, a.to, a.value, a.valid_after, a.valid_before, a.nonce, a.signature)
    accepted = x402.PaymentRequirements(
        scheme="exact",
        network=NETWORK,
        amount=str(a.value),
        asset=checksum(TOKEN),
        pay_to=checksum(a.to),
        max_timeout_seconds=60,
        extra={"name": "USD Coin", "version": "2"},
    )
    named = {"payment-identifier": {"info": {"required": False, "id": identifier}}} if identifier else None
    message = x402.PaymentPayload(payload=x402.exact_payload(authorization), accepted=accepted, extensions=named)
    return x402.encode_header(message).encode()


REQUESTS = st.tuples(
    st.integers(0, 2),  # the worker
    st.sampled_from(["/a", "/b"]),
    st.sampled_from(["the-payers-secret-id", "another-guess-at-it", ""]),
    st.booleans(),  # whether the client leaves
    st.integers(0, 6),  # when it comes
)


@settings(max_examples=100, deadline=None)
@given(
    requests=st.lists(REQUESTS, min_size=2, max_size=10),
    held_for=st.integers(0, 6),
    lost=st.lists(st.booleans(), max_size=12),
)
def test_x1_random_requests_to_the_workers_of_several_sellers_sell_one_page(
    requests: list[tuple[int, str, str, bool, int]], held_for: int, lost: list[bool]
) -> None:
    async def run() -> None:
        async with marketplace() as market:
            market.chain.balances[ADDRESS] = 1_000
            market.chain.held = True
            exact = exact_over(market)
            receivers = [NEWS, NEWS, MUSIC]
            workers = [
                Worker(f"worker {n}", Direct(exact, checksum(receiver), lost), receiver)
                for n, receiver in enumerate(receivers)
            ]
            # A thief rebuilds the payment for its own address; the signature is what it is.
            honest = transfer_of(ALICE)
            payments = [honest, honest, replace(honest, to=MUSIC)]
            pages: set[bytes] = set()

            async def ask(number: int, path: str, identifier: str, leaves: bool, comes_at: int) -> None:
                for _ in range(comes_at):
                    await asyncio.sleep(0.001)
                pages.update(await _request(workers[number], path, header_of(payments[number], identifier), leaves))

            async def chain() -> None:
                for _ in range(held_for):
                    await asyncio.sleep(0.001)
                market.chain.held = False

            await asyncio.gather(chain(), *(ask(*one) for one in requests))
            for worker in workers:
                await worker.paywall.finish()
            assert len(pages) <= 1, pages
            assert len(market.chain.sent) <= 1
            assert MUSIC not in market.chain.balances
            assert market.chain.balances.get(NEWS, 0) >= 100 * len(pages)

    asyncio.run(run())


async def _request(worker: Worker, path: str, payment: bytes, leaves: bool) -> set[bytes]:
    """The page that a client got, if it was there to get one."""
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"shop.test"), (b"payment-signature", payment)],
        "server": ("shop.test", 80),
    }
    one = Exchange(worker.paywall, scope)
    one.incoming.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    task = asyncio.create_task(one.run())
    if leaves:
        await asyncio.sleep(0.001)
        if one.status is None:
            one.incoming.put_nowait({"type": "http.disconnect"})
    await task
    return {one.body} if one.status == 200 else set()
