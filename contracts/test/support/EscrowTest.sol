// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Escrow} from "../../src/Escrow.sol";
import {IEscrow} from "../../src/interfaces/IEscrow.sol";
import {TestUSDC} from "../../src/test/TestUSDC.sol";
import {Assertions} from "./Assertions.sol";
import {Batches} from "./Batches.sol";

/// @notice An escrow with a token, an operator, a payer with its own session key, and two sellers.
abstract contract EscrowTest is Assertions {
    uint256 internal constant OPERATOR_KEY = 0xA11CE;
    uint256 internal constant PAYER_KEY = 0xB0B;
    uint256 internal constant AUTHORIZER_KEY = 0xCAFE;
    uint256 internal constant STRANGER_KEY = 0xBAD;
    uint40 internal constant DELAY = 1 days;
    uint256 internal constant START = 1_800_000_000;

    Escrow internal escrow;
    TestUSDC internal token;
    address internal operator;
    address internal payer;
    address internal authorizer;
    address internal stranger;
    address internal alice;
    address internal bob;

    function setUp() public virtual {
        vm.warp(START);
        escrow = new Escrow();
        token = new TestUSDC();
        operator = vm.addr(OPERATOR_KEY);
        payer = vm.addr(PAYER_KEY);
        authorizer = vm.addr(AUTHORIZER_KEY);
        stranger = vm.addr(STRANGER_KEY);
        alice = address(0xA1);
        bob = address(0xB2);
    }

    // ------------------------------------------------------------------------------------------------ configuration

    function config() internal view returns (IEscrow.ChannelConfig memory) {
        return IEscrow.ChannelConfig(payer, authorizer, address(0), operator, address(token), DELAY, bytes32(0));
    }

    function account() internal view returns (bytes32) {
        return escrow.accountId(config());
    }

    function channel(address receiver) internal view returns (bytes32) {
        IEscrow.ChannelConfig memory c = config();
        c.receiver = receiver;
        return escrow.channelId(c);
    }

    // ----------------------------------------------------------------------------------------------------- signing

    function sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function signCompact(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return Batches.compact(v, r, s);
    }

    function signVoucher(address receiver, uint128 ceiling) internal view returns (bytes memory) {
        return signCompact(AUTHORIZER_KEY, escrow.voucherDigest(channel(receiver), ceiling));
    }

    function signRefund(uint128 amount, uint256 nonce) internal view returns (bytes memory) {
        return sign(OPERATOR_KEY, escrow.refundDigest(account(), nonce, amount));
    }

    function signWithdraw(uint256 key, uint128 amount, uint256 nonce, uint256 deadline)
        internal
        view
        returns (bytes memory)
    {
        return sign(key, escrow.withdrawDigest(account(), amount, nonce, deadline));
    }

    // ------------------------------------------------------------------------------------------------------ batches

    /// @dev One row by voucher for one receiver, the ceiling equal to the total.
    function voucherBatch(address receiver, uint128 total) internal view returns (bytes memory) {
        return oneRow(receiver, Batches.voucherRow(0, total, total, signVoucher(receiver, total)));
    }

    /// @dev A batch of one row by voucher, however it came to be.
    function oneRow(address receiver, bytes memory row) internal view returns (bytes memory) {
        return batchOf(list(receiver), "", list(row));
    }

    /// @dev One approval for the totals of these receivers.
    function approvalBatch(address[] memory receivers, uint128[] memory totals) internal view returns (bytes memory) {
        bytes[] memory rows = new bytes[](receivers.length);
        for (uint256 i = 0; i < rows.length; ++i) {
            rows[i] = Batches.approvalRow(uint16(i), totals[i]);
        }
        return batchOf(receivers, signApproval(receivers, totals), rows);
    }

    function signApproval(address[] memory receivers, uint128[] memory totals) internal view returns (bytes memory) {
        IEscrow.ReceiverTotal[] memory approved = new IEscrow.ReceiverTotal[](receivers.length);
        for (uint256 i = 0; i < approved.length; ++i) {
            approved[i] = IEscrow.ReceiverTotal(receivers[i], totals[i]);
        }
        return signCompact(AUTHORIZER_KEY, escrow.approvalDigest(account(), approved));
    }

    /// @dev A batch of this test's account alone.
    function batchOf(address[] memory receivers, bytes memory approval, bytes[] memory rows)
        internal
        view
        returns (bytes memory)
    {
        bytes memory encoded = Batches.account(payer, authorizer, DELAY, bytes32(0), approval, rows);
        return Batches.batch(operator, address(token), receivers, list(encoded));
    }

    // ------------------------------------------------------------------------------------------------------ actions

    function deposit(uint128 amount) internal {
        token.mint(address(this), amount);
        token.approve(address(escrow), amount);
        escrow.deposit(config(), amount);
    }

    function claim(bytes memory batch) internal {
        vm.prank(operator);
        escrow.claim(batch);
    }

    function initiateWithdraw(uint128 amount) internal {
        vm.prank(payer);
        escrow.initiateWithdraw(config(), amount);
    }

    function initiateWithdrawByAuthorizer(uint128 amount) internal {
        vm.prank(authorizer);
        escrow.initiateWithdraw(config(), amount);
    }

    /// @dev Claims a batch of one row that has to be skipped for that reason, and to leave no trace.
    function skips(bytes memory batch, address receiver, uint128 total, IEscrow.SkipReason reason) internal {
        bytes32 before = fingerprint(receiver);
        bytes32 id = account();
        vm.expectEmit(address(escrow));
        emit IEscrow.RowSkipped(id, receiver, total, reason);
        vm.prank(operator);
        escrow.claim(batch);
        assertEq(fingerprint(receiver), before, "the trace of a skipped row");
    }

    // -------------------------------------------------------------------------------------------------------- state

    /// @dev All that a claim for this receiver could change.
    function fingerprint(address receiver) internal view returns (bytes32) {
        IEscrow.ChannelConfig memory c = config();
        c.receiver = receiver;
        uint128 total = receiver == address(0) ? 0 : escrow.claimed(list(escrow.channelId(c)))[0];
        uint256 owed = escrow.owed(receiver, address(token));
        return keccak256(abi.encode(state(), total, owed, token.balanceOf(receiver), token.balanceOf(address(escrow))));
    }

    function state() internal view returns (IEscrow.AccountState memory) {
        return escrow.accounts(list(account()))[0];
    }

    function balance() internal view returns (uint128) {
        return state().balance;
    }

    function claimed(address receiver) internal view returns (uint128) {
        return escrow.claimed(list(channel(receiver)))[0];
    }

    /// @dev Invariant I7 for one account and two possible creditors.
    function assertSolvent() internal view {
        uint256 debts = balance() + escrow.owed(alice, address(token)) + escrow.owed(bob, address(token))
            + escrow.owed(payer, address(token));
        assertAtMost(debts, token.balanceOf(address(escrow)), "balances and amounts owed");
    }

    // -------------------------------------------------------------------------------------------------------- lists

    function list(address a) internal pure returns (address[] memory all) {
        all = new address[](1);
        all[0] = a;
    }

    function list(address a, address b) internal pure returns (address[] memory all) {
        all = new address[](2);
        (all[0], all[1]) = (a, b);
    }

    function list(uint128 a) internal pure returns (uint128[] memory all) {
        all = new uint128[](1);
        all[0] = a;
    }

    function list(uint128 a, uint128 b) internal pure returns (uint128[] memory all) {
        all = new uint128[](2);
        (all[0], all[1]) = (a, b);
    }

    function list(bytes32 a) internal pure returns (bytes32[] memory all) {
        all = new bytes32[](1);
        all[0] = a;
    }

    function list(bytes memory a) internal pure returns (bytes[] memory all) {
        all = new bytes[](1);
        all[0] = a;
    }

    function list(bytes memory a, bytes memory b) internal pure returns (bytes[] memory all) {
        all = new bytes[](2);
        (all[0], all[1]) = (a, b);
    }

    function paidRow(address receiver, uint128 total) internal pure returns (IEscrow.ClaimedRow[] memory all) {
        all = new IEscrow.ClaimedRow[](1);
        all[0] = IEscrow.ClaimedRow(receiver, total);
    }

    function none() internal pure returns (address[] memory) {
        return new address[](0);
    }
}
