// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {Symbolic} from "./Symbolic.sol";

/// @notice Deposits, withdrawals and refunds on any state of the account's packed slots: each changes its own fields,
///         by the right amount, and no neighbour in the slot.
contract ExitsProof is Symbolic {
    /// @dev The two packed slots of an account that has had a deposit.
    struct Slots {
        uint128 balance;
        uint40 refundNonce;
        uint40 withdrawNonce;
        uint40 authorizerNonce;
        uint128 pending;
        uint40 withdrawableAt;
        bool byPayer;
    }

    /// @notice A top-up adds to the balance, or reverts; it never wraps, and touches no nonce and no withdrawal.
    function check_a_deposit_adds_to_the_balance_alone(Slots memory s, uint128 amount) public {
        put(s);
        token.mint(address(this), amount);
        token.approve(address(escrow), amount);
        uint256 balance = s.balance;
        bool success = succeeds(address(this), abi.encodeCall(escrow.deposit, (config(), amount)));

        assert(success == (amount != 0 && balance + amount < 2 ** 128));
        if (!success) return;
        assertBalance(balance + amount);
        assertNonces(s.refundNonce, s.withdrawNonce, s.authorizerNonce);
        assertPending(s.pending, s.withdrawableAt, s.byPayer);
        assert(token.balanceOf(address(escrow)) == balance + amount);
    }

    /// @notice A refund pays what was asked or what is left, uses up its nonce, and lowers a pending withdrawal by it,
    ///         which stays whose it is.
    function check_a_refund_pays_once_and_lowers_a_withdrawal(Slots memory s, uint128 amount, uint256 nonce) public {
        vm.assume((s.pending == 0) == (s.withdrawableAt == 0));
        vm.assume(s.withdrawableAt != 0 || !s.byPayer);
        put(s);
        bool success =
            succeeds(address(this), abi.encodeCall(escrow.refundWithSignature, (config(), amount, nonce, "")));

        assert(success == (nonce == s.refundNonce && s.refundNonce < type(uint40).max));
        if (!success) return;
        uint256 paid = min(amount, s.balance);
        assert(token.balanceOf(payer) == paid);
        assertBalance(s.balance - paid);
        assertNonces(uint256(s.refundNonce) + 1, s.withdrawNonce, s.authorizerNonce);
        bool left = s.pending > paid;
        assertPending(left ? s.pending - paid : 0, left ? s.withdrawableAt : 0, left && s.byPayer);
    }

    /// @notice The payer starts a withdrawal where there is something to withdraw and none of the payer's own is pending.
    function check_the_payers_withdrawal_replaces_the_authorizers_alone(Slots memory s, uint128 amount) public {
        put(s);
        bool success = succeeds(payer, abi.encodeCall(escrow.initiateWithdraw, (config(), amount)));

        bool free = s.withdrawableAt == 0 || !s.byPayer;
        assert(success == (amount != 0 && s.balance != 0 && free && s.withdrawNonce < type(uint40).max));
        if (!success) return;
        assertBalance(s.balance);
        assertNonces(s.refundNonce, uint256(s.withdrawNonce) + 1, s.authorizerNonce);
        assertPending(amount, NOW + DELAY, true);
    }

    /// @notice The authorizer starts a withdrawal only where none is pending at all, and uses up no nonce of the payer's.
    function check_the_authorizers_withdrawal_replaces_nothing(Slots memory s, uint128 amount) public {
        put(s);
        bool success = succeeds(authorizer, abi.encodeCall(escrow.initiateWithdraw, (config(), amount)));

        bool free = s.withdrawableAt == 0;
        assert(success == (amount != 0 && s.balance != 0 && free && s.authorizerNonce < type(uint40).max));
        if (!success) return;
        assertBalance(s.balance);
        assertNonces(s.refundNonce, s.withdrawNonce, uint256(s.authorizerNonce) + 1);
        assertPending(amount, NOW + DELAY, false);
    }

    /// @notice The payer cancels whatever is pending, and uses up a nonce of its own.
    function check_the_payer_cancels_whatever_is_pending(Slots memory s) public {
        put(s);
        bool success = succeeds(payer, abi.encodeCall(escrow.cancelWithdraw, (config())));

        assert(success == (s.withdrawableAt != 0 && s.withdrawNonce < type(uint40).max));
        if (!success) return;
        assertBalance(s.balance);
        assertNonces(s.refundNonce, uint256(s.withdrawNonce) + 1, s.authorizerNonce);
        assertPending(0, 0, false);
    }

    /// @notice The authorizer cancels nothing that the payer has started, whenever; and uses up no nonce of the payer's.
    function check_the_authorizer_cancels_its_own_alone(Slots memory s) public {
        put(s);
        bool success = succeeds(authorizer, abi.encodeCall(escrow.cancelWithdraw, (config())));

        assert(success == (s.withdrawableAt != 0 && !s.byPayer && s.authorizerNonce < type(uint40).max));
        if (!success) return;
        assertBalance(s.balance);
        assertNonces(s.refundNonce, s.withdrawNonce, uint256(s.authorizerNonce) + 1);
        assertPending(0, 0, false);
    }

    /// @notice A withdrawal ends not before its time, whoever started it, and pays what was asked or what is left, to the
    ///         payer.
    function check_a_withdrawal_ends_in_time_and_pays_the_payer(Slots memory s) public {
        put(s);
        bool success = succeeds(address(this), abi.encodeCall(escrow.finalizeWithdraw, (config())));

        assert(success == (s.withdrawableAt != 0 && s.withdrawableAt <= NOW));
        if (!success) return;
        uint256 paid = min(s.pending, s.balance);
        assert(token.balanceOf(payer) == paid);
        assertBalance(s.balance - paid);
        assertNonces(s.refundNonce, s.withdrawNonce, s.authorizerNonce);
        assertPending(0, 0, false);
    }

    function put(Slots memory s) internal {
        give(s.balance, s.refundNonce, s.withdrawNonce, s.authorizerNonce);
        escrow.setWithdraw(account, s.pending, s.withdrawableAt, s.byPayer);
    }

    /// @dev So that a proof also says when an operation must not fail. Gas is a symbol, too: executions that were given
    ///      too little for a transfer are left out.
    function succeeds(address caller, bytes memory data) internal returns (bool) {
        vm.prank(caller);
        (bool success, bytes memory answer) = address(escrow).call(data);
        vm.assume(success || bytes4(answer) != IEscrow.InsufficientGas.selector);
        return success;
    }

    function assertBalance(uint256 balance) internal view {
        IEscrow.AccountState memory after_ = state();
        assert(after_.opened);
        assert(after_.balance == balance);
    }

    function assertNonces(uint256 refundNonce, uint256 withdrawNonce, uint256 authorizerNonce) internal view {
        IEscrow.AccountState memory after_ = state();
        assert(after_.refundNonce == refundNonce);
        assert(after_.withdrawNonce == withdrawNonce);
        assert(after_.authorizerNonce == authorizerNonce);
    }

    function assertPending(uint256 amount, uint256 withdrawableAt, bool byPayer) internal view {
        IEscrow.AccountState memory after_ = state();
        assert(after_.withdrawAmount == amount);
        assert(after_.withdrawableAt == withdrawableAt);
        assert(after_.withdrawByPayer == byPayer);
    }
}
