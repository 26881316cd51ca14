"""For payers: a wallet that keeps the book of its deposits, and an httpx transport that answers 402s by itself.

errors        what the wallet says no to
operators     whom it may deposit with: the allow-list that no 402 can widen
budgets       what it may spend, per request, host, day and in all
book          what was signed, granted, charged, lost: in memory, pure
store         the same on disk, before any signature leaves
grants        headroom that is spent without asking: payments in microseconds
accounts      the calls to the aggregator, signed
deposit_queue who waits for a deposit
treasury      deposits, top-ups, refunds
spend_keys    the keys that prove charges
teller        who gets how much headroom, and what must be true before
queueing      one line of payers for each seller, and the grant that serves it
lines         the grants of the wallet's own process
remedies      what is done about a seller's refusal: the aggregator is asked
reconcile     what became of payments whose answer was lost
approvals     signing the totals of the next claim, after comparing them with the book
wallet        all of it together
workers       who of a served wallet's workers holds what
serving       the wallet over gRPC
remote        a served wallet in a worker's hands
wallet_codec  the messages between them
status        the book as a program reads it
status_text   the same on a terminal
texts         amounts and times as a person reads them
offers        which of a 402's offers may be taken
exact         payments without a deposit
bodies        request bodies that can be sent twice, and those that cannot
port          what a transport needs of a wallet
prices        what the transport remembers of prices: when a payment is sent ahead
purchases     a request that may be paid for, and its copies with a payment
receipts      what an answer says about its payment
sending       the same payment, again, until an answer decides
unfinished    payments whose outcome is open, for the next try of the same request
transport     the httpx transport
commands      the payer's commands of `tallystick`
options       what they have in common
withdrawals   a step of the timed way out, for all accounts
onchain       the timed way out, by the payer's own transactions (needs the extra `chain`)
"""
