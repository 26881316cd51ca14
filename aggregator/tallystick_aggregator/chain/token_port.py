"""What schemes ask of a chain's tokens: an ERC-20 with authorizations of its own, or as Permit2 moves it."""

from dataclasses import dataclass, field
from typing import Protocol

from tallystick.eip712 import Domain, UnversionedDomain
from tallystick.x402 import ExactAuthorization, Permit2Authorization
from tallystick_aggregator.chain.port import Block, Call


@dataclass(frozen=True, slots=True)
class Deployment:
    """The call that deploys a payer's wallet: the payer chose its data."""

    factory: bytes
    data: bytes = field(repr=False)


class Token(Protocol):
    """An ERC-20 with ERC-3009; without it where `by_eip3009` is False, and then it takes deposits only."""

    @property
    def address(self) -> bytes: ...
    @property
    def domain(self) -> Domain: ...

    @property
    def by_eip3009(self) -> bool:
        """Whether payments may move it by authorizations of its own."""
        ...

    async def balance(self, holder: bytes, block: Block) -> int: ...

    async def authorization_used(self, authorizer: bytes, nonce: bytes, block: Block) -> bool: ...

    def transfer_call(self, authorization: ExactAuthorization) -> Call: ...

    def deploying_transfer_call(self, authorization: ExactAuthorization, deployment: Deployment) -> Call:
        """Deploy the payer's wallet, unless it is there by then, and move its tokens; all or nothing."""
        ...


class Permit2Token(Protocol):
    """An ERC-20 as payments by Permit2 move it, through x402's proxies; `domain` is Permit2's."""

    @property
    def address(self) -> bytes: ...
    @property
    def domain(self) -> UnversionedDomain: ...

    @property
    def permit_domain(self) -> Domain:
        """The token's own: of EIP-2612 permits."""
        ...

    @property
    def sponsors_permits(self) -> bool:
        """Whether permits are landed with the payments that they came with."""
        ...

    @property
    def facilitator(self) -> bytes:
        """Who alone may settle `upto` payments here: the sender."""
        ...

    async def balance(self, holder: bytes, block: Block) -> int: ...

    async def authorization_used(self, authorizer: bytes, nonce: bytes, block: Block) -> bool:
        """Whether Permit2 took this nonce of the payer's before, or the payer gave it up."""
        ...

    async def allowance(self, owner: bytes, block: Block) -> int:
        """How much Permit2 may take of the owner's tokens."""
        ...

    async def permit_nonce(self, owner: bytes, block: Block) -> int:
        """The nonce of the owner's next permit."""
        ...

    def transfer_call(self, authorization: Permit2Authorization) -> Call:
        """Move `authorization.value`; with its permit, if it has one."""
        ...

    def moved(self, call_data: bytes) -> int:
        """What a call by `transfer_call` for `upto` moves, in atomic units."""
        ...
