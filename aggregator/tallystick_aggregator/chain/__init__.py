"""One network: reads what the escrow holds into the ledger, and sends what the aggregator has to send.

`port` is what the rest asks of a chain, `chain` puts it together, `settings` is what it is configured with. `node` is
what is asked of an Ethereum node: `rpc` over JSON-RPC, `memory` as a twin. `deferred_escrow` and `token` are the
contracts, `escrow_calls` their calldata and events, `reverts` their errors. `watcher` looks (its decision is `mirror`),
`sender` sends (`transactions` signs, `nonces` finds lost ones), `tasks` keeps both going.
"""
