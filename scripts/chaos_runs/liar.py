"""Who makes the endpoints lie, one lie at a time, and looks whether the aggregator notices.

A lie is armed at both endpoints, is told by whichever is asked first, and once. The next one is armed only when this
one was noticed, or has had its time, and the alarms are quiet again: an alarm is never put down to two lies.

A lie is noticed if within NOTICE_S an alarm is out that names the endpoint which told it, or what it was about: the
account, the channel, the transaction.

Which lies mattered
-------------------
A lie mattered if the aggregator acts on what was falsified, and did receive it:
- the answer was sent whole to a caller that had not hung up;
- it differed from the node's own answer to the same question, at the same moment;
- it was about what the aggregator acts on: events of an account of ours; balance, pending withdrawal or payout of an
  account or channel of ours; the receipt of a transaction of the aggregator's own; the chain's head.
Two kinds of answers are left out, because what is falsified in them is not what they were asked for. While a payer's
refund or gasless deposit is under way, its account is read for nonces and for its existence: then no lie about that
account is told. And the newest block is asked for its base fee, too: a false head that comes together with a question
for fees at the same endpoint counts as one that did not matter. Answers that are lost, late, doubled or refused are no
lies: they never matter here, and the books show whether they did harm.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from chaos_runs.alarms import Alarms
from rpc_faults import Delay, Drop, Duplicate, FaultProxy, Made, Rule, lies, limits

NOTICE_S: Final = 15.0
"""Within so many seconds of the wall's clock an alarm has to be out."""
ARMED_S: Final = 10.0
"""For so long a lie waits for its question."""
QUIET_S: Final = 1.0
"""No alarm for so long: the ones that there were belong to what was before."""
QUIET_TIMEOUT_S: Final = 10.0
PAUSE_S: Final = (0.2, 1.5)
FEES_S: Final = 0.2
"""A question for fees asks for the tip within this time after the newest block."""
_EARLY_S: Final = 0.2
"""The journal's entry is made right after the answer has left: an alarm may be that much quicker."""
_FEES: Final = frozenset({"eth_maxPriorityFeePerGas", "eth_feeHistory", "eth_gasPrice"})
_FAULTS: Final = frozenset({"lost question", "lost reply", "late", "twice", "rate limited"})
"""What is wrong with an answer, and is no lie."""
_TRANSACTIONS: Final = frozenset({"eth_sendRawTransaction", "eth_getTransactionReceipt"})


@dataclass(slots=True)
class Targets:
    """What is lied about: live sets, which whoever trades keeps up to date."""

    escrow: bytes
    accounts: set[bytes] = field(default_factory=set)
    """All accounts of ours, those that are opened next included."""
    readable: set[bytes] = field(default_factory=set)
    """Those of which neither a refund nor a gasless deposit is under way."""
    channels: set[bytes] = field(default_factory=set)


@dataclass(slots=True)
class Told:
    """One lie that was told, whether it mattered, and the first alarm about it that followed."""

    made: Made
    mattered: bool
    alarm: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self.made.as_dict() | {"mattered": self.mattered, "alarm": self.alarm}


