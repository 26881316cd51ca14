// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

contract CancelWithdrawTest is EscrowTest {
    uint256 internal constant DEADLINE = START + 1 hours;

    function setUp() public override {
        super.setUp();
        deposit(1_000);
        initiateWithdraw(600);
    }

    function test_the_payer_gives_a_withdrawal_up() public {
        vm.expectEmit(address(escrow));
        emit IEscrow.WithdrawCancelled(account(), 1, true);
        vm.prank(payer);
        escrow.cancelWithdraw(config());
        nothingIsPending();
    }

    function test_payer_and_authorizer_give_up_what_the_authorizer_started() public {
        address[2] memory owners = [authorizer, payer];
        vm.prank(payer);
        escrow.cancelWithdraw(config());
        for (uint256 i = 0; i < owners.length; ++i) {
            initiateWithdrawByAuthorizer(600);
            vm.expectEmit(address(escrow));
            emit IEscrow.WithdrawCancelled(account(), i == 0 ? 1 : 2, i == 1);
            vm.prank(owners[i]);
            escrow.cancelWithdraw(config());
            nothingIsPending();
        }
    }

    function test_nobody_else_does() public {
        vm.prank(operator);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NotPayer.selector, operator, payer, authorizer));
        escrow.cancelWithdraw(config());
    }

    function test_cancel_reverts_if_none_is_pending() public {
        vm.prank(payer);
        escrow.cancelWithdraw(config());
        bytes memory expected = abi.encodeWithSelector(IEscrow.NoWithdrawPending.selector, account());
        vm.prank(payer);
        vm.expectRevert(expected);
        escrow.cancelWithdraw(config());
    }

    function test_a_new_withdrawal_waits_its_whole_delay() public {
        vm.warp(START + DELAY - 1);
        vm.prank(payer);
        escrow.cancelWithdraw(config());
        initiateWithdraw(600);
        assertEq(state().withdrawableAt, START + 2 * DELAY - 1, "time");
    }

    function test_anyone_lands_a_signature_of_amount_zero() public {
        bytes memory signature = signWithdraw(PAYER_KEY, 0, 1, DEADLINE);
        vm.prank(stranger);
        escrow.cancelWithdrawWithSignature(config(), 1, DEADLINE, signature);
        assertEq(state().withdrawableAt, 0, "time");
    }

    function test_a_signature_is_used_once() public {
        bytes memory signature = signWithdraw(PAYER_KEY, 0, 1, DEADLINE);
        escrow.cancelWithdrawWithSignature(config(), 1, DEADLINE, signature);
        initiateWithdraw(600);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadNonce.selector, 1, 3));
        escrow.cancelWithdrawWithSignature(config(), 1, DEADLINE, signature);
    }

    function test_a_signature_expires() public {
        bytes memory signature = signWithdraw(PAYER_KEY, 0, 1, DEADLINE);
        vm.warp(DEADLINE + 1);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.DeadlinePassed.selector, DEADLINE, DEADLINE + 1));
        escrow.cancelWithdrawWithSignature(config(), 1, DEADLINE, signature);
    }

    function test_a_signature_to_withdraw_does_not_cancel() public {
        bytes memory signature = signWithdraw(PAYER_KEY, 600, 1, DEADLINE);
        bytes32 digest = escrow.withdrawDigest(account(), 0, 1, DEADLINE);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadSignature.selector, payer, digest));
        escrow.cancelWithdrawWithSignature(config(), 1, DEADLINE, signature);
    }

    function nothingIsPending() internal view {
        assertEq(state().withdrawAmount, 0, "amount");
        assertEq(state().withdrawableAt, 0, "time");
        assertTrue(!state().withdrawByPayer, "the payer's");
    }
}
