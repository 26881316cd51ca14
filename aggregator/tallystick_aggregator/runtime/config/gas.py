"""The `[gas]` table of the configuration: what payers may make the operator spend (schemes.budgets)."""

from typing import Final

import msgspec

from tallystick_aggregator.auth.gas_budgets import GAS_TYPICAL, STRANGERS_PERCENT, GasLimits
from tallystick_aggregator.chain.settings import ConfigurationError
from tallystick_aggregator.runtime.config.errors import between
from tallystick_aggregator.store.port import TransactionKind

GAS_PER_HOUR_MAX: Final = 10**12
PER_PAYER_MAX: Final = 1_000_000
_DEFAULTS: Final = GasLimits()


class GasSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What the operator pays for on each network in any hour, in gas or in transactions; 0: no limit."""

    deposit_gas_per_hour_max: int = _DEFAULTS.deposit_gas_per_hour_max
    refund_gas_per_hour_max: int = _DEFAULTS.refund_gas_per_hour_max
    exact_gas_per_hour_max: int = _DEFAULTS.exact_gas_per_hour_max
    deposits_per_payer_hour_max: int = _DEFAULTS.deposits_per_payer_hour_max
    refunds_per_payer_hour_max: int = _DEFAULTS.refunds_per_payer_hour_max
    refunds_unpaid: bool = _DEFAULTS.refunds_unpaid

    def limits(self) -> GasLimits:
        """The same as the schemes take it. Raises ConfigurationError."""
        for name, kind in (
            ("deposit_gas_per_hour_max", TransactionKind.DEPOSIT),
            ("refund_gas_per_hour_max", TransactionKind.REFUND),
            ("exact_gas_per_hour_max", TransactionKind.EXACT),
        ):
            value = getattr(self, name)
            # One transaction of a payer that has never paid must fit, or none would ever begin.
            least = -(-GAS_TYPICAL[kind] * 100 // STRANGERS_PERCENT)
            if value and not least <= value <= GAS_PER_HOUR_MAX:
                raise ConfigurationError(
                    f"gas.{name}: got {value}, allowed {least} to {GAS_PER_HOUR_MAX}, or 0 for no limit"
                )
        for name in ("deposits_per_payer_hour_max", "refunds_per_payer_hour_max"):
            between(0, getattr(self, name), PER_PAYER_MAX, f"gas.{name}")
        return GasLimits(
            self.deposit_gas_per_hour_max,
            self.refund_gas_per_hour_max,
            self.exact_gas_per_hour_max,
            self.deposits_per_payer_hour_max,
            self.refunds_per_payer_hour_max,
            refunds_unpaid=self.refunds_unpaid,
        )
