"""Turns charges into claims.

planner      what is claimed, in which batches (pure)
service      settles one escrow; settlements all of them
claiming     sends batches, learns what a chain charges, and finds the rows that would revert
withdrawals  what a withdrawal threatens, and when it is claimed (pure)
collecting   pays out what failed transfers left owed
"""
