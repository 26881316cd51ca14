"""The store: what happened, durable before anybody hears of it, and the ledger that came of it, loaded at start.

port          what the rest asks of it, and its errors
opening       opens a store by its URL; where another store is registered
sqlite        the store on SQLite: one statement a commit; checkpoints; recall; the outbox in the same file
memory        twins for tests and the simulation, which fail on demand
events, rows, transactions    the stored form of events, of state and of the outbox, over `binary`
eviction      which payments stay in memory, and what waits for a checkpoint
"""
