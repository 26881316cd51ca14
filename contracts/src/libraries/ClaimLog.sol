// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../interfaces/IEscrow.sol";

/// @title ClaimLog
/// @notice Gathers the rows of one {IEscrow-Claimed} event and emits it.
///
/// @dev The compiler would keep an array of structs as an array of pointers and copy it row by row into the log. Here
///      each row is written once, straight to its place in the event's ABI encoding:
///
///        0x00  0x20, the offset of the array
///        0x20  number of rows
///        0x40  rows of two words: receiver, total
library ClaimLog {
    uint256 private constant HEAD_BYTES = 0x40;
    uint256 private constant ROW_BYTES = 0x40;

    /// @notice Makes room for an event of at most `rowCount` rows.
    /// @return log Where it begins in memory; the first row goes to {firstRow}.
    function start(uint256 rowCount) internal pure returns (uint256 log) {
        assembly ("memory-safe") {
            log := mload(0x40)
            mstore(0x40, add(log, add(HEAD_BYTES, mul(rowCount, ROW_BYTES))))
        }
    }

    /// @notice Where the first row of an event goes.
    function firstRow(uint256 log) internal pure returns (uint256 row) {
        unchecked {
            return log + HEAD_BYTES;
        }
    }

    /// @notice Adds a row; never more than {start} made room for.
    /// @return next Where the next one goes.
    function add(uint256 row, address receiver, uint256 total) internal pure returns (uint256 next) {
        assembly ("memory-safe") {
            mstore(row, receiver)
            mstore(add(row, 0x20), total)
            next := add(row, ROW_BYTES)
        }
    }

    /// @notice Emits {IEscrow-Claimed} with the rows from {firstRow} to `end`.
    function emitClaimed(uint256 log, uint256 end, bytes32 accountId) internal {
        bytes32 topic = IEscrow.Claimed.selector;
        assembly ("memory-safe") {
            let size := sub(end, log)
            mstore(log, 0x20)
            mstore(add(log, 0x20), div(sub(size, HEAD_BYTES), ROW_BYTES))
            log2(log, size, topic, accountId)
        }
    }
}
