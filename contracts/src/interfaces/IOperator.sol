// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";

/// @title IOperator
/// @notice An operator whose keys can change. Account ids contain the operator, so accounts name this contract and the
///         keys behind it are replaced without stranding a deposit.
///
/// @dev Works as `receiverAuthorizer` of the Tallystick escrow and of x402's canonical `x402BatchSettlement`: both ask
///      it by ERC-1271 about signatures of `ClaimBatch` and `Refund`. It holds no money and calls nothing but
///      `setSender`.
///
///      What a thief of a key can do. Signer: refund accounts to their payers, so that sellers lose what was not
///      claimed yet; never redirect money or exceed a voucher. Sender: claim, that is, pay sellers. Owner: the same as
///      a signer, but only after `additionDelay`, which everybody can see coming; and stop the operator by removing its
///      keys, in which case payers withdraw and sellers use the claims that they hold only until their signers are
///      removed.
interface IOperator is IERC1271 {
    /// @notice What a member is for.
    enum Role {
        /// @dev A key whose ECDSA signatures count as the operator's.
        Signer,
        /// @dev An address that may land the operator's claims.
        Sender,
        /// @dev A contract that is told whose signature is good. Only escrows: a token that accepts contract signatures
        ///      must not be able to take a signer's word for a transfer.
        Verifier
    }

    /// @notice `account` becomes a member at `activeAt` (Unix time).
    event Added(Role indexed role, address indexed account, uint40 activeAt);
    /// @notice `account` is no member any more.
    event Removed(Role indexed role, address indexed account);

    /// @notice The delay is outside of what is allowed (all in seconds).
    error AdditionDelayOutOfRange(uint256 got, uint256 min, uint256 max);
    /// @notice The zero address cannot be a member.
    error ZeroMember(Role role);
    /// @notice `account` is a member already, or will be at `activeAt` (Unix time).
    error AlreadyAdded(Role role, address account, uint40 activeAt);
    /// @notice `account` is not a member.
    error NotAdded(Role role, address account);
    /// @notice `account` becomes a member at `activeAt` (Unix time), not before.
    error NotActiveYet(Role role, address account, uint40 activeAt, uint256 nowTime);

    /// @notice Lets `account` become a member after `additionDelay`. Only the owner.
    function add(Role role, address account) external;

    /// @notice Ends a membership, or one to come, at once. Only the owner. A sender is forbidden on the escrow, too.
    function remove(Role role, address account) external;

    /// @notice Passes a sender whose time has come on to the escrow. Anyone may call.
    function activateSender(address sender) external;

    /// @notice When `account` is or becomes a member (Unix time); zero if never.
    function activeAt(Role role, address account) external view returns (uint40 time);

    /// @notice True if `account` is a member now.
    function isActive(Role role, address account) external view returns (bool active);

    /// @notice Seconds from an addition to its effect.
    function additionDelay() external view returns (uint40 delay);

    /// @notice The Tallystick escrow that senders are passed on to.
    function escrow() external view returns (address);
}
