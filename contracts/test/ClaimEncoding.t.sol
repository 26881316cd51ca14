// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {Batches} from "./support/Batches.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

/// @notice Batches that are not well-formed revert, and say where.
contract ClaimEncodingTest is EscrowTest {
    function setUp() public override {
        super.setUp();
        deposit(1_000);
    }

    function test_a_batch_cut_short_anywhere_reverts() public {
        cutShort(approvalBatch(list(alice, bob), list(100, 250)));
        cutShort(voucherBatch(alice, 300));
    }

    function test_bytes_behind_the_last_account_revert() public {
        bytes memory batch = voucherBatch(alice, 300);
        reverts(
            bytes.concat(batch, hex"00"),
            abi.encodeWithSelector(IEscrow.BatchTooLong.selector, batch.length + 1, batch.length)
        );
    }

    function test_an_index_out_of_range_reverts() public {
        bytes memory batch = oneRow(alice, Batches.voucherRow(1, 300, 300, signVoucher(alice, 300)));
        reverts(batch, abi.encodeWithSelector(IEscrow.ReceiverIndexOutOfRange.selector, 1, 1));
        batch = batchOf(list(alice), signApproval(list(alice), list(300)), list(Batches.approvalRow(2, 300)));
        reverts(batch, abi.encodeWithSelector(IEscrow.ReceiverIndexOutOfRange.selector, 2, 1));
        batch = oneRow(alice, Batches.voucherRow(type(uint16).max, 300, 300, signVoucher(alice, 300)));
        reverts(batch, abi.encodeWithSelector(IEscrow.ReceiverIndexOutOfRange.selector, type(uint16).max, 1));
        batch = batchOf(none(), "", list(Batches.voucherRow(0, 300, 300, signVoucher(alice, 300))));
        reverts(batch, abi.encodeWithSelector(IEscrow.ReceiverIndexOutOfRange.selector, 0, 0));
    }

    function test_an_unknown_way_of_authorization_reverts() public {
        bytes memory batch = voucherBatch(alice, 300);
        batch[42 + 20 + 2 + 77] = 0x02;
        reverts(batch, abi.encodeWithSelector(IEscrow.UnknownAuthorization.selector, 2, 1));
    }

    function test_a_receiver_count_beyond_the_batch_reverts() public {
        bytes memory batch = voucherBatch(alice, 300);
        batch[40] = 0xff;
        batch[41] = 0xff;
        reverts(batch, abi.encodeWithSelector(IEscrow.BatchTruncated.selector, batch.length, 42 + 65_535 * 20 + 2));
    }

    function test_a_row_count_beyond_the_batch_reverts() public {
        bytes memory batch = voucherBatch(alice, 300);
        uint256 account_ = 42 + 20 + 2;
        batch[account_ + 78] = 0xff;
        reverts(
            batch,
            abi.encodeWithSelector(IEscrow.BatchTruncated.selector, batch.length, account_ + 80 + uint256(0xff01) * 98)
        );
    }

    function test_an_account_count_beyond_the_batch_reverts() public {
        bytes memory batch = voucherBatch(alice, 300);
        batch[42 + 20 + 1] = 0x02;
        reverts(batch, abi.encodeWithSelector(IEscrow.BatchTruncated.selector, batch.length, batch.length + 80));
    }

    /// @dev The calldata goes on with the very bytes that are missing: they must not be read as part of the batch.
    function test_what_stands_behind_a_batch_is_never_read_as_part_of_it() public {
        bytes memory batch = voucherBatch(alice, 300);
        for (uint256 cut = 0; cut < batch.length; ++cut) {
            bytes memory data = abi.encodePacked(IEscrow.claim.selector, uint256(0x20), cut, batch, new bytes(32));
            vm.prank(operator);
            (bool success, bytes memory answer) = address(escrow).call(data);
            assertTrue(!success, "a batch cut short was taken");
            assertEq(bytes32(bytes4(answer)), bytes32(IEscrow.BatchTruncated.selector), "the refusal");
        }
        assertEq(balance(), 1_000, "balance");
    }

    /// @dev Whatever bytes come: nobody is paid more than his voucher.
    function testFuzz_damaged_batches_never_pay_more(uint16 position, uint8 flip) public {
        bytes memory batch = voucherBatch(alice, 300);
        batch[position % batch.length] ^= bytes1(flip);
        vm.prank(operator);
        try escrow.claim(batch) {} catch {}
        assertAtMost(token.balanceOf(alice), 300, "paid");
        assertEq(token.balanceOf(alice) + token.balanceOf(address(escrow)), 1_000, "money went elsewhere");
    }

    function cutShort(bytes memory batch) internal {
        uint256 length = batch.length;
        for (uint256 cut = 0; cut < length; ++cut) {
            assembly {
                mstore(batch, cut)
            }
            vm.prank(operator);
            (bool success, bytes memory answer) = address(escrow).call(abi.encodeCall(escrow.claim, (batch)));
            assertTrue(!success, "a batch cut short was taken");
            assertEq(bytes32(bytes4(answer)), bytes32(IEscrow.BatchTruncated.selector), "the refusal");
        }
        assertEq(balance(), 1_000, "balance");
    }

    function reverts(bytes memory batch, bytes memory reason) internal {
        vm.prank(operator);
        vm.expectRevert(reason);
        escrow.claim(batch);
        assertEq(balance(), 1_000, "balance");
    }
}
