// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {TestUSDC} from "../src/test/TestUSDC.sol";
import {TokenProxy} from "../src/test/TokenProxy.sol";
import {Assertions} from "./support/Assertions.sol";

/// @notice The test token behaves like USDC v2.2 where payments care, also behind a proxy.
contract TestUSDCTest is Assertions {
    uint256 internal constant KEY = 0xB0B;
    uint256 internal constant NOW = 1_800_000_000;
    bytes32 internal constant NONCE = keccak256("nonce");

    address internal owner = vm.addr(KEY);
    address internal friend = address(0xF1);

    function test_metadata_are_usdcs() public {
        TestUSDC[2] memory tokens = both();
        for (uint256 i = 0; i < 2; ++i) {
            assertEq(keccak256(bytes(tokens[i].name())), keccak256("USD Coin"), "name");
            assertEq(keccak256(bytes(tokens[i].symbol())), keccak256("USDC"), "symbol");
            assertEq(keccak256(bytes(tokens[i].version())), keccak256("2"), "version");
            assertEq(tokens[i].decimals(), 6, "decimals");
            bytes32 separator = keccak256(
                abi.encode(
                    keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                    keccak256("USD Coin"),
                    keccak256("2"),
                    block.chainid,
                    address(tokens[i])
                )
            );
            assertEq(tokens[i].DOMAIN_SEPARATOR(), separator, "domain");
        }
    }

    function test_transfers_by_authorization_in_both_forms() public {
        TestUSDC[2] memory tokens = both();
        for (uint256 i = 0; i < 2; ++i) {
            TestUSDC token = tokens[i];
            bytes memory signature = sign(token, token.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), 60, NONCE);
            token.transferWithAuthorization(owner, friend, 60, 0, NOW + 1, NONCE, signature);
            (uint8 v, bytes32 r, bytes32 s) =
                vm.sign(KEY, digest(token, token.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), 40, bytes32(0)));
            token.transferWithAuthorization(owner, friend, 40, 0, NOW + 1, bytes32(0), v, r, s);
            assertEq(token.balanceOf(friend), 100, "paid");
            assertTrue(token.authorizationState(owner, NONCE), "used");
            vm.expectRevert(abi.encodeWithSignature("Error(string)", "FiatTokenV2: authorization is used or canceled"));
            token.transferWithAuthorization(owner, friend, 60, 0, NOW + 1, NONCE, signature);
        }
    }

    function test_receiving_needs_the_payee() public {
        TestUSDC token = both()[0];
        bytes memory signature = sign(token, token.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(), 60, NONCE);
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "FiatTokenV2: caller must be the payee"));
        token.receiveWithAuthorization(owner, friend, 60, 0, NOW + 1, NONCE, signature);
        vm.prank(friend);
        token.receiveWithAuthorization(owner, friend, 60, 0, NOW + 1, NONCE, signature);
        assertEq(token.balanceOf(friend), 60, "paid");
    }

    function test_authorizations_have_a_window() public {
        TestUSDC token = both()[0];
        bytes memory signature = sign(token, token.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), 60, NONCE);
        vm.warp(NOW + 1);
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "FiatTokenV2: authorization is expired"));
        token.transferWithAuthorization(owner, friend, 60, 0, NOW + 1, NONCE, signature);
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "FiatTokenV2: authorization is not yet valid"));
        token.transferWithAuthorization(owner, friend, 60, NOW + 1, NOW + 9, NONCE, signature);
    }

    function test_cancelled_authorizations_are_worth_nothing() public {
        TestUSDC token = both()[0];
        bytes32 structHash = keccak256(abi.encode(token.CANCEL_AUTHORIZATION_TYPEHASH(), owner, NONCE));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, typed(token, structHash));
        token.cancelAuthorization(owner, NONCE, v, r, s);
        bytes memory signature = sign(token, token.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), 60, NONCE);
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "FiatTokenV2: authorization is used or canceled"));
        token.transferWithAuthorization(owner, friend, 60, 0, NOW + 1, NONCE, signature);
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "FiatTokenV2: authorization is used or canceled"));
        token.cancelAuthorization(owner, NONCE, abi.encodePacked(r, s, v));
    }

    function test_the_blacklisted_neither_send_nor_receive() public {
        TestUSDC token = both()[0];
        address[2] memory listed = [owner, friend];
        for (uint256 i = 0; i < 2; ++i) {
            token.blacklist(listed[i]);
            vm.prank(owner);
            vm.expectRevert(abi.encodeWithSignature("Error(string)", "Blacklistable: account is blacklisted"));
            token.transfer(friend, 1);
            token.unBlacklist(listed[i]);
        }
        vm.prank(owner);
        token.transfer(friend, 1);
        assertEq(token.balanceOf(friend), 1, "paid");
    }

    /// @dev The token itself and the token behind a proxy, with 100 units for the owner each.
    function both() internal returns (TestUSDC[2] memory tokens) {
        vm.warp(NOW);
        tokens[0] = new TestUSDC();
        tokens[1] = TestUSDC(address(new TokenProxy(address(new TestUSDC()))));
        tokens[0].mint(owner, 100);
        tokens[1].mint(owner, 100);
    }

    function sign(TestUSDC token, bytes32 typeHash, uint256 value, bytes32 nonce) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, digest(token, typeHash, value, nonce));
        return abi.encodePacked(r, s, v);
    }

    function digest(TestUSDC token, bytes32 typeHash, uint256 value, bytes32 nonce) internal view returns (bytes32) {
        return typed(token, keccak256(abi.encode(typeHash, owner, friend, value, 0, NOW + 1, nonce)));
    }

    function typed(TestUSDC token, bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), structHash));
    }
}
