"""The scheme `deferred`: charges on an account's channels, claimed later (docs/design.md §3).

`terms` are the rules that need no I/O, `channels` makes channels known, `payments` verifies and settles them,
`calls` checks what payers sign, `accounts`, `deposits` and `refunds` are what payers do.
"""
