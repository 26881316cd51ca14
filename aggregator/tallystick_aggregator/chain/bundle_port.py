"""What schemes ask of a chain that sends bundles: several transactions in one block and in order, or none of them.

A payer without coin cannot approve Permit2. It signs the approval as a transaction, and we pay for it
(erc20_gas_sponsoring.md). Gas money that was sent alone could be spent on something else; in a bundle it cannot.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tallystick_aggregator.chain.port import Block, Call, Send
from tallystick_aggregator.store.port import OutboundTransaction


class BundleBusyError(Exception):
    """Another bundle is under way, and its nonces are this one's."""


@dataclass(frozen=True, slots=True)
class ApprovalTransaction:
    """A payer's signed transaction of type 2, read and not checked; fees in wei per gas, `value` in wei."""

    raw: bytes = field(repr=False)
    signer: bytes
    chain_id: int
    nonce: int
    gas_limit: int
    max_fee_wei: int
    priority_fee_wei: int
    to: bytes
    value: int
    data: bytes

    @property
    def cost_wei(self) -> int:
        """What its signer must hold for it to be mined."""
        return self.gas_limit * self.max_fee_wei


@dataclass(frozen=True, slots=True)
class Bundle:
    """What goes before a settlement: gas money for the payer (0: none is needed), then its approval."""

    payer: bytes
    approval: ApprovalTransaction
    fund_wei: int


class PayerAccount(NamedTuple):
    """What a payer's transaction depends on."""

    nonce: int
    balance_wei: int


class FeeRange(NamedTuple):
    """What an approval's highest fee may be, in wei per gas: enough for the next blocks, and no gift to the payer."""

    least: int
    most: int


class Bundles(Protocol):
    """One network's."""

    async def account(self, payer: bytes, block: Block) -> PayerAccount: ...

    async def fees(self) -> FeeRange: ...

    async def simulate(self, bundle: Bundle, call: Call, block: Block, *, gas_max: int) -> int:
        """Run all of it in order on the state after this block; returns the gas that the settlement takes.

        Raises RevertedError if anything in it would fail, and ChainUnavailableError.
        """
        ...

    async def send(self, send: Send, bundle: Bundle, until_s: int) -> OutboundTransaction:
        """Journal the bundle under its settlement, then offer it to the builder for every block until `until_s`.

        As `port.Chain.send`; raises BundleBusyError besides.
        """
        ...
