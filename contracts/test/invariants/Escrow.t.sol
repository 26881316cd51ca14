// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../../src/interfaces/IEscrow.sol";
import {Assertions} from "../support/Assertions.sol";
import {EscrowHandler} from "./EscrowHandler.sol";

/// @notice What holds after any history. (The handlers add what holds for each step.)
contract EscrowInvariants is Assertions {
    uint256 internal constant ACCOUNTS = 4;
    uint256 internal constant RECEIVERS = 3;

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    EscrowHandler internal handler;

    function setUp() public {
        handler = new EscrowHandler();
        for (uint256 a = 0; a < ACCOUNTS; ++a) {
            handler.deposit(a, 2_000);
            for (uint256 r = 0; r < RECEIVERS; ++r) {
                handler.signVoucher(a, r, uint128(1_000 + 100 * r));
            }
        }
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[] memory s = new bytes4[](20);
        (s[0], s[1], s[2], s[3]) =
        (handler.claim.selector, handler.claim.selector, handler.claim.selector, handler.race.selector);
        (s[4], s[5], s[6]) = (handler.replay.selector, handler.signVoucher.selector, handler.deposit.selector);
        (s[7], s[8]) = (handler.depositWithAuthorization.selector, handler.initiateWithdraw.selector);
        (s[9], s[10]) = (handler.cancelWithdraw.selector, handler.finalizeWithdraw.selector);
        (s[11], s[12]) = (handler.refund.selector, handler.replayRefund.selector);
        (s[13], s[14], s[15], s[16]) =
        (handler.wait_.selector, handler.blacklist.selector, handler.behave.selector, handler.collect.selector);
        (s[17], s[18], s[19]) = (handler.replayWithdraw.selector, handler.donate.selector, handler.thief.selector);
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), s);
    }

    /// @dev One campaign checks all: histories are what costs time.
    function invariant_the_books_hold() public {
        IEscrow.AccountState[] memory states = handler.states();
        uint256[RECEIVERS][ACCOUNTS] memory totals = handler.totals();
        everyUnitIsAccountedFor(states, totals);
        nobodyIsPaidMoreThanAllowed(totals);
        noncesCountWhatWasUsed(states);
        aWithdrawalHasAnAmountAndATimeOrNeither(states);
        solvent(states, address(handler.usdc()), 0, 3);
        solvent(states, address(handler.hostile()), 3, 4);
        handler.see(); // claimed never falls
    }

    /// @notice The histories are worth something: sellers are paid. (forge itself counts the steps of each kind.)
    function afterInvariant() public view {
        assertTrue(handler.rowsPaid() != 0, "no row was ever paid");
    }

    /// @dev An account's balance is its deposits less what was claimed and returned: it never pays more than that.
    function everyUnitIsAccountedFor(IEscrow.AccountState[] memory states, uint256[RECEIVERS][ACCOUNTS] memory totals)
        internal
        view
    {
        for (uint256 a = 0; a < ACCOUNTS; ++a) {
            (uint256 deposited, uint256 returned,,,) = handler.ghosts(a);
            uint256 claimed = totals[a][0] + totals[a][1] + totals[a][2];
            assertEq(states[a].balance + claimed + returned, deposited, "deposits");
        }
    }

    /// @dev Whatever was repeated, reordered or split over transactions.
    function nobodyIsPaidMoreThanAllowed(uint256[RECEIVERS][ACCOUNTS] memory totals) internal view {
        for (uint256 r = 0; r < RECEIVERS; ++r) {
            for (uint256 a = 0; a < ACCOUNTS; ++a) {
                assertAtMost(totals[a][r], handler.allowed(a, r), "claimed");
            }
            paid(r, address(handler.usdc()), totals[0][r] + totals[1][r] + totals[2][r]);
            paid(r, address(handler.hostile()), totals[3][r]);
        }
    }

    /// @dev Receivers have nothing but what the escrow paid: together with what they are owed it is what they claimed.
    function paid(uint256 receiver, address token, uint256 claimed) internal view {
        address who = handler.receiverAt(receiver);
        uint256 got = handler.balanceIn(token, who) + handler.escrow().owed(who, token);
        assertEq(got, claimed, "paid and owed to a receiver");
    }

    /// @dev Refunds and signed withdrawals are used once: nonces count exactly the successes.
    function noncesCountWhatWasUsed(IEscrow.AccountState[] memory states) internal view {
        for (uint256 a = 0; a < ACCOUNTS; ++a) {
            (,, uint256 refunds, uint256 byPayer, uint256 byAuthorizer) = handler.ghosts(a);
            assertEq(states[a].refundNonce, refunds, "refund nonce");
            assertEq(states[a].withdrawNonce, byPayer, "withdraw nonce");
            assertEq(states[a].authorizerNonce, byAuthorizer, "authorizer nonce");
        }
    }

    function aWithdrawalHasAnAmountAndATimeOrNeither(IEscrow.AccountState[] memory states) internal pure {
        for (uint256 a = 0; a < ACCOUNTS; ++a) {
            assertTrue((states[a].withdrawAmount == 0) == (states[a].withdrawableAt == 0), "half a withdrawal");
            assertTrue(states[a].withdrawableAt != 0 || !states[a].withdrawByPayer, "the payer's, and not pending");
        }
    }

    /// @dev I7: the escrow holds at least what it owes, in the token of these accounts.
    function solvent(IEscrow.AccountState[] memory states, address token, uint256 first, uint256 end) internal view {
        uint256 debts;
        for (uint256 a = first; a < end; ++a) {
            debts += states[a].balance;
            // Accounts 0 and 1 have one payer.
            if (a != 1) debts += handler.escrow().owed(handler.config(a).payer, token);
        }
        for (uint256 r = 0; r < RECEIVERS; ++r) {
            debts += handler.escrow().owed(handler.receiverAt(r), token);
        }
        assertAtMost(debts, handler.balanceIn(token, address(handler.escrow())), "balances and amounts owed");
    }
}
