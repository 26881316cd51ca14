"""Turns charges into claims: `planner` decides what and in which batches (pure, with the figures of `gas`), `settle`
runs it for one network, `settlements` for all.
"""
