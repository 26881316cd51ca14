"""Which binding an escrow has: x402's contract has one address on every chain, all others are of Escrow.sol."""

from tallystick_aggregator.chain.batch_settlement_escrow import BatchSettlementEscrow
from tallystick_aggregator.chain.deferred_escrow import DeferredEscrow
from tallystick_aggregator.chain.escrow_port import EscrowBinding
from tallystick_aggregator.chain.node import Node
from tallystick_aggregator.chain.settings import ChainSettings


def binding_of(settings: ChainSettings, node: Node) -> EscrowBinding:
    """Make the binding of the escrow that these settings are of."""
    items_per_read = settings.limits.items_per_read
    keys = settings.operator, settings.operator_signer
    if settings.is_canonical:
        shortest_s = settings.withdraw_delay_s_min
        return BatchSettlementEscrow(node, settings.chain_id, *keys, shortest_s, items_per_read=items_per_read)
    return DeferredEscrow(node, settings.chain_id, settings.escrow, *keys, items_per_read=items_per_read)
