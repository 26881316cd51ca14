"""The ways to pay, a folder each: its payments' codec, verify, settle and release.

port      what a scheme is to everybody else; outside of this package nobody tells schemes apart
deferred  charges on an account's channels, claimed later
exact     one transfer a payment
upto      one transfer of what was used, up to what was signed
"""
