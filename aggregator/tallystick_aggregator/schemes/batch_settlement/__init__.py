"""The standard scheme `batch-settlement`, on the canonical contract: a channel is an account with one receiver.

payments      x402's verbs: who manages the vouchers, and what kind of payload it is
requests      what is asked, and whether it fits the seller's terms
steps         a voucher on its way, and what is held and charged for it
vouchers      those that the facilitator manages: hold a channel, charge it, give it free
deposits      the same with a deposit before; fundings is what payers sign for it, locks what the ledger cannot hold
refunds       vouchers that charge nothing: claim what is charged, give the rest back
server_payments      those whose vouchers the server manages: verified against the chain, deposits landed
server_transactions  what such servers have sent for them: claims, settles, refunds
snapshots     what answers tell of a channel
port          what is asked of the chain beside what all schemes ask
reason_codes  the standard's codes for our reasons
"""

from tallystick_aggregator.schemes.batch_settlement.payments import BatchSettlementPayments, Ports
from tallystick_aggregator.schemes.batch_settlement.refunds import RefundCalls

__all__ = ["BatchSettlementPayments", "Ports", "RefundCalls"]
