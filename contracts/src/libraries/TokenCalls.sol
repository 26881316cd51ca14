// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC3009} from "@openzeppelin/contracts/interfaces/draft-IERC3009.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC3009Bytes} from "../interfaces/IERC3009Bytes.sol";
import {IEscrow} from "../interfaces/IEscrow.sol";

/// @title TokenCalls
/// @notice Calls to tokens that cannot hurt their caller: bounded gas, no copying of what comes back, failure as an
///         answer.
library TokenCalls {
    /// @notice Gas for one transfer. USDC's takes 30,000 to 50,000. Under EIP-8037 a new storage slot costs some 98,000
    ///         more, which comes out of this while the transaction's gas limit is 16,777,216 at most: so there is room
    ///         for two of them.
    uint256 internal constant TRANSFER_GAS = 300_000;

    /// @dev The EVM withholds a 64th of what is left from a call, and making the call has a cost: 64/63 of the above and
    ///      some. Without this check whoever sends the transaction could starve a transfer into failure.
    uint256 internal constant GAS_NEEDED = 320_000;

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

    /// @notice What this contract holds of `token`. Reverts if that is no token.
    function balance(address token) internal view returns (uint256 amount) {
        bytes4 selector = IERC20.balanceOf.selector;
        bool success;
        assembly ("memory-safe") {
            mstore(0x00, selector)
            mstore(0x04, address())
            success := staticcall(gas(), token, 0x00, 0x24, 0x00, 0x20)
            success := and(success, gt(returndatasize(), 0x1f))
            amount := mload(0x00)
        }
        if (!success) revert IEscrow.NotAToken(token);
    }

    /// @notice What an ERC-3009 authorization to this contract says.
    struct Authorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }

    /// @notice Has `token` move the authorised money here. Every token with ERC-3009 takes a key's signature as
    ///         `v, r, s`; signatures of other lengths than 65 are contract wallets' and need the `bytes` form.
    /// @dev The token must have code; {balance} makes sure of that.
    /// @return received False if the nonce had been used before. Anything else that the token refuses reverts.
    function receiveAuthorized(address token, Authorization memory a, bytes calldata signature)
        internal
        returns (bool received)
    {
        if (signature.length == 65) {
            bytes4 selector = IERC3009.receiveWithAuthorization.selector;
            assembly ("memory-safe") {
                let input := mload(0x40)
                mstore(input, selector)
                mcopy(add(input, 0x04), a, 0xc0)
                mstore(add(input, 0xc4), byte(0, calldataload(add(signature.offset, 0x40)))) // v
                calldatacopy(add(input, 0xe4), signature.offset, 0x40) // r, s
                received := call(gas(), token, 0, input, 0x124, 0x00, 0x00)
            }
        } else {
            bytes memory input = abi.encodeCall(
                IERC3009Bytes.receiveWithAuthorization,
                (a.from, a.to, a.value, a.validAfter, a.validBefore, a.nonce, signature)
            );
            assembly ("memory-safe") {
                received := call(gas(), token, 0, add(input, 0x20), mload(input), 0x00, 0x00)
            }
        }
        if (!received) _requireUsed(token, a);
    }

    /// @dev Passes the token's refusal on unless it refused because the nonce was used before.
    function _requireUsed(address token, Authorization memory a) private view {
        bytes memory refusal;
        assembly ("memory-safe") {
            refusal := mload(0x40)
            mstore(0x40, add(refusal, and(add(returndatasize(), 0x3f), not(0x1f))))
            mstore(refusal, returndatasize())
            returndatacopy(add(refusal, 0x20), 0, returndatasize())
        }
        if (IERC3009(token).authorizationState(a.from, a.nonce)) return;
        assembly ("memory-safe") {
            revert(add(refusal, 0x20), mload(refusal))
        }
    }
}
