"""Three books of the same trade, kept by three parties, and what is wrong if they differ. Pure.

The sellers' own book says what they saw accepted; the ledger, what the aggregator says that it charged; the chain, what
the escrow paid and still holds, read from its events by a node that nobody stands in front of.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AccountBooks:
    """One payer's account; the mappings go by receiver, all amounts in atomic units."""

    name: str
    accepted: Mapping[bytes, int]
    charged: Mapping[bytes, int]
    claimed: Mapping[bytes, int]
    balance: int
    """What the escrow holds of it now: what can still be claimed."""


@dataclass(frozen=True, slots=True)
class ExactBooks:
    """One exact payment: what its seller was told in the end (None: nothing that stands), and whether it landed."""

    receiver: bytes
    amount: int
    accepted: bool | None
    landed: bool


@dataclass(slots=True)
class Verdict:
    """What the books come to, in atomic units.

    `lost`: accepted, not paid, and not to be paid any more; or paid for by a transfer of its own, and refused.
    `doubled`: charged or paid beyond what was accepted. `unsettled`: accepted and not paid yet, though it can be.
    """

    lost: int = 0
    doubled: int = 0
    unsettled: int = 0
    details: list[str] = field(default_factory=list)

    def add(self, kind: str, amount: int, what: str) -> None:
        """Count so much as this; nothing where it is nothing."""
        if amount > 0:
            setattr(self, kind, getattr(self, kind) + amount)
            self.details.append(f"{kind} {amount}: {what}")


def compare(accounts: Iterable[AccountBooks], exact: Iterable[ExactBooks], received: Mapping[bytes, int]) -> Verdict:
    """Compare the books; `received` is what each receiver holds on chain, of which it had nothing before."""
    verdict = Verdict()
    due: Counter[bytes] = Counter()
    for account in accounts:
        left = account.balance
        for receiver in sorted({*account.accepted, *account.charged, *account.claimed}):
            accepted, claimed = account.accepted.get(receiver, 0), account.claimed.get(receiver, 0)
            due[receiver] += claimed
            channel = f"account {account.name}, receiver {receiver.hex()[:8]}"
            taken = max(account.charged.get(receiver, 0), claimed)
            verdict.add("doubled", taken - accepted, f"{channel}: taken {taken}, accepted {accepted}")
            unpaid = max(0, accepted - claimed)
            payable = min(unpaid, left)
            left -= payable
            verdict.add("unsettled", payable, f"{channel}: accepted {accepted}, paid {claimed}")
            verdict.add("lost", unpaid - payable, f"{channel}: accepted {accepted}, paid {claimed}, none left")
    for payment in exact:
        what = f"an exact payment to {payment.receiver.hex()[:8]}"
        if payment.landed:
            due[payment.receiver] += payment.amount
        if payment.accepted and not payment.landed:
            verdict.add("lost", payment.amount, f"{what} was accepted and is not on chain")
        if payment.landed and payment.accepted is False:
            verdict.add("lost", payment.amount, f"{what} was refused and is on chain")
        if payment.landed and payment.accepted is None:
            verdict.add("unsettled", payment.amount, f"{what} is on chain, and its seller has not been told")
    for receiver, amount in due.items():
        got = received.get(receiver, 0)
        verdict.add("lost", amount - got, f"receiver {receiver.hex()[:8]} got {got} of {amount} that left the payers")
        verdict.add("doubled", got - amount, f"receiver {receiver.hex()[:8]} got {got}, {amount} left the payers")
    return verdict
