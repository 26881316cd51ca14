"""Networks and their escrows: reads what the escrow holds into the ledger, and sends what the aggregator has to send.

port             what the rest asks of a chain, and of an escrow's binding; settings is what it is configured with
token_port       the same of its tokens
chain            one escrow on its network, put together; network what the escrows of a network share
bindings         which binding an escrow has
rpc              a network through its JSON-RPC endpoints
watching         the mirror of the escrow, and what of it is believed
sending          the one sender, its bids, nonces and gas
deferred_escrow  the binding of Escrow.sol; escrow_calls its calldata and events
batch_settlement_escrow  the binding of x402's canonical contract; batch_settlement_calls its calldata and events
escrow_reads     what bindings share when they read
escrow_events    what an event means to the ledger
claim_plan       what planner and binding tell each other: rows to claim, and what they cost (pure)
token            the ERC-20 with ERC-3009
multicall        two calls in one transaction
bundle_port      what is asked of bundles; approval_transactions reads payers' part of them
landings         what became of somebody else's transactions, by their events
contradictions   one phrase for each kind of wrong answer; reads that two answers agree on
deployer         puts the escrow on a chain
node             what is asked of a node
"""
