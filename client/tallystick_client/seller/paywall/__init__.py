"""The paywall.

payment_flow   how a request is sold, without I/O; steps what it asks for, sale what becomes of one with a payment
asgi           carries the steps out: the middleware; bodies what it reads ahead, outgoing what it holds back
manifest       what a site sells, published by itself; listing the same for the aggregator's list
rules          which requests cost what; paths every reading of a path, pricing prices that are functions
offers         what a 402 says, and the payment that meets it
schemes        what is special about a scheme
responses      answers in the paywall's own name, and receipts
response_cache answers kept for a payer whose connection broke
state          what sales share; payments given back while nobody waits, and those that paid for nothing
paid           what an application knows of its payment
"""
