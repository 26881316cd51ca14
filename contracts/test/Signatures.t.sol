// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Signatures} from "../src/libraries/Signatures.sol";
import {Assertions} from "./support/Assertions.sol";
import {SmartWallet} from "./mocks/SmartWallet.sol";

/// @notice Which signatures count. The library is called directly: signatures are made up for signers and not the other
///         way round, as a channel's id contains its signer.
contract SignaturesTest is Assertions {
    uint256 internal constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
    uint256 internal constant KEY = 0xB0B;

    function isSigned(address signer, bytes32 digest, bytes calldata signature) external view returns (bool) {
        return Signatures.isSignedBy(signer, digest, signature);
    }

    function testFuzz_a_keys_signature_counts_in_both_forms(uint256 key, bytes32 digest) public view {
        key = 1 + key % (ORDER - 1);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        bytes32 vs = bytes32(uint256(s) | (uint256(v - 27) << 255));
        assertTrue(this.isSigned(vm.addr(key), digest, abi.encodePacked(r, s, v)), "65 bytes");
        assertTrue(Signatures.isSignedByKey(vm.addr(key), digest, r, vs), "compact");
        bytes32 other = keccak256(abi.encode(digest));
        assertTrue(!this.isSigned(vm.addr(key), other, abi.encodePacked(r, s, v)), "65 bytes, another digest");
        assertTrue(!Signatures.isSignedByKey(vm.addr(key), other, r, vs), "compact, another digest");
    }

    /// @dev The precompile takes a high s, so there is a signer whom the signature would recover to.
    function test_a_high_s_does_not_count_although_it_recovers() public view {
        bytes32 digest = keccak256("anything");
        (, bytes32 r,) = vm.sign(KEY, digest);
        bytes32 s = bytes32(ORDER / 2 + 1);
        address signer = ecrecover(digest, 27, r, s);
        assertTrue(signer != address(0), "it recovers");
        assertTrue(!Signatures.isSignedByKey(signer, digest, r, s), "compact");
        assertTrue(!this.isSigned(signer, digest, abi.encodePacked(r, s, uint8(27))), "65 bytes");
        s = bytes32(ORDER / 2);
        signer = ecrecover(digest, 27, r, s);
        assertTrue(Signatures.isSignedByKey(signer, digest, r, s), "the highest low s, compact");
        assertTrue(this.isSigned(signer, digest, abi.encodePacked(r, s, uint8(27))), "the highest low s, 65 bytes");
    }

    function test_a_failed_recovery_is_nobodys_signature() public view {
        assertTrue(!Signatures.isSignedByKey(address(0), keccak256("anything"), 0, bytes32(uint256(1))), "compact");
        assertTrue(!this.isSigned(address(0), keccak256("anything"), new bytes(65)), "65 bytes");
    }

    /// @dev A recovery that fails leaves the memory as it was: what was recovered before must not count again.
    function test_a_failed_recovery_does_not_repeat_the_one_before() public view {
        bytes32 digest = keccak256("anything");
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, digest);
        bytes32 vs = bytes32(uint256(s) | (uint256(v - 27) << 255));
        assertTrue(Signatures.isSignedByKey(vm.addr(KEY), digest, r, vs), "the first");
        assertTrue(!Signatures.isSignedByKey(vm.addr(KEY), digest, 0, vs), "the second");
    }

    function test_other_v_than_27_and_28_do_not_count() public view {
        bytes32 digest = keccak256("anything");
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, digest);
        uint8[5] memory wrong = [v == 27 ? 28 : 27, v - 27, v + 8, 0, 255];
        for (uint256 i = 0; i < wrong.length; ++i) {
            assertTrue(!this.isSigned(vm.addr(KEY), digest, abi.encodePacked(r, s, wrong[i])), "v");
        }
    }

    function test_signatures_of_other_lengths_are_for_contracts_only() public {
        bytes32 digest = keccak256("anything");
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, digest);
        bytes32 vs = bytes32(uint256(s) | (uint256(v - 27) << 255));
        assertTrue(!this.isSigned(vm.addr(KEY), digest, abi.encodePacked(r, vs)), "64 bytes");
        SmartWallet wallet = new SmartWallet();
        assertTrue(this.isSigned(address(wallet), digest, wallet.signatureOf(digest)), "a contract's");
        assertTrue(!this.isSigned(address(wallet), digest, abi.encodePacked(r, s, v)), "a key's for a contract");
        wallet.disable();
        assertTrue(!this.isSigned(address(wallet), digest, wallet.signatureOf(digest)), "a contract that says no");
    }
}
