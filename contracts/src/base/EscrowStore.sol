// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IEscrow} from "../interfaces/IEscrow.sol";
import {TokenCalls} from "../libraries/TokenCalls.sol";
import {EscrowHashes} from "../libraries/EscrowHashes.sol";

/// @title EscrowStore
/// @notice The escrow's state, and what every part of it needs: ids and paying out.
abstract contract EscrowStore is IEscrow, EIP712, ReentrancyGuardTransient {
    using EscrowHashes for EscrowHashes.ChannelPreimage;

    /// @dev One slot. The nonces would last for 10^12 uses.
    struct Account {
        uint128 balance;
        uint40 refundNonce;
        /// @dev The payer's, for withdrawals and cancellations.
        uint40 withdrawNonce;
        /// @dev The payerAuthorizer's, so that a stolen session key uses up nobody's signatures but its own.
        uint40 authorizerNonce;
        /// @dev Set for good by the first deposit, so that {AccountOpened} comes once and the slot is never zero again.
        bool opened;
    }

    /// @dev One slot. Pending if and only if `withdrawableAt` is not zero.
    struct PendingWithdraw {
        uint128 amount;
        uint40 withdrawableAt;
        /// @dev The payer has started it, so only the payer can cancel it, and nobody can replace it.
        bool byPayer;
    }

    /// @dev One slot. Never above `type(uint128).max`; a whole word, so that writing it does not read it first.
    struct Channel {
        uint256 claimed;
    }

    mapping(bytes32 accountId => Account) internal _accounts;
    mapping(bytes32 accountId => PendingWithdraw) internal _withdraws;
    mapping(bytes32 channelId => Channel) internal _channels;
    /// @inheritdoc IEscrow
    mapping(address to => mapping(address token => uint256)) public override owed;
    /// @inheritdoc IEscrow
    mapping(address operator => mapping(address sender => bool)) public override isSender;

    /// @dev The id of the account that `config` belongs to.
    function _accountId(ChannelConfig calldata config) internal view returns (bytes32) {
        return _hashTypedDataV4(EscrowHashes.accountPreimage(config).hash());
    }

    /// @dev Pays `amount` out, or keeps it for `to` if the token will not have it. The caller has done its bookkeeping.
    function _pay(address token, address to, uint256 amount) internal {
        if (TokenCalls.tryTransfer(token, to, amount)) return;
        uint256 total = owed[to][token] + amount;
        owed[to][token] = total;
        emit Owed(to, token, amount, total);
    }
}
