"""The one sender of transactions of a network.

sender        journals, sends, follows, replaces, repairs
bidding       what a transaction bids, and its gas limit (pure)
trial         what a call would do and cost, before it is sent
waiters       who waits for a transaction
bundles       payers' approvals together with their settlements; bundle_memo how one is kept
nonces        who used one, and which is free
gas_meter     how much gas the last hour took, by kind and payer
"""
