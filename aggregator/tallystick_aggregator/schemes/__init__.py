"""The ways to pay, each with its verify and settle in one place.

`offers` says what is accepted where, `deferred` and `exact` are the schemes, `sending` lands a transaction once, and
`failures` words what the aggregator's own state refuses.
"""
