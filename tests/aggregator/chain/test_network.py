"""What the escrows of one network share goes on for all of them until the last has left."""

from typing import Any

from tallystick.signatures import Signer
from tallystick_aggregator.chain.network import EvmNetwork
from tallystick_aggregator.chain.node import Receipt
from tallystick_aggregator.chain.port import Block
from tallystick_aggregator.chain.settings import ChainSettings, TokenSettings
from tallystick_aggregator.store.port import Attempt, OutboundTransaction, Payout, TransactionKind, TransactionStatus

FIRST, SECOND = b"\x01" * 20, b"\x02" * 20
TOKEN, SELLER = b"\x70" * 20, b"\xaa" * 20
KEY = Signer(b"\x11" * 32)
SETTINGS = ChainSettings(
    network="eip155:31337",
    rpc_urls=("http://127.0.0.1:1",),
    escrow=FIRST,
    operator=KEY.address,
    operator_signer=KEY,
    sender=KEY,
    tokens=(TokenSettings(address=TOKEN, symbol="USDC", decimals=6, name="USD Coin", version="2"),),
)
CLAIM = OutboundTransaction(
    id=1,
    network=SETTINGS.network,
    kind=TransactionKind.CLAIM,
    reference=bytes(32),
    sender=KEY.address,
    nonce=0,
    to=FIRST,
    data=b"",
    gas_limit=100_000,
    attempts=(Attempt(b"\x0a" * 32, b"raw", 2, 1, 0),),
    status=TransactionStatus.PENDING,
    created_at=0,
    payouts=(Payout(SELLER, TOKEN, 100),),
)
"""It asks for 100."""


class Everything:
    """A node and an outbox at once: the claim is final, and was open until now."""

    def __init__(self) -> None:
        self.stored: list[OutboundTransaction] = []
        self.is_closed = False

    async def head(self, *, fresh: bool = True) -> Block:
        del fresh
        return Block(20, b"\x14" * 32, 20)

    async def block(self, number: int) -> Block:
        return Block(number, bytes([number]) * 32, number)

    async def receipt(self, transaction_hash: bytes) -> Receipt:
        return Receipt(transaction_hash, 1, b"\x01" * 32, True, 90_000, 1, ())

    async def open(self, _network: str) -> list[OutboundTransaction]:
        return [CLAIM]

    async def update(self, outbound: OutboundTransaction) -> None:
        self.stored.append(outbound)

    async def close(self) -> None:
        self.is_closed = True


def paid(amount: int) -> Any:
    return lambda _outbound, _receipt: (Payout(SELLER, TOKEN, amount),)


async def test_a_claim_that_lands_while_escrows_leave_is_told_as_its_events_say() -> None:
    world: Any = Everything()
    network = EvmNetwork(SETTINGS, world, node=world, clock=lambda: 0.0)
    network.join(FIRST, paid(60))
    network.join(SECOND, paid(0))
    await network.leave(FIRST)
    assert not world.is_closed
    await network.tick()
    assert [one.payouts for one in world.stored] == [(Payout(SELLER, TOKEN, 60),)]
    assert world.stored[0].status is TransactionStatus.FINAL

    await network.leave(SECOND)
    assert world.is_closed
