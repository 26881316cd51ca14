"""What the scheme asks of its chains, beside what all schemes do: the canonical contract's own calls."""

from collections.abc import Sequence
from typing import Protocol

from tallystick.channels import ChannelConfig
from tallystick.x402.batch_settlement import DepositPayload, RefundPayload, VoucherClaim
from tallystick_aggregator.chain.escrow_port import EscrowBinding
from tallystick_aggregator.chain.port import Block, Call, Chain


class ChannelEscrow(EscrowBinding, Protocol):
    """The binding of x402BatchSettlement."""

    def deposit_payload_call(self, payload: DepositPayload) -> Call:
        """The deposit of a payload, by either collector; a permit that came along is landed with it."""
        ...

    def claim_and_refund_call(
        self,
        claims: Sequence[VoucherClaim],
        account: ChannelConfig,
        amount: int,
        nonce: int,
        charge_counts: Sequence[int] = (),
    ) -> Call:
        """A refund that claims first, in one transaction; `charge_counts`: what each of the claims attests."""
        ...

    def claim_rows_call(self, rows: Sequence[VoucherClaim], signature: bytes | None) -> Call:
        """The claim that a server asks for: over its receiverAuthorizer's signature, or ours where it is None."""
        ...

    def refund_rows_call(self, payload: RefundPayload) -> Call:
        """The refund that a server has completed, with its claims before; what it did not sign is signed by us."""
        ...

    def call_names(self, call_data: bytes, config: ChannelConfig) -> bool:
        """Whether a call of the contract is about this channel, alone or among others."""
        ...

    async def receiver_totals(self, to: bytes, token: bytes, block: Block) -> tuple[int, int]:
        """What was ever claimed for a receiver, and what of it was paid to it, in atomic units."""
        ...


class ChannelChain(Chain, Protocol):
    """A chain whose escrow is x402BatchSettlement."""

    @property
    def escrow(self) -> ChannelEscrow: ...
