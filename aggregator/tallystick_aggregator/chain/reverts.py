"""What the chain's callers are told of a call that would revert."""

from tallystick_aggregator.chain.port import OutOfGasError, RevertedError
from tallystick_chain.errors import CallRevertedError, says_out_of_gas
from tallystick_chain.reverts import by_contract, describe


def as_reverted(reverted: CallRevertedError) -> RevertedError:
    """That the call would revert, or that its gas does not suffice."""
    kind = OutOfGasError if not reverted.data and says_out_of_gas(reverted.message) else RevertedError
    return kind(describe(reverted), by_contract=by_contract(reverted))
