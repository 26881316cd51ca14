// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title TestTryAggregate
/// @notice The one function of Multicall3 (0xcA11bde05977b3631167028862bE2a173976CA11) that x402's official facilitators read
///         with, for chains without it.
/// @dev It has neither constructor nor immutables, so its code can be put at that address. For tests only.
contract TestTryAggregate {
    struct Call {
        address target;
        bytes callData;
    }

    struct Result {
        bool success;
        bytes returnData;
    }

    error CallFailed(uint256 at);

    function tryAggregate(bool requireSuccess, Call[] calldata calls)
        external
        payable
        returns (Result[] memory results)
    {
        results = new Result[](calls.length);
        for (uint256 at = 0; at < calls.length; ++at) {
            (results[at].success, results[at].returnData) = calls[at].target.call(calls[at].callData);
            if (requireSuccess && !results[at].success) revert CallFailed(at);
        }
    }
}
