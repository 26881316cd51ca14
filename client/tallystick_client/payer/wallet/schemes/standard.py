"""The schemes that a wallet has if it is told of no others, the preferred one first."""

from typing import Final

from tallystick_client.payer.wallet.schemes.batch_settlement import BatchSettlementScheme
from tallystick_client.payer.wallet.schemes.deferred import DeferredScheme
from tallystick_client.payer.wallet.schemes.exact import ExactScheme
from tallystick_client.payer.wallet.schemes.port import Scheme

STANDARD_SCHEMES: Final[tuple[Scheme, ...]] = (DeferredScheme(), BatchSettlementScheme(), ExactScheme())
