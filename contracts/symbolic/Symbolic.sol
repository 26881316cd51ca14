// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {Escrow} from "../src/Escrow.sol";
import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {MinimalToken} from "../src/test/MinimalToken.sol";
import {Batches} from "../test/support/Batches.sol";

/// @notice The cheat codes that the proofs use.
interface Vm {
    function assume(bool condition) external pure;
    function prank(address caller) external;
    function warp(uint256 timestamp) external;
}

/// @notice The escrow with its state laid open, so that an operation can start from any state at all.
contract OpenEscrow is Escrow {
    function setAccount(bytes32 id, uint128 balance, uint40 refundNonce, uint40 withdrawNonce, uint40 authorizerNonce)
        external
    {
        _accounts[id] = Account(balance, refundNonce, withdrawNonce, authorizerNonce, true);
    }

    function setWithdraw(bytes32 id, uint128 amount, uint40 withdrawableAt, bool byPayer) external {
        _withdraws[id] = PendingWithdraw(amount, withdrawableAt, byPayer);
    }

    function setClaimed(bytes32 id, uint128 claimed) external {
        _channels[id].claimed = claimed;
    }
}

/// @notice An operator whose every signature is good: what is proven is what happens after the check.
contract WillingOperator is IERC1271 {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        return IERC1271.isValidSignature.selector;
    }
}

/// @notice What all proofs share: an escrow, a token, an account and two sellers. Arguments of a `check_` function are
///         symbols that stand for all values of their type; `assert` has to hold for every one of them.
/// @dev Hashes and the recovery of keys are functions of which nothing is known but that equal arguments give equal
///      results: a proof holds for any signature whatsoever. Paths that revert prove nothing and are left out.
abstract contract Symbolic {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint40 internal constant DELAY = 1 days;
    uint256 internal constant NOW = 1_800_000_000;
    /// @dev The authorizer's nonce where a proof is not about it; nothing may disturb it.
    uint40 internal constant AUTHORIZER_NONCE = 7;

    OpenEscrow internal escrow;
    MinimalToken internal token;
    address internal operator;
    address internal payer = address(0xB0B);
    address internal authorizer = address(0xCAFE);
    address internal alice = address(0xA1);
    address internal bob = address(0xB2);
    bytes32 internal account;

    function setUp() public {
        vm.warp(NOW);
        escrow = new OpenEscrow();
        token = new MinimalToken();
        operator = address(new WillingOperator());
        account = escrow.accountId(config());
    }

    function config() internal view returns (IEscrow.ChannelConfig memory) {
        return IEscrow.ChannelConfig(payer, authorizer, address(0), operator, address(token), DELAY, bytes32(0));
    }

    function channel(address receiver) internal view returns (bytes32) {
        IEscrow.ChannelConfig memory c = config();
        c.receiver = receiver;
        return escrow.channelId(c);
    }

    /// @dev Puts `balance` into the account, with nonces that no operation may disturb, and the tokens behind it.
    function give(uint128 balance, uint40 refundNonce, uint40 withdrawNonce) internal {
        give(balance, refundNonce, withdrawNonce, AUTHORIZER_NONCE);
    }

    function give(uint128 balance, uint40 refundNonce, uint40 withdrawNonce, uint40 authorizerNonce) internal {
        escrow.setAccount(account, balance, refundNonce, withdrawNonce, authorizerNonce);
        token.mint(address(escrow), balance);
    }

    function state() internal view returns (IEscrow.AccountState memory) {
        bytes32[] memory ids = new bytes32[](1);
        ids[0] = account;
        return escrow.accounts(ids)[0];
    }

    function claimed(address receiver) internal view returns (uint128) {
        bytes32[] memory ids = new bytes32[](1);
        ids[0] = channel(receiver);
        return escrow.claimed(ids)[0];
    }

    function claim(address[] memory receivers, bytes memory approval, bytes[] memory rows) internal {
        bytes[] memory accounts = new bytes[](1);
        accounts[0] = Batches.account(payer, authorizer, DELAY, bytes32(0), approval, rows);
        bytes memory batch = Batches.batch(operator, address(token), receivers, accounts);
        vm.prank(operator);
        escrow.claim(batch);
    }

    function min(uint256 a, uint256 b) internal pure returns (uint256) {
        return a < b ? a : b;
    }
}
