"""Payments of callers without an attempt: new once, as long as they are remembered."""

from doubles import Payer
from marketplace import EXACT_TERMS, Marketplace, transfer_of

from tallystick.facilitator import Verified
from tallystick_aggregator.schemes.exact.claims import Claim
from tallystick_aggregator.schemes.exact.served import Served
from tallystick_aggregator.schemes.port import Caller

ALICE = Payer("alice")


def claim(number: int) -> Claim:
    return Claim(bytes([number]), b"", b"", b"")


def test_the_oldest_is_forgotten_first() -> None:
    served = Served(served_max=2)
    assert [served.begin(claim(number)) for number in (1, 1, 2, 3)] == [True, False, True, True]
    assert [served.begin(claim(number)) for number in (3, 2, 1)] == [False, False, True]


async def test_what_one_seller_serves_is_new_to_another(market: Marketplace) -> None:
    market.chain.balances[ALICE.signer.address] = 1_000
    answers = [
        await market.exact.verify(EXACT_TERMS, transfer_of(ALICE), Caller(principal))
        for principal in ("news", "news", "others")
    ]
    assert [isinstance(answer, Verified) and answer.replayed for answer in answers] == [False, True, False]
