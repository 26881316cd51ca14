"""Open transactions are looked up when there may be something new, and not at every look."""

from dataclasses import dataclass, field, replace

import pytest

from tallystick_aggregator.chain.port import Block, ChainUnavailableError
from tallystick_aggregator.chain.sending.lookups import LOOKUPS_AT_ONCE, Lookups
from tallystick_aggregator.store.port import Attempt, OutboundTransaction, TransactionKind, TransactionStatus

AGAIN_S = 2.0
HEAD = Block(7, bytes(32), 1_000)


def sent(number: int) -> OutboundTransaction:
    attempt = Attempt(bytes(32), b"", 1, 1, 0)
    return OutboundTransaction(
        id=number, network="eip155:1", kind=TransactionKind.EXACT, reference=number.to_bytes(32, "big"),
        sender=bytes(20), nonce=100 - number, to=bytes(20), data=b"", gas_limit=1, attempts=(attempt,),
        status=TransactionStatus.PENDING, created_at=0,
    )  # fmt: skip


@dataclass
class World:
    """What a chain would say; notes what it was asked."""

    mined: set[int] = field(default_factory=set[int])
    asked: list[int] = field(default_factory=list[int])
    down: set[int] = field(default_factory=set[int])
    now: float = 0.0

    async def follow(self, outbound: OutboundTransaction) -> bool:
        self.asked.append(outbound.id)
        if outbound.id in self.down:
            raise ChainUnavailableError("down")
        return outbound.id in self.mined

    def clock(self) -> float:
        return self.now

    def take(self) -> list[int]:
        taken, self.asked = self.asked, []
        return taken


async def test_while_the_head_stands_still_each_is_asked_for_once_in_a_while() -> None:
    world, both = World({1}), [sent(1), sent(2)]
    lookups = Lookups(AGAIN_S, world.clock)
    assert await lookups.waiting(both, HEAD, world.follow) == [both[1]]
    assert world.take() == [1, 2]
    assert await lookups.waiting([*both, sent(3)], HEAD, world.follow) == [sent(3), both[1]]
    assert world.take() == [3], "only what is new"
    world.now += AGAIN_S
    world.mined.add(2)
    assert await lookups.waiting(both, HEAD, world.follow) == []
    assert world.take() == [1, 2]


@pytest.mark.parametrize("head", [replace(HEAD, number=8), replace(HEAD, block_hash=b"\1" * 32)])
async def test_another_head_has_all_of_them_asked_for(head: Block) -> None:
    world, both = World({1}), [sent(1), sent(2)]
    lookups = Lookups(AGAIN_S, world.clock)
    await lookups.waiting(both, HEAD, world.follow)
    world.take()
    world.mined = {2}
    assert await lookups.waiting(both, head, world.follow) == [both[0]]
    assert world.take() == [1, 2]


async def test_what_could_not_be_asked_for_is_asked_for_at_the_next_look() -> None:
    world, many = World(), [sent(number) for number in range(LOOKUPS_AT_ONCE + 4)]
    world.down = {LOOKUPS_AT_ONCE - 1}
    lookups = Lookups(AGAIN_S, world.clock)
    with pytest.raises(ChainUnavailableError):
        await lookups.waiting(many, HEAD, world.follow)
    world.take()
    world.down.clear()
    assert len(await lookups.waiting(many, HEAD, world.follow)) == len(many)
    assert world.take() == list(range(LOOKUPS_AT_ONCE - 1, len(many)))
