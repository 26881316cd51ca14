"""What a request cost, as a transport tells its caller."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tallystick_client.payer.policy.offers import Offer


class HasExtensions(Protocol):
    """A response of httpx2 or httpx."""

    @property
    def extensions(self) -> Mapping[str, Any]:
        """What transports note on a response."""
        ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a request cost; given by `payment_of(response)`. Amounts in atomic units of the offer's token.

    `charged` is None where no answer says it. `transaction` is empty but for `exact`.
    """

    scheme: str
    offer: Offer
    amount: int
    charged: int | None
    payment_id: str = ""
    transaction: str = ""


def payment_of(response: HasExtensions) -> Receipt | None:
    """What the request of this response cost; None where no payment was sent with it."""
    receipt = response.extensions.get("payment")
    return receipt if isinstance(receipt, Receipt) else None
