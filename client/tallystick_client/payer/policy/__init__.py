"""What a wallet may do, checked before anything is signed.

operators  whom it may deposit with: the allow-list that no 402 can widen
budgets    what it may spend, per request, host, day and in all
offers     which of a 402's offers may be taken; answers what an answer says about its payment
"""
