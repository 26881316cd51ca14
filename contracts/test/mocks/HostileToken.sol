// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../../src/interfaces/IEscrow.sol";

/// @notice A token that behaves until it is told otherwise. Anyone may mint and tell.
contract HostileToken {
    enum Mode {
        Honest,
        ReturnFalse,
        ReturnNothing,
        ReturnTwo,
        ReturnOneByte,
        Bomb,
        Revert,
        Fee,
        Bonus,
        BurnGas,
        Reenter
    }

    Mode public mode;
    /// @dev What `Reenter` calls, and whether that went through.
    address public target;
    bytes public attack;
    bool public attackSucceeded;
    bytes public attackAnswer;

    mapping(address owner => uint256) public balanceOf;
    mapping(address authorizer => mapping(bytes32 nonce => bool)) public authorizationState;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function behave(Mode mode_) external {
        mode = mode_;
    }

    function reenter(address target_, bytes calldata attack_) external {
        (mode, target, attack) = (Mode.Reenter, target_, attack_);
    }

    function transfer(address to, uint256 amount) external returns (bool) {
        return _move(msg.sender, to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) external returns (bool) {
        return _move(from, to, amount);
    }

    /// @dev Takes any signature: what a hostile token says about authorizations is worth nothing.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256,
        uint256,
        bytes32 nonce,
        uint8,
        bytes32,
        bytes32
    ) external {
        require(!authorizationState[from][nonce], "used");
        authorizationState[from][nonce] = true;
        _move(from, to, value);
    }

    function _move(address from, address to, uint256 amount) private returns (bool) {
        if (mode == Mode.Revert) revert("no");
        if (mode == Mode.BurnGas) while (true) {}
        if (mode == Mode.Bomb) _answer(1_000_000);
        if (mode == Mode.ReturnFalse) return false;
        if (mode == Mode.ReturnOneByte) _answer(1);
        if (mode == Mode.ReturnTwo) {
            assembly {
                mstore(0, 2)
                return(0, 32)
            }
        }
        if (mode == Mode.Reenter) (attackSucceeded, attackAnswer) = target.call(attack);

        balanceOf[from] -= amount;
        balanceOf[to] += mode == Mode.Fee ? amount - 1 : mode == Mode.Bonus ? amount + 1 : amount;
        if (mode == Mode.ReturnNothing) _answer(0);
        return true;
    }

    /// @dev Returns so many zero bytes. Where a transfer has to fail, its effects are not made, as a token would.
    function _answer(uint256 length) private pure {
        assembly {
            return(0x80, length)
        }
    }
}
