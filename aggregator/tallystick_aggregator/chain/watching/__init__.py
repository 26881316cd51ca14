"""The ledger's mirror of the escrow.

watcher    one look at the chain
scanning   events, each confirmed
reading    accounts, each confirmed, and every one in its turn
mirror     what the ledger takes over (pure)
credit     what raises credit is held back until it is explained; explained (pure) and tracing say how;
           it tells of accounts that hold less than is committed
history    events of an account further back
"""
