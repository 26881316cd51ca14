"""Multicall3: a wallet's deployment and its transfer in one transaction (ERC-6492, for payers without code yet).

Multicall3 is at the same address on most chains and owned by nobody. The factory is called by it, not by our sender,
and without value: what the payer wrote into that call can use up gas, and nothing else that is the operator's.
"""

from typing import Final

from eth_abi.abi import encode

from tallystick_aggregator.chain.escrow_calls import selector
from tallystick_aggregator.chain.port import Call
from tallystick_aggregator.chain.token_port import Deployment

MULTICALL3_ADDRESS: Final = bytes.fromhex("cA11bde05977b3631167028862bE2a173976CA11")
_CALLS: Final = "(address,bool,bytes)[]"
AGGREGATE3: Final = f"aggregate3({_CALLS})"


def deploy_first(deployment: Deployment, transfer: Call) -> Call:
    """Return the transaction that deploys the wallet, then moves its tokens.

    The deployment may fail: somebody may have done it since, and many factories refuse to do it twice. The transfer may
    not, and its failure undoes the deployment.
    """
    calls = ((deployment.factory, True, deployment.data), (transfer.to, False, transfer.data))
    return Call(MULTICALL3_ADDRESS, selector(AGGREGATE3) + encode([_CALLS], [calls]))
