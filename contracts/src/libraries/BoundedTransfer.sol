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

    /// @dev The EVM withholds a 64th of what is left from a call, and making the call has a cost. Without this check
    ///      whoever sends the transaction could starve a transfer into failure.
    uint256 private constant GAS_NEEDED = TRANSFER_GAS * 64 / 63 + 5_000;

    /// @notice Tries to move `amount` of `token` to `to`.
    /// @return success False if the token reverted, answered false, ran out of its gas or is not there.
    function tryTransfer(address token, address to, uint256 amount) internal returns (bool success) {
        if (gasleft() < GAS_NEEDED) revert IEscrow.InsufficientGas(gasleft(), GAS_NEEDED);
        bytes memory data = abi.encodeCall(IERC20.transfer, (to, amount));
        uint256 returned;
        bytes32 answer;
        assembly ("memory-safe") {
            mstore(0x00, 0)
            success := call(TRANSFER_GAS, token, 0, add(data, 0x20), mload(data), 0x00, 0x20)
            returned := returndatasize()
            answer := mload(0x00)
        }
        if (!success) return false;
        // Tokens older than the standard's last word answer nothing; an address without code does so too.
        return returned == 0 ? token.code.length != 0 : returned >= 32 && answer == bytes32(uint256(1));
    }
}
