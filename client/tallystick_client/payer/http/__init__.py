"""The transports.

purchase     how a request is paid for, without I/O; steps what it begins with and what it asks for
sending      how one payment is sent until an answer decides
price_cache  what is known of prices; manifests what is learned from what sites publish
unfinished   payments of a try that ended without an answer
receipts     what a request cost; refunds asking sellers for what is left in channels with them
adapter      carries the steps out, for both libraries; transport the classes for httpx2 (`tallystick_client.httpx`
             has them for httpx); background a wallet on a thread of its own, for synchronous programs
"""
