"""A network through its JSON-RPC endpoints.

node          fail-over, and each question asked as often as it needs
endpoint      one endpoint, and what was learned of it
agreement     what several endpoints say alike
pinned_reads  reads of one block, by hash or by number
log_search    events over ranges; log_range how wide a range may be; block_events of single blocks; bloom their filter
answers       what endpoints answer, read strictly
"""
