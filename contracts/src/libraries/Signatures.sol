// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

/// @title Signatures
/// @notice Who signed a digest: a key by ECDSA (65 bytes, `v` 27 or 28, low `s`), or a contract by ERC-1271.
library Signatures {
    /// @notice True if `signature` is `signer`'s, as a key or as a contract.
    /// @dev The key comes first: an EOA that has delegated to code (EIP-7702) keeps its word.
    function isSignedBy(address signer, bytes32 digest, bytes calldata signature) internal view returns (bool) {
        return isSignedByKey(signer, digest, signature)
            || SignatureChecker.isValidERC1271SignatureNowCalldata(signer, digest, signature);
    }

    /// @notice True if `signature` is the ECDSA signature of the key behind `signer`.
    function isSignedByKey(address signer, bytes32 digest, bytes calldata signature) internal pure returns (bool) {
        address key = keyOf(digest, signature);
        return key != address(0) && key == signer;
    }

    /// @notice The same for a compact signature (ERC-2098).
    function isSignedByKey(address signer, bytes32 digest, bytes32 r, bytes32 vs) internal pure returns (bool) {
        (address key,,) = ECDSA.tryRecover(digest, r, vs);
        return key != address(0) && key == signer;
    }

    /// @notice The address whose key signed; zero if the signature is none.
    function keyOf(bytes32 digest, bytes calldata signature) internal pure returns (address key) {
        (key,,) = ECDSA.tryRecoverCalldata(digest, signature);
    }
}
