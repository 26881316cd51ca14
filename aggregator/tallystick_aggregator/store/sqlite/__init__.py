"""The store on SQLite.

store       the hot path, and when its checkpoints do what
database    the file: one statement to a transaction, every failure told for what it is
schema      tables and migrations
loading     start-up: the last checkpoint and the log after it
checkpoint  the statements of a checkpoint, in small portions
outbox      the transactions that are sent
lock        one process at a time
"""
