"""Payments as they come from an edge: well-formed, and nothing more is known of them.

The edge has checked lengths and ranges, and that the caller may charge the channel. The names keep them apart from the
ledger's proven ones.
"""

from tallystick.charges import Charge
from tallystick.spend_keys import SpendProof

UncheckedPayment = Charge
UncheckedSpendProof = SpendProof
"""An HMAC that was not checked yet (docs/design.md §6, rule 2b)."""
