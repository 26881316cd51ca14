// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {Batches} from "./support/Batches.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {SmartWallet} from "./mocks/SmartWallet.sol";

/// @notice A seller's way out when the operator is gone.
contract ClaimWithSignatureTest is EscrowTest {
    function setUp() public override {
        super.setUp();
        deposit(1_000);
    }

    function test_anyone_claims_with_the_operators_signature() public {
        bytes memory batch = voucherBatch(alice, 300);
        bytes memory signature = signBatch(OPERATOR_KEY, batch);
        vm.prank(stranger);
        escrow.claimWithSignature(batch, signature);
        assertEq(token.balanceOf(alice), 300, "paid");
    }

    function test_the_signature_covers_rows_by_approval() public {
        bytes memory batch = approvalBatch(list(alice, bob), list(100, 250));
        escrow.claimWithSignature(batch, signBatch(OPERATOR_KEY, batch));
        assertEq(token.balanceOf(bob), 250, "paid");
    }

    function test_a_replay_pays_nothing_twice() public {
        bytes memory batch = voucherBatch(alice, 300);
        bytes memory signature = signBatch(OPERATOR_KEY, batch);
        escrow.claimWithSignature(batch, signature);
        escrow.claimWithSignature(batch, signature);
        assertEq(token.balanceOf(alice), 300, "paid");
    }

    function test_what_was_short_can_be_claimed_with_the_same_signature_after_a_top_up() public {
        bytes memory batch = voucherBatch(alice, 1_300);
        bytes memory signature = signBatch(OPERATOR_KEY, batch);
        escrow.claimWithSignature(batch, signature);
        deposit(500);
        escrow.claimWithSignature(batch, signature);
        assertEq(token.balanceOf(alice), 1_300, "paid");
    }

    function test_nobody_elses_signature_will_do() public {
        bytes memory batch = voucherBatch(alice, 300);
        uint256[3] memory keys = [STRANGER_KEY, PAYER_KEY, AUTHORIZER_KEY];
        for (uint256 i = 0; i < keys.length; ++i) {
            refused(batch, signBatch(keys[i], batch));
        }
        refused(batch, "");
        refused(batch, new bytes(65));
        refused(batch, new bytes(64));
    }

    function test_the_signature_binds_every_row() public {
        bytes memory signed = oneRow(alice, Batches.voucherRow(0, 300, 500, signVoucher(alice, 500)));
        bytes memory signature = signBatch(OPERATOR_KEY, signed);
        refused(oneRow(alice, Batches.voucherRow(0, 301, 500, signVoucher(alice, 500))), signature);
        refused(oneRow(alice, Batches.voucherRow(0, 300, 501, signVoucher(alice, 501))), signature);
        refused(oneRow(bob, Batches.voucherRow(0, 300, 500, signVoucher(bob, 500))), signature);
        bytes memory row = Batches.voucherRow(0, 300, 500, signVoucher(alice, 500));
        refused(batchOf(list(alice), "", list(row, row)), signature);
        refused(batchOf(list(alice), "", new bytes[](0)), signature);
    }

    /// @dev Alone in its batch, a holder who spoils the vouchers wins nothing: its rows are skipped, and the true batch can
    ///      be landed later.
    function test_spoiling_the_vouchers_does_not_use_the_signature_up() public {
        bytes memory batch = voucherBatch(alice, 300);
        bytes memory signature = signBatch(OPERATOR_KEY, batch);
        bytes memory spoilt = oneRow(alice, Batches.voucherRow(0, 300, 300, abi.encode(1, 2)));
        escrow.claimWithSignature(spoilt, signature);
        assertEq(token.balanceOf(alice), 0, "paid by the spoilt batch");
        escrow.claimWithSignature(batch, signature);
        assertEq(token.balanceOf(alice), 300, "paid");
    }

    /// @dev Why an operator signs batches of one receiver each: in a short account another row gets the money.
    function test_spoiling_a_row_of_a_short_account_favours_another() public {
        bytes memory good = Batches.voucherRow(0, 1_000, 1_000, signVoucher(alice, 1_000));
        bytes memory spoilt = Batches.voucherRow(0, 1_000, 1_000, abi.encode(1, 2));
        bytes memory other = Batches.voucherRow(1, 1_000, 1_000, signVoucher(bob, 1_000));
        bytes memory signature = signBatch(OPERATOR_KEY, batchOf(list(alice, bob), "", list(good, other)));
        escrow.claimWithSignature(batchOf(list(alice, bob), "", list(spoilt, other)), signature);
        assertEq(token.balanceOf(alice), 0, "paid to alice");
        assertEq(token.balanceOf(bob), 1_000, "paid to bob");
        deposit(1_000);
        claim(batchOf(list(alice), "", list(good)));
        assertEq(token.balanceOf(alice), 1_000, "paid to alice after a top-up");
    }

    function test_an_operator_that_is_a_contract_signs_by_erc1271() public {
        SmartWallet wallet = new SmartWallet();
        operator = address(wallet);
        deposit(400);
        bytes memory batch = voucherBatch(alice, 300);
        bytes memory signature = wallet.signatureOf(escrow.claimBatchDigest(batch));
        escrow.claimWithSignature(batch, signature);
        assertEq(token.balanceOf(alice), 300, "paid");
        wallet.disable();
        refused(voucherBatch(bob, 10), signature);
    }

    /// @dev An EOA that has delegated to code (EIP-7702) keeps its word, whatever the code says.
    function test_an_operators_key_counts_even_behind_code() public {
        bytes memory batch = voucherBatch(alice, 300);
        vm.etch(operator, hex"60006000fd");
        escrow.claimWithSignature(batch, signBatch(OPERATOR_KEY, batch));
        assertEq(token.balanceOf(alice), 300, "paid");
    }

    function test_a_malformed_batch_reverts_before_the_signature_is_looked_at() public {
        bytes memory batch = voucherBatch(alice, 300);
        bytes memory longer = bytes.concat(batch, hex"00");
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BatchTooLong.selector, longer.length, batch.length));
        escrow.claimWithSignature(longer, "");
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BatchTooLong.selector, longer.length, batch.length));
        escrow.claimBatchDigest(longer);
        bytes memory stray = oneRow(alice, Batches.approvalRow(9, 300));
        stray = batchOf(list(alice), abi.encode(1, 1), list(Batches.approvalRow(9, 300)));
        vm.expectRevert(abi.encodeWithSelector(IEscrow.ReceiverIndexOutOfRange.selector, 9, 1));
        escrow.claimBatchDigest(stray);
    }

    function signBatch(uint256 key, bytes memory batch) internal view returns (bytes memory) {
        return sign(key, escrow.claimBatchDigest(batch));
    }

    function refused(bytes memory batch, bytes memory signature) internal {
        bytes32 digest = escrow.claimBatchDigest(batch);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadSignature.selector, operator, digest));
        escrow.claimWithSignature(batch, signature);
    }
}
