"""The scheme `upto`: one transfer of what was used, up to what the payer signed (x402's own scheme on EVM chains).

payments      what it adds to exact's payments by Permit2, which it shares all else with
reason_codes  the standard's codes of its refusals
"""

from tallystick_aggregator.schemes.upto.payments import UptoPayments

__all__ = ["UptoPayments"]
