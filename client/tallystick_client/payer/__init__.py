"""For payers: a wallet that keeps the book of its deposits, and an httpx transport that answers 402s by itself.

errors       what the wallet says no to
operators    whom it may deposit with: the allow-list that no 402 can widen
budgets      what it may spend, per request, host, day and in all
book         what was signed, granted, charged, lost: in memory, pure
store        the same on disk, before any signature leaves
grants       headroom that is spent without asking: payments in microseconds
accounts     the calls to the aggregator, signed
treasury     deposits, top-ups, refunds
spend_keys   the keys that prove charges
lines        who gets how much headroom at which seller, and when
reconcile    what became of payments whose answer was lost
approvals    signing the totals of the next claim, after comparing them with the book
wallet       all of it together
offers       which of a 402's offers may be taken
exact        payments without a deposit
bodies       request bodies that can be sent twice, and those that cannot
transport    the httpx transport
onchain      the timed way out, by the payer's own transactions (needs the extra `chain`)
"""
