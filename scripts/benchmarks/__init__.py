"""What the benchmarks are made of: real processes on 127.0.0.1, bounded in count and time, ended by their id.

`world` names payers and channels, `pool` signs charges ahead of time, `server` is the aggregator under test, `load`
the sellers that use it, `official` and `official_load` the same for the x402 package, `yardstick` what the processor
could do if it did nothing but check signatures. `scenarios` says what is measured, `intake` runs it, `report` and
`plot` show it.
"""
