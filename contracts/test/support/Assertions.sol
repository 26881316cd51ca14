// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Vm} from "./Vm.sol";

/// @notice What every test has: the cheat codes, and assertions that say what was got and what was expected.
abstract contract Assertions {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    error NotEqualUint(string what, uint256 got, uint256 expected);
    error NotEqualBytes32(string what, bytes32 got, bytes32 expected);
    error NotEqualAddress(string what, address got, address expected);
    error NotAtMost(string what, uint256 got, uint256 max);
    error NotTrue(string what);

    function assertEq(uint256 got, uint256 expected, string memory what) internal pure {
        if (got != expected) revert NotEqualUint(what, got, expected);
    }

    function assertEq(bytes32 got, bytes32 expected, string memory what) internal pure {
        if (got != expected) revert NotEqualBytes32(what, got, expected);
    }

    function assertEq(address got, address expected, string memory what) internal pure {
        if (got != expected) revert NotEqualAddress(what, got, expected);
    }

    function assertAtMost(uint256 got, uint256 max, string memory what) internal pure {
        if (got > max) revert NotAtMost(what, got, max);
    }

    function assertTrue(bool got, string memory what) internal pure {
        if (!got) revert NotTrue(what);
    }
}
