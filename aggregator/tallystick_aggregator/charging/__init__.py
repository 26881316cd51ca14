"""The way of a charge: gather a batch, cheap checks first, then proofs, then one decision and one commit for all.

batcher       what edges and schemes call
payments      unchecked payments
verification  from unchecked payments to proven ones
signatures    checks of vouchers, on threads or in processes of their own
writer        the ledger's only writer
maintenance   what timers do: expiry, forgetting, checkpoints
port          what the rest asks of the writer
"""

from tallystick_aggregator.charging.batcher import PaymentBatcher
from tallystick_aggregator.charging.payments import UncheckedPayment, UncheckedSpendProof
from tallystick_aggregator.charging.writer import LedgerWriter

__all__ = ["LedgerWriter", "PaymentBatcher", "UncheckedPayment", "UncheckedSpendProof"]
