"""The scheme `exact`, over what is shared by all that move tokens by one transfer a payment (module `payments`).

Amounts must be equal, as the official SDKs demand.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tallystick.codec.facilitator import read_exact
from tallystick.facilitator import Kind, Settled, Verified
from tallystick.x402 import SCHEME_EXACT, PaymentTerms
from tallystick_aggregator.chain.port import Chain
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.exact.authorizations import Authorization
from tallystick_aggregator.schemes.exact.payloads import read_payload
from tallystick_aggregator.schemes.exact.payments import TransferPayments
from tallystick_aggregator.schemes.exact.permit2 import permit2_kinds
from tallystick_aggregator.schemes.exact.reason_codes import REASON_CODES, with_its_code
from tallystick_aggregator.schemes.port import NOBODY, PAYLOAD, Caller


class ExactPayments(TransferPayments[Authorization]):
    """The scheme `exact`: all that the payer signed, by ERC-3009 or by Permit2."""

    name = SCHEME_EXACT
    reason_codes = REASON_CODES
    verify_forms: Mapping[str, Callable[[Any], Authorization]] = {"exact": read_exact, PAYLOAD: read_payload}

    def _kinds_on(self, chain: Chain) -> Sequence[Kind]:
        offered = self._offers[chain.escrow.ref].tokens
        tokens = [token for address, token in offered.items() if chain.tokens[address].by_eip3009]
        own = [Kind(self.name, chain.network, tokens, signers=(chain.sender,))] if tokens else []
        return [*own, *permit2_kinds(self.name, chain, offered, with_approvals=True)]

    async def verify(self, terms: PaymentTerms, payment: Authorization, caller: Caller = NOBODY) -> Verified | Refusal:
        """See TransferPayments."""
        return with_its_code(payment, await super().verify(terms, payment, caller))

    async def settle(self, terms: PaymentTerms, payment: Authorization, caller: Caller = NOBODY) -> Settled | Refusal:
        """See TransferPayments."""
        return with_its_code(payment, await super().settle(terms, payment, caller))
