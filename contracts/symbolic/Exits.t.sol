// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {Symbolic} from "./Symbolic.sol";

/// @notice Deposits, withdrawals and refunds on any state of the account's packed slots: each changes its own fields,
///         by the right amount, and no neighbour in the slot.
contract ExitsProof is Symbolic {
    /// @notice A top-up adds to the balance, or reverts; it never wraps, and touches neither nonce.
    function check_a_deposit_adds_to_the_balance_alone(
        uint128 balance,
        uint128 amount,
        uint56 refundNonce,
        uint56 withdrawNonce
    ) public {
        give(balance, refundNonce, withdrawNonce);
        token.mint(address(this), amount);
        token.approve(address(escrow), amount);
        bool success = succeeds(address(this), abi.encodeCall(escrow.deposit, (config(), amount)));

        assert(success == (amount != 0 && uint256(balance) + amount < 2 ** 128));
        if (!success) return;
        assertState(uint256(balance) + amount, refundNonce, withdrawNonce);
        assert(token.balanceOf(address(escrow)) == uint256(balance) + amount);
    }

    /// @notice A refund pays what was asked or what is left, uses up its nonce, and lowers a pending withdrawal by it.
    function check_a_refund_pays_once_and_lowers_a_withdrawal(
        uint128 balance,
        uint56 refundNonce,
        uint56 withdrawNonce,
        uint128 pending,
        uint40 withdrawableAt,
        uint128 amount,
        uint256 nonce
    ) public {
        vm.assume((pending == 0) == (withdrawableAt == 0));
        give(balance, refundNonce, withdrawNonce);
        escrow.setWithdraw(account, pending, withdrawableAt);
        bool success =
            succeeds(address(this), abi.encodeCall(escrow.refundWithSignature, (config(), amount, nonce, "")));

        assert(success == (nonce == refundNonce && refundNonce < type(uint56).max));
        if (!success) return;
        uint256 paid = min(amount, balance);
        assert(token.balanceOf(payer) == paid);
        assertState(balance - paid, uint256(refundNonce) + 1, withdrawNonce);
        assertPending(pending > paid ? pending - paid : 0, pending > paid ? withdrawableAt : 0);
    }

    /// @notice A withdrawal starts only where none is pending and there is something to withdraw.
    function check_a_withdrawal_starts_and_touches_no_balance(
        uint128 balance,
        uint56 refundNonce,
        uint56 withdrawNonce,
        uint128 pending,
        uint40 withdrawableAt,
        uint128 amount
    ) public {
        give(balance, refundNonce, withdrawNonce);
        escrow.setWithdraw(account, pending, withdrawableAt);
        bool success = succeeds(payer, abi.encodeCall(escrow.initiateWithdraw, (config(), amount)));

        assert(success == (amount != 0 && balance != 0 && withdrawableAt == 0 && withdrawNonce < type(uint56).max));
        if (!success) return;
        assertState(balance, refundNonce, uint256(withdrawNonce) + 1);
        assertPending(amount, NOW + DELAY);
    }

    /// @notice A cancellation ends what was pending, and uses up a nonce.
    function check_a_cancellation_touches_no_balance(
        uint128 balance,
        uint56 refundNonce,
        uint56 withdrawNonce,
        uint128 pending,
        uint40 withdrawableAt
    ) public {
        give(balance, refundNonce, withdrawNonce);
        escrow.setWithdraw(account, pending, withdrawableAt);
        bool success = succeeds(authorizer, abi.encodeCall(escrow.cancelWithdraw, (config())));

        assert(success == (withdrawableAt != 0 && withdrawNonce < type(uint56).max));
        if (!success) return;
        assertState(balance, refundNonce, uint256(withdrawNonce) + 1);
        assertPending(0, 0);
    }

    /// @notice A withdrawal ends not before its time, and pays what was asked or what is left, to the payer.
    function check_a_withdrawal_ends_in_time_and_pays_the_payer(
        uint128 balance,
        uint56 refundNonce,
        uint56 withdrawNonce,
        uint128 pending,
        uint40 withdrawableAt
    ) public {
        give(balance, refundNonce, withdrawNonce);
        escrow.setWithdraw(account, pending, withdrawableAt);
        bool success = succeeds(address(this), abi.encodeCall(escrow.finalizeWithdraw, (config())));

        assert(success == (withdrawableAt != 0 && withdrawableAt <= NOW));
        if (!success) return;
        uint256 paid = min(pending, balance);
        assert(token.balanceOf(payer) == paid);
        assertState(balance - paid, refundNonce, withdrawNonce);
        assertPending(0, 0);
    }

    /// @dev So that a proof also says when an operation must not fail. Gas is a symbol, too: executions that were given
    ///      too little for a transfer are left out.
    function succeeds(address caller, bytes memory data) internal returns (bool) {
        vm.prank(caller);
        (bool success, bytes memory answer) = address(escrow).call(data);
        vm.assume(success || bytes4(answer) != IEscrow.InsufficientGas.selector);
        return success;
    }

    function assertState(uint256 balance, uint256 refundNonce, uint256 withdrawNonce) internal view {
        IEscrow.AccountState memory after_ = state();
        assert(after_.opened);
        assert(after_.balance == balance);
        assert(after_.refundNonce == refundNonce);
        assert(after_.withdrawNonce == withdrawNonce);
    }

    function assertPending(uint256 amount, uint256 withdrawableAt) internal view {
        IEscrow.AccountState memory after_ = state();
        assert(after_.withdrawAmount == amount);
        assert(after_.withdrawableAt == withdrawableAt);
    }
}
