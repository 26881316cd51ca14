// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IEscrow} from "../interfaces/IEscrow.sol";

/// @title BoundedTransfer
/// @notice A token transfer that cannot hurt its caller: it gets a bounded amount of gas, its return data are not
///         copied, and failure is an answer.
library BoundedTransfer {
    /// @notice Gas for one transfer. USDC's takes 30,000 to 50,000.
    uint256 internal constant TRANSFER_GAS = 100_000;

    /// @dev The EVM withholds a 64th of what is left from a call, and making the call has a cost: 64/63 of the above and
    ///      some. Without this check whoever sends the transaction could starve a transfer into failure.
    uint256 internal constant GAS_NEEDED = 110_000;

    /// @notice Tries to move `amount` of `token` to `to`.
    /// @return success False if the token reverted, answered false, ran out of its gas or is not there.
    function tryTransfer(address token, address to, uint256 amount) internal returns (bool success) {
        if (gasleft() < GAS_NEEDED) revert IEscrow.InsufficientGas(gasleft(), GAS_NEEDED);
        bytes4 selector = IERC20.transfer.selector;
        uint256 returned;
        uint256 answer;
        assembly ("memory-safe") {
            let input := mload(0x40)
            mstore(input, selector)
            mstore(add(input, 0x04), to)
            mstore(add(input, 0x24), amount)
            mstore(0x00, 0)
            success := call(TRANSFER_GAS, token, 0, input, 0x44, 0x00, 0x20)
            returned := returndatasize()
            answer := mload(0x00)
        }
        if (!success) return false;
        // Tokens older than the standard's last word answer nothing; an address without code does so too.
        return returned == 0 ? token.code.length != 0 : returned >= 32 && answer == 1;
    }
}
