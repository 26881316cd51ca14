// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

contract SetSenderTest is EscrowTest {
    address internal sender = address(0x5E4D);

    function setUp() public override {
        super.setUp();
        deposit(1_000);
    }

    function test_an_allowed_sender_claims() public {
        vm.expectEmit(address(escrow));
        emit IEscrow.SenderSet(operator, sender, true);
        allow(true);
        assertTrue(escrow.isSender(operator, sender), "allowed");
        bytes memory batch = voucherBatch(alice, 300);
        vm.prank(sender);
        escrow.claim(batch);
        assertEq(token.balanceOf(alice), 300, "paid");
    }

    function test_a_removed_sender_does_not() public {
        allow(true);
        vm.expectEmit(address(escrow));
        emit IEscrow.SenderSet(operator, sender, false);
        allow(false);
        bytes memory batch = voucherBatch(alice, 300);
        vm.prank(sender);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NotOperatorOrSender.selector, sender, operator));
        escrow.claim(batch);
    }

    function test_a_sender_of_another_operator_does_not() public {
        vm.prank(stranger);
        escrow.setSender(sender, true);
        bytes memory batch = voucherBatch(alice, 300);
        vm.prank(sender);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NotOperatorOrSender.selector, sender, operator));
        escrow.claim(batch);
    }

    /// @dev Being named by a stranger takes nothing from a sender.
    function test_a_stranger_cannot_take_a_sender_away() public {
        allow(true);
        vm.startPrank(stranger);
        escrow.setSender(sender, true);
        escrow.setSender(sender, false);
        vm.stopPrank();
        assertTrue(escrow.isSender(operator, sender), "allowed");
    }

    function test_a_sender_can_do_nothing_else() public {
        allow(true);
        bytes memory signature = sign(STRANGER_KEY, escrow.refundDigest(account(), 0, 10));
        bytes32 digest = escrow.refundDigest(account(), 0, 10);
        vm.startPrank(sender);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadSignature.selector, operator, digest));
        escrow.refundWithSignature(config(), 10, 0, signature);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NotPayer.selector, sender, payer, authorizer));
        escrow.initiateWithdraw(config(), 10);
        vm.stopPrank();
    }

    function allow(bool allowed) internal {
        vm.prank(operator);
        escrow.setSender(sender, allowed);
    }
}
