"""What a payer has signed so that others bring its deposit, and how that gets into the escrow.

`deposits` lands any of them. The token's own authorization is here; what a scheme has besides is the scheme's.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tallystick import eip712
from tallystick.channels import ChannelConfig
from tallystick.errors import InvalidSignatureError
from tallystick.hashing import keccak256
from tallystick.signatures import recover
from tallystick_aggregator.chain.port import Block, Call, Chain, DepositAuthorization, Landing
from tallystick_aggregator.ledger.answers import Refusal


class Window(NamedTuple):
    """From when and until when it may be landed, both exclusive, in seconds since the epoch."""

    valid_after: int
    valid_before: int


class Funding(Protocol):
    """A deposit of `amount` atomic units into an account; nothing of it is checked. Reads may raise
    ChainUnavailableError.
    """

    @property
    def chain(self) -> Chain:
        """The escrow and its network."""
        ...

    @property
    def account(self) -> ChannelConfig: ...
    @property
    def amount(self) -> int: ...
    @property
    def window(self) -> Window: ...

    @property
    def reference(self) -> bytes:
        """What names it in the outbox: what it can do once."""
        ...

    def call(self) -> Call:
        """The transaction that lands it."""
        ...

    def why_unproven(self) -> str | None:
        """Say why the signature is not one of the payer's own key; None if it is."""
        ...

    async def is_used(self, block: Block) -> bool:
        """Whether what it can do once was done, or was given up."""
        ...

    async def balance(self, block: Block) -> int:
        """What its payer holds of the token."""
        ...

    async def unmet(self, block: Block, now_s: int) -> Refusal | None:
        """What else keeps it from landing."""
        ...

    async def landing(self) -> Landing | None:
        """The final transaction that used it, whoever sent it; see `Chain.deposit_landing`."""
        ...


@dataclass(frozen=True, slots=True)
class TokenFunding:
    """An ERC-3009 authorization to the escrow, or to who collects for it."""

    chain: Chain
    deposit: DepositAuthorization

    @property
    def account(self) -> ChannelConfig:
        return self.deposit.account

    @property
    def amount(self) -> int:
        return self.deposit.amount

    @property
    def window(self) -> Window:
        return Window(self.deposit.valid_after, self.deposit.valid_before)

    @property
    def reference(self) -> bytes:
        """The token takes each nonce of a payer once."""
        account = self.account
        return keccak256(self.chain.network.encode() + account.token + account.payer + self._nonce)

    @property
    def _nonce(self) -> bytes:
        return self.chain.escrow.deposit_token_nonce(self.deposit)

    def call(self) -> Call:
        return self.chain.escrow.deposit_call(self.deposit)

    def why_unproven(self) -> str | None:
        token = self.chain.tokens[self.account.token]
        return why_not_by_its_key(
            self.account.payer, eip712.digest(token.domain, self._struct_hash()), self.deposit.signature
        )

    def _struct_hash(self) -> bytes:
        """What the payer signs: the token's ReceiveWithAuthorization."""
        recipient, window = self.chain.escrow.deposit_recipient, self.window
        return eip712.hash_receive_with_authorization(self.account.payer, recipient, self.amount, *window, self._nonce)

    async def is_used(self, block: Block) -> bool:
        token = self.chain.tokens[self.account.token]
        return await token.authorization_used(self.account.payer, self._nonce, block)

    async def balance(self, block: Block) -> int:
        return await self.chain.tokens[self.account.token].balance(self.account.payer, block)

    async def unmet(self, block: Block, now_s: int) -> Refusal | None:
        del block, now_s
        return None

    async def landing(self) -> Landing | None:
        return await self.chain.deposit_landing(self.deposit)


def why_not_by_its_key(payer: bytes, digest: bytes, signature: bytes) -> str | None:
    """Say why a deposit's signature is not one of the payer's own key; None if it is."""
    try:
        if recover(digest, signature) == payer:
            return None
    except InvalidSignatureError as error:
        return f"The deposit's signature is not one that counts: {error.problem}"
    return "The payer did not sign this deposit"
