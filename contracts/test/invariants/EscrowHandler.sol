// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../../src/interfaces/IEscrow.sol";
import {HostileToken} from "../mocks/HostileToken.sol";
import {ClaimHandler} from "./ClaimHandler.sol";

/// @notice Besides claims: deposits, withdrawals, refunds, time, and tokens and receivers that misbehave.
contract EscrowHandler is ClaimHandler {
    struct SignedRefund {
        uint256 account;
        uint128 amount;
        uint256 nonce;
    }

    struct SignedWithdraw {
        uint256 account;
        uint128 amount;
        uint256 nonce;
        bool byPayer;
    }

    /// @dev Refunds and withdrawals that were landed before; anyone may send them again.
    SignedRefund[] internal refunds;
    SignedWithdraw[] internal withdraws;

    function deposit(uint256 account, uint128 amount) external {
        account = account % ACCOUNTS;
        amount = 1 + amount % 3_000;
        usdc.mint(address(this), amount);
        hostile.mint(address(this), amount);
        usdc.approve(address(escrow), amount);
        hostile.behave(HostileToken.Mode.Honest);
        escrow.deposit(config(account), amount);
        ghosts[account].deposited += amount;
    }

    /// @notice An ERC-3009 deposit, landed twice.
    function depositWithAuthorization(uint256 account, uint128 amount, bytes32 salt) external {
        account = account % 3;
        amount = 1 + amount % 3_000;
        IEscrow.ChannelConfig memory c = config(account);
        bytes32 nonce = escrow.depositNonce(accountId(account), salt);
        if (usdc.authorizationState(c.payer, nonce)) return;
        usdc.unBlacklist(c.payer);
        usdc.mint(c.payer, amount);
        bytes32 structHash = keccak256(
            abi.encode(
                usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
                c.payer,
                address(escrow),
                amount,
                0,
                type(uint256).max,
                nonce
            )
        );
        bytes32 digest = keccak256(abi.encodePacked("\x19\x01", usdc.DOMAIN_SEPARATOR(), structHash));
        bytes memory signature = sign(payerKey(account), digest);
        assertTrue(
            escrow.depositWithAuthorization(c, amount, 0, type(uint256).max, salt, signature), "the first credits"
        );
        assertTrue(
            !escrow.depositWithAuthorization(c, amount, 0, type(uint256).max, salt, signature), "the second does not"
        );
        ghosts[account].deposited += amount;
    }

    /// @notice By the payer or the authorizer. The payer's takes the place of one that the authorizer had started.
    function initiateWithdraw(uint256 account, uint128 amount, bool byPayer, bool bySignature) external {
        account = account % ACCOUNTS;
        IEscrow.AccountState memory s = state(account);
        if (s.balance == 0 || (s.withdrawableAt != 0 && (s.withdrawByPayer || !byPayer))) return;
        amount = 1 + amount % (s.balance + 500);
        uint256 key = byPayer ? payerKey(account) : AUTHORIZER_KEY;
        if (bySignature) {
            uint256 nonce = withdrawNonce(s, byPayer);
            bytes memory signature = signWithdraw(key, account, amount, nonce);
            escrow.initiateWithdrawWithSignature(config(account), amount, nonce, type(uint256).max, signature);
            withdraws.push(SignedWithdraw(account, amount, nonce, byPayer));
        } else {
            vm.prank(vm.addr(key));
            escrow.initiateWithdraw(config(account), amount);
        }
        countWithdraw(account, byPayer);
        assertEq(state(account).withdrawableAt, block.timestamp + DELAY, "the delay begins anew");
        assertTrue(state(account).withdrawByPayer == byPayer, "whose withdrawal it is");
    }

    /// @notice A signature that has started a withdrawal comes again when another may be started.
    function replayWithdraw(uint256 seed) external {
        if (withdraws.length == 0) return;
        SignedWithdraw memory old = withdraws[seed % withdraws.length];
        IEscrow.AccountState memory s = state(old.account);
        if (s.balance == 0 || (s.withdrawableAt != 0 && (s.withdrawByPayer || !old.byPayer))) return;
        bytes memory signature =
            signWithdraw(old.byPayer ? payerKey(old.account) : AUTHORIZER_KEY, old.account, old.amount, old.nonce);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadNonce.selector, old.nonce, withdrawNonce(s, old.byPayer)));
        escrow.initiateWithdrawWithSignature(config(old.account), old.amount, old.nonce, type(uint256).max, signature);
    }

    function cancelWithdraw(uint256 account, bool byPayer, bool bySignature) external {
        account = account % ACCOUNTS;
        IEscrow.AccountState memory s = state(account);
        if (s.withdrawableAt == 0 || (s.withdrawByPayer && !byPayer)) return;
        uint256 key = byPayer ? payerKey(account) : AUTHORIZER_KEY;
        if (bySignature) {
            uint256 nonce = withdrawNonce(s, byPayer);
            bytes memory signature = signWithdraw(key, account, 0, nonce);
            escrow.cancelWithdrawWithSignature(config(account), nonce, type(uint256).max, signature);
        } else {
            vm.prank(vm.addr(key));
            escrow.cancelWithdraw(config(account));
        }
        countWithdraw(account, byPayer);
    }

    /// @notice Who has stolen the authorizer's key tries all that it can to keep the payer in.
    function thief(uint256 account) external {
        account = account % ACCOUNTS;
        IEscrow.AccountState memory s = state(account);
        if (!s.withdrawByPayer) return;
        bytes[4] memory attacks = [
            abi.encodeCall(escrow.cancelWithdraw, (config(account))),
            abi.encodeCall(escrow.initiateWithdraw, (config(account), 1)),
            abi.encodeCall(
                escrow.cancelWithdrawWithSignature,
                (
                    config(account),
                    s.authorizerNonce,
                    type(uint256).max,
                    signWithdraw(AUTHORIZER_KEY, account, 0, s.authorizerNonce)
                )
            ),
            abi.encodeCall(
                escrow.initiateWithdrawWithSignature,
                (
                    config(account),
                    1,
                    s.authorizerNonce,
                    type(uint256).max,
                    signWithdraw(AUTHORIZER_KEY, account, 1, s.authorizerNonce)
                )
            )
        ];
        for (uint256 i = 0; i < attacks.length; ++i) {
            vm.prank(vm.addr(AUTHORIZER_KEY));
            (bool done,) = address(escrow).call(attacks[i]);
            assertTrue(!done, "the thief stood in the payer's way");
        }
        assertEq(keccak256(abi.encode(state(account))), keccak256(abi.encode(s)), "the account after the thief");
    }

    function signWithdraw(uint256 key, uint256 account, uint128 amount, uint256 nonce)
        internal
        view
        returns (bytes memory)
    {
        return sign(key, escrow.withdrawDigest(accountId(account), amount, nonce, type(uint256).max));
    }

    function withdrawNonce(IEscrow.AccountState memory s, bool byPayer) internal pure returns (uint256) {
        return byPayer ? s.withdrawNonce : s.authorizerNonce;
    }

    function countWithdraw(uint256 account, bool byPayer) internal {
        byPayer ? ++ghosts[account].withdrawNonce : ++ghosts[account].authorizerNonce;
    }

    function finalizeWithdraw(uint256 account) external {
        account = account % ACCOUNTS;
        IEscrow.AccountState memory s = state(account);
        if (s.withdrawableAt == 0) return;
        if (s.withdrawableAt > block.timestamp) vm.warp(s.withdrawableAt);
        escrow.finalizeWithdraw(config(account));
        uint256 paid = s.withdrawAmount < s.balance ? s.withdrawAmount : s.balance;
        ghosts[account].returned += paid;
        assertEq(state(account).balance, s.balance - paid, "balance after a withdrawal");
    }

    function refund(uint256 account, uint128 amount) external {
        account = account % ACCOUNTS;
        IEscrow.AccountState memory s = state(account);
        amount = amount % (s.balance + 500);
        land(account, amount, s.refundNonce);
        uint256 paid = amount < s.balance ? amount : s.balance;
        ghosts[account].returned += paid;
        ++ghosts[account].refundNonce;
        assertEq(state(account).balance, s.balance - paid, "balance after a refund");
        assertEq(
            state(account).withdrawAmount,
            s.withdrawAmount > paid ? s.withdrawAmount - paid : 0,
            "the pending withdrawal after a refund"
        );
        refunds.push(SignedRefund(account, amount, s.refundNonce));
    }

    function replayRefund(uint256 seed) external {
        if (refunds.length == 0) return;
        SignedRefund memory old = refunds[seed % refunds.length];
        bytes32 digest = escrow.refundDigest(accountId(old.account), old.nonce, old.amount);
        bytes memory signature = sign(operatorKey(old.account), digest);
        vm.expectRevert();
        escrow.refundWithSignature(config(old.account), old.amount, old.nonce, signature);
    }

    function land(uint256 account, uint128 amount, uint256 nonce) internal {
        bytes32 digest = escrow.refundDigest(accountId(account), nonce, amount);
        escrow.refundWithSignature(config(account), amount, nonce, sign(operatorKey(account), digest));
    }

    function wait_(uint16 time) external {
        vm.warp(block.timestamp + time);
    }

    /// @notice A receiver or payer is blacklisted, or no longer.
    function blacklist(uint256 who, bool listed) external {
        address account = who % 2 == 0 ? receiverAt(who % RECEIVERS) : vm.addr(payerKey(who % ACCOUNTS));
        listed ? usdc.blacklist(account) : usdc.unBlacklist(account);
    }

    /// @notice The hostile token changes its ways. (Fees and gifts only matter on the way in, where unit tests are.)
    function behave(uint256 mode) external {
        HostileToken.Mode[8] memory modes = [
            HostileToken.Mode.Honest,
            HostileToken.Mode.ReturnNothing,
            HostileToken.Mode.ReturnFalse,
            HostileToken.Mode.ReturnTwo,
            HostileToken.Mode.ReturnOneByte,
            HostileToken.Mode.Revert,
            HostileToken.Mode.BurnGas,
            HostileToken.Mode.Reenter
        ];
        if (modes[mode % 8] == HostileToken.Mode.Reenter) {
            hostile.reenter(address(escrow), abi.encodeCall(escrow.finalizeWithdraw, (config(3))));
        } else {
            hostile.behave(modes[mode % 8]);
        }
    }

    function collect(uint256 who, uint256 account) external {
        address to = who % 2 == 0 ? receiverAt(who % RECEIVERS) : vm.addr(payerKey(who % ACCOUNTS));
        address token = tokenOf(account % ACCOUNTS);
        if (escrow.owed(to, token) == 0) return;
        usdc.unBlacklist(to);
        hostile.behave(HostileToken.Mode.Honest);
        escrow.collect(to, token);
        assertEq(escrow.owed(to, token), 0, "owed after collecting");
    }

    function donate(uint128 amount) external {
        usdc.mint(address(escrow), amount % 100);
    }

    /// @notice Notes the totals seen; none may be below what was seen before.
    function see() external {
        uint256[RECEIVERS][ACCOUNTS] memory all = totals();
        for (uint256 a = 0; a < ACCOUNTS; ++a) {
            for (uint256 r = 0; r < RECEIVERS; ++r) {
                assertAtMost(seen[a][r], all[a][r], "claimed before");
                seen[a][r] = all[a][r];
            }
        }
    }
}
