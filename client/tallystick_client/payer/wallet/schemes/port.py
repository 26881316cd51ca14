"""What a scheme is on the payer's side, and what it finds there.

A `Scheme` says which offers it takes and makes payments for them with what a `Payer`, a wallet, has to pay with. An
`OutgoingPayment` is one of its payments: a header to send, and what is made of its answer. The transport sends it,
again if need be, and asks it; it knows nothing else of the scheme.

A new scheme is a class for each, given to `Wallet.open` as one of its `schemes`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from tallystick.errors import Described, MalformedError
from tallystick.quantities import PaymentId
from tallystick.reasons import Reason
from tallystick.x402 import ExactAuthorization, PaymentPayload, encode_header, payment_identifier_extension
from tallystick_client.payer.policy.answers import Answer, is_unfinished, says_released, told_charge
from tallystick_client.payer.policy.offers import Means, Offer, OfferRules
from tallystick_client.payer.wallet.grants import Grants

KEPT_S: Final = 172_800.0
"""How long a payment is worth sending again: as long as its payment id is taken, by the aggregator's default."""


class Order(NamedTuple):
    """What a payment is for: a request at a host.

    `clock`: seconds since the epoch. `payment_id`: of an earlier payment of the same request that was refused, where
    the scheme charges both once.
    """

    host: str
    request_hash: bytes
    clock: Callable[[], float]
    payment_id: PaymentId | None = None


class Outcome(NamedTuple):
    """What an answer made of a payment.

    `charged`: in atomic units, None where the answer does not say. `is_open`: the next try of the same request sends
    the same payment again. `transaction`: what the seller says moved it, empty where no transaction of its own did.
    """

    charged: int | None
    is_open: bool
    transaction: str = ""


@dataclass(slots=True, eq=False)
class OutgoingPayment:
    """A payment that is sent with a request. Its scheme overrides what is different for it.

    `header`: the value of its PAYMENT-SIGNATURE header. `amount`: the most that it can cost, in atomic units.
    `kept_until`: until when it may be sent again, in seconds since the epoch.
    """

    offer: Offer
    header: str = field(repr=False)
    amount: int
    payment_id: PaymentId
    kept_until: float

    def patience_s(self, now_s: float) -> float:
        """For how long its seller may answer that it is under way; 0: a few times."""
        del now_s
        return 0

    def not_taken(self, *, was_sent: bool) -> bool:
        """Enter that it was given back, or never left (`was_sent`); whether the next try is to send it."""
        del was_sent
        return False

    def lost(self) -> None:
        """Enter that no answer came: nobody knows what became of it. The next try sends it again."""

    def answered(self, answer: Answer) -> Outcome:
        """Enter what the answer says about it."""
        return Outcome(told_charge(answer, self.amount), is_unfinished(answer))

    def is_void(self, answer: Answer, now_s: float) -> bool:
        """Whether, by this answer to its second try, it can no longer be taken, so that another may be made."""
        del now_s
        return says_released(answer)

    async def recover(self, payer: "Payer", reason: Reason, host: str) -> bool:
        """Do what can be done about its refusal at this host; whether a second payment is worth a try."""
        del payer, reason, host
        return False

    def recovers_again(self, reason: Reason) -> bool:
        """Whether this refusal can be recovered from more than once: each time, something else may have caused it."""
        del reason
        return False


class Scheme(OfferRules, Protocol):
    """A scheme on the payer's side. It keeps nothing of one payment; several wallets may share it."""

    @property
    def is_paid_ahead(self) -> bool:
        """Whether payments are sent before they are asked for, where the price is known: one that was not needed costs
        nothing then.
        """
        ...

    @property
    def charges_once(self) -> bool:
        """Whether two payments to one receiver with the same payment id are charged once at most: then a refused one
        may be followed by a second.
        """
        ...

    async def pay(self, payer: "Payer", offer: Offer, order: Order) -> OutgoingPayment:
        """A payment of the offer's amount; counted in all budgets, and on disk.

        Raises BudgetExceededError, and the wallet's other errors where it cannot be made.
        """
        ...


class Payer(Means, Protocol):
    """What a transport and its schemes need of a wallet, in this process or in another."""

    @property
    def schemes(self) -> Mapping[str, Scheme]:
        """By their names; those that are preferred come first."""
        ...

    @property
    def grants(self) -> Grants[Any]:
        """What is paid from the deposit."""
        ...

    async def pay_exact(self, offer: Offer, host: str) -> ExactAuthorization:
        """A payment without a deposit."""
        ...

    def note_exact(self, nonce: bytes) -> None:
        """A seller says that the transfer of this nonce was made: it is spent for good."""
        ...

    async def spend(self, offer: Offer, host: str) -> None:
        """Count the offer's amount as spent, for a scheme that pays by itself; on disk when this returns.

        Raises BudgetExceededError, BookUnavailableError.
        """
        ...

    async def recover_from(self, offer: Offer, reason: Reason, host: str = "", key_id: bytes = b"") -> bool:
        """Do what can be done about a refusal at this host; whether the payment is worth another try.

        `key_id`: of the spend key that proved the refused payment.
        """
        ...


def payment_header(offer: Offer, payload: dict[str, Any], payment_id: bytes) -> str:
    """The value of a PAYMENT-SIGNATURE header."""
    extensions = payment_identifier_extension(payment_id)
    return encode_header(PaymentPayload(payload=payload, accepted=offer.accepted, extensions=extensions))


def by_name(schemes: Sequence[Scheme]) -> dict[str, Scheme]:
    """The schemes as a wallet has them. Raises MalformedError where two have one name, or there is none."""
    found = {scheme.name: scheme for scheme in schemes}
    if not found or len(found) != len(schemes):
        names = Described(", ".join(scheme.name for scheme in schemes) or "none")
        raise MalformedError("schemes", names, "at least one, each with a name of its own")
    return found
