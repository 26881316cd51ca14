// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title TestWallet
/// @notice A contract wallet with one owner, whose signatures are its own (ERC-1271).
contract TestWallet is IERC1271 {
    address public immutable OWNER;

    constructor(address owner) {
        OWNER = owner;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        (address signer, ECDSA.RecoverError problem,) = ECDSA.tryRecover(digest, signature);
        bool valid = problem == ECDSA.RecoverError.NoError && signer == OWNER;
        return valid ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }
}

/// @title TestWalletFactory
/// @notice Deploys wallets to addresses that are known before: they receive money there, and pay, before they exist.
contract TestWalletFactory {
    error AlreadyDeployed(address wallet);

    /// @notice As the factories do that refuse to deploy a wallet twice.
    function deploy(address owner, bytes32 salt) external returns (address wallet) {
        wallet = walletOf(owner, salt);
        if (wallet.code.length != 0) revert AlreadyDeployed(wallet);
        new TestWallet{salt: salt}(owner);
    }

    /// @notice Deploys the wallet after it has burnt some gas.
    function deploySlowly(address owner, bytes32 salt, uint256 gas) external {
        uint256 until = gasleft() - gas;
        while (gasleft() > until) {}
        new TestWallet{salt: salt}(owner);
    }

    function walletOf(address owner, bytes32 salt) public view returns (address) {
        bytes32 initCode = keccak256(abi.encodePacked(type(TestWallet).creationCode, abi.encode(owner)));
        return address(uint160(uint256(keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, initCode)))));
    }
}
