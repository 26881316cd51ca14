"""For payers: a wallet that keeps the book of its deposits, and a transport that answers 402s by itself.

policy  what a wallet may do: operators, budgets, which offers may be taken
wallet  the book, grants, deposits, spend keys, reconciling; the schemes
http    the transport: what it remembers of prices, when it sends again
fleet   a wallet served to many workers
cli     the payer's commands of `tallystick`

errors says what a wallet says no to; recent is a dictionary with a bound; retries are of calls that may be repeated;
texts show amounts to people. A new scheme: wallet.schemes.
"""
