// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Escrow} from "../../src/Escrow.sol";
import {IEscrow} from "../../src/interfaces/IEscrow.sol";
import {TestUSDC} from "../../src/test/TestUSDC.sol";
import {Assertions} from "../support/Assertions.sol";
import {HostileToken} from "../mocks/HostileToken.sol";

/// @notice The world that the handlers act in, and the ghost totals that the escrow is compared with.
///
/// @dev Four accounts: three under one operator in a good token, two of them one payer's; and one under another operator
///      in a token that misbehaves at times. Three receivers. Receivers start with nothing and only the escrow pays them.
abstract contract Ledger is Assertions {
    uint256 internal constant ACCOUNTS = 4;
    uint256 internal constant RECEIVERS = 3;
    uint256 internal constant FIRST_PAYER_KEY = 0x1000;
    uint256 internal constant AUTHORIZER_KEY = 0x2000;
    uint256 internal constant FIRST_OPERATOR_KEY = 0x3000;
    uint256 internal constant STRANGER_KEY = 0xBAD;
    uint40 internal constant DELAY = 1 hours;

    /// @dev What was taken into one account and what left it, in atomic units.
    struct Ghost {
        uint256 deposited;
        uint256 returned;
        uint256 refundNonce;
        uint256 withdrawNonce;
        uint256 authorizerNonce;
    }

    Escrow public immutable escrow;
    TestUSDC public immutable usdc;
    HostileToken public immutable hostile;

    /// @dev By account.
    mapping(uint256 => Ghost) public ghosts;
    /// @dev By account and receiver: the highest total that the payer has ever allowed, by voucher or approval.
    mapping(uint256 => mapping(uint256 => uint256)) public allowed;
    /// @dev By account and receiver: all ceilings that the payer has signed vouchers for.
    mapping(uint256 => mapping(uint256 => uint128[])) internal ceilings;
    /// @dev By account and receiver: the highest `claimed` seen.
    mapping(uint256 => mapping(uint256 => uint256)) public seen;

    bytes32[] private accountIds;
    bytes32[] private channelIds;

    constructor() {
        vm.warp(1_800_000_000);
        escrow = new Escrow();
        usdc = new TestUSDC();
        hostile = new HostileToken();
        for (uint256 a = 0; a < ACCOUNTS; ++a) {
            IEscrow.ChannelConfig memory c = config(a);
            accountIds.push(escrow.accountId(c));
            for (uint256 r = 0; r < RECEIVERS; ++r) {
                c.receiver = receiverAt(r);
                channelIds.push(escrow.channelId(c));
            }
        }
    }

    function payerKey(uint256 account) internal pure returns (uint256) {
        return FIRST_PAYER_KEY + (account == 1 ? 0 : account);
    }

    function operatorKey(uint256 account) internal pure returns (uint256) {
        return FIRST_OPERATOR_KEY + (account == 3 ? 1 : 0);
    }

    function operatorOf(uint256 account) internal pure returns (address) {
        return vm.addr(operatorKey(account));
    }

    function tokenOf(uint256 account) public view returns (address) {
        return account == 3 ? address(hostile) : address(usdc);
    }

    function receiverAt(uint256 index) public pure returns (address) {
        return address(uint160(0xA0 + index));
    }

    function config(uint256 account) public view returns (IEscrow.ChannelConfig memory) {
        return IEscrow.ChannelConfig({
            payer: vm.addr(payerKey(account)),
            payerAuthorizer: vm.addr(AUTHORIZER_KEY),
            receiver: address(0),
            receiverAuthorizer: operatorOf(account),
            token: tokenOf(account),
            withdrawDelay: DELAY,
            salt: bytes32(uint256(account == 1 ? 1 : 0))
        });
    }

    function accountId(uint256 account) public view returns (bytes32) {
        return accountIds[account];
    }

    function channelId(uint256 account, uint256 receiver) public view returns (bytes32) {
        return channelIds[account * RECEIVERS + receiver];
    }

    /// @notice All accounts as the escrow has them.
    function states() public view returns (IEscrow.AccountState[] memory) {
        return escrow.accounts(accountIds);
    }

    function state(uint256 account) public view returns (IEscrow.AccountState memory) {
        return states()[account];
    }

    /// @notice By account and receiver, what the escrow says was claimed.
    function totals() public view returns (uint256[RECEIVERS][ACCOUNTS] memory all) {
        uint128[] memory flat = escrow.claimed(channelIds);
        for (uint256 i = 0; i < flat.length; ++i) {
            all[i / RECEIVERS][i % RECEIVERS] = flat[i];
        }
    }

    function balanceIn(address token, address owner) public view returns (uint256) {
        return TestUSDC(token).balanceOf(owner);
    }

    function sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }
}
