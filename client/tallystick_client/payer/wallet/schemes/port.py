"""What a scheme is on the payer's side, and what it finds there.

A `Scheme` says which offers it takes and makes payments for them with what a `Payer`, a wallet, has to pay with. An
`OutgoingPayment` is one of its payments: a header to send, and what is made of its answer. The transport sends it,
again if need be, and asks it; it knows nothing else of the scheme.

A new scheme is a class for each, given to `Wallet.open` as one of its `schemes`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import msgspec

from tallystick.errors import Described, MalformedError
from tallystick.quantities import PaymentId
from tallystick.reasons import Reason
from tallystick.tokens import Permit2Approval
from tallystick.x402 import (
    PAYMENT_IDENTIFIER,
    ExactAuthorization,
    PaymentPayload,
    PaymentRequirements,
    encode_header,
    payment_identifier_extension,
)
from tallystick.x402.messages import Message, as_object
from tallystick_client.payer.policy.answers import Answer, is_unfinished, says_released, told_charge
from tallystick_client.payer.policy.offers import Means, Offer, Offered, OfferRules
from tallystick_client.payer.wallet.grants import Grants
from tallystick_client.payer.wallet.permit_turns import PermitTurns
from tallystick_client.payer.wallet.rows import SellerChannel
from tallystick_client.payer.wallet.seller_channels import SellerChannels

ECHO_BYTES_MAX: Final = 4_096
"""What a payment repeats of its 402 at most; of more, nothing: servers refuse long headers."""
KEPT_S: Final = 172_800.0
"""How long a payment is worth sending again: as long as its payment id is taken, by the aggregator's default."""


class Order(NamedTuple):
    """What a payment is for: a request at a host. `url`: where it is, empty where nobody says.

    `clock`: seconds since the epoch. `payment_id`: of an earlier payment of the same request that was refused, where
    the scheme charges both once.
    """

    host: str
    request_hash: bytes
    clock: Callable[[], float]
    payment_id: PaymentId | None = None
    url: str = ""


class Outcome(NamedTuple):
    """What an answer made of a payment.

    `charged`: in atomic units, None where the answer does not say. `is_open`: the next try of the same request sends
    the same payment again. `transaction`: what the seller says moved it, empty where no transaction of its own did.
    `returned`: what a refund brought back, in atomic units.
    """

    charged: int | None
    is_open: bool
    transaction: str = ""
    returned: int = 0


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
        """Enter that it was given back, or never left (`was_sent`); whether the next try is to send it: unless this
        enters that it costs nothing, it counts as spent, and another one would count again.
        """
        del was_sent
        return True

    def lost(self) -> None:
        """Enter that no answer came: nobody knows what became of it. The next try sends it again."""

    def answered(self, answer: Answer) -> Outcome:
        """Enter what the answer says about it."""
        return Outcome(told_charge(answer, self.amount), is_unfinished(answer))

    @property
    def is_spent(self) -> bool:
        """Whether its refusal shows that it was charged all the same: then its request is not paid for again."""
        return False

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


@runtime_checkable
class AsksSellers(Protocol):
    """A scheme whose deposits the sellers give back."""

    async def ask_back(
        self, payer: "Payer", asked: Offered, channel: SellerChannel, clock: Callable[[], float]
    ) -> OutgoingPayment | None:
        """A request for what is left in a channel, to be sent where the seller asked for a payment; None where this
        402 has no offer for the channel.
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

    @property
    def channels(self) -> SellerChannels | None:
        """What is paid from channels with one seller alone; None where another process has the wallet's book."""
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

    @property
    def permit_turns(self) -> PermitTurns:
        """Who may sign the next permit of a token."""
        ...

    async def permit2_approval(self, offer: Offer, host: str) -> Permit2Approval | None:
        """How far Permit2 may move the offer's token for this payer; None where the aggregator does not tell, because
        it is not reached, does not move the token so, or is of an older version.

        Raises BalanceTooLowError where the payer holds less than the offer's amount.
        """
        ...

    async def recover_from(self, offer: Offer, reason: Reason, host: str = "", key_id: bytes = b"") -> bool:
        """Do what can be done about a refusal at this host; whether the payment is worth another try.

        `key_id`: of the spend key that proved the refused payment.
        """
        ...


class _Payment(Message, frozen=True, kw_only=True):
    """x402's PaymentPayload with its resource as the 402 had it, keys that we do not know included."""

    x402_version: int
    payload: dict[str, Any]
    accepted: PaymentRequirements
    resource: Mapping[str, Any] | None = None
    extensions: Mapping[str, Any]


def payment_header(
    offer: Offer, payload: dict[str, Any], payment_id: bytes, added: Mapping[str, Any] | None = None
) -> str:
    """The value of a PAYMENT-SIGNATURE header. It repeats the 402's `resource` and `extensions`, and names itself.

    `added`: further entries of its `extensions`; their `info` goes into what the 402 declares under their names.
    """
    named, added = payment_identifier_extension(payment_id), added or {}
    resource, extensions = offer.echo
    is_empty = resource is None and extensions is None
    if is_empty or len(msgspec.json.encode(offer.echo)) > ECHO_BYTES_MAX:
        return encode_header(PaymentPayload(payload=payload, accepted=offer.accepted, extensions={**named, **added}))
    declared = extensions or {}
    theirs = as_object(declared.get(PAYMENT_IDENTIFIER))
    if theirs:
        ours = as_object(named[PAYMENT_IDENTIFIER].get("info"))
        named = {PAYMENT_IDENTIFIER: {**theirs, "info": {**ours, **as_object(theirs.get("info")), "id": ours["id"]}}}
    completed = {name: _completed(as_object(declared.get(name)), entry) for name, entry in added.items()}
    merged = {**declared, **named, **completed}
    payment = _Payment(x402_version=2, payload=payload, accepted=offer.accepted, resource=resource, extensions=merged)
    return encode_header(payment)


def _completed(declared: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**declared, "info": {**as_object(declared.get("info")), **entry["info"]}}


def by_name(schemes: Sequence[Scheme]) -> dict[str, Scheme]:
    """The schemes as a wallet has them. Raises MalformedError where two have one name, or there is none."""
    found = {scheme.name: scheme for scheme in schemes}
    if not found or len(found) != len(schemes):
        names = Described(", ".join(scheme.name for scheme in schemes) or "none")
        raise MalformedError("schemes", names, "at least one, each with a name of its own")
    return found
