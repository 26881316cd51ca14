"""What the operator transfers at its own expense, besides the gas budget: configured, and advertised to sellers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """`amount_min` in atomic units of whichever token; the counts are of an hour, 0: any number.

    `erc6492_factories`: who may be called to deploy a payer's wallet; with none, such payers are refused.
    """

    enabled: bool = True
    amount_min: int = 0
    per_receiver_hour_max: int = 0
    erc6492_factories: frozenset[bytes] = frozenset()


NO_LIMITS = TransferLimits()
