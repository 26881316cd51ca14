"""The wallet of one process.

wallet         all of it together
book           what was signed, granted, charged, lost: in memory, pure; of `rows`; `store` has it on disk
grants         headroom that is spent without asking, payments in microseconds, and who waits for it; local_grants has
               this process's
allocator      who gets how much headroom, and what must be true before
spend_keys     the keys that prove charges
accounts       the calls to the aggregator, signed
deposits       deposits, top-ups, refunds; deposit_queue who waits for one
approvals      signing the totals of the next claim
reconcile      what became of payments whose answer was lost
recovery       what a refused payment needs before it can be sent again
exact          payments without a deposit; balances whether the payer's address covers them
seller_channels channels with one seller alone, and deposits into them; channel_steps what their vouchers are over
status         the book as a program reads it
permit_turns   whose EIP-2612 permit of a token is the next
schemes        how it pays, a module each
timing         how long it waits for what
"""
