"""The protocol of Tallystick: what payer, seller and aggregator share.

Pure code without I/O (except `keys`, which reads key files): amounts, channels, vouchers, EIP-712, signatures, x402
messages, reasons. It imports no server, no web3 and no asyncio. The words are those of docs/concepts.md.
"""
