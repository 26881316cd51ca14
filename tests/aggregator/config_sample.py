"""A configuration that fits together, for tests to spoil."""

KEYS = {"operator": "11" * 32, "sender": "22" * 32}
ESCROW = "0x" + "e5" * 20
TOKEN = "0x" + "70" * 20

GOOD = f"""\
[server]
listen = "127.0.0.1:0"

[store]
path = "books/tallystick.db"

[settlement]
interval_s = 3600

[limits]
reservation_s = 300

[[chain]]
network = "eip155:31337"
rpc_urls = ["http://127.0.0.1:8545"]
escrow = "{ESCROW}"
operator_key = "file:operator.key"
sender_key = "file:sender.key"

[[chain.token]]
address = "{TOKEN}"
symbol = "USDC"
decimals = 6
name = "USD Coin"
version = "2"
min_deposit = "1000"
"""
