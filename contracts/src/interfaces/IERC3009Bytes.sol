// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title IERC3009Bytes
/// @notice The form of ERC-3009 that USDC v2.2 added for contract wallets.
interface IERC3009Bytes {
    /// @notice Moves `value` from `from` to `to`, who has to be the caller, by a signature of any length, which may be a
    ///         contract's (ERC-1271).
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;
}
