"""The way of a charge: gather a batch, cheap checks first, then proofs, then one decision and one commit for all.

`payments` are the unchecked ones, `proofs` turns them into proven ones, `writer` is the ledger's only writer,
`intake` is what edges and schemes call, `upkeep` what timers do.
"""

from tallystick_aggregator.intake.intake import Intake
from tallystick_aggregator.intake.payments import UncheckedPayment, UncheckedSpendProof
from tallystick_aggregator.intake.writer import LedgerWriter

__all__ = ["Intake", "LedgerWriter", "UncheckedPayment", "UncheckedSpendProof"]
