// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {EscrowHashes} from "../libraries/EscrowHashes.sol";
import {Signatures} from "../libraries/Signatures.sol";
import {EscrowStore} from "./EscrowStore.sol";

/// @title Exits
/// @notice How a payer gets back what is not claimed: a withdrawal after a delay, or the operator's refund at once.
abstract contract Exits is EscrowStore {
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external override nonReentrant {
        _requirePayer(config);
        _initiate(config, _accountId(config), amount);
    }

    function initiateWithdrawWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external override nonReentrant {
        bytes32 id = _accountId(config);
        _requireWithdrawSignature(config, EscrowHashes.withdraw(id, amount, nonce, deadline), deadline, signature);
        _requireNonce(nonce, _accounts[id].withdrawNonce);
        _initiate(config, id, amount);
    }

    function cancelWithdraw(ChannelConfig calldata config) external override nonReentrant {
        _requirePayer(config);
        _cancel(_accountId(config));
    }

    function cancelWithdrawWithSignature(
        ChannelConfig calldata config,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external override nonReentrant {
        bytes32 id = _accountId(config);
        _requireWithdrawSignature(config, EscrowHashes.withdraw(id, 0, nonce, deadline), deadline, signature);
        _requireNonce(nonce, _accounts[id].withdrawNonce);
        _cancel(id);
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

    function _initiate(ChannelConfig calldata config, bytes32 id, uint128 amount) private {
        if (amount == 0) revert ZeroAmount();
        PendingWithdraw storage pending = _withdraws[id];
        if (pending.withdrawableAt != 0) revert WithdrawPending(id, pending.amount, pending.withdrawableAt);
        Account storage account = _accounts[id];
        if (account.balance == 0) revert AccountEmpty(id);

        uint256 nonce = account.withdrawNonce++;
        uint40 withdrawableAt = uint40(block.timestamp) + config.withdrawDelay;
        pending.amount = amount;
        pending.withdrawableAt = withdrawableAt;
        emit WithdrawInitiated(id, amount, withdrawableAt, nonce);
    }

    function _cancel(bytes32 id) private {
        _requirePending(id);
        delete _withdraws[id];
        emit WithdrawCancelled(id, _accounts[id].withdrawNonce++);
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

    function _requirePayer(ChannelConfig calldata config) private view {
        if (msg.sender != config.payer && msg.sender != config.payerAuthorizer) {
            revert NotPayer(msg.sender, config.payer, config.payerAuthorizer);
        }
    }

    function _requireNonce(uint256 got, uint256 expected) private pure {
        if (got != expected) revert BadNonce(got, expected);
    }

    /// @dev The authorizer signs as a key; the payer as a key or, being a contract, by ERC-1271.
    function _requireWithdrawSignature(
        ChannelConfig calldata config,
        bytes32 structHash,
        uint256 deadline,
        bytes calldata signature
    ) private view {
        if (block.timestamp > deadline) revert DeadlinePassed(deadline, block.timestamp);
        bytes32 digest = _hashTypedDataV4(structHash);
        if (Signatures.isSignedByKey(config.payerAuthorizer, digest, signature)) return;
        if (!Signatures.isSignedBy(config.payer, digest, signature)) revert BadSignature(config.payer, digest);
    }
}
