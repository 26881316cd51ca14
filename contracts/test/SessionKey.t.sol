// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {SmartWallet} from "./mocks/SmartWallet.sol";

/// @notice Fault C2: a stolen session key (the payerAuthorizer's) stands in nobody's way out.
contract SessionKeyTest is EscrowTest {
    uint256 internal constant DEADLINE = START + 30 days;

    function setUp() public override {
        super.setUp();
        deposit(1_000);
    }

    // ------------------------------------------------------------------------------------- what the payer has started

    function test_c2_the_authorizer_cannot_cancel_the_payers_withdrawal_not_even_a_matured_one() public {
        initiateWithdraw(600);
        uint256[3] memory times = [START, START + DELAY - 1, START + 10 * DELAY];
        for (uint256 i = 0; i < times.length; ++i) {
            vm.warp(times[i]);
            bytes memory expected = abi.encodeWithSelector(IEscrow.WithdrawOfPayer.selector, account());
            vm.prank(authorizer);
            vm.expectRevert(expected);
            escrow.cancelWithdraw(config());
            bytes memory signature = signWithdraw(AUTHORIZER_KEY, 0, 0, DEADLINE);
            vm.expectRevert(expected);
            escrow.cancelWithdrawWithSignature(config(), 0, DEADLINE, signature);
        }
        escrow.finalizeWithdraw(config());
        assertEq(token.balanceOf(payer), 600, "paid");
    }

    function test_c2_the_authorizer_cannot_cancel_what_the_payers_signature_has_started() public {
        bytes memory signature = signWithdraw(PAYER_KEY, 600, 0, DEADLINE);
        vm.prank(authorizer); // whoever lands it, it is the payer's
        escrow.initiateWithdrawWithSignature(config(), 600, 0, DEADLINE, signature);
        bytes memory expected = abi.encodeWithSelector(IEscrow.WithdrawOfPayer.selector, account());
        vm.prank(authorizer);
        vm.expectRevert(expected);
        escrow.cancelWithdraw(config());
    }

    function test_c2_nobody_replaces_what_the_payer_has_started() public {
        initiateWithdraw(600);
        bytes memory expected = abi.encodeWithSelector(IEscrow.WithdrawPending.selector, account(), 600, START + DELAY);
        bytes memory byAuthorizer = signWithdraw(AUTHORIZER_KEY, 1, 0, DEADLINE);
        bytes memory byPayer = signWithdraw(PAYER_KEY, 1, 1, DEADLINE);
        vm.prank(authorizer);
        vm.expectRevert(expected);
        escrow.initiateWithdraw(config(), 1);
        vm.expectRevert(expected);
        escrow.initiateWithdrawWithSignature(config(), 1, 0, DEADLINE, byAuthorizer);
        vm.prank(payer);
        vm.expectRevert(expected);
        escrow.initiateWithdraw(config(), 1);
        vm.expectRevert(expected);
        escrow.initiateWithdrawWithSignature(config(), 1, 1, DEADLINE, byPayer);
    }

    function test_c2_the_payer_alone_cancels_by_signature() public {
        initiateWithdraw(600);
        bytes memory signature = signWithdraw(PAYER_KEY, 0, 1, DEADLINE);
        vm.prank(stranger);
        escrow.cancelWithdrawWithSignature(config(), 1, DEADLINE, signature);
        assertEq(state().withdrawableAt, 0, "time");
    }

    // -------------------------------------------------------------------------------- what the authorizer has started

    function test_c2_the_payer_replaces_what_the_authorizer_started() public {
        initiateWithdrawByAuthorizer(1);
        vm.warp(START + 10);
        vm.expectEmit(address(escrow));
        emit IEscrow.WithdrawInitiated(account(), 900, uint40(START) + 10 + DELAY, 0, true);
        initiateWithdraw(900);
        IEscrow.AccountState memory s = state();
        assertEq(s.withdrawAmount, 900, "amount");
        assertEq(s.withdrawableAt, START + 10 + DELAY, "time");
        assertTrue(s.withdrawByPayer, "the payer's");
        vm.warp(START + 10 + DELAY);
        escrow.finalizeWithdraw(config());
        assertEq(token.balanceOf(payer), 900, "paid");
    }

    function test_c2_the_payers_signature_replaces_it_too() public {
        bytes memory signature = signWithdraw(PAYER_KEY, 900, 0, DEADLINE);
        initiateWithdrawByAuthorizer(1);
        vm.prank(stranger);
        escrow.initiateWithdrawWithSignature(config(), 900, 0, DEADLINE, signature);
        assertEq(state().withdrawAmount, 900, "amount");
    }

    /// @dev A replacement waits its whole delay: nobody gets out earlier by having had something started before.
    function test_c2_a_replacement_waits_its_whole_delay() public {
        initiateWithdrawByAuthorizer(1);
        vm.warp(START + DELAY);
        initiateWithdraw(1_000);
        bytes memory expected =
            abi.encodeWithSelector(IEscrow.WithdrawTooEarly.selector, START + 2 * DELAY, START + DELAY);
        vm.expectRevert(expected);
        escrow.finalizeWithdraw(config());
        claim(voucherBatch(alice, 700));
        vm.warp(START + 2 * DELAY);
        escrow.finalizeWithdraw(config());
        assertEq(token.balanceOf(alice), 700, "paid to alice");
        assertEq(token.balanceOf(payer), 300, "paid to the payer");
    }

    function test_c2_the_authorizer_does_not_replace_its_own() public {
        initiateWithdrawByAuthorizer(1);
        bytes memory expected = abi.encodeWithSelector(IEscrow.WithdrawPending.selector, account(), 1, START + DELAY);
        vm.prank(authorizer);
        vm.expectRevert(expected);
        escrow.initiateWithdraw(config(), 2);
    }

    /// @dev The thief is quicker in every block, and it helps him nothing.
    function test_c2_a_thief_who_is_always_first_does_not_keep_the_payer_in() public {
        initiateWithdrawByAuthorizer(1);
        vm.prank(payer);
        escrow.cancelWithdraw(config());
        initiateWithdrawByAuthorizer(1);
        initiateWithdraw(type(uint128).max);
        for (uint256 i = 0; i < 3; ++i) {
            vm.warp(START + DELAY * (i + 1) / 3);
            vm.prank(authorizer);
            (bool cancelled,) = address(escrow).call(abi.encodeCall(escrow.cancelWithdraw, (config())));
            vm.prank(authorizer);
            (bool started,) = address(escrow).call(abi.encodeCall(escrow.initiateWithdraw, (config(), 1)));
            assertTrue(!cancelled && !started, "the thief got in between");
        }
        escrow.finalizeWithdraw(config());
        assertEq(token.balanceOf(payer), 1_000, "paid");
    }

    // --------------------------------------------------------------------------------------------------------- nonces

    function test_c2_the_authorizer_uses_up_no_nonce_of_the_payers() public {
        bytes memory signature = signWithdraw(PAYER_KEY, 900, 0, DEADLINE);
        for (uint128 i = 0; i < 3; ++i) {
            initiateWithdrawByAuthorizer(1 + i);
            vm.prank(authorizer);
            escrow.cancelWithdraw(config());
        }
        assertEq(state().authorizerNonce, 6, "the authorizer's nonce");
        escrow.initiateWithdrawWithSignature(config(), 900, 0, DEADLINE, signature);
        assertEq(state().withdrawAmount, 900, "amount");
        assertEq(state().withdrawNonce, 1, "the payer's nonce");
        assertEq(state().authorizerNonce, 6, "the authorizer's nonce");
    }

    function test_c2_each_signs_with_its_own_nonce() public {
        initiateWithdrawByAuthorizer(1);
        bytes memory payers = signWithdraw(PAYER_KEY, 900, 1, DEADLINE);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadNonce.selector, 1, 0));
        escrow.initiateWithdrawWithSignature(config(), 900, 1, DEADLINE, payers);
        bytes memory authorizers = signWithdraw(AUTHORIZER_KEY, 0, 0, DEADLINE);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadNonce.selector, 0, 1));
        escrow.cancelWithdrawWithSignature(config(), 0, DEADLINE, authorizers);
    }

    function test_c2_a_payer_that_is_its_own_authorizer_is_the_payer() public {
        authorizer = payer;
        deposit(1_000);
        bytes memory signature = signWithdraw(PAYER_KEY, 600, 0, DEADLINE);
        escrow.initiateWithdrawWithSignature(config(), 600, 0, DEADLINE, signature);
        assertTrue(state().withdrawByPayer, "the payer's");
        assertEq(state().withdrawNonce, 1, "the payer's nonce");
        assertEq(state().authorizerNonce, 0, "the authorizer's nonce");
        vm.prank(payer);
        escrow.cancelWithdraw(config());
        assertEq(state().withdrawNonce, 2, "the payer's nonce");
    }

    function test_c2_a_smart_wallets_signature_is_the_payers_and_its_session_keys_is_not() public {
        SmartWallet wallet = new SmartWallet();
        payer = address(wallet);
        deposit(1_000);
        bytes memory sessions = signWithdraw(AUTHORIZER_KEY, 1, 0, DEADLINE);
        escrow.initiateWithdrawWithSignature(config(), 1, 0, DEADLINE, sessions);
        assertTrue(!state().withdrawByPayer, "the session key's");
        bytes memory wallets = wallet.signatureOf(escrow.withdrawDigest(account(), 900, 0, DEADLINE));
        escrow.initiateWithdrawWithSignature(config(), 900, 0, DEADLINE, wallets);
        assertTrue(state().withdrawByPayer, "the wallet's");
        assertEq(state().withdrawAmount, 900, "amount");
    }

    // -------------------------------------------------------------------------------------------------------- refunds

    function test_c2_a_refund_lowers_either_and_leaves_it_whose_it_is() public {
        initiateWithdraw(600);
        escrow.refundWithSignature(config(), 400, 0, signRefund(400, 0));
        assertEq(state().withdrawAmount, 200, "amount");
        assertTrue(state().withdrawByPayer, "the payer's");
        bytes memory expected = abi.encodeWithSelector(IEscrow.WithdrawOfPayer.selector, account());
        vm.prank(authorizer);
        vm.expectRevert(expected);
        escrow.cancelWithdraw(config());
    }

    function test_c2_what_a_refund_has_ended_belongs_to_nobody() public {
        initiateWithdraw(400);
        escrow.refundWithSignature(config(), 400, 0, signRefund(400, 0));
        assertTrue(!state().withdrawByPayer, "the payer's");
        initiateWithdrawByAuthorizer(1);
        vm.prank(authorizer);
        escrow.cancelWithdraw(config());
        assertEq(state().withdrawableAt, 0, "time");
    }
}
