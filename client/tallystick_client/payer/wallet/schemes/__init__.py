"""The schemes that a wallet pays by: a module each, which knows no other one. Outside of here nobody compares names.

port              what a scheme, one of its payments and a wallet have to offer each other
deferred          from a deposit: a voucher or a spend key's proof
batch_settlement  from a deposit with the seller alone: a voucher
exact             without one: a transfer of its own
upto              without one: a transfer of what was used
permit2           what exact and upto share: payments by Permit2
standard          those that a wallet has if it is told of no others
"""
