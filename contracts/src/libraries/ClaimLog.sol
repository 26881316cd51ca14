// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../interfaces/IEscrow.sol";

/// @title ClaimLog
/// @notice Gathers the rows of one {IEscrow-Claimed} event and emits it.
///
/// @dev The compiler would keep an array of structs as an array of pointers and copy it row by row into the log. Here
///      each row is written once, straight to its place in the event's ABI encoding:
///
///        0x00  balance
///        0x20  0x40, the offset of the array
///        0x40  number of rows
///        0x60  rows of three words: receiver, amount, total
library ClaimLog {
    uint256 private constant HEAD_BYTES = 0x60;
    uint256 private constant ROW_BYTES = 0x60;

    /// @notice The event's data in the making.
    struct Buffer {
        /// @dev Where the data begin in memory.
        uint256 data;
        /// @dev Where the next row goes.
        uint256 next;
    }

    /// @notice Begins an event and makes room for at most `rowCount` rows.
    function start(Buffer memory buffer, uint256 rowCount) internal pure {
        uint256 data;
        assembly ("memory-safe") {
            data := mload(0x40)
            mstore(0x40, add(data, add(HEAD_BYTES, mul(rowCount, ROW_BYTES))))
        }
        unchecked {
            buffer.data = data;
            buffer.next = data + HEAD_BYTES;
        }
    }

    /// @notice Adds a row; never more than {start} made room for.
    function add(Buffer memory buffer, address receiver, uint128 amount, uint128 total) internal pure {
        assembly ("memory-safe") {
            let next := mload(add(buffer, 0x20))
            mstore(next, receiver)
            mstore(add(next, 0x20), amount)
            mstore(add(next, 0x40), total)
            mstore(add(buffer, 0x20), add(next, ROW_BYTES))
        }
    }

    /// @notice Emits {IEscrow-Claimed} with the rows gathered.
    function emitClaimed(Buffer memory buffer, bytes32 accountId, uint128 balanceAfter) internal {
        bytes32 topic = IEscrow.Claimed.selector;
        assembly ("memory-safe") {
            let data := mload(buffer)
            let size := sub(mload(add(buffer, 0x20)), data)
            mstore(data, balanceAfter)
            mstore(add(data, 0x20), 0x40)
            mstore(add(data, 0x40), div(sub(size, HEAD_BYTES), ROW_BYTES))
            log2(data, size, topic, accountId)
        }
    }
}
