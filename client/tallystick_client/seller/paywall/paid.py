"""What a handler may know of the payment that it works for, and the one thing that it may decide: to take less."""

from typing import Final

from tallystick.amounts import parse_price
from tallystick.errors import MalformedError
from tallystick.hexadecimal import checksum
from tallystick.quantities import Amount
from tallystick_client.seller.paywall.schemes.port import IncomingPayment

SCOPE_KEY: Final = "tallystick"


class PaidRequest:
    """The payment of a request, found in `scope["tallystick"]` (ASGI) while its handler runs."""

    __slots__ = ("_asset", "_capture", "_payment", "amount", "network", "scheme")

    def __init__(self, payment: IncomingPayment) -> None:
        terms = payment.offer.terms
        self._payment = payment
        self.amount = terms.amount
        """What the request costs at most, in atomic units of the token."""
        self.scheme = terms.scheme
        self.network = str(terms.network)
        self._asset = payment.offer.asset
        self._capture = Amount(terms.amount)

    @property
    def payer(self) -> str:
        """The payer's address, 0x-hex."""
        return checksum(self._payment.payer)

    @property
    def payment_id(self) -> str:
        """The payment id (UUIDv7), or the nonce of an exact payment, 0x-hex."""
        return self._payment.payment_id

    @property
    def captured(self) -> Amount:
        """What will be taken when the response succeeds, in atomic units."""
        return self._capture

    def capture(self, amount: int | str) -> None:
        """Take this much instead of `amount`: atomic units, or a price such as "0.0005 USDC"; nothing where zero.

        Without effect on a payment by `exact`, which transfers what its payer signed. To be called before the
        first byte of the response. Raises MalformedError on more than `amount`.
        """
        if isinstance(amount, str):
            price = parse_price(amount, self._asset.decimals, "capture")
            if price.symbol != self._asset.symbol:
                raise MalformedError("capture", amount, f"a price in {self._asset.symbol}")
            amount = price.amount
        if not 0 <= amount <= self.amount:
            raise MalformedError("capture", amount, f"from 0 to {self.amount}, what was agreed")
        if self._payment.is_reserved or self._payment.offer.scheme.takes_less:
            self._capture = Amount(amount)

    def __repr__(self) -> str:
        return f"PaidRequest(payer={self.payer}, payment_id={self.payment_id}, amount={self.amount})"
