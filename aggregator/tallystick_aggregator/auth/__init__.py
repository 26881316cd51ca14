"""Who may do what, and how much of it.

credentials  who calls, by token, and for which receivers; the tokens are in a file of their own
limits       how often, and how much of the operator's gas
transfer_limits which transfers the operator pays for
"""
