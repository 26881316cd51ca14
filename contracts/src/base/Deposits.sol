// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EscrowHashes} from "../libraries/EscrowHashes.sol";
import {TokenCalls} from "../libraries/TokenCalls.sol";
import {EscrowStore} from "./EscrowStore.sol";

/// @title Deposits
/// @notice How money comes in.
///
/// @dev Here the token is called before the deposit is booked, as what it brought has to be measured first. The guard
///      keeps everybody out meanwhile.
abstract contract Deposits is EscrowStore {
    using EscrowHashes for EscrowHashes.ChannelPreimage;
    using SafeERC20 for IERC20;

    uint40 internal constant MIN_WITHDRAW_DELAY = 15 minutes;
    uint40 internal constant MAX_WITHDRAW_DELAY = 30 days;

    function deposit(ChannelConfig calldata config, uint128 amount) external override nonReentrant {
        EscrowHashes.ChannelPreimage memory account = EscrowHashes.accountPreimage(config);
        _requireValid(account, amount);
        uint256 before = TokenCalls.balance(account.token);
        IERC20(account.token).safeTransferFrom(msg.sender, address(this), amount);
        _book(account, _hashTypedDataV4(account.hash()), amount, before);
    }

    function depositWithAuthorization(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 salt,
        bytes calldata signature
    ) external override nonReentrant returns (bool credited) {
        EscrowHashes.ChannelPreimage memory account = EscrowHashes.accountPreimage(config);
        _requireValid(account, amount);
        bytes32 id = _hashTypedDataV4(account.hash());
        uint256 before = TokenCalls.balance(account.token);
        credited = TokenCalls.receiveAuthorized(
            account.token,
            TokenCalls.Authorization(
                account.payer, address(this), amount, validAfter, validBefore, _depositNonce(id, salt)
            ),
            signature
        );
        if (credited) _book(account, id, amount, before);
    }

    function depositNonce(bytes32 accountId_, bytes32 salt) external pure override returns (bytes32 nonce) {
        return _depositNonce(accountId_, salt);
    }

    /// @dev Refuses configurations whose deposit nobody could claim, or get back.
    function _requireValid(EscrowHashes.ChannelPreimage memory account, uint128 amount) private view {
        if (amount == 0) revert ZeroAmount();
        address payer = account.payer;
        if (payer == address(0) || payer == address(this) || payer == account.token) revert BadAddress("payer", payer);
        if (account.payerAuthorizer == address(0)) revert BadAddress("payerAuthorizer", address(0));
        if (account.receiverAuthorizer == address(0)) revert BadAddress("receiverAuthorizer", address(0));
        uint256 delay = account.withdrawDelay;
        if (delay < MIN_WITHDRAW_DELAY || delay > MAX_WITHDRAW_DELAY) {
            revert WithdrawDelayOutOfRange(delay, MIN_WITHDRAW_DELAY, MAX_WITHDRAW_DELAY);
        }
    }

    /// @dev Books a deposit if the token has delivered all of it and nothing more.
    function _book(EscrowHashes.ChannelPreimage memory config, bytes32 id, uint128 amount, uint256 before) private {
        uint256 afterwards = TokenCalls.balance(config.token);
        if (afterwards != before + amount) {
            revert DepositNotExact(afterwards > before ? afterwards - before : 0, amount);
        }
        Account storage account = _accounts[id];
        if (account.opened) {
            uint128 balance = account.balance + amount;
            account.balance = balance;
            emit Deposited(id, amount, balance);
            return;
        }
        _accounts[id] = Account({balance: amount, refundNonce: 0, withdrawNonce: 0, authorizerNonce: 0, opened: true});
        emit AccountOpened(
            id,
            config.payer,
            config.receiverAuthorizer,
            config.payerAuthorizer,
            config.token,
            config.withdrawDelay,
            config.salt,
            amount
        );
    }

    function _depositNonce(bytes32 id, bytes32 salt) private pure returns (bytes32) {
        return keccak256(abi.encode(id, salt));
    }
}
