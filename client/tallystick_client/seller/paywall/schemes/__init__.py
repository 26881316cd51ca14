"""The schemes that the paywall takes, a module each: nobody else in it tells one from another.

port              what a scheme says of itself, and the payment that it reads
deferred          from the payer's deposit: the aggregator reserves the amount, then takes it or a part
batch_settlement  the standard's: by vouchers, in a channel of each payer to this seller
exact             a transfer of its own, for all that the payer signed
upto              a transfer of what was used, up to what the payer signed
permit2           what exact and upto share: payments by Permit2
other             what only the aggregator reads: its payments are passed on as they are
"""

from collections.abc import Sequence
from typing import Final

from tallystick_client.seller.paywall.schemes.batch_settlement import BatchSettlementScheme
from tallystick_client.seller.paywall.schemes.deferred import DeferredScheme
from tallystick_client.seller.paywall.schemes.exact import ExactScheme
from tallystick_client.seller.paywall.schemes.other import OtherScheme
from tallystick_client.seller.paywall.schemes.port import Scheme
from tallystick_client.seller.paywall.schemes.upto import UptoScheme

SCHEMES: Final[Sequence[Scheme]] = (DeferredScheme(), BatchSettlementScheme(), ExactScheme(), UptoScheme())
"""Those that are registered, in the order in which a 402 offers them: the first cost both sides least."""


def scheme_of(name: str, schemes: Sequence[Scheme] = SCHEMES) -> Scheme:
    """The scheme of this name; one that is not registered is left to the aggregator."""
    return next((scheme for scheme in schemes if scheme.name == name), None) or OtherScheme(name)
