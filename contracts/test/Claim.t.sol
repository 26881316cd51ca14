// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {Batches} from "./support/Batches.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

/// @notice Claims by vouchers.
contract ClaimTest is EscrowTest {
    uint256 internal constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    function setUp() public override {
        super.setUp();
        deposit(1_000);
    }

    function test_claim_pays_the_receiver_in_the_same_transaction() public {
        bytes memory batch = voucherBatch(alice, 300);
        vm.expectEmit(address(escrow));
        emit IEscrow.Claimed(account(), paidRow(alice, 300));
        claim(batch);
        assertEq(token.balanceOf(alice), 300, "paid");
        assertEq(balance(), 700, "balance");
        assertEq(claimed(alice), 300, "claimed");
    }

    function test_claim_takes_the_total_and_leaves_the_rest_of_the_ceiling() public {
        claim(oneRow(alice, Batches.voucherRow(0, 120, 500, signVoucher(alice, 500))));
        assertEq(token.balanceOf(alice), 120, "paid");
        assertEq(claimed(alice), 120, "claimed");
    }

    function test_totals_are_cumulative() public {
        claim(voucherBatch(alice, 300));
        claim(voucherBatch(alice, 450));
        assertEq(token.balanceOf(alice), 450, "paid");
        assertEq(claimed(alice), 450, "claimed");
    }

    function test_a_voucher_can_be_claimed_in_steps() public {
        bytes memory voucher = signVoucher(alice, 500);
        claim(oneRow(alice, Batches.voucherRow(0, 100, 500, voucher)));
        claim(oneRow(alice, Batches.voucherRow(0, 500, 500, voucher)));
        assertEq(token.balanceOf(alice), 500, "paid");
    }

    function test_a_claim_without_rows_does_nothing() public {
        vm.recordLogs();
        claim(batchOf(none(), "", new bytes[](0)));
        claim(Batches.batch(operator, address(token), list(alice), new bytes[](0)));
        assertEq(vm.getRecordedLogs().length, 0, "events");
    }

    function test_only_the_operator_or_its_senders_claim() public {
        bytes memory batch = voucherBatch(alice, 300);
        address[3] memory others = [stranger, payer, alice];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(abi.encodeWithSelector(IEscrow.NotOperatorOrSender.selector, others[i], operator));
            escrow.claim(batch);
        }
    }

    /// @dev The operator is part of the account's id: whoever names himself claims from accounts of his own.
    function test_naming_oneself_operator_reaches_nobodys_account() public {
        bytes[] memory row = list(Batches.voucherRow(0, 300, 300, signVoucher(alice, 300)));
        bytes memory foreign = Batches.account(payer, authorizer, DELAY, bytes32(0), "", row);
        bytes memory batch = Batches.batch(stranger, address(token), list(alice), list(foreign));
        vm.prank(stranger);
        escrow.claim(batch);
        assertEq(token.balanceOf(alice), 0, "paid");
        assertEq(balance(), 1_000, "balance");
    }

    // ------------------------------------------------------------------------------------------------ skipped rows

    function test_a_row_with_nothing_new_is_skipped() public {
        claim(voucherBatch(alice, 300));
        skips(voucherBatch(alice, 300), alice, 300, IEscrow.SkipReason.NothingNew);
        skips(voucherBatch(alice, 200), alice, 200, IEscrow.SkipReason.NothingNew);
        skips(voucherBatch(bob, 0), bob, 0, IEscrow.SkipReason.NothingNew);
    }

    function test_a_row_above_its_ceiling_is_skipped() public {
        bytes memory row = Batches.voucherRow(0, 301, 300, signVoucher(alice, 300));
        skips(oneRow(alice, row), alice, 301, IEscrow.SkipReason.AboveCeiling);
    }

    function test_a_raised_ceiling_is_skipped() public {
        bytes memory row = Batches.voucherRow(0, 301, 301, signVoucher(alice, 300));
        skips(oneRow(alice, row), alice, 301, IEscrow.SkipReason.BadSignature);
    }

    function test_a_row_of_an_empty_account_is_skipped() public {
        claim(voucherBatch(alice, 1_000));
        skips(voucherBatch(bob, 5), bob, 5, IEscrow.SkipReason.AccountEmpty);
    }

    function test_a_row_of_an_account_that_was_never_opened_is_skipped() public {
        authorizer = vm.addr(STRANGER_KEY);
        bytes memory voucher = signCompact(STRANGER_KEY, escrow.voucherDigest(channel(alice), 5));
        bytes memory batch = oneRow(alice, Batches.voucherRow(0, 5, 5, voucher));
        skips(batch, alice, 5, IEscrow.SkipReason.AccountEmpty);
    }

    function test_receivers_that_must_not_be_paid_are_skipped() public {
        address[3] memory bad = [address(0), address(escrow), address(token)];
        for (uint256 i = 0; i < bad.length; ++i) {
            bytes32 id = bad[i] == address(0) ? account() : channel(bad[i]);
            bytes memory voucher = signCompact(AUTHORIZER_KEY, escrow.voucherDigest(id, 10));
            bytes memory batch = oneRow(bad[i], Batches.voucherRow(0, 10, 10, voucher));
            skips(batch, bad[i], 10, IEscrow.SkipReason.BadReceiver);
        }
    }

    function test_a_foreign_signature_is_skipped() public {
        bytes32 digest = escrow.voucherDigest(channel(alice), 300);
        uint256[3] memory keys = [STRANGER_KEY, PAYER_KEY, OPERATOR_KEY];
        for (uint256 i = 0; i < keys.length; ++i) {
            bytes memory row = Batches.voucherRow(0, 300, 300, signCompact(keys[i], digest));
            skips(oneRow(alice, row), alice, 300, IEscrow.SkipReason.BadSignature);
        }
    }

    /// @dev Compact signatures have no room for most high values of s; the rest is refused (see {SignaturesTest}).
    function test_a_high_s_is_skipped() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(AUTHORIZER_KEY, escrow.voucherDigest(channel(alice), 300));
        bytes[2] memory high = [
            Batches.compact(v == 27 ? 28 : 27, r, bytes32(ORDER - uint256(s))),
            Batches.compact(27, r, bytes32(ORDER / 2 + 1))
        ];
        for (uint256 i = 0; i < high.length; ++i) {
            bytes memory batch = oneRow(alice, Batches.voucherRow(0, 300, 300, high[i]));
            skips(batch, alice, 300, IEscrow.SkipReason.BadSignature);
        }
    }

    function test_a_wrong_v_is_skipped() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(AUTHORIZER_KEY, escrow.voucherDigest(channel(alice), 300));
        bytes memory wrong = Batches.compact(v == 27 ? 28 : 27, r, s);
        skips(oneRow(alice, Batches.voucherRow(0, 300, 300, wrong)), alice, 300, IEscrow.SkipReason.BadSignature);
    }

    function test_a_signature_that_recovers_to_zero_is_skipped() public {
        bytes[3] memory junk = [abi.encode(0, 0), abi.encode(0, 1), abi.encode(type(uint256).max, 1)];
        for (uint256 i = 0; i < junk.length; ++i) {
            bytes memory batch = oneRow(alice, Batches.voucherRow(0, 300, 300, junk[i]));
            skips(batch, alice, 300, IEscrow.SkipReason.BadSignature);
        }
    }

    /// @dev With authorizer zero a failed recovery would "match"; such an account cannot be opened, and is empty.
    function test_an_authorizer_of_zero_matches_no_failed_recovery() public {
        authorizer = address(0);
        bytes memory batch = oneRow(alice, Batches.voucherRow(0, 300, 300, abi.encode(0, 0)));
        skips(batch, alice, 300, IEscrow.SkipReason.AccountEmpty);
    }

    function test_bad_rows_do_not_hurt_their_neighbours() public {
        bytes[] memory four = new bytes[](4);
        four[0] = Batches.voucherRow(0, 100, 100, abi.encode(1, 2));
        four[1] = Batches.voucherRow(1, 200, 200, signVoucher(bob, 200));
        four[2] = Batches.voucherRow(0, 100, 50, signVoucher(alice, 50));
        four[3] = Batches.voucherRow(0, 50, 50, signVoucher(alice, 50));
        claim(batchOf(list(alice, bob), "", four));
        assertEq(token.balanceOf(alice), 50, "paid to alice");
        assertEq(token.balanceOf(bob), 200, "paid to bob");
        assertEq(balance(), 750, "balance");
    }

    // -------------------------------------------------------------------------------------- duplicates and shortage

    function test_a_duplicate_row_pays_once() public {
        bytes memory row = Batches.voucherRow(0, 300, 300, signVoucher(alice, 300));
        claim(batchOf(list(alice), "", list(row, row)));
        assertEq(token.balanceOf(alice), 300, "paid");
    }

    function test_a_receiver_listed_twice_is_paid_once_for_each_row() public {
        bytes memory first = Batches.voucherRow(0, 100, 300, signVoucher(alice, 300));
        bytes memory second = Batches.voucherRow(1, 300, 300, signVoucher(alice, 300));
        claim(batchOf(list(alice, alice), "", list(first, second)));
        assertEq(token.balanceOf(alice), 300, "paid");
        assertEq(claimed(alice), 300, "claimed");
    }

    function test_an_account_listed_twice_pays_each_row_once() public {
        bytes memory a = Batches.voucherRow(0, 300, 300, signVoucher(alice, 300));
        bytes memory b = Batches.voucherRow(1, 200, 200, signVoucher(bob, 200));
        bytes[] memory twice = list(
            Batches.account(payer, authorizer, DELAY, bytes32(0), "", list(a)),
            Batches.account(payer, authorizer, DELAY, bytes32(0), "", list(b, a))
        );
        claim(Batches.batch(operator, address(token), list(alice, bob), twice));
        assertEq(token.balanceOf(alice), 300, "paid to alice");
        assertEq(token.balanceOf(bob), 200, "paid to bob");
        assertEq(balance(), 500, "balance");
    }

    function test_one_receiver_gets_one_transfer_for_all_accounts() public {
        bytes memory a = Batches.voucherRow(0, 300, 300, signVoucher(alice, 300));
        bytes memory mine = Batches.account(payer, authorizer, DELAY, bytes32(0), "", list(a));
        bytes memory other = secondAccount(700, alice, 450);
        vm.expectCall(address(token), abi.encodeCall(token.transfer, (alice, 750)), 1);
        claim(Batches.batch(operator, address(token), list(alice), list(mine, other)));
        assertEq(token.balanceOf(alice), 750, "paid");
    }

    function test_a_short_account_pays_what_it_has_and_the_rest_after_a_top_up() public {
        bytes memory batch = voucherBatch(alice, 1_600);
        vm.expectEmit(address(escrow));
        emit IEscrow.Claimed(account(), paidRow(alice, 1_000));
        claim(batch);
        assertEq(token.balanceOf(alice), 1_000, "paid at first");
        assertEq(claimed(alice), 1_000, "claimed at first");
        assertEq(balance(), 0, "balance");

        deposit(5_000);
        claim(batch);
        assertEq(token.balanceOf(alice), 1_600, "paid in the end");
        assertEq(claimed(alice), 1_600, "claimed in the end");
        assertEq(balance(), 4_400, "balance in the end");
    }

    function test_a_short_account_pays_rows_in_their_order() public {
        bytes memory a = Batches.voucherRow(0, 800, 800, signVoucher(alice, 800));
        bytes memory b = Batches.voucherRow(1, 800, 800, signVoucher(bob, 800));
        claim(batchOf(list(alice, bob), "", list(a, b)));
        assertEq(token.balanceOf(alice), 800, "paid to alice");
        assertEq(token.balanceOf(bob), 200, "paid to bob");
        assertEq(claimed(bob), 200, "claimed by bob");
    }

    function test_accounts_of_one_payer_do_not_share_their_money() public {
        bytes memory other = secondAccount(50, alice, 80);
        claim(Batches.batch(operator, address(token), list(alice), list(other)));
        assertEq(token.balanceOf(alice), 50, "paid");
        assertEq(balance(), 1_000, "the first account's balance");
    }

    function test_totals_go_up_to_the_largest_amount() public {
        deposit(type(uint128).max - 1_000);
        claim(voucherBatch(alice, type(uint128).max));
        assertEq(token.balanceOf(alice), type(uint128).max, "paid");
        assertEq(claimed(alice), type(uint128).max, "claimed");
    }

    /// @dev Whatever the rows and their order, nobody gets more than his vouchers say, and the books balance.
    function testFuzz_rows_pay_at_most_their_ceilings(uint128[6] memory totals, uint128[6] memory ceilings) public {
        bytes[] memory six = new bytes[](6);
        uint256[2] memory most;
        address[] memory receivers = list(alice, bob);
        for (uint256 i = 0; i < 6; ++i) {
            uint128 ceiling = ceilings[i] % 700;
            if (ceiling > most[i % 2]) most[i % 2] = ceiling;
            bytes memory voucher = signVoucher(receivers[i % 2], ceiling);
            six[i] = Batches.voucherRow(uint16(i % 2), totals[i] % 900, ceiling, voucher);
        }
        claim(batchOf(receivers, "", six));
        assertAtMost(token.balanceOf(alice), most[0], "paid to alice");
        assertAtMost(token.balanceOf(bob), most[1], "paid to bob");
        assertEq(claimed(alice), token.balanceOf(alice), "claimed by alice");
        assertEq(claimed(bob), token.balanceOf(bob), "claimed by bob");
        assertEq(balance() + claimed(alice) + claimed(bob), 1_000, "the books");
        assertSolvent();
    }

    /// @dev Opens an account with another salt and encodes one row by voucher of it.
    function secondAccount(uint128 amount, address receiver, uint128 total) internal returns (bytes memory) {
        IEscrow.ChannelConfig memory c = config();
        c.salt = bytes32(uint256(2));
        token.mint(address(this), amount);
        token.approve(address(escrow), amount);
        escrow.deposit(c, amount);
        c.receiver = receiver;
        bytes memory voucher = signCompact(AUTHORIZER_KEY, escrow.voucherDigest(escrow.channelId(c), total));
        bytes[] memory row = list(Batches.voucherRow(0, total, total, voucher));
        return Batches.account(payer, authorizer, DELAY, c.salt, "", row);
    }
}
