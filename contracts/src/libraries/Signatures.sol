// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

/// @title Signatures
/// @notice Who signed a digest: a key by ECDSA (65 bytes, `v` 27 or 28, low `s`), or a contract by ERC-1271.
library Signatures {
    /// @dev Half of the order of secp256k1: a higher `s` is the malleable twin of a lower one (EIP-2).
    bytes32 private constant HALF_ORDER = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;
    /// @dev All of `vs` but the parity of `v`.
    bytes32 private constant S_MASK = 0x7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff;

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

    /// @notice The same for a compact signature (ERC-2098), as every row of a claim has one.
    /// @dev The rules of OpenZeppelin's `ECDSA`, in place: rows are many.
    function isSignedByKey(address signer, bytes32 digest, bytes32 r, bytes32 vs) internal view returns (bool signed) {
        bytes32 s = vs & S_MASK;
        if (s > HALF_ORDER) return false;
        assembly ("memory-safe") {
            let input := mload(0x40)
            mstore(input, digest)
            mstore(add(input, 0x20), add(shr(255, vs), 27))
            mstore(add(input, 0x40), r)
            mstore(add(input, 0x60), s)
            mstore(0x00, 0) // what stays if the precompile finds no key and returns nothing
            pop(staticcall(gas(), 1, input, 0x80, 0x00, 0x20))
            let key := mload(0x00)
            signed := and(eq(key, signer), iszero(iszero(key)))
        }
    }

    /// @notice The address whose key signed; zero if the signature is none.
    function keyOf(bytes32 digest, bytes calldata signature) internal pure returns (address key) {
        (key,,) = ECDSA.tryRecoverCalldata(digest, signature);
    }
}
