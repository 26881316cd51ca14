"""The contracts as the rest of Tallystick sees them: ABI, bytecode, and the encoding of claim batches.

Nothing here compiles, connects or imports web3. The artifacts are committed; `scripts/build-contracts` makes them.
"""

from tallystick_contracts.artifact import Artifact, ContractName, load

__all__ = ["Artifact", "ContractName", "load"]
