// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {IEscrow} from "./interfaces/IEscrow.sol";
import {IOperator} from "./interfaces/IOperator.sol";
import {Signatures} from "./libraries/Signatures.sol";

/// @title Operator
/// @notice A cold owner, rotatable signers and senders. {IOperator} documents it.
/// @dev Additions wait, removals do not: a thief of the owner's key is seen before he can act, and a stolen key is out
///      in one transaction.
contract Operator is IOperator, Ownable2Step {
    uint40 internal constant MIN_ADDITION_DELAY = 1 hours;
    uint40 internal constant MAX_ADDITION_DELAY = 30 days;
    bytes4 private constant NOT_VALID = 0xffffffff;

    /// @inheritdoc IOperator
    uint40 public immutable override additionDelay;
    IEscrow private immutable ESCROW;

    /// @inheritdoc IOperator
    mapping(Role role => mapping(address account => uint40)) public override activeAt;

    /// @notice The members named here are active at once: whoever deposits for this operator can see them.
    /// @param owner_ The cold key that changes members.
    /// @param additionDelay_ Seconds, one hour to 30 days.
    /// @param escrow_ The Tallystick escrow; a verifier from the start.
    /// @param signers Keys that sign for the operator.
    /// @param senders Addresses that may land its claims on `escrow_`.
    /// @param verifiers Further escrows that may ask about signatures.
    constructor(
        address owner_,
        uint40 additionDelay_,
        IEscrow escrow_,
        address[] memory signers,
        address[] memory senders,
        address[] memory verifiers
    ) Ownable(owner_) {
        if (additionDelay_ < MIN_ADDITION_DELAY || additionDelay_ > MAX_ADDITION_DELAY) {
            revert AdditionDelayOutOfRange(additionDelay_, MIN_ADDITION_DELAY, MAX_ADDITION_DELAY);
        }
        additionDelay = additionDelay_;
        ESCROW = escrow_;
        _add(Role.Verifier, address(escrow_), 0);
        _addAll(Role.Verifier, verifiers);
        _addAll(Role.Signer, signers);
        _addAll(Role.Sender, senders);
        for (uint256 i = 0; i < senders.length; ++i) {
            escrow_.setSender(senders[i], true);
        }
    }

    function add(Role role, address account) external override onlyOwner {
        _add(role, account, additionDelay);
    }

    function remove(Role role, address account) external override onlyOwner {
        if (activeAt[role][account] == 0) revert NotAdded(role, account);
        delete activeAt[role][account];
        emit Removed(role, account);
        if (role == Role.Sender) ESCROW.setSender(account, false);
    }

    function activateSender(address sender) external override {
        uint40 time = activeAt[Role.Sender][sender];
        if (time == 0) revert NotAdded(Role.Sender, sender);
        if (block.timestamp < time) revert NotActiveYet(Role.Sender, sender, time, block.timestamp);
        ESCROW.setSender(sender, true);
    }

    /// @inheritdoc IERC1271
    /// @dev Answers verifiers only. A signature that an escrow takes is bound to that escrow, to this operator (through
    ///      the channel's id) and to the chain by what it signs.
    function isValidSignature(bytes32 hash, bytes calldata signature) external view override returns (bytes4) {
        if (!isActive(Role.Verifier, msg.sender)) return NOT_VALID;
        address signer = Signatures.keyOf(hash, signature);
        return isActive(Role.Signer, signer) ? IERC1271.isValidSignature.selector : NOT_VALID;
    }

    function isActive(Role role, address account) public view override returns (bool active) {
        uint40 time = activeAt[role][account];
        return time != 0 && time <= block.timestamp;
    }

    function escrow() external view override returns (address) {
        return address(ESCROW);
    }

    function _addAll(Role role, address[] memory members) private {
        for (uint256 i = 0; i < members.length; ++i) {
            _add(role, members[i], 0);
        }
    }

    function _add(Role role, address account, uint40 delay) private {
        if (account == address(0)) revert ZeroMember(role);
        uint40 time = activeAt[role][account];
        if (time != 0) revert AlreadyAdded(role, account, time);
        time = uint40(block.timestamp) + delay;
        activeAt[role][account] = time;
        emit Added(role, account, time);
    }
}
