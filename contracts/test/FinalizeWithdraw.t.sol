// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

contract FinalizeWithdrawTest is EscrowTest {
    function setUp() public override {
        super.setUp();
        deposit(1_000);
    }

    function test_anyone_finalises_after_the_delay() public {
        initiateWithdraw(600);
        vm.warp(START + DELAY);
        vm.expectEmit(address(escrow));
        emit IEscrow.WithdrawFinalized(account(), 600, 400);
        vm.prank(stranger);
        escrow.finalizeWithdraw(config());
        assertEq(token.balanceOf(payer), 600, "paid");
        assertEq(balance(), 400, "balance");
        assertEq(state().withdrawAmount, 0, "amount");
        assertEq(state().withdrawableAt, 0, "time");
    }

    function test_withdraw_reverts_before_delay() public {
        initiateWithdraw(600);
        vm.warp(START + DELAY - 1);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.WithdrawTooEarly.selector, START + DELAY, START + DELAY - 1));
        escrow.finalizeWithdraw(config());
    }

    function test_withdraw_reverts_if_none_is_pending() public {
        bytes memory expected = abi.encodeWithSelector(IEscrow.NoWithdrawPending.selector, account());
        vm.expectRevert(expected);
        escrow.finalizeWithdraw(config());
    }

    function test_a_withdrawal_is_paid_once() public {
        initiateWithdraw(600);
        vm.warp(START + DELAY);
        escrow.finalizeWithdraw(config());
        bytes memory expected = abi.encodeWithSelector(IEscrow.NoWithdrawPending.selector, account());
        vm.expectRevert(expected);
        escrow.finalizeWithdraw(config());
        assertEq(token.balanceOf(payer), 600, "paid");
    }

    function test_everything_is_what_is_left() public {
        initiateWithdraw(type(uint128).max);
        claim(voucherBatch(alice, 300));
        vm.warp(START + DELAY);
        escrow.finalizeWithdraw(config());
        assertEq(token.balanceOf(payer), 700, "paid");
        assertEq(balance(), 0, "balance");
    }

    function test_a_withdrawal_of_which_nothing_is_left_ends() public {
        initiateWithdraw(600);
        claim(voucherBatch(alice, 1_000));
        vm.warp(START + DELAY);
        vm.expectEmit(address(escrow));
        emit IEscrow.WithdrawFinalized(account(), 0, 0);
        escrow.finalizeWithdraw(config());
        assertEq(token.balanceOf(payer), 0, "paid");
        assertEq(state().withdrawableAt, 0, "time");
    }

    function test_a_blacklisted_payer_is_owed() public {
        initiateWithdraw(600);
        vm.warp(START + DELAY);
        token.blacklist(payer);
        escrow.finalizeWithdraw(config());
        assertEq(escrow.owed(payer, address(token)), 600, "owed");
        assertEq(balance(), 400, "balance");
        assertSolvent();
        token.unBlacklist(payer);
        escrow.collect(payer, address(token));
        assertEq(token.balanceOf(payer), 600, "collected");
    }

    // ---------------------------------------------------------------- a payer that plays around an operator's claim

    function test_a_pending_withdrawal_does_not_block_a_claim() public {
        initiateWithdraw(1_000);
        claim(voucherBatch(alice, 800));
        assertEq(token.balanceOf(alice), 800, "paid to alice");
        vm.warp(START + DELAY);
        claim(voucherBatch(bob, 150));
        escrow.finalizeWithdraw(config());
        assertEq(token.balanceOf(bob), 150, "paid to bob");
        assertEq(token.balanceOf(payer), 50, "paid to the payer");
    }

    function test_front_running_a_claim_with_a_withdrawal_wins_nothing_before_the_delay() public {
        bytes memory batch = voucherBatch(alice, 1_000);
        initiateWithdraw(1_000);
        (bool success,) = address(escrow).call(abi.encodeCall(escrow.finalizeWithdraw, (config())));
        assertTrue(!success, "finalised at once");
        claim(batch);
        assertEq(token.balanceOf(alice), 1_000, "paid");
    }

    function test_cancelling_and_starting_again_around_a_claim_wins_nothing() public {
        initiateWithdraw(1_000);
        vm.warp(START + DELAY - 1);
        vm.startPrank(payer);
        escrow.cancelWithdraw(config());
        escrow.initiateWithdraw(config(), 1_000);
        vm.stopPrank();
        vm.warp(START + DELAY);
        (bool success,) = address(escrow).call(abi.encodeCall(escrow.finalizeWithdraw, (config())));
        assertTrue(!success, "finalised by the first withdrawal's clock");
        claim(voucherBatch(alice, 1_000));
        assertEq(token.balanceOf(alice), 1_000, "paid");
    }

    function test_a_deposit_during_a_withdrawal_stays_claimable() public {
        initiateWithdraw(600);
        deposit(500);
        claim(voucherBatch(alice, 1_300));
        assertEq(token.balanceOf(alice), 1_300, "paid");
        vm.warp(START + DELAY);
        escrow.finalizeWithdraw(config());
        assertEq(token.balanceOf(payer), 200, "paid to the payer");
    }

    /// @dev Why a pending withdrawal counts as gone, whatever is deposited after it.
    function test_a_deposit_after_the_delay_can_leave_at_once() public {
        initiateWithdraw(type(uint128).max);
        vm.warp(START + DELAY);
        deposit(500);
        uint256 before = token.balanceOf(payer);
        vm.prank(stranger);
        escrow.finalizeWithdraw(config());
        assertEq(balance(), 0, "balance");
        assertEq(token.balanceOf(payer) - before, 1_500, "paid to the payer");
    }

    /// @dev What was left open of a short row is claimed from the next deposit, before the payer can have it back.
    function test_a_short_row_comes_before_the_payer_after_a_top_up() public {
        bytes memory batch = voucherBatch(alice, 1_500);
        claim(batch);
        deposit(700);
        initiateWithdraw(700);
        claim(batch);
        vm.warp(START + DELAY);
        escrow.finalizeWithdraw(config());
        assertEq(token.balanceOf(alice), 1_500, "paid to alice");
        assertEq(token.balanceOf(payer), 200, "paid to the payer");
    }
}
