"""The process: configuration, wiring, start and stop.

cli, deploy   the operator's commands
serve, app    the whole aggregator, put together
config        the configuration file
health, logs  what it tells of itself
"""
