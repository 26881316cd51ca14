// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {MinimalToken} from "../src/test/MinimalToken.sol";
import {Assertions} from "./support/Assertions.sol";

/// @notice The yardstick of the gas figures is a token that works.
contract MinimalTokenTest is Assertions {
    uint256 internal constant KEY = 0xB0B;
    uint256 internal constant NOW = 1_800_000_000;
    string internal constant FIELDS =
        "(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)";

    MinimalToken internal token;
    address internal owner = vm.addr(KEY);
    address internal friend = address(0xF1);

    function setUp() public {
        vm.warp(NOW);
        token = new MinimalToken();
        token.mint(owner, 100);
    }

    function test_transfers() public {
        vm.prank(owner);
        assertTrue(token.transfer(friend, 30), "transfer");
        vm.prank(owner);
        assertTrue(token.approve(address(this), 20), "approve");
        assertTrue(token.transferFrom(owner, friend, 20), "transferFrom");
        assertEq(token.balanceOf(friend), 50, "paid");
        assertEq(token.allowance(owner, address(this)), 0, "allowance");
        assertEq(token.totalSupply(), 100, "supply");
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        token.transfer(friend, 51);
    }

    function test_an_authorization_is_used_once_inside_of_its_window() public {
        (uint8 v, bytes32 r, bytes32 s) = sign("TransferWithAuthorization", NOW - 1, NOW + 1);
        vm.warp(NOW + 1);
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "outside of the validity window"));
        token.transferWithAuthorization(owner, friend, 60, NOW - 1, NOW + 1, 0, v, r, s);
        vm.warp(NOW);
        token.transferWithAuthorization(owner, friend, 60, NOW - 1, NOW + 1, 0, v, r, s);
        assertEq(token.balanceOf(friend), 60, "paid");
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "authorization is used"));
        token.transferWithAuthorization(owner, friend, 60, NOW - 1, NOW + 1, 0, v, r, s);
    }

    function test_receiving_needs_the_payee_and_the_owners_signature() public {
        (uint8 v, bytes32 r, bytes32 s) = sign("ReceiveWithAuthorization", 0, NOW + 1);
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "caller must be the payee"));
        token.receiveWithAuthorization(owner, friend, 60, 0, NOW + 1, 0, v, r, s);
        vm.startPrank(friend);
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "invalid signature"));
        token.receiveWithAuthorization(owner, friend, 61, 0, NOW + 1, 0, v, r, s);
        token.receiveWithAuthorization(owner, friend, 60, 0, NOW + 1, 0, v, r, s);
        vm.stopPrank();
        assertEq(token.balanceOf(friend), 60, "paid");
    }

    function sign(bytes memory name, uint256 validAfter, uint256 validBefore)
        internal
        view
        returns (uint8, bytes32, bytes32)
    {
        bytes32 typeHash = keccak256(bytes.concat(name, bytes(FIELDS)));
        bytes32 structHash = keccak256(abi.encode(typeHash, owner, friend, 60, validAfter, validBefore, 0));
        return vm.sign(KEY, keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), structHash)));
    }
}
