"""A seller that keeps charging while its aggregator dies: a process with a book of its own.

It uses the project's own client. Every charge is sent until its outcome is known, with the payment id that it had
first: over a stream, by single calls, or both at once. Some charges are such that they must be refused, always.
"""

import asyncio
import random
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from _children import hear, say, settings_of_child
from benchmarks import world
from tallystick.charges import Charge, Charged
from tallystick.errors import RefusedError
from tallystick.payment_ids import new
from tallystick.signatures import Signer
from tallystick.spend_keys import SpendProof, SpendProver
from tallystick.v1 import charge_pb2_grpc
from tallystick.vouchers import sign_voucher
from tallystick_client import rpc
from tallystick_client.rpc import AggregatorUnavailableError
from tallystick_client.seller.client.aggregator import Aggregator
from tallystick_client.seller.client.stream import ChargeStream

CALL_TIMEOUT_S: Final = 3.0
PAUSE_S: Final = 0.05
BATCH_MAX: Final = 64
UNANSWERED_MAX: Final = 4
WRONG_SHARE: Final = 0.05
TWICE_SHARE: Final = 0.15
AMOUNT_MAX: Final = 5


@dataclass(slots=True)
class Purse:
    """One payer's channel as its own client knows it."""

    payer: world.Payer
    signer: Signer
    prover: SpendProver | None
    """None: it pays by vouchers."""
    signed: int = 0


class Shop:
    """Payers, and the seller that charges them; the book is what the seller would show its accountant."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._random = random.Random(settings["seed"])  # noqa: S311 - a repeatable run, no secret
        payers = world.read_payers(Path(settings["payers"]), settings["numbers"])
        by_key = set(settings["by_key"])
        self._purses = [
            Purse(
                payer,
                Signer(payer.private_key),
                SpendProver(world.spend_secret(payer).secret) if number in by_key else None,
            )
            for number, payer in zip(settings["numbers"], payers, strict=True)
        ]
        self._aggregator = Aggregator(
            f"127.0.0.1:{settings['port']}", token=settings["token"], timeout_s=CALL_TIMEOUT_S
        )
        self._metadata = rpc.bearer(settings["token"])
        self.book: dict[str, dict[str, Any]] = {}
        self.contradictions: list[str] = []
        self.stopping = False

    async def trade(self, at_once: int) -> None:
        """Charge until stopped."""
        channel = rpc.open_channel(self._aggregator.target)
        stub = charge_pb2_grpc.ChargeServiceStub(channel)

        async def limits() -> tuple[int, int]:
            return BATCH_MAX, UNANSWERED_MAX

        stream = ChargeStream(lambda: stub.StreamCharges(metadata=self._metadata), limits, timeout_s=CALL_TIMEOUT_S)
        async with stream:
            await asyncio.gather(*(self._customer(stream) for _ in range(at_once)))
        await channel.close()
        await self._aggregator.close()

    async def _customer(self, stream: ChargeStream) -> None:
        while not self.stopping:
            charge, wrong = self._next()
            ways = [stream.charge, self._aggregator.charge]
            self._random.shuffle(ways)
            if self._random.random() > TWICE_SHARE:
                ways.pop()
            outcomes = await asyncio.gather(*(self._outcome(way, charge) for way in ways))
            self._note(charge, outcomes, wrong=wrong)

    async def _outcome(self, way: Any, charge: Charge) -> Charged | RefusedError:
        """Send until there is an answer that stands."""
        while True:
            try:
                answer: Charged = await way(charge)
            except AggregatorUnavailableError:
                await asyncio.sleep(PAUSE_S)
            except RefusedError as refused:
                if not refused.reason.retry:
                    return refused
                await asyncio.sleep(PAUSE_S)
            else:
                return answer

    def _next(self) -> tuple[Charge, bool]:
        """The next payment of some payer, right or wrong."""
        purse = self._random.choice(self._purses)
        amount = self._random.randint(1, AMOUNT_MAX)
        wrong = self._random.random() < WRONG_SHARE
        channel_id, payment_id = purse.payer.channel_id, bytes(new())
        request_hash = sha256(payment_id).digest()
        if purse.prover is not None:
            key_id = world.spend_secret(purse.payer).key_id
            # Wrong: the payer agreed to less than is charged.
            agreed = amount - 1 if wrong else amount
            mac = purse.prover.mac(channel_id, payment_id, agreed, request_hash)
            return Charge(channel_id, payment_id, amount, request_hash, spend=SpendProof(key_id, agreed, mac)), wrong
        # Wrong: a voucher for this channel that somebody else has signed.
        signer = self._purses[0].signer if wrong and purse is not self._purses[0] else purse.signer
        if signer is purse.signer:
            purse.signed += AMOUNT_MAX
            wrong = False
        ceiling = purse.signed + (AMOUNT_MAX * 1_000_000 if wrong else 0)
        voucher = sign_voucher(signer, world.DOMAIN, channel_id, ceiling)
        return Charge(channel_id, payment_id, amount, request_hash, ceiling, voucher.signature), wrong

    def _note(self, charge: Charge, outcomes: list[Charged | RefusedError], *, wrong: bool) -> None:
        """Write down what came of a charge; anything that cannot be is a contradiction."""
        key = charge.payment_id.hex()
        totals = {outcome.charged for outcome in outcomes if isinstance(outcome, Charged)}
        refusals = [outcome.reason.code for outcome in outcomes if isinstance(outcome, RefusedError)]
        first_answers = [outcome for outcome in outcomes if isinstance(outcome, Charged) and not outcome.replayed]
        if totals and refusals:
            self.contradictions.append(f"{key} was accepted and refused ({refusals})")
        if len(totals) > 1 or len(first_answers) > 1:
            self.contradictions.append(f"{key} was accepted as two different charges")
        if wrong and totals:
            self.contradictions.append(f"{key} was accepted and must not be")
        if not wrong and refusals:
            self.contradictions.append(f"{key} was refused ({refusals}) and must not be")
        self.book[key] = {
            "channel": charge.channel_id.hex(),
            "amount": charge.amount,
            "accepted": bool(totals),
            "charged": totals.pop() if totals else 0,
        }


async def main() -> None:
    """Trade until the parent says that it is enough, then show the book."""
    settings = settings_of_child()
    shop = Shop(settings)
    say({"ready": True})
    await asyncio.to_thread(hear)
    trading = asyncio.create_task(shop.trade(settings["at_once"]))
    await asyncio.to_thread(hear)
    shop.stopping = True
    await trading
    say({"book": shop.book, "contradictions": shop.contradictions})


if __name__ == "__main__":
    asyncio.run(main())
