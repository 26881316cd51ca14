// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";

/// @notice A contract wallet whose signatures are `"smart"` followed by the hash, and which can be switched off.
contract SmartWallet is IERC1271 {
    bool public enabled = true;

    function disable() external {
        enabled = false;
    }

    function signatureOf(bytes32 hash) public pure returns (bytes memory) {
        return abi.encodePacked("smart", hash);
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        bool valid = enabled && keccak256(signature) == keccak256(signatureOf(hash));
        return valid ? IERC1271.isValidSignature.selector : bytes4(0);
    }
}
