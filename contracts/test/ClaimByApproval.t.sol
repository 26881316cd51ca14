// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {Batches} from "./support/Batches.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

/// @notice Claims by one approval for all rows of an account.
contract ClaimByApprovalTest is EscrowTest {
    function setUp() public override {
        super.setUp();
        deposit(1_000);
    }

    function test_one_approval_pays_all_rows() public {
        bytes memory batch = approvalBatch(list(alice, bob), list(100, 250));
        IEscrow.ClaimedRow[] memory paid = new IEscrow.ClaimedRow[](2);
        paid[0] = IEscrow.ClaimedRow(alice, 100);
        paid[1] = IEscrow.ClaimedRow(bob, 250);
        vm.expectEmit(address(escrow));
        emit IEscrow.Claimed(account(), paid);
        claim(batch);
        assertEq(token.balanceOf(alice), 100, "paid to alice");
        assertEq(token.balanceOf(bob), 250, "paid to bob");
        assertEq(balance(), 650, "balance");
    }

    function test_replaying_an_old_approval_does_nothing() public {
        bytes memory old = approvalBatch(list(alice, bob), list(100, 250));
        claim(old);
        claim(approvalBatch(list(alice, bob), list(150, 250)));
        claim(old);
        assertEq(token.balanceOf(alice), 150, "paid to alice");
        assertEq(token.balanceOf(bob), 250, "paid to bob");
    }

    function test_an_approval_of_the_totals_in_another_order_is_skipped() public {
        bytes memory approval = signApproval(list(alice, bob), list(100, 250));
        bytes[] memory swapped = list(Batches.approvalRow(1, 250), Batches.approvalRow(0, 100));
        refused(batchOf(list(alice, bob), approval, swapped));
    }

    function test_a_row_more_or_less_than_approved_is_skipped() public {
        bytes memory approval = signApproval(list(alice, bob), list(100, 250));
        bytes[] memory three = new bytes[](3);
        three[0] = Batches.approvalRow(0, 100);
        three[1] = Batches.approvalRow(1, 250);
        three[2] = Batches.approvalRow(1, 260);
        refused(batchOf(list(alice, bob), approval, three));
        refused(batchOf(list(alice, bob), approval, list(three[0])));
    }

    function test_another_total_or_receiver_than_approved_is_skipped() public {
        bytes memory approval = signApproval(list(alice, bob), list(100, 250));
        bytes[] memory dearer = list(Batches.approvalRow(0, 101), Batches.approvalRow(1, 250));
        refused(batchOf(list(alice, bob), approval, dearer));
        bytes[] memory others = list(Batches.approvalRow(0, 100), Batches.approvalRow(0, 250));
        refused(batchOf(list(alice, bob), approval, others));
    }

    function test_only_the_payer_authorizer_approves() public {
        bytes32 digest = escrow.approvalDigest(account(), totals(alice, 100));
        uint256[3] memory keys = [STRANGER_KEY, PAYER_KEY, OPERATOR_KEY];
        for (uint256 i = 0; i < keys.length; ++i) {
            bytes memory batch = batchOf(list(alice), signCompact(keys[i], digest), list(Batches.approvalRow(0, 100)));
            skips(batch, alice, 100, IEscrow.SkipReason.BadSignature);
        }
    }

    function test_an_approval_that_recovers_to_zero_is_skipped() public {
        bytes memory batch = batchOf(list(alice), abi.encode(0, 0), list(Batches.approvalRow(0, 100)));
        skips(batch, alice, 100, IEscrow.SkipReason.BadSignature);
    }

    function test_a_voucher_is_no_approval_and_an_approval_no_voucher() public {
        bytes memory batch = batchOf(list(alice), signVoucher(alice, 100), list(Batches.approvalRow(0, 100)));
        skips(batch, alice, 100, IEscrow.SkipReason.BadSignature);
        bytes memory approval = signApproval(list(alice), list(100));
        skips(oneRow(alice, Batches.voucherRow(0, 100, 100, approval)), alice, 100, IEscrow.SkipReason.BadSignature);
    }

    function test_an_approved_receiver_that_must_not_be_paid_does_not_hurt_the_others() public {
        claim(approvalBatch(list(address(token), bob), list(100, 250)));
        assertEq(token.balanceOf(address(token)), 0, "paid to the token");
        assertEq(token.balanceOf(bob), 250, "paid to bob");
    }

    function test_a_row_with_nothing_new_does_not_hurt_the_others() public {
        claim(voucherBatch(alice, 100));
        claim(approvalBatch(list(alice, bob), list(100, 250)));
        assertEq(token.balanceOf(alice), 100, "paid to alice");
        assertEq(token.balanceOf(bob), 250, "paid to bob");
    }

    function test_an_approval_in_a_short_account_pays_what_is_there() public {
        bytes memory batch = approvalBatch(list(alice, bob), list(900, 250));
        claim(batch);
        assertEq(token.balanceOf(bob), 100, "paid at first");
        deposit(1_000);
        claim(batch);
        assertEq(token.balanceOf(bob), 250, "paid in the end");
    }

    function test_an_approval_of_no_rows_does_nothing() public {
        vm.recordLogs();
        claim(batchOf(none(), signApproval(none(), new uint128[](0)), new bytes[](0)));
        assertEq(vm.getRecordedLogs().length, 0, "events");
    }

    function test_vouchers_remain_when_the_payer_approves_nothing() public {
        bytes[] memory mixed = list(
            Batches.account(payer, authorizer, DELAY, bytes32(0), abi.encode(1, 1), list(Batches.approvalRow(0, 100))),
            Batches.account(
                payer, authorizer, DELAY, bytes32(0), "", list(Batches.voucherRow(0, 100, 100, signVoucher(alice, 100)))
            )
        );
        claim(Batches.batch(operator, address(token), list(alice), mixed));
        assertEq(token.balanceOf(alice), 100, "paid");
    }

    function testFuzz_an_approval_pays_exactly_its_totals(uint128 a, uint128 b) public {
        (a, b) = (a % 400, b % 400);
        claim(approvalBatch(list(alice, bob), list(a, b)));
        assertEq(token.balanceOf(alice), a, "paid to alice");
        assertEq(token.balanceOf(bob), b, "paid to bob");
        assertSolvent();
    }

    /// @dev Claims and expects both receivers to get nothing.
    function refused(bytes memory batch) internal {
        bytes32 before = keccak256(abi.encode(fingerprint(alice), fingerprint(bob)));
        claim(batch);
        assertEq(keccak256(abi.encode(fingerprint(alice), fingerprint(bob))), before, "the trace of skipped rows");
    }

    function totals(address receiver, uint128 total) internal pure returns (IEscrow.ReceiverTotal[] memory all) {
        all = new IEscrow.ReceiverTotal[](1);
        all[0] = IEscrow.ReceiverTotal(receiver, total);
    }
}
