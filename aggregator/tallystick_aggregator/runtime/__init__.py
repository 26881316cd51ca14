"""The process: configuration, wiring, start and stop.

cli, deploy       the operator's commands
serve, app        the whole aggregator, put together
config            the configuration file
foreign_accounts  what keeps it from starting: accounts that it does not serve
http_edge         the HTTP edge, where it is configured
health, logs      what it tells of itself
"""
