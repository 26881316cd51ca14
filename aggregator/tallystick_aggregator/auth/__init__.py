"""Who may do what, and how much of it.

credentials  sellers' tokens, in a file of their own
principals   who calls, by token, and for which receivers
rate_limits  how often
gas_budgets  how much of the operator's gas, by kind of transaction and by payer
"""
