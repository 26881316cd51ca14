"""Payments as they come from an edge: well-formed, and nothing more is known of them."""

from tallystick_aggregator.ledger.values import Value


class UncheckedSpendProof(Value, frozen=True, gc=False):
    """An HMAC that was not checked yet (docs/design.md §6, rule 2b)."""

    key_id: bytes
    max_amount: int
    mac: bytes


class UncheckedPayment(Value, frozen=True, gc=False):
    """A payment whose proof was not checked yet.

    `payment_id` is a UUIDv7's 16 bytes; `ceiling` and `signature` are the voucher's (0 and empty: none came along). The
    edge has checked lengths and ranges, and that the caller may charge the channel.
    """

    channel_id: bytes
    payment_id: bytes
    amount: int
    request_hash: bytes
    ceiling: int
    signature: bytes
    spend: UncheckedSpendProof | None
