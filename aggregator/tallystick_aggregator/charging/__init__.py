"""The way of a charge: gather a batch, cheap checks first, then proofs, then one decision and one commit for all.

batcher       what edges and schemes call
turns         in which order batches by voucher are decided
steps         payments of batch-settlement, which come one at a time on a channel
verification  from unchecked payments to proven ones
signatures    checks of vouchers, on threads or in processes of their own (signature_processes)
writer        the ledger's only writer
maintenance   what timers do: expiry, forgetting, checkpoints
port          what the rest asks of the writer

An unchecked payment is as it came from an edge, which has checked its lengths and ranges, and that the caller may
charge the channel; nothing more is known of it. Its spend proof is an HMAC that was not checked yet (docs/design.md §6,
rule 2b). The names keep both apart from the ledger's proven ones.
"""

from tallystick.charges import Charge as UncheckedPayment
from tallystick.spend_keys import SpendProof as UncheckedSpendProof
from tallystick_aggregator.charging.batcher import PaymentBatcher
from tallystick_aggregator.charging.steps import Steps
from tallystick_aggregator.charging.writer import LedgerWriter

__all__ = ["LedgerWriter", "PaymentBatcher", "Steps", "UncheckedPayment", "UncheckedSpendProof"]
