// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {TestUSDC} from "../src/test/TestUSDC.sol";
import {TokenCalls} from "../src/libraries/TokenCalls.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {HostileToken} from "./mocks/HostileToken.sol";

/// @notice Transfers that fail, what they leave behind, and how that is paid.
contract CollectTest is EscrowTest {
    HostileToken internal bad;

    function setUp() public override {
        super.setUp();
        bad = new HostileToken();
    }

    // --------------------------------------------------------------------------------------------- failed transfers

    function test_a_blacklisted_receiver_is_owed_and_the_others_are_paid() public {
        deposit(1_000);
        token.blacklist(alice);
        bytes memory batch = approvalBatch(list(alice, bob), list(100, 250));
        vm.expectEmit(address(escrow));
        emit IEscrow.Owed(alice, address(token), 100, 100);
        claim(batch);
        assertEq(escrow.owed(alice, address(token)), 100, "owed to alice");
        assertEq(token.balanceOf(bob), 250, "paid to bob");
        assertEq(claimed(alice), 100, "claimed by alice");
        assertSolvent();
    }

    function test_amounts_owed_add_up() public {
        deposit(1_000);
        token.blacklist(alice);
        claim(voucherBatch(alice, 100));
        bytes memory batch = voucherBatch(alice, 130);
        vm.expectEmit(address(escrow));
        emit IEscrow.Owed(alice, address(token), 30, 130);
        claim(batch);
        assertEq(escrow.owed(alice, address(token)), 130, "owed");
    }

    function test_a_transfer_that_reverts_leaves_the_amount_owed() public {
        fails(HostileToken.Mode.Revert);
    }

    function test_a_transfer_that_returns_false_leaves_the_amount_owed() public {
        fails(HostileToken.Mode.ReturnFalse);
    }

    function test_a_transfer_that_burns_all_gas_leaves_the_amount_owed() public {
        fails(HostileToken.Mode.BurnGas);
    }

    function test_a_transfer_that_returns_something_else_than_true_leaves_the_amount_owed() public {
        fails(HostileToken.Mode.ReturnTwo);
        fails(HostileToken.Mode.ReturnOneByte);
    }

    /// @dev A megabyte costs more gas than a transfer has, and nobody copies it.
    function test_a_transfer_that_returns_a_megabyte_leaves_the_amount_owed() public {
        fails(HostileToken.Mode.Bomb);
    }

    function test_a_transfer_that_returns_nothing_has_paid() public {
        useBadToken(1_000);
        bad.behave(HostileToken.Mode.ReturnNothing);
        claim(voucherBatch(alice, 300));
        assertEq(bad.balanceOf(alice), 300, "paid");
        assertEq(escrow.owed(alice, address(bad)), 0, "owed");
    }

    function test_a_token_that_is_gone_leaves_the_amount_owed() public {
        useBadToken(1_000);
        bytes memory batch = voucherBatch(alice, 300);
        vm.etch(address(bad), "");
        claim(batch);
        assertEq(escrow.owed(alice, address(bad)), 300, "owed");
    }

    function test_burning_gas_costs_a_bounded_amount() public {
        useBadToken(1_000);
        bytes memory batch = voucherBatch(alice, 300);
        bad.behave(HostileToken.Mode.BurnGas);
        claim(batch);
        assertAtMost(vm.lastCallGas().gasTotalUsed, TokenCalls.TRANSFER_GAS + 150_000, "gas of the claim");
    }

    /// @dev Whoever sends the transaction must not be able to make a good transfer fail by sending little gas.
    function test_a_transfer_cannot_be_starved() public {
        deposit(1_000);
        bytes memory batch = voucherBatch(alice, 300);
        bytes memory call = abi.encodeCall(escrow.claim, (batch));
        uint256 starved;
        for (uint256 gas = 40_000; gas < 420_000; gas += 2_000) {
            vm.prank(operator);
            (bool success, bytes memory answer) = address(escrow).call{gas: gas}(call);
            assertEq(escrow.owed(alice, address(token)), 0, "starved into owing");
            if (!success && bytes4(answer) == IEscrow.InsufficientGas.selector) ++starved;
        }
        assertTrue(starved != 0, "no amount of gas was refused");
        assertEq(token.balanceOf(alice), 300, "paid");
    }

    function test_reentering_during_a_payout_is_refused() public {
        useBadToken(1_000);
        bytes memory batch = voucherBatch(alice, 300);
        bytes memory refund = abi.encodeCall(escrow.refundWithSignature, (config(), 700, 0, signRefund(700, 0)));
        bytes[5] memory attacks = [
            abi.encodeCall(escrow.claim, (batch)),
            refund,
            abi.encodeCall(escrow.collect, (alice, address(bad))),
            abi.encodeCall(escrow.deposit, (config(), 1)),
            abi.encodeCall(escrow.finalizeWithdraw, (config()))
        ];
        for (uint128 i = 0; i < attacks.length; ++i) {
            bad.reenter(address(escrow), attacks[i]);
            claim(voucherBatch(alice, 100 + i));
            assertTrue(!bad.attackSucceeded(), "reentered");
            assertEq(
                bytes32(bad.attackAnswer()),
                bytes32(abi.encodeWithSignature("ReentrancyGuardReentrantCall()")),
                "refused by the guard"
            );
        }
        assertEq(bad.balanceOf(alice), 104, "paid");
    }

    // ------------------------------------------------------------------------------------------------------ collect

    function test_anyone_collects_for_the_one_who_is_owed() public {
        deposit(1_000);
        token.blacklist(alice);
        claim(voucherBatch(alice, 300));
        token.unBlacklist(alice);
        vm.expectEmit(address(escrow));
        emit IEscrow.Collected(alice, address(token), 300);
        vm.prank(stranger);
        escrow.collect(alice, address(token));
        assertEq(token.balanceOf(alice), 300, "paid");
        assertEq(escrow.owed(alice, address(token)), 0, "owed");
        assertSolvent();
    }

    function test_collecting_twice_reverts() public {
        deposit(1_000);
        token.blacklist(alice);
        claim(voucherBatch(alice, 300));
        token.unBlacklist(alice);
        escrow.collect(alice, address(token));
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NothingOwed.selector, alice, address(token)));
        escrow.collect(alice, address(token));
    }

    function test_collecting_nothing_reverts() public {
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NothingOwed.selector, bob, address(token)));
        escrow.collect(bob, address(token));
    }

    function test_a_collection_that_fails_again_changes_nothing() public {
        deposit(1_000);
        token.blacklist(alice);
        claim(voucherBatch(alice, 300));
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "Blacklistable: account is blacklisted"));
        escrow.collect(alice, address(token));
        assertEq(escrow.owed(alice, address(token)), 300, "owed");
    }

    function test_a_collection_cannot_be_reentered() public {
        useBadToken(1_000);
        bytes memory batch = voucherBatch(alice, 300);
        bad.behave(HostileToken.Mode.Revert);
        claim(batch);
        bad.reenter(address(escrow), abi.encodeCall(escrow.collect, (alice, address(bad))));
        escrow.collect(alice, address(bad));
        assertTrue(!bad.attackSucceeded(), "reentered");
        assertEq(bad.balanceOf(alice), 300, "paid");
    }

    function test_amounts_owed_are_kept_per_token() public {
        deposit(1_000);
        token.blacklist(alice);
        claim(voucherBatch(alice, 300));
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NothingOwed.selector, alice, address(bad)));
        escrow.collect(alice, address(bad));
    }

    /// @dev From here on the test's account is in the hostile token.
    function useBadToken(uint128 amount) internal {
        bad.mint(address(this), amount);
        token = TestUSDC(address(bad));
        escrow.deposit(config(), amount);
    }

    function fails(HostileToken.Mode mode) internal {
        setUp();
        useBadToken(1_000);
        bytes memory batch = voucherBatch(alice, 300);
        bad.behave(mode);
        claim(batch);
        assertEq(escrow.owed(alice, address(bad)), 300, "owed");
        assertEq(claimed(alice), 300, "claimed");
        assertEq(balance(), 700, "balance");
        assertEq(bad.balanceOf(alice), 0, "paid");
        assertSolvent();
        bad.behave(HostileToken.Mode.Honest);
        escrow.collect(alice, address(bad));
        assertEq(bad.balanceOf(alice), 300, "collected");
        assertSolvent();
    }
}
