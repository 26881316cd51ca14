"""The scheme `deferred`: charges on an account's channels, claimed later (docs/design.md §3)."""
