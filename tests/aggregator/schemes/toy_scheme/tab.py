"""A scheme in one folder: payers run a tab with the aggregator, and a payment is a line of it with a secret."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tallystick.errors import MalformedError
from tallystick.facilitator import Kind, Settled, Verified
from tallystick.hexadecimal import parse_address
from tallystick.reasons import Reason
from tallystick.tokens import Token
from tallystick.x402 import PaymentPayload, PaymentTerms
from tallystick_aggregator.accounts.offers import amount_is
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.port import PAYLOAD, Caller


@dataclass(frozen=True)
class Line:
    """What a payer signs, in this toy by knowing its secret."""

    payer: bytes
    number: int
    amount: int
    secret: str


@dataclass
class TabScheme:
    """Verify holds, settle takes, release gives back. A line is one attempt's until it is given back."""

    network: str
    token: Token
    secrets: Mapping[bytes, str]
    """By payer."""
    limit: int
    spent: dict[bytes, int] = field(default_factory=dict)
    held: dict[tuple[bytes, int], Caller] = field(default_factory=dict)
    taken: dict[tuple[bytes, int], Caller] = field(default_factory=dict)
    name = "tab"
    is_settled_by_bearer = False

    def __post_init__(self) -> None:
        self.verify_forms = self.settle_forms = {PAYLOAD: read_line}

    async def kinds(self) -> Sequence[Kind]:
        return [Kind(self.name, self.network, [self.token], extra={"limit": str(self.limit)})]

    def payer_of(self, line: Line) -> bytes:
        return line.payer

    async def verify(self, terms: PaymentTerms, line: Line, caller: Caller) -> Verified | Refusal:
        refusal = self._refusal(terms, line, caller)
        if refusal is not None:
            return refusal
        if (line.payer, line.number) not in self.taken:
            self.held[line.payer, line.number] = caller
        return Verified(line.payer)

    async def settle(self, terms: PaymentTerms, line: Line, caller: Caller) -> Settled | Refusal:
        refusal = self._refusal(terms, line, caller)
        if refusal is not None:
            return refusal
        key = line.payer, line.number
        self.held.pop(key, None)
        if key not in self.taken:
            self.taken[key] = caller
            self.spent[line.payer] = self.spent.get(line.payer, 0) + line.amount
        return Settled(line.payer, line.amount)

    async def release(self, terms: PaymentTerms, line: Line, caller: Caller) -> Settled | Refusal:
        refusal = self._refusal(terms, line, caller)
        if refusal is not None:
            return refusal
        self.held.pop((line.payer, line.number), None)
        return Settled(line.payer, 0, replayed=(line.payer, line.number) in self.taken)

    def _refusal(self, terms: PaymentTerms, line: Line, caller: Caller) -> Refusal | None:
        """Why this caller cannot have this line."""
        if self.secrets.get(line.payer) != line.secret:
            return Refusal(Reason.CALL_SIGNATURE, "This is not the payer's secret.", "secret")
        if self.taken.get((line.payer, line.number), caller) != caller:
            return Refusal(Reason.PAYMENT_USED, "The line was paid for something else.", "number", str(line.number))
        if self.held.get((line.payer, line.number), caller) != caller:
            return Refusal(Reason.PAYMENT_PENDING, "The line is being used.", "number", str(line.number))
        if (line.payer, line.number) not in self.taken and self.spent.get(line.payer, 0) + line.amount > self.limit:
            return Refusal(Reason.INSUFFICIENT_FUNDS, "The tab is full.", "amount", str(line.amount), str(self.limit))
        return amount_is(terms, line.amount)


def read_line(message: PaymentPayload) -> Line:
    """Read a line from x402's JSON."""
    payload: dict[str, Any] = message.payload
    number, amount, secret = payload.get("number"), payload.get("amount"), payload.get("secret")
    if not isinstance(number, int) or not isinstance(amount, int) or not isinstance(secret, str):
        raise MalformedError("payload", payload, "a number, an amount and a secret")
    return Line(parse_address(payload.get("payer", ""), "payload.payer"), number, amount, secret)
