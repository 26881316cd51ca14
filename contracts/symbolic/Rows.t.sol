// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {Batches} from "../test/support/Batches.sol";
import {Symbolic} from "./Symbolic.sol";

/// @notice The arithmetic of rows: for all balances, totals, ceilings and signatures, what a row pays.
contract RowsProof is Symbolic {
    bytes32 internal constant HALF_ORDER = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;

    /// @notice A row by voucher pays exactly what it may, or leaves no trace.
    function check_a_row_by_voucher_pays_what_it_may(
        uint128 balance,
        uint128 before,
        uint128 total,
        uint128 ceiling,
        bytes32 r,
        bytes32 vs,
        uint40 refundNonce,
        uint40 withdrawNonce
    ) public {
        give(balance, refundNonce, withdrawNonce);
        escrow.setClaimed(channel(alice), before);
        bool good = isSigned(escrow.voucherDigest(channel(alice), ceiling), r, vs) && total <= ceiling;
        uint256 pays = good && total > before ? min(total - before, balance) : 0;

        claim(list(alice), "", list(Batches.voucherRow(0, total, ceiling, abi.encodePacked(r, vs))));

        assert(claimed(alice) == before + pays);
        assert(token.balanceOf(alice) == pays);
        assertAccount(balance - pays, refundNonce, withdrawNonce);
        assertHeld(balance - pays);
    }

    /// @notice Two rows by one approval share one balance; what the first takes the second does not get.
    function check_rows_of_one_account_share_its_balance(
        uint128 balance,
        uint128 beforeA,
        uint128 beforeB,
        uint128 totalA,
        uint128 totalB,
        bytes32 r,
        bytes32 vs
    ) public {
        give(balance, 3, 5);
        escrow.setClaimed(channel(alice), beforeA);
        escrow.setClaimed(channel(bob), beforeB);
        bool good = isSigned(escrow.approvalDigest(account, totals(alice, totalA, bob, totalB)), r, vs);
        uint256 paysA = good && totalA > beforeA ? min(totalA - beforeA, balance) : 0;
        uint256 paysB = good && totalB > beforeB ? min(totalB - beforeB, balance - paysA) : 0;

        bytes[] memory rows = new bytes[](2);
        (rows[0], rows[1]) = (Batches.approvalRow(0, totalA), Batches.approvalRow(1, totalB));
        claim(list(alice, bob), abi.encodePacked(r, vs), rows);

        assert(claimed(alice) == beforeA + paysA);
        assert(claimed(bob) == beforeB + paysB);
        assert(token.balanceOf(alice) == paysA);
        assert(token.balanceOf(bob) == paysB);
        assertAccount(balance - paysA - paysB, 3, 5);
        assertHeld(balance - paysA - paysB);
    }

    /// @notice The same channel twice in one batch is paid up to the higher total at most, and what it is said to have
    ///         been paid is what it got and what the account lost.
    /// @dev Amounts of 64 bits: sums of three of 128 are more than solvers manage in minutes.
    function check_a_channel_named_twice_is_paid_once(
        uint64 balance,
        uint64 before,
        uint64 first,
        uint64 second,
        bytes32 r,
        bytes32 vs
    ) public {
        give(balance, 3, 5);
        escrow.setClaimed(channel(alice), before);
        bool good = isSigned(escrow.approvalDigest(account, totals(alice, first, alice, second)), r, vs);

        bytes[] memory rows = new bytes[](2);
        (rows[0], rows[1]) = (Batches.approvalRow(0, first), Batches.approvalRow(0, second));
        claim(list(alice), abi.encodePacked(r, vs), rows);

        uint256 total = claimed(alice);
        assert(total >= before);
        assert(total == before || (good && (total <= first || total <= second)));
        assert(token.balanceOf(alice) == total - before);
        assert(token.balanceOf(alice) == balance - state().balance);
    }

    /// @notice The same batch again pays only what the account could not pay the first time.
    function check_a_batch_sent_again_pays_nothing_twice(
        uint128 balance,
        uint128 refilled,
        uint128 before,
        uint128 total,
        bytes32 r,
        bytes32 vs
    ) public {
        give(balance, 3, 5);
        escrow.setClaimed(channel(alice), before);
        bool good = isSigned(escrow.voucherDigest(channel(alice), total), r, vs);
        uint256 pays = good && total > before ? min(total - before, balance) : 0;
        uint256 between = before + pays;
        uint256 paysMore = good && total > between ? min(total - between, refilled) : 0;

        bytes[] memory rows = list(Batches.voucherRow(0, total, total, abi.encodePacked(r, vs)));
        claim(list(alice), "", rows);
        assertAccount(balance - pays, 3, 5);
        assertHeld(balance - pays);
        give(refilled, 3, 5);
        claim(list(alice), "", rows);

        assert(claimed(alice) == between + paysMore);
        assert(token.balanceOf(alice) == pays + paysMore);
        assert(state().balance == refilled - paysMore);
    }

    /// @dev What the chain takes for the authorizer's signature: canonical, and recovering to its key.
    function isSigned(bytes32 digest, bytes32 r, bytes32 vs) internal view returns (bool) {
        bytes32 s = vs & bytes32(uint256(2 ** 255 - 1));
        return s <= HALF_ORDER && ecrecover(digest, uint8(27 + (uint256(vs) >> 255)), r, s) == authorizer;
    }

    function assertAccount(uint256 balance, uint256 refundNonce, uint256 withdrawNonce) internal view {
        IEscrow.AccountState memory after_ = state();
        assert(after_.opened);
        assert(after_.balance == balance);
        assert(after_.refundNonce == refundNonce);
        assert(after_.withdrawNonce == withdrawNonce);
        assert(after_.authorizerNonce == AUTHORIZER_NONCE);
    }

    /// @dev The escrow's tokens are the account's balance, by a sum in the order in which they left: that spares the
    ///      solver to prove that addition is associative.
    function assertHeld(uint256 tokens) internal view {
        assert(token.balanceOf(address(escrow)) == tokens);
    }

    function totals(address a, uint128 totalA, address b, uint128 totalB)
        internal
        pure
        returns (IEscrow.ReceiverTotal[] memory all)
    {
        all = new IEscrow.ReceiverTotal[](2);
        (all[0], all[1]) = (IEscrow.ReceiverTotal(a, totalA), IEscrow.ReceiverTotal(b, totalB));
    }

    function list(address a) internal pure returns (address[] memory all) {
        all = new address[](1);
        all[0] = a;
    }

    function list(address a, address b) internal pure returns (address[] memory all) {
        all = new address[](2);
        (all[0], all[1]) = (a, b);
    }

    function list(bytes memory a) internal pure returns (bytes[] memory all) {
        all = new bytes[](1);
        all[0] = a;
    }
}
