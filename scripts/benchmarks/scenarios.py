"""What is measured: each scenario is one way to charge, on a server and a store of its own.

Closed loop: so many messages are under way that the server is never idle; the rate is what it can do. Open loop:
messages come at a fixed rate, half of what the closed loop reached, and latency counts from when each was due.
"""

from typing import Final, NamedTuple

VOUCHER: Final = "voucher"
SPEND_KEY: Final = "spend_key"

CHANNELS: Final = 1_000
BURST: Final = 4
"""Pages that a crawler fetches from a seller at once: so many charges of a batch share a channel."""
CALLERS: Final = 96
IN_FLIGHT: Final = 4_096
"""Charges under way in a closed loop of batches: with eight streams of batches of 64, all that the server allows."""
STREAMS: Final = 8
REPEATS: Final = ("stream64", "stream64_second", "stream64_third")
"""What the figures rest on is measured three times, each time right after the yardstick: a machine that others use has
moods of minutes."""
UNARY_REPEATS: Final = ("unary", "unary_second", "unary_third")
"""The same, each time right after the official package."""
BY_KEY: Final = "_spend_key"


class Scenario(NamedTuple):
    """`batch` 0: unary calls. `half_of`: open loop at half of the rate that this scenario reached."""

    name: str
    title: str
    proof: str = VOUCHER
    batch: int = 64
    channels: int = CHANNELS
    burst: int = BURST
    tls: bool = False
    payment_ids: int = 0
    half_of: str = ""

    @property
    def streams(self) -> int:
        """How many streams share the load. Vouchers of one channel keep their order on one stream."""
        return 1 if self.channels == 1 else STREAMS

    @property
    def window(self) -> int:
        """How many messages each stream leaves unanswered; the server allows 8."""
        return max(1, min(8, IN_FLIGHT // max(1, self.batch) // self.streams))


def _unary(name: str) -> Scenario:
    again = " (again)" if name in UNARY_REPEATS[1:] else ""
    return Scenario(name, f"unary Charge, a voucher each{again}", batch=0)


def _both_proofs(name: str, batch: int) -> list[Scenario]:
    """By voucher and, right after it, by spend key."""
    again = " (again)" if name in REPEATS[1:] else ""
    return [
        Scenario(name, f"stream, batches of {batch}, a voucher each{again}", batch=batch),
        Scenario(f"{name}{BY_KEY}", f"stream, batches of {batch}, by spend key{again}", SPEND_KEY, batch=batch),
    ]


def scenarios(payment_ids: int, channels_many: int) -> list[Scenario]:
    """All of them, in the order in which they run."""
    closed = [
        _unary(UNARY_REPEATS[0]),
        Scenario("unary_spend_key", "unary Charge, by spend key", SPEND_KEY, batch=0),
        *(one for batch in (1, 16, 64, 256) for one in _both_proofs(f"stream{batch}", batch)),
        Scenario("stream64_scattered", "stream, batches of 64, every charge of a batch on another channel", burst=1),
        Scenario("stream64_1_channel", "stream, batches of 64, all on one channel (one stream)", channels=1),
        _unary(UNARY_REPEATS[1]),
        *_both_proofs(REPEATS[1], 64),
        Scenario(
            "stream64_100k_channels", f"stream, batches of 64, on {channels_many:,} channels", channels=channels_many
        ),
        Scenario(
            "stream64_10m_ids", f"stream, batches of 64, with {payment_ids:,} payment ids kept", payment_ids=payment_ids
        ),
        Scenario("stream64_tls", "stream, batches of 64, a voucher each, TLS", tls=True),
        Scenario("unary_tls", "unary Charge, a voucher each, TLS", batch=0, tls=True),
        _unary(UNARY_REPEATS[2]),
        *_both_proofs(REPEATS[2], 64),
    ]
    half = [
        one._replace(name=f"{one.name}_half", title=f"{one.title}, at half of that rate", half_of=one.name)
        for one in closed
        if one.name in {"unary", "stream1", "stream16", "stream64", "stream16_spend_key"}
    ]
    return closed + half
