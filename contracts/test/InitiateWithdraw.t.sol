// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {SmartWallet} from "./mocks/SmartWallet.sol";

contract InitiateWithdrawTest is EscrowTest {
    uint256 internal constant DEADLINE = START + 1 hours;

    function setUp() public override {
        super.setUp();
        deposit(1_000);
    }

    function test_the_payer_starts_a_withdrawal() public {
        vm.expectEmit(address(escrow));
        emit IEscrow.WithdrawInitiated(account(), 600, uint40(START) + DELAY, 0, true);
        initiateWithdraw(600);
        IEscrow.AccountState memory s = state();
        assertTrue(s.withdrawByPayer, "the payer's");
        assertEq(s.withdrawAmount, 600, "amount");
        assertEq(s.withdrawableAt, START + DELAY, "time");
        assertEq(s.withdrawNonce, 1, "nonce");
        assertEq(s.authorizerNonce, 0, "the authorizer's nonce");
        assertEq(s.balance, 1_000, "balance");
    }

    function test_the_authorizer_starts_a_withdrawal() public {
        vm.expectEmit(address(escrow));
        emit IEscrow.WithdrawInitiated(account(), 600, uint40(START) + DELAY, 0, false);
        initiateWithdrawByAuthorizer(600);
        IEscrow.AccountState memory s = state();
        assertEq(s.withdrawAmount, 600, "amount");
        assertTrue(!s.withdrawByPayer, "the payer's");
        assertEq(s.withdrawNonce, 0, "the payer's nonce");
        assertEq(s.authorizerNonce, 1, "nonce");
    }

    function test_nobody_else_does() public {
        address[3] memory others = [operator, stranger, alice];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(abi.encodeWithSelector(IEscrow.NotPayer.selector, others[i], payer, authorizer));
            escrow.initiateWithdraw(config(), 600);
        }
    }

    function test_more_than_the_balance_means_everything() public {
        initiateWithdraw(type(uint128).max);
        assertEq(state().withdrawAmount, type(uint128).max, "amount");
    }

    function test_initiate_reverts_for_amount_zero() public {
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.ZeroAmount.selector));
        escrow.initiateWithdraw(config(), 0);
    }

    function test_initiate_reverts_while_one_is_pending() public {
        initiateWithdraw(600);
        bytes memory expected = abi.encodeWithSelector(IEscrow.WithdrawPending.selector, account(), 600, START + DELAY);
        vm.warp(START + 2 * DELAY);
        vm.prank(payer);
        vm.expectRevert(expected);
        escrow.initiateWithdraw(config(), 1);
    }

    function test_initiate_reverts_for_an_empty_account() public {
        claim(voucherBatch(alice, 1_000));
        bytes memory expected = abi.encodeWithSelector(IEscrow.AccountEmpty.selector, account());
        vm.prank(payer);
        vm.expectRevert(expected);
        escrow.initiateWithdraw(config(), 1);
    }

    function test_initiate_reverts_for_an_account_that_was_never_opened() public {
        IEscrow.ChannelConfig memory c = config();
        c.salt = bytes32(uint256(9));
        bytes memory expected = abi.encodeWithSelector(IEscrow.AccountEmpty.selector, escrow.accountId(c));
        vm.prank(payer);
        vm.expectRevert(expected);
        escrow.initiateWithdraw(c, 1);
    }

    // ------------------------------------------------------------------------------------------------- by signature

    function test_anyone_lands_the_payers_or_authorizers_signature() public {
        uint256[2] memory keys = [PAYER_KEY, AUTHORIZER_KEY];
        for (uint256 i = 0; i < keys.length; ++i) {
            bytes memory signature = signWithdraw(keys[i], 600, 0, DEADLINE);
            vm.prank(stranger);
            escrow.initiateWithdrawWithSignature(config(), 600, 0, DEADLINE, signature);
            assertEq(state().withdrawAmount, 600, "amount");
            assertTrue(state().withdrawByPayer == (keys[i] == PAYER_KEY), "the payer's");
            vm.prank(payer);
            escrow.cancelWithdraw(config());
        }
    }

    function test_a_smart_wallet_signs_by_erc1271() public {
        SmartWallet wallet = new SmartWallet();
        payer = address(wallet);
        deposit(500);
        bytes memory signature = wallet.signatureOf(escrow.withdrawDigest(account(), 200, 0, DEADLINE));
        escrow.initiateWithdrawWithSignature(config(), 200, 0, DEADLINE, signature);
        assertEq(state().withdrawAmount, 200, "amount");
    }

    function test_a_signature_is_used_once() public {
        bytes memory signature = signWithdraw(PAYER_KEY, 600, 0, DEADLINE);
        escrow.initiateWithdrawWithSignature(config(), 600, 0, DEADLINE, signature);
        vm.prank(payer);
        escrow.cancelWithdraw(config());
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadNonce.selector, 0, 2));
        escrow.initiateWithdrawWithSignature(config(), 600, 0, DEADLINE, signature);
    }

    function test_a_direct_withdrawal_voids_signatures_that_were_not_landed() public {
        bytes memory signature = signWithdraw(PAYER_KEY, 600, 0, DEADLINE);
        initiateWithdraw(100);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadNonce.selector, 0, 1));
        escrow.initiateWithdrawWithSignature(config(), 600, 0, DEADLINE, signature);
    }

    function test_a_signature_expires() public {
        bytes memory signature = signWithdraw(PAYER_KEY, 600, 0, DEADLINE);
        vm.warp(DEADLINE + 1);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.DeadlinePassed.selector, DEADLINE, DEADLINE + 1));
        escrow.initiateWithdrawWithSignature(config(), 600, 0, DEADLINE, signature);
        vm.warp(DEADLINE);
        escrow.initiateWithdrawWithSignature(config(), 600, 0, DEADLINE, signature);
        assertEq(state().withdrawAmount, 600, "amount");
    }

    function test_the_signature_binds_every_field() public {
        bytes memory signature = signWithdraw(PAYER_KEY, 600, 0, DEADLINE);
        refused(config(), 601, 0, DEADLINE, signature);
        refused(config(), 600, 1, DEADLINE, signature);
        refused(config(), 600, 0, DEADLINE + 1, signature);
        IEscrow.ChannelConfig memory other = config();
        other.salt = bytes32(uint256(1));
        refused(other, 600, 0, DEADLINE, signature);
    }

    function test_nobody_elses_signature_will_do() public {
        refused(config(), 600, 0, DEADLINE, signWithdraw(OPERATOR_KEY, 600, 0, DEADLINE));
        refused(config(), 600, 0, DEADLINE, signWithdraw(STRANGER_KEY, 600, 0, DEADLINE));
        refused(config(), 600, 0, DEADLINE, "");
        refused(config(), 600, 0, DEADLINE, new bytes(65));
    }

    function test_a_signature_of_amount_zero_starts_nothing() public {
        bytes memory signature = signWithdraw(PAYER_KEY, 0, 0, DEADLINE);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.ZeroAmount.selector));
        escrow.initiateWithdrawWithSignature(config(), 0, 0, DEADLINE, signature);
    }

    function refused(
        IEscrow.ChannelConfig memory c,
        uint128 amount,
        uint256 nonce,
        uint256 deadline,
        bytes memory signature
    ) internal {
        bytes32 digest = escrow.withdrawDigest(escrow.accountId(c), amount, nonce, deadline);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadSignature.selector, payer, digest));
        escrow.initiateWithdrawWithSignature(c, amount, nonce, deadline, signature);
    }
}
