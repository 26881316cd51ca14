// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {SmartWallet} from "./mocks/SmartWallet.sol";

contract RefundWithSignatureTest is EscrowTest {
    function setUp() public override {
        super.setUp();
        deposit(1_000);
    }

    function test_anyone_lands_the_operators_refund() public {
        bytes memory signature = signRefund(400, 0);
        vm.expectEmit(address(escrow));
        emit IEscrow.Refunded(account(), 400, 600, 0, 0);
        vm.prank(stranger);
        escrow.refundWithSignature(config(), 400, 0, signature);
        assertEq(token.balanceOf(payer), 400, "paid");
        assertEq(balance(), 600, "balance");
        assertEq(state().refundNonce, 1, "nonce");
    }

    function test_a_refund_is_used_once() public {
        refund(400, 0);
        bytes memory signature = signRefund(400, 0);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadNonce.selector, 0, 1));
        escrow.refundWithSignature(config(), 400, 0, signature);
        assertEq(token.balanceOf(payer), 400, "paid");
    }

    function test_refunds_go_in_the_order_of_their_nonces() public {
        bytes memory signature = signRefund(400, 1);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadNonce.selector, 1, 0));
        escrow.refundWithSignature(config(), 400, 1, signature);
        refund(100, 0);
        refund(400, 1);
        assertEq(token.balanceOf(payer), 500, "paid");
    }

    function test_more_than_the_balance_pays_what_is_left() public {
        claim(voucherBatch(alice, 700));
        refund(400, 0);
        assertEq(token.balanceOf(payer), 300, "paid");
        assertEq(balance(), 0, "balance");
    }

    function test_a_refund_of_nothing_left_uses_its_nonce_up() public {
        claim(voucherBatch(alice, 1_000));
        refund(400, 0);
        assertEq(state().refundNonce, 1, "nonce");
        deposit(500);
        bytes memory signature = signRefund(400, 0);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadNonce.selector, 0, 1));
        escrow.refundWithSignature(config(), 400, 0, signature);
    }

    function test_an_account_without_a_deposit_has_no_nonce_to_use_up() public {
        IEscrow.ChannelConfig memory other = config();
        other.salt = keccak256("another account");
        bytes32 id = escrow.accountId(other);
        bytes memory signature = sign(OPERATOR_KEY, escrow.refundDigest(id, 0, 0));
        vm.expectRevert(abi.encodeWithSelector(IEscrow.AccountUnknown.selector, id));
        escrow.refundWithSignature(other, 0, 0, signature);
    }

    function test_a_refund_of_zero_voids_another_of_the_same_nonce() public {
        bytes memory held = signRefund(400, 0);
        refund(0, 0);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadNonce.selector, 0, 1));
        escrow.refundWithSignature(config(), 400, 0, held);
        assertEq(balance(), 1_000, "balance");
    }

    function test_a_refund_lowers_a_pending_withdrawal() public {
        initiateWithdraw(600);
        bytes memory signature = signRefund(400, 0);
        vm.expectEmit(address(escrow));
        emit IEscrow.Refunded(account(), 400, 600, 0, 200);
        escrow.refundWithSignature(config(), 400, 0, signature);
        assertEq(state().withdrawAmount, 200, "amount");
        assertEq(state().withdrawableAt, START + DELAY, "time");
    }

    function test_a_refund_of_all_ends_a_pending_withdrawal() public {
        initiateWithdraw(400);
        refund(400, 0);
        assertEq(state().withdrawAmount, 0, "amount");
        assertEq(state().withdrawableAt, 0, "time");
        initiateWithdraw(600);
        assertEq(state().withdrawAmount, 600, "the next one");
    }

    /// @dev Only what was paid lowers it, not what was signed.
    function test_a_short_refund_lowers_a_withdrawal_by_what_it_paid() public {
        initiateWithdraw(1_000);
        claim(voucherBatch(alice, 900));
        refund(500, 0);
        assertEq(token.balanceOf(payer), 100, "paid");
        assertEq(state().withdrawAmount, 900, "amount");
    }

    function test_payer_and_refund_get_no_more_than_the_deposit_together() public {
        initiateWithdraw(1_000);
        refund(700, 0);
        vm.warp(START + DELAY);
        escrow.finalizeWithdraw(config());
        assertEq(token.balanceOf(payer), 1_000, "paid");
        assertEq(balance(), 0, "balance");
    }

    function test_a_blacklisted_payer_is_owed() public {
        token.blacklist(payer);
        refund(400, 0);
        assertEq(escrow.owed(payer, address(token)), 400, "owed");
        assertSolvent();
    }

    function test_only_the_operator_signs_refunds() public {
        bytes32 digest = escrow.refundDigest(account(), 0, 400);
        uint256[3] memory keys = [STRANGER_KEY, PAYER_KEY, AUTHORIZER_KEY];
        for (uint256 i = 0; i < keys.length; ++i) {
            refused(400, 0, sign(keys[i], digest));
        }
        refused(400, 0, "");
    }

    function test_the_signature_binds_amount_nonce_and_account() public {
        bytes memory signature = signRefund(400, 0);
        refused(401, 0, signature);
        refused(400, 1, signature);
        authorizer = stranger;
        refused(400, 0, signature);
    }

    function test_an_operator_that_is_a_contract_signs_by_erc1271() public {
        SmartWallet wallet = new SmartWallet();
        operator = address(wallet);
        deposit(500);
        bytes memory signature = wallet.signatureOf(escrow.refundDigest(account(), 0, 200));
        escrow.refundWithSignature(config(), 200, 0, signature);
        assertEq(token.balanceOf(payer), 200, "paid");
    }

    function refund(uint128 amount, uint256 nonce) internal {
        escrow.refundWithSignature(config(), amount, nonce, signRefund(amount, nonce));
    }

    function refused(uint128 amount, uint256 nonce, bytes memory signature) internal {
        bytes32 digest = escrow.refundDigest(account(), nonce, amount);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadSignature.selector, operator, digest));
        escrow.refundWithSignature(config(), amount, nonce, signature);
    }
}
