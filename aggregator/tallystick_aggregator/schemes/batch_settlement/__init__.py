"""The standard scheme `batch-settlement`, on the canonical contract: a channel is an account with one receiver.

payments      x402's verbs: who manages the vouchers, and what kind of payload it is
requests      what is asked, and whether it fits the seller's terms
vouchers      those that the facilitator manages: hold a channel, charge it, give it free
snapshots     what answers tell of a channel
reason_codes  the standard's codes for our reasons
"""

from tallystick_aggregator.schemes.batch_settlement.payments import BatchSettlementPayments

__all__ = ["BatchSettlementPayments"]
