"""The ledger: who may still spend what, and why. Pure: no clock, no random, no I/O.

`state` holds accounts, channels and payments; `events` what can happen to them; `draft` applies events to copies
(`overlay`) that replace the originals only after the journal has them; `decide`, `accounts` and `approvals` turn
commands into events or refusals by `rules`; `refusals` has their texts; `invariants` says what must always hold.
"""
