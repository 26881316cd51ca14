// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title IERC3009Token
/// @notice What the escrow calls on a token with ERC-3009: the standard's `v, r, s` form, and the `bytes` form that
///         USDC v2.2 added for contract wallets.
interface IERC3009Token {
    /// @notice True once the nonce was used or cancelled.
    function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);

    /// @notice Moves `value` from `from` to `to`, who has to be the caller.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;

    /// @notice The same with a signature of any length, which may be a contract's (ERC-1271).
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) external;
}
