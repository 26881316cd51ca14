"""What transactions bid for their place in a block (EIP-1559), when a waiting one has to bid more, gas limits. Pure.

Pools take a replacement only if both of its fees are an eighth higher (some: a tenth). So a first bid stays an eighth
below the caps: there is always room for one more. The caps of every day are for claims that can wait. A withdrawal's
claim cannot: it may bid up to the urgent cap, and no more than what it saves is worth where that is known; and so may
all that stands before it in the order of nonces, because nothing overtakes there.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tallystick_aggregator.chain.port import GAS_LIMIT_MAX
from tallystick_aggregator.chain.settings import FeeSettings
from tallystick_aggregator.store.port import Attempt, OutboundTransaction
from tallystick_chain.fees import BASE_FEE_FACTOR, Bid, MarketFees

_URGENT_FACTOR: Final = 2
_FIXED_MARGIN: Final = 20_000


class Raises(NamedTuple):
    """What to bid anew, and the first transaction that a cap keeps from that."""

    bids: tuple[tuple[OutboundTransaction, Bid], ...]
    blocked: OutboundTransaction | None
    cap: Bid
    """The caps of `blocked`."""


def usual_caps(settings: FeeSettings) -> Bid:
    """The most that is bid for what can wait."""
    return Bid(settings.max_fee_per_gas_wei, settings.priority_fee_per_gas_wei_max)


def urgent_caps(settings: FeeSettings, worth_wei_per_gas: int | None) -> Bid:
    """The most that is bid where a withdrawal puts so much at stake for each gas that it takes; None: not known."""
    most = settings.urgent_max_fee_wei
    if worth_wei_per_gas is not None:
        most = max(min(most, worth_wei_per_gas), settings.max_fee_per_gas_wei)
    return Bid(most, settings.priority_fee_per_gas_wei_max * most // settings.max_fee_per_gas_wei)


def bid(market: MarketFees, settings: FeeSettings, *, urgent: bool = False, caps: Bid | None = None) -> Bid:
    """What to offer now, an eighth below the caps at most. Where blocks cost more than that, the transaction waits."""
    factor = _URGENT_FACTOR if urgent else 1
    caps = caps or usual_caps(settings)
    tip = min(
        max(market.priority_fee_per_gas_wei * factor, settings.priority_fee_per_gas_wei_min),
        _eighth_less(caps.priority_fee),
    )
    max_fee = min(market.base_fee_per_gas_wei * BASE_FEE_FACTOR * factor + tip, _eighth_less(caps.max_fee))
    return Bid(max_fee, min(tip, max_fee))


def bump(old: Bid, wanted: Bid, caps: Bid) -> Bid | None:
    """The least that replaces `old` and is, as far as the caps allow, no less than `wanted`; None if the caps do not
    allow any replacement.
    """
    max_fee, priority_fee = _eighth_more(old.max_fee), _eighth_more(old.priority_fee)
    if max_fee > caps.max_fee or priority_fee > caps.priority_fee:
        return None
    max_fee = max(max_fee, min(wanted.max_fee, caps.max_fee))
    priority_fee = max(priority_fee, min(wanted.priority_fee, caps.priority_fee))
    return Bid(max_fee, min(priority_fee, max_fee))


def raises(
    waiting: Sequence[OutboundTransaction],
    market: MarketFees,
    settings: FeeSettings,
    *,
    stuck: bool,
    stakes: Mapping[int, int | None],
) -> Raises:
    """Which of one key's waiting transactions, in the order of their nonces, have to bid more now.

    `stuck`: the first has waited for too long. `stakes`: by id, those that must land before a withdrawal ends, with
    what they save in wei; None where that is not known.
    """
    bids: list[tuple[OutboundTransaction, Bid]] = []
    allowed = _caps_by_place(waiting, settings, stakes)
    offers = [bid_of(outbound.attempts[-1]) for outbound in waiting]
    for place, (outbound, old, urgent) in enumerate(zip(waiting, offers, allowed, strict=True)):
        hurried = urgent is not None
        is_needed = (place == 0 and stuck) or (hurried and _is_priced_out(old, market))
        is_behind = place == 0 and old.priority_fee < max(offer.priority_fee for offer in offers)
        if not is_needed and not is_behind:
            continue
        caps = urgent or usual_caps(settings)
        now = bid(market, settings, urgent=hurried, caps=caps)
        wanted = Bid(
            max(now.max_fee, *(offer.max_fee for offer in offers[place:])),
            max(now.priority_fee, *(offer.priority_fee for offer in offers[place:])),
        )
        # While blocks cost more than the cap a higher bid is wasted, and could be the last one.
        raised = bump(old, wanted, caps) if market.base_fee_per_gas_wei <= caps.max_fee else None
        if raised is not None:
            bids.append((outbound, raised))
        elif is_needed:
            return Raises(tuple(bids), outbound, caps)
    return Raises(tuple(bids), None, usual_caps(settings))


def bid_of(attempt: Attempt) -> Bid:
    """What a signed form offers."""
    return Bid(attempt.max_fee_per_gas_wei, attempt.max_priority_fee_per_gas_wei)


def _caps_by_place(
    waiting: Sequence[OutboundTransaction], settings: FeeSettings, stakes: Mapping[int, int | None]
) -> list[Bid | None]:
    """The urgent caps of each, by the dearest of those that wait for it; None where nobody urgent does.

    What is at stake has to pay for all that must be mined before it is safe.
    """
    allowed: list[Bid | None] = [None] * len(waiting)
    gas = 0
    for place, outbound in enumerate(waiting):
        gas += outbound.gas_limit
        if outbound.id not in stakes:
            continue
        saves = stakes[outbound.id]
        caps = urgent_caps(settings, None if saves is None else saves // gas)
        allowed[: place + 1] = [caps if other is None else max(caps, other) for other in allowed[: place + 1]]
    return allowed


def _is_priced_out(offer: Bid, market: MarketFees) -> bool:
    """Whether a block as dear as the newest would not pay this offer's tip in full, or the usual one is higher."""
    return (
        offer.max_fee < market.base_fee_per_gas_wei + offer.priority_fee
        or offer.priority_fee < market.priority_fee_per_gas_wei
    )


def _eighth_more(fee: int) -> int:
    return fee + fee // 8 + 1


def _eighth_less(cap: int) -> int:
    """The highest fee that can be replaced without passing the cap."""
    fee = (cap - 1) * 8 // 9
    return fee + 1 if _eighth_more(fee + 1) <= cap else fee


# Gas limits.


def limit_for(estimate: int, gas_max: int = GAS_LIMIT_MAX) -> int:
    """The estimate and a margin, as the state may change before the transaction is mined."""
    return min(estimate + estimate // 4 + _FIXED_MARGIN, gas_max)


def estimate_of(limit: int) -> int:
    """The estimate that a limit came from; where the limit is the highest there is, the least that it can have been."""
    return max(0, (limit - _FIXED_MARGIN) * 4 // 5)
