// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../interfaces/IEscrow.sol";

/// @title Payees
/// @notice The receivers that a batch lists, and what its rows have brought each so far.
///
/// @dev A table in memory with three words a payee: the address to pay, zero for a payee that may never be paid; its
///      address as listed; the amount so far. Rows look payees up all the time; with an array of structs the compiler would
///      follow a pointer and check the bounds twice each time.
library Payees {
    uint256 internal constant ENTRY_BYTES = 0x60;
    /// @dev Where in an entry the address as listed is.
    uint256 internal constant LISTED = 0x20;

    struct Table {
        /// @dev Where the first entry is in memory.
        uint256 start;
        uint256 count;
    }

    /// @notice Makes room for `count` payees, each of which {set} has to fill.
    function allocate(Table memory table, uint256 count) internal pure {
        uint256 start;
        assembly ("memory-safe") {
            start := mload(0x40)
            mstore(0x40, add(start, mul(count, ENTRY_BYTES)))
        }
        table.start = start;
        table.count = count;
    }

    /// @notice Fills an entry.
    function set(uint256 entry, address payTo_, address listed_) internal pure {
        assembly ("memory-safe") {
            mstore(entry, payTo_)
            mstore(add(entry, LISTED), listed_)
            mstore(add(entry, 0x40), 0)
        }
    }

    /// @notice The entry at `index`. Reverts if the batch does not list so many receivers.
    function entryOf(Table memory table, uint256 index) internal pure returns (uint256 entry) {
        if (index >= table.count) revert IEscrow.ReceiverIndexOutOfRange(index, table.count);
        unchecked {
            return table.start + index * ENTRY_BYTES;
        }
    }

    /// @notice The first entry, and where the entry behind the last would be.
    function bounds(Table memory table) internal pure returns (uint256 first, uint256 end) {
        unchecked {
            first = table.start;
            end = first + table.count * ENTRY_BYTES;
        }
    }

    /// @notice The entry that follows.
    function next(uint256 entry) internal pure returns (uint256) {
        unchecked {
            return entry + ENTRY_BYTES;
        }
    }

    /// @notice The address as the batch lists it.
    function listed(uint256 entry) internal pure returns (address receiver) {
        assembly ("memory-safe") {
            receiver := mload(add(entry, LISTED))
        }
    }

    /// @notice The address to pay; zero if the payee may never be paid.
    function payTo(uint256 entry) internal pure returns (address receiver) {
        assembly ("memory-safe") {
            receiver := mload(entry)
        }
    }

    /// @notice What the payee gets so far, in atomic units.
    function amountOf(uint256 entry) internal pure returns (uint256 amount) {
        assembly ("memory-safe") {
            amount := mload(add(entry, 0x40))
        }
    }

    /// @notice Adds `amount`, below 2^128, to what the payee gets; a batch's sums cannot overflow.
    function credit(uint256 entry, uint256 amount) internal pure {
        assembly ("memory-safe") {
            let position := add(entry, 0x40)
            mstore(position, add(mload(position), amount))
        }
    }
}