class Liar:
    """Tells lies until it is stopped; `told` has them all, `lies` counts them by kind, other faults included."""

    def __init__(self, proxies: Sequence[FaultProxy], targets: Targets, alarms: Alarms, chance: random.Random) -> None:
        self._proxies = proxies
        self._targets = targets
        self._alarms = alarms
        self._chance = chance
        self._makes = self._kinds()
        self._order: list[int] = []
        self.told: list[Told] = []
        self.lies: Counter[str] = Counter()
        self.in_vain: Counter[str] = Counter()
        """Lies that waited for a question which never came."""
        self.credited: set[float] = set()
        """Times of the alarms that followed a lie in time."""

    @property
    def unnoticed(self) -> list[Told]:
        """The lies that mattered and that no alarm followed."""
        return [one for one in self.told if one.mattered and not one.alarm]

    def mattered(self) -> Counter[str]:
        """How many mattered, by kind."""
        return Counter(one.made.kind for one in self.told if one.mattered)

    async def lie_on(self) -> None:
        """Lie until cancelled. Every kind has its turn before one comes again."""
        while True:
            if not self._order:
                self._order = self._chance.sample(range(len(self._makes)), len(self._makes))
            await self._tell(self._makes[self._order.pop()]())
            await asyncio.sleep(self._chance.uniform(*PAUSE_S))

    def stop(self) -> None:
        """Have the endpoints tell the truth from now on."""
        for proxy in self._proxies:
            proxy.clear()

    # One lie.

    async def _tell(self, rule: Rule) -> None:
        await self._until_quiet()
        before = [len(proxy.journal) for proxy in self._proxies]
        for proxy in self._proxies:
            proxy.add(rule)
        try:
            async with asyncio.timeout(ARMED_S):
                await rule.made.wait()
        except TimeoutError:
            self.in_vain[rule.kind] += 1
            return
        finally:
            for proxy in self._proxies:
                proxy.remove(rule)
        made = [
            entry
            for proxy, count in zip(self._proxies, before, strict=True)
            for entry in proxy.journal[count:]
            if entry.kind == rule.kind
        ]
        self.lies[rule.kind] += len(made)
        if rule.kind in _FAULTS:
            return
        self.told += [await self._followed(entry) for entry in made]

    async def _followed(self, made: Made) -> Told:
        """Wait for the alarm that it deserves."""
        if not made.consumed or await self._is_about_fees(made):
            return Told(made, mattered=False)
        deadline, names = made.at + NOTICE_S, {self._address(made), *made.subjects()}
        while True:
            since = self._alarms.since(made.at - _EARLY_S)
            alarms = [alarm for alarm in since if alarm.at <= deadline and any(name in alarm.message for name in names)]
            if alarms:
                self.credited.update(alarm.at for alarm in alarms)
                return Told(made, mattered=True, alarm=alarms[0].message)
            if time.time() > deadline:
                return Told(made, mattered=True)
            await asyncio.sleep(0.05)

    async def _is_about_fees(self, made: Made) -> bool:
        if made.question.method != "eth_getBlockByNumber":
            return False
        await asyncio.sleep(FEES_S)
        return any(
            made.at - FEES_S <= at <= made.at + FEES_S and question.method in _FEES
            for at, question in self._proxy(made).asked
        )

    def _address(self, made: Made) -> str:
        """Host and port: an alarm shows no path, because it is a secret."""
        return urlsplit(self._proxy(made).url).netloc

    def _proxy(self, made: Made) -> FaultProxy:
        return next(proxy for proxy in self._proxies if proxy.name == made.endpoint)

    async def _until_quiet(self) -> None:
        deadline = time.time() + QUIET_TIMEOUT_S
        while self._alarms.since(time.time() - QUIET_S) and time.time() < deadline:  # noqa: ASYNC110 - it is a file
            await asyncio.sleep(0.1)

    def _kinds(self) -> list[Callable[[], Rule]]:
        targets, chance = self._targets, self._chance

        def amount() -> int:
            return 10 ** chance.randint(3, 12)

        return [
            lambda: lies.empty_logs(targets.accounts),
            lambda: lies.empty_logs(targets.accounts, event="WithdrawInitiated"),
            lambda: lies.inflated_balance(targets.escrow, targets.readable, amount()),
            lambda: lies.inflated_claimed(targets.escrow, targets.channels, amount()),
            lambda: lies.hidden_withdrawal(targets.escrow, targets.readable),
            lies.made_up_receipt,
            lambda: lies.made_up_receipt(drop=False),
            lies.failed_receipt,
            lambda: lies.head_far_ahead(chance.choice((2, 100, 10_000))),
            lies.forked_head,
            lambda: Rule("lost question", Drop(), times=3, share=0.5),
            lambda: Rule("lost reply", Drop(reaches_node=True), _TRANSACTIONS, times=2),
            lambda: Rule("late", Delay(chance.uniform(0.2, 3.0)), times=3, share=0.5),
            lambda: Rule("twice", Duplicate(), times=5, share=0.5),
            lambda: limits.rate_limited(times=5, share=0.5),
        ]
