// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IERC3009Token} from "../interfaces/IERC3009Token.sol";
import {EscrowStore} from "./EscrowStore.sol";

/// @title Deposits
/// @notice How money comes in.
abstract contract Deposits is EscrowStore {
    using SafeERC20 for IERC20;

    uint40 internal constant MIN_WITHDRAW_DELAY = 15 minutes;
    uint40 internal constant MAX_WITHDRAW_DELAY = 30 days;

    function deposit(ChannelConfig calldata config, uint128 amount) external override nonReentrant {
        _requireValid(config, amount);
        _credit(config, _accountId(config), amount);
        uint256 before = _balance(config.token);
        IERC20(config.token).safeTransferFrom(msg.sender, address(this), amount);
        _requireExact(config.token, before, amount);
    }

    function depositWithAuthorization(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 salt,
        bytes calldata signature
    ) external override nonReentrant returns (bool credited) {
        _requireValid(config, amount);
        bytes32 id = _accountId(config);
        bytes32 nonce = _depositNonce(id, salt);
        if (IERC3009Token(config.token).authorizationState(config.payer, nonce)) return false;

        _credit(config, id, amount);
        uint256 before = _balance(config.token);
        _receive(config, amount, validAfter, validBefore, nonce, signature);
        _requireExact(config.token, before, amount);
        return true;
    }

    function depositNonce(bytes32 accountId_, bytes32 salt) external pure override returns (bytes32 nonce) {
        return _depositNonce(accountId_, salt);
    }

    /// @dev Refuses configurations whose deposit nobody could claim, or get back.
    function _requireValid(ChannelConfig calldata config, uint128 amount) private view {
        address payer = config.payer;
        if (payer == address(0) || payer == address(this) || payer == config.token) revert BadAddress("payer", payer);
        if (config.payerAuthorizer == address(0)) revert BadAddress("payerAuthorizer", address(0));
        if (config.receiverAuthorizer == address(0)) revert BadAddress("receiverAuthorizer", address(0));
        uint256 delay = config.withdrawDelay;
        if (delay < MIN_WITHDRAW_DELAY || delay > MAX_WITHDRAW_DELAY) {
            revert WithdrawDelayOutOfRange(delay, MIN_WITHDRAW_DELAY, MAX_WITHDRAW_DELAY);
        }
        if (amount == 0) revert ZeroAmount();
    }

    /// @dev Books the deposit before the token is called; {_requireExact} takes it all back if the money does not come.
    function _credit(ChannelConfig calldata config, bytes32 id, uint128 amount) private {
        Account storage account = _accounts[id];
        if (!account.opened) {
            account.opened = true;
            emit AccountOpened(
                id,
                config.payer,
                config.receiverAuthorizer,
                config.payerAuthorizer,
                config.token,
                config.withdrawDelay,
                config.salt
            );
        }
        uint128 balance = account.balance + amount;
        account.balance = balance;
        emit Deposited(id, amount, balance);
    }

    /// @dev Every token with ERC-3009 has the `v, r, s` form. Only contract wallets have signatures of other lengths.
    function _receive(
        ChannelConfig calldata config,
        uint256 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) private {
        IERC3009Token token = IERC3009Token(config.token);
        if (signature.length != 65) {
            token.receiveWithAuthorization(
                config.payer, address(this), amount, validAfter, validBefore, nonce, signature
            );
            return;
        }
        token.receiveWithAuthorization(
            config.payer,
            address(this),
            amount,
            validAfter,
            validBefore,
            nonce,
            uint8(signature[64]),
            bytes32(signature[:32]),
            bytes32(signature[32:64])
        );
    }

    function _depositNonce(bytes32 id, bytes32 salt) private pure returns (bytes32) {
        return keccak256(abi.encode(id, salt));
    }

    function _balance(address token) private view returns (uint256) {
        return IERC20(token).balanceOf(address(this));
    }

    function _requireExact(address token, uint256 before, uint256 amount) private view {
        uint256 now_ = _balance(token);
        if (now_ != before + amount) revert DepositNotExact(now_ > before ? now_ - before : 0, amount);
    }
}
