"""The transport.

transport    httpx's transport over a wallet
purchases    one request that may be paid for; bodies whether its body can be sent twice
price_cache  what is known of prices
sending      the same payment, again, until it is decided
unfinished   payments of a try that ended without an answer
receipts     what an answer says about its payment
"""
