"""The ledger: who may still spend what, and why. Pure: no clock, no random, no I/O.

`state` holds accounts, channels and payments, made of `values`; `events` what can happen to them; `draft` applies
events to copies (`overlay`) that replace the originals only after the journal has them; `decide`, `accounts` and
`approvals` turn commands into events or refusals by `rules`, `batch` those of charges that come together; `answers` is
what is said then, `refusals` has the texts; `invariants` says what must always hold.
"""
