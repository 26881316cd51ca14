// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../../src/interfaces/IEscrow.sol";
import {Batches} from "../support/Batches.sol";
import {Ledger} from "./Ledger.sol";

/// @notice Payers sign vouchers and approvals; operators claim, right and wrong; strangers repeat what they have seen.
///
/// @dev While a batch is put together, a model works out what each row has to pay; after it landed the escrow has to
///      agree. So a pending withdrawal that blocked a claim, or a skipped row that left a trace, would be found at once.
abstract contract ClaimHandler is Ledger {
    struct Landed {
        uint256 group;
        bytes batch;
        bytes signature;
    }

    /// @dev Batches that were sent before; anyone may send them again.
    Landed[] internal landed;

    /// @dev The model: what `claimed` and balances have to be after the batch under way.
    uint256[RECEIVERS][ACCOUNTS] internal expectedClaimed;
    uint256[ACCOUNTS] internal expectedBalance;

    uint256 public rowsPaid;

    function signVoucher(uint256 account, uint256 receiver, uint128 ceiling) external {
        (account, receiver) = (account % ACCOUNTS, receiver % RECEIVERS);
        allow(account, receiver, ceiling % 5_000);
        ceilings[account][receiver].push(ceiling % 5_000);
    }

    function claim(uint256 seed) external {
        uint256 group = seed % 2;
        bytes memory batch = newBatch(group, seed);
        send(group, batch);
        compare();
        remember(group, batch);
    }

    /// @notice A batch that was sent before comes again: from the operator, or from a stranger with its signature.
    function replay(uint256 seed) external {
        if (landed.length == 0) return;
        Landed memory old = landed[seed % landed.length];
        if (seed % 3 == 0) {
            send(old.group, old.batch);
        } else {
            vm.prank(vm.addr(STRANGER_KEY));
            escrow.claimWithSignature(old.batch, old.signature);
        }
    }

    /// @notice Whatever a stranger sends first: after the operator's batch every account has paid its sellers at least as
    ///         much as without. (By account: where one is short, an older signed batch may put another seller first.)
    function race(uint256 seed) external {
        uint256 group = seed % 2;
        bytes memory batch = newBatch(group, seed);
        uint256 snapshot = vm.snapshotState();
        send(group, batch);
        uint256[RECEIVERS][ACCOUNTS] memory alone = totals();
        vm.revertToState(snapshot);

        stranger(seed);
        send(group, batch);
        uint256[RECEIVERS][ACCOUNTS] memory raced = totals();
        for (uint256 a = 0; a < ACCOUNTS; ++a) {
            assertAtMost(sum(alone[a]), sum(raced[a]), "claimed from an account without a stranger");
        }
        remember(group, batch);
    }

    // ------------------------------------------------------------------------------------------------------ batches

    /// @dev A batch of two entries for accounts of a group; the model knows what it has to pay.
    function newBatch(uint256 group, uint256 seed) internal returns (bytes memory) {
        loadModel();
        bytes[] memory entries = new bytes[](2);
        for (uint256 i = 0; i < 2; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint256 account = group == 0 ? seed % 3 : 3;
            entries[i] = (seed >> 8) % 3 == 0 ? approvalEntry(account, seed) : voucherEntry(account, seed);
        }
        address[] memory receivers = new address[](RECEIVERS);
        for (uint256 r = 0; r < RECEIVERS; ++r) {
            receivers[r] = receiverAt(r);
        }
        uint256 any = group == 0 ? 0 : 3;
        return Batches.batch(operatorOf(any), tokenOf(any), receivers, entries);
    }

    /// @dev Up to four rows by voucher: signed or forged, with totals up to and above the ceiling, repeated or not.
    function voucherEntry(uint256 account, uint256 seed) internal returns (bytes memory) {
        bytes[] memory rows = new bytes[]((seed >> 16) % 5);
        for (uint256 i = 0; i < rows.length; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            rows[i] = voucherRow(account, seed % RECEIVERS, seed >> 8);
        }
        return entry(account, "", rows);
    }

    function voucherRow(uint256 account, uint256 receiver, uint256 seed) internal returns (bytes memory) {
        uint128[] storage signed = ceilings[account][receiver];
        bool forged = signed.length == 0 || seed % 7 == 0;
        uint128 ceiling = forged ? uint128(seed % 9_000) : signed[(seed >> 8) % signed.length];
        uint128 total = uint128((seed >> 16) % (uint256(ceiling) + 200));
        bytes32 digest = escrow.voucherDigest(channelId(account, receiver), ceiling);
        if (!forged && total <= ceiling) expectPaid(account, receiver, total);
        return
            Batches.voucherRow(
                uint16(receiver), total, ceiling, compact(forged ? STRANGER_KEY : AUTHORIZER_KEY, digest)
            );
    }

    /// @dev One approval for all receivers, now and then signed by a stranger.
    function approvalEntry(uint256 account, uint256 seed) internal returns (bytes memory) {
        bool forged = (seed >> 16) % 4 == 0;
        bytes[] memory rows = new bytes[](RECEIVERS);
        IEscrow.ReceiverTotal[] memory approved = new IEscrow.ReceiverTotal[](RECEIVERS);
        for (uint256 r = 0; r < RECEIVERS; ++r) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint128 total = uint128(seed % 5_000);
            rows[r] = Batches.approvalRow(uint16(r), total);
            approved[r] = IEscrow.ReceiverTotal(receiverAt(r), total);
            if (forged) continue;
            allow(account, r, total);
            expectPaid(account, r, total);
        }
        bytes32 digest = escrow.approvalDigest(accountId(account), approved);
        return entry(account, compact(forged ? STRANGER_KEY : AUTHORIZER_KEY, digest), rows);
    }

    function entry(uint256 account, bytes memory approval, bytes[] memory rows) internal view returns (bytes memory) {
        IEscrow.ChannelConfig memory c = config(account);
        return Batches.account(c.payer, c.payerAuthorizer, c.withdrawDelay, c.salt, approval, rows);
    }

    function compact(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return Batches.compact(v, r, s);
    }

    function send(uint256 group, bytes memory batch) internal {
        vm.prank(operatorOf(group == 0 ? 0 : 3));
        escrow.claim(batch);
    }

    function remember(uint256 group, bytes memory batch) internal {
        bytes32 digest = escrow.claimBatchDigest(batch);
        landed.push(Landed(group, batch, sign(operatorKey(group == 0 ? 0 : 3), digest)));
    }

    /// @dev What somebody without keys can do: deposit, donate, collect, name himself a sender, repeat old batches, and
    ///      land withdrawals whose time has not come.
    function stranger(uint256 seed) internal {
        uint256 account = (seed >> 4) % ACCOUNTS;
        vm.startPrank(vm.addr(STRANGER_KEY));
        escrow.setSender(operatorOf(account), false);
        if (seed % 5 == 0) escrow.setSender(vm.addr(STRANGER_KEY), true);
        if (seed % 5 == 1) usdc.mint(address(escrow), 3);
        (bool done,) =
            address(escrow).call(abi.encodeCall(escrow.collect, (receiverAt(seed % RECEIVERS), tokenOf(account))));
        if (landed.length != 0) {
            Landed memory old = landed[(seed >> 12) % landed.length];
            escrow.claimWithSignature(old.batch, old.signature);
        }
        IEscrow.AccountState memory s = state(account);
        if (s.withdrawableAt > block.timestamp) {
            (done,) = address(escrow).call(abi.encodeCall(escrow.finalizeWithdraw, (config(account))));
            assertTrue(!done, "a withdrawal was finalised before its time");
        }
        vm.stopPrank();
    }

    // -------------------------------------------------------------------------------------------------------- model

    function allow(uint256 account, uint256 receiver, uint256 total) internal {
        if (total > allowed[account][receiver]) allowed[account][receiver] = total;
    }

    function loadModel() internal {
        expectedClaimed = totals();
        IEscrow.AccountState[] memory now_ = states();
        for (uint256 a = 0; a < ACCOUNTS; ++a) {
            expectedBalance[a] = now_[a].balance;
        }
    }

    /// @dev A row that the payer has allowed pays what is new, as far as the account can.
    function expectPaid(uint256 account, uint256 receiver, uint256 total) internal {
        uint256 before = expectedClaimed[account][receiver];
        if (total <= before) return;
        uint256 amount = total - before;
        if (amount > expectedBalance[account]) amount = expectedBalance[account];
        expectedBalance[account] -= amount;
        expectedClaimed[account][receiver] += amount;
        if (amount != 0) ++rowsPaid;
    }

    function compare() internal view {
        uint256[RECEIVERS][ACCOUNTS] memory got = totals();
        IEscrow.AccountState[] memory now_ = states();
        for (uint256 a = 0; a < ACCOUNTS; ++a) {
            assertEq(now_[a].balance, expectedBalance[a], "balance after a claim");
            for (uint256 r = 0; r < RECEIVERS; ++r) {
                assertEq(got[a][r], expectedClaimed[a][r], "claimed after a claim");
            }
        }
    }

    function sum(uint256[RECEIVERS] memory amounts) internal pure returns (uint256 total) {
        for (uint256 r = 0; r < RECEIVERS; ++r) {
            total += amounts[r];
        }
    }
}
