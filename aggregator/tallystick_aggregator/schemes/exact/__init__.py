"""The scheme `exact`: one transfer a payment, for payers without a deposit (x402's own scheme on EVM chains).

scheme          the scheme: what it offers and takes
payments        verify, settle and release, which `upto` shares
preconditions   what must hold for a transfer to settle, and what it may burn
claims          whose a payment is: one receiver, one request, one attempt
served          which payments are being served by callers that name no attempt
approvals       approvals of Permit2 that are paid for, in a bundle
counterfactual  payers whose wallet is deployed by their first payment (ERC-6492)
permit2         what payments by Permit2 need besides: spender, allowance, permits
payloads        which way of moving tokens a payment in x402's JSON uses
authorizations  what the payer signed, and what of it needs no chain to check
"""

from tallystick_aggregator.schemes.exact.claims import Claims
from tallystick_aggregator.schemes.exact.scheme import ExactPayments

__all__ = ["Claims", "ExactPayments"]
