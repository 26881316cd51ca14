// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {EscrowHashes} from "../libraries/EscrowHashes.sol";
import {Signatures} from "../libraries/Signatures.sol";
import {EscrowStore} from "./EscrowStore.sol";

/// @title Exits
/// @notice How a payer gets back what is not claimed: a withdrawal after a delay, or the operator's refund at once.
///
/// @dev The payerAuthorizer is often a hot session key, so it may start withdrawals, which only ever pay the payer, but
///      it can never stand in the payer's way: the payer replaces or cancels what the authorizer has started, only the
///      payer cancels what the payer has started, and neither uses up the other's nonces. An address that is both is the
///      payer.
abstract contract Exits is EscrowStore {
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external override nonReentrant {
        _initiate(config, _accountId(config), amount, _isCalledByPayer(config));
    }

    function initiateWithdrawWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external override nonReentrant {
        bytes32 id = _accountId(config);
        bool byPayer = _isSignedByPayer(config, EscrowHashes.withdraw(id, amount, nonce, deadline), deadline, signature);
        _requireNonce(nonce, _withdrawNonce(_accounts[id], byPayer));
        _initiate(config, id, amount, byPayer);
    }

    function cancelWithdraw(ChannelConfig calldata config) external override nonReentrant {
        _cancel(_accountId(config), _isCalledByPayer(config));
    }

    function cancelWithdrawWithSignature(
        ChannelConfig calldata config,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external override nonReentrant {
        bytes32 id = _accountId(config);
        bool byPayer = _isSignedByPayer(config, EscrowHashes.withdraw(id, 0, nonce, deadline), deadline, signature);
        _requireNonce(nonce, _withdrawNonce(_accounts[id], byPayer));
        _cancel(id, byPayer);
    }

    function finalizeWithdraw(ChannelConfig calldata config) external override nonReentrant {
        bytes32 id = _accountId(config);
        PendingWithdraw memory pending = _requirePending(id);
        if (block.timestamp < pending.withdrawableAt) revert WithdrawTooEarly(pending.withdrawableAt, block.timestamp);

        delete _withdraws[id];
        (uint128 paid, uint128 balance) = _take(_accounts[id], pending.amount);
        emit WithdrawFinalized(id, paid, balance);
        if (paid != 0) _pay(config.token, config.payer, paid);
    }

    function refundWithSignature(ChannelConfig calldata config, uint128 amount, uint256 nonce, bytes calldata signature)
        external
        override
        nonReentrant
    {
        bytes32 id = _accountId(config);
        bytes32 digest = _hashTypedDataV4(EscrowHashes.refund(id, nonce, amount));
        if (!Signatures.isSignedBy(config.receiverAuthorizer, digest, signature)) {
            revert BadSignature(config.receiverAuthorizer, digest);
        }
        Account storage account = _accounts[id];
        // The first deposit starts the nonces: a signature used before it could be used again after it.
        if (!account.opened) revert AccountUnknown(id);
        _requireNonce(nonce, account.refundNonce);

        account.refundNonce += 1;
        (uint128 paid, uint128 balance) = _take(account, amount);
        emit Refunded(id, paid, balance, nonce, _lowerPending(id, paid));
        if (paid != 0) _pay(config.token, config.payer, paid);
    }

    /// @dev Starts a withdrawal, whose delay begins now. The payer's takes the place of one that the authorizer started.
    function _initiate(ChannelConfig calldata config, bytes32 id, uint128 amount, bool byPayer) private {
        if (amount == 0) revert ZeroAmount();
        PendingWithdraw memory pending = _withdraws[id];
        if (pending.withdrawableAt != 0 && (pending.byPayer || !byPayer)) {
            revert WithdrawPending(id, pending.amount, pending.withdrawableAt);
        }
        Account storage account = _accounts[id];
        if (account.balance == 0) revert AccountEmpty(id);

        uint256 nonce = _useWithdrawNonce(account, byPayer);
        uint40 withdrawableAt = uint40(block.timestamp) + config.withdrawDelay;
        _withdraws[id] = PendingWithdraw({amount: amount, withdrawableAt: withdrawableAt, byPayer: byPayer});
        emit WithdrawInitiated(id, amount, withdrawableAt, nonce, byPayer);
    }

    function _cancel(bytes32 id, bool byPayer) private {
        if (_requirePending(id).byPayer && !byPayer) revert WithdrawOfPayer(id);
        delete _withdraws[id];
        emit WithdrawCancelled(id, _useWithdrawNonce(_accounts[id], byPayer), byPayer);
    }

    function _withdrawNonce(Account storage account, bool byPayer) private view returns (uint256) {
        return byPayer ? account.withdrawNonce : account.authorizerNonce;
    }

    function _useWithdrawNonce(Account storage account, bool byPayer) private returns (uint256) {
        return byPayer ? account.withdrawNonce++ : account.authorizerNonce++;
    }

    /// @dev Takes `amount`, or what is there if that is less, out of the account.
    function _take(Account storage account, uint128 amount) private returns (uint128 taken, uint128 balance) {
        balance = account.balance;
        taken = amount < balance ? amount : balance;
        balance -= taken;
        account.balance = balance;
    }

    /// @dev What a refund has paid need not be withdrawn any more.
    /// @return left What the pending withdrawal still asks for; zero if there is none (any more).
    function _lowerPending(bytes32 id, uint128 refunded) private returns (uint128 left) {
        PendingWithdraw storage pending = _withdraws[id];
        uint128 amount = pending.amount;
        if (amount > refunded) {
            left = amount - refunded;
            pending.amount = left;
        } else if (amount != 0) {
            delete _withdraws[id];
        }
    }

    function _requirePending(bytes32 id) private view returns (PendingWithdraw memory pending) {
        pending = _withdraws[id];
        if (pending.withdrawableAt == 0) revert NoWithdrawPending(id);
    }

    /// @dev True for the payer, false for the payerAuthorizer; reverts for anyone else.
    function _isCalledByPayer(ChannelConfig calldata config) private view returns (bool) {
        if (msg.sender == config.payer) return true;
        if (msg.sender == config.payerAuthorizer) return false;
        revert NotPayer(msg.sender, config.payer, config.payerAuthorizer);
    }

    function _requireNonce(uint256 got, uint256 expected) private pure {
        if (got != expected) revert BadNonce(got, expected);
    }

    /// @dev True for the payer's signature, false for the payerAuthorizer's; reverts for any other. The authorizer signs
    ///      as a key; the payer as a key or, being a contract, by ERC-1271. The authorizer's own signature is never the
    ///      payer's, even if the payer's contract would take it: who signs decides about the nonce.
    function _isSignedByPayer(
        ChannelConfig calldata config,
        bytes32 structHash,
        uint256 deadline,
        bytes calldata signature
    ) private view returns (bool) {
        if (block.timestamp > deadline) revert DeadlinePassed(deadline, block.timestamp);
        bytes32 digest = _hashTypedDataV4(structHash);
        if (Signatures.isSignedByKey(config.payerAuthorizer, digest, signature)) {
            return config.payer == config.payerAuthorizer;
        }
        if (!Signatures.isSignedBy(config.payer, digest, signature)) revert BadSignature(config.payer, digest);
        return true;
    }
}
