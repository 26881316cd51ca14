"""The store: what happened, durable before anybody hears of it, and the ledger that came of it, loaded at start.

    port           what the rest asks of it, and its errors
    sqlite         the journal on SQLite: one statement a commit; checkpoints; recall
    outbox         the transactions that are sent, in the same file
    memory         twins of both for tests and the simulation, which fail on demand
    credentials    sellers' tokens, in a file of their own

What they are made of: `codec` and `rows` (the stored form of events and of state, over `binary`), `transactions` (of
the outbox), `schema` (tables and migrations), `lock` and `database` (the file, one process at a time, its failures),
`loading` (start-up), `checkpoint` (its statements), `hot` (which payments stay in memory).
"""
