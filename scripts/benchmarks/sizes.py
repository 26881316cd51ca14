"""How large a run is: the real one, and the quick one that only shows that everything works."""

from typing import NamedTuple, Self


class Sizes(NamedTuple):
    """Counts and times of a run; all bounds are here."""

    warm_up_s: float
    duration_s: float
    unary_per_s_max: int
    """How many charges a second are signed for at most, by kind; the load says so if it ran out of them."""
    stream1_per_s_max: int
    voucher_per_s_max: int
    spend_key_per_s_max: int
    channels_many: int
    payment_ids: int
    payment_ids_age_s: int
    official_channels: int
    official_per_s_max: int
    replay_channels: int
    replay_ids: int

    def open_loop(self) -> Self:
        """Twice as long: at half of the rate a checkpoint comes half as often, and one must be in what is measured."""
        return self._replace(duration_s=2 * self.duration_s)

    def charges(self, per_s_max: int) -> int:
        """How many charges to have ready."""
        return int(per_s_max * (self.warm_up_s + self.duration_s))


FULL = Sizes(
    warm_up_s=1.5,
    duration_s=8,
    unary_per_s_max=12_000,
    stream1_per_s_max=30_000,
    voucher_per_s_max=60_000,
    spend_key_per_s_max=150_000,
    channels_many=100_000,
    payment_ids=10_000_000,
    payment_ids_age_s=100_000,
    official_channels=32,
    official_per_s_max=1_500,
    replay_channels=1_000_000,
    replay_ids=1_000_000,
)
QUICK = FULL._replace(
    warm_up_s=0.2,
    duration_s=0.6,
    unary_per_s_max=8_000,
    stream1_per_s_max=15_000,
    voucher_per_s_max=40_000,
    spend_key_per_s_max=90_000,
    channels_many=2_000,
    payment_ids=5_000,
    official_channels=8,
    replay_channels=1_000,
    replay_ids=2_000,
)
