// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Claims} from "./base/Claims.sol";
import {Deposits} from "./base/Deposits.sol";
import {Exits} from "./base/Exits.sol";
import {EscrowHashes} from "./libraries/EscrowHashes.sol";

/// @title Escrow
/// @notice One deposit, any number of sellers. {IEscrow} documents everything; {Deposits}, {Claims} and {Exits} do it.
/// @dev No owner, no upgrade, no pause, no fee: nobody can change the rules under a deposit.
contract Escrow is Deposits, Claims, Exits {
    using EscrowHashes for EscrowHashes.ApprovalPreimage;
    using EscrowHashes for EscrowHashes.Array;
    using EscrowHashes for EscrowHashes.ChannelPreimage;
    using EscrowHashes for EscrowHashes.VoucherPreimage;
    using SafeERC20 for IERC20;

    constructor() EIP712("Tallystick Escrow", "1") {}

    function setSender(address sender, bool allowed) external override {
        isSender[msg.sender][sender] = allowed;
        emit SenderSet(msg.sender, sender, allowed);
    }

    function collect(address to, address token) external override nonReentrant {
        uint256 amount = owed[to][token];
        if (amount == 0) revert NothingOwed(to, token);
        delete owed[to][token];
        emit Collected(to, token, amount);
        IERC20(token).safeTransfer(to, amount);
    }

    function accounts(bytes32[] calldata accountIds) external view override returns (AccountState[] memory states) {
        states = new AccountState[](accountIds.length);
        for (uint256 i = 0; i < accountIds.length; ++i) {
            Account memory account = _accounts[accountIds[i]];
            PendingWithdraw memory pending = _withdraws[accountIds[i]];
            states[i] = AccountState({
                opened: account.opened,
                balance: account.balance,
                refundNonce: account.refundNonce,
                withdrawNonce: account.withdrawNonce,
                authorizerNonce: account.authorizerNonce,
                withdrawAmount: pending.amount,
                withdrawableAt: pending.withdrawableAt,
                withdrawByPayer: pending.byPayer
            });
        }
    }

    function claimed(bytes32[] calldata channelIds) external view override returns (uint128[] memory totals) {
        totals = new uint128[](channelIds.length);
        for (uint256 i = 0; i < channelIds.length; ++i) {
            totals[i] = uint128(_channels[channelIds[i]].claimed);
        }
    }

    function accountId(ChannelConfig calldata config) external view override returns (bytes32 id) {
        return _accountId(config);
    }

    function channelId(ChannelConfig calldata config) external view override returns (bytes32 id) {
        if (config.receiver == address(0)) revert BadAddress("receiver", address(0));
        EscrowHashes.ChannelPreimage memory preimage = EscrowHashes.accountPreimage(config);
        preimage.receiver = config.receiver;
        return _hashTypedDataV4(preimage.hash());
    }

    function voucherDigest(bytes32 channelId_, uint128 maxClaimableAmount)
        external
        view
        override
        returns (bytes32 digest)
    {
        EscrowHashes.VoucherPreimage memory preimage =
            EscrowHashes.VoucherPreimage(EscrowHashes.VOUCHER_TYPEHASH, channelId_, maxClaimableAmount);
        return _hashTypedDataV4(preimage.hash());
    }

    function approvalDigest(bytes32 accountId_, ReceiverTotal[] calldata totals)
        external
        view
        override
        returns (bytes32 digest)
    {
        EscrowHashes.Array memory hashes = EscrowHashes.array(totals.length);
        for (uint256 i = 0; i < totals.length; ++i) {
            hashes.push(EscrowHashes.receiverTotal(totals[i].receiver, totals[i].total));
        }
        EscrowHashes.ApprovalPreimage memory preimage =
            EscrowHashes.ApprovalPreimage(EscrowHashes.TOTALS_APPROVAL_TYPEHASH, accountId_, hashes.hash());
        return _hashTypedDataV4(preimage.hash());
    }

    function refundDigest(bytes32 accountId_, uint256 nonce, uint128 amount)
        external
        view
        override
        returns (bytes32 digest)
    {
        return _hashTypedDataV4(EscrowHashes.refund(accountId_, nonce, amount));
    }

    function withdrawDigest(bytes32 accountId_, uint128 amount, uint256 nonce, uint256 deadline)
        external
        view
        override
        returns (bytes32 digest)
    {
        return _hashTypedDataV4(EscrowHashes.withdraw(accountId_, amount, nonce, deadline));
    }

    function domainSeparator() external view override returns (bytes32 separator) {
        return _domainSeparatorV4();
    }
}
