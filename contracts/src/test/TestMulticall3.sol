// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title TestMulticall3
/// @notice The part of Multicall3 (0xcA11bde05977b3631167028862bE2a173976CA11) that is used: `aggregate3`.
/// @dev Same function and same error as the contract at its canonical address, written for tests.
contract TestMulticall3 {
    struct Call3 {
        address target;
        bool allowFailure;
        bytes callData;
    }

    struct Result {
        bool success;
        bytes returnData;
    }

    function aggregate3(Call3[] calldata calls) external payable returns (Result[] memory results) {
        results = new Result[](calls.length);
        for (uint256 i; i < calls.length; ++i) {
            (bool success, bytes memory returned) = calls[i].target.call(calls[i].callData);
            require(success || calls[i].allowFailure, "Multicall3: call failed");
            results[i] = Result(success, returned);
        }
    }
}
