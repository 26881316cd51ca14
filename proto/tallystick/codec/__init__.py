"""The one protobuf codec, for client and aggregator: each message of `v1` to and from its value, once.

common       channels, totals, refusals, and the checks that messages share
charge       charges and what became of them
facilitator  terms, payments, kinds, verified and settled payments
settlement   claim transactions
account      deposits, signed calls, totals to approve

`read_…` checks all that types do not say. What is malformed raises MalformedError, which names the field as the .proto
files do, what it held and what is allowed; nothing else is ever raised. `write_…` takes values that are in order.
Messages that one side only has a value for are written or read where that value is.
"""
