"""The paywall.

paywall           the ASGI middleware
rules, pricing    which requests cost what; paths every reading of a path
offers            what a 402 says
incoming_payment  a payment as it came with a request
payment_flow      one sale, from its verification to its last byte; state what all sales share
unneeded          payments for what costs nothing
response_cache    answers kept for a payer whose connection broke; unserved pages that were paid and not delivered
bodies            bodies that are read ahead, within a bound
responses         answers in the paywall's own name, and receipts
asgi              the two ends of an ASGI request
paid              what a handler knows of its payment
"""
