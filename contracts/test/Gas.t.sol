// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Escrow} from "../src/Escrow.sol";
import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {MinimalToken} from "../src/test/MinimalToken.sol";
import {Assertions} from "./support/Assertions.sol";
import {Batches} from "./support/Batches.sol";

/// @notice Gas of whole transactions (intrinsic gas, calldata and sellers' payouts included) on a minimal token.
///
/// @dev Steady state: every channel, receiver and account has been paid before. Run with `--isolate`, which gives every
///      top-level call a transaction of its own.
contract GasTest is Assertions {
    bytes32 internal constant RECEIVE_TYPEHASH = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    bytes32 internal constant TRANSFER_TYPEHASH = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    uint40 internal constant DELAY = 1 days;
    uint128 internal constant DEPOSIT = 1e15;
    /// @dev Nodes do not relay more than 131,072 bytes, and EIP-7825 caps a transaction's gas.
    uint256 internal constant TRANSACTION_BYTES_MAX = 126_000;
    uint256 internal constant TRANSACTION_GAS_MAX = 16_777_216;
    /// @dev In steady state; a channel's first claim costs 17,100 more, so fewer of those fit.
    uint256 internal constant ROWS_PER_TRANSACTION = 1_250;

    Escrow internal escrow;
    MinimalToken internal token;
    address internal operator = address(0x09E7A);

    function setUp() public {
        vm.warp(1_800_000_000);
        escrow = new Escrow();
        token = new MinimalToken();
        // The escrow has held this token before.
        token.mint(address(escrow), 1);
    }

    function test_gas_50_payers_50_sellers_by_vouchers() public {
        measure(50, 50, false, 12_000);
    }

    function test_gas_50_payers_50_sellers_by_approval() public {
        measure(50, 50, true, 7_300);
    }

    function test_gas_10_payers_100_sellers_by_vouchers() public {
        measure(10, 100, false, 13_000);
    }

    function test_gas_10_payers_100_sellers_by_approval() public {
        measure(10, 100, true, 8_200);
    }

    function test_gas_100_payers_10_sellers_by_vouchers() public {
        measure(100, 10, false, 12_900);
    }

    function test_gas_100_payers_10_sellers_by_approval() public {
        measure(100, 10, true, 8_500);
    }

    function test_gas_100_payers_1_seller_by_vouchers() public {
        measure(100, 1, false, 21_000);
    }

    /// @dev The smallest claim: what it takes by itself is nowhere else so much of the whole.
    function test_gas_1_payer_1_seller_by_vouchers() public {
        measure(1, 1, false, 65_000);
    }

    function test_gas_1_payer_1_seller_by_approval() public {
        measure(1, 1, true, 66_000);
    }

    function test_gas_first_deposit_by_authorization() public {
        uint256 gas = depositByAuthorization("salt");
        assertEq(token.balanceOf(address(escrow)), 1e9 + 1, "deposited");
        vm.snapshotValue("other", "first_deposit_by_authorization", gas);
        assertAtMost(gas, 100_000, "gas of a first deposit");
    }

    function test_gas_top_up_by_authorization() public {
        depositByAuthorization("salt");
        uint256 gas = depositByAuthorization("another salt");
        assertEq(token.balanceOf(address(escrow)), 2e9 + 1, "deposited twice");
        vm.snapshotValue("other", "top_up_by_authorization", gas);
        assertAtMost(gas, 83_000, "gas of a top-up");
    }

    /// @dev A payment of `exact` from a payer who keeps some of the token to a seller who was paid before.
    function test_gas_transfer_by_authorization() public {
        address payer = vm.addr(1);
        address seller = address(0x5E11E4);
        token.mint(payer, DEPOSIT);
        token.mint(seller, 1);
        (uint8 v, bytes32 r, bytes32 s) = authorize(TRANSFER_TYPEHASH, seller, keccak256("nonce"));
        token.transferWithAuthorization(payer, seller, 1e9, 0, block.timestamp + 1 hours, keccak256("nonce"), v, r, s);
        uint256 gas = vm.lastCallGas().gasTotalUsed;
        assertEq(token.balanceOf(seller), 1e9 + 1, "paid");
        vm.snapshotValue("other", "transfer_by_authorization", gas);
        assertAtMost(gas, 70_000, "gas of an exact payment");
    }

    function depositByAuthorization(string memory salt) internal returns (uint256 gas) {
        token.mint(vm.addr(1), DEPOSIT);
        bytes32 nonce = escrow.depositNonce(escrow.accountId(config(1)), keccak256(bytes(salt)));
        (uint8 v, bytes32 r, bytes32 s) = authorize(RECEIVE_TYPEHASH, address(escrow), nonce);
        escrow.depositWithAuthorization(
            config(1), 1e9, 0, block.timestamp + 1 hours, keccak256(bytes(salt)), abi.encodePacked(r, s, v)
        );
        return vm.lastCallGas().gasTotalUsed;
    }

    function authorize(bytes32 typeHash, address to, bytes32 nonce)
        internal
        view
        returns (uint8 v, bytes32 r, bytes32 s)
    {
        bytes32 structHash = keccak256(abi.encode(typeHash, vm.addr(1), to, 1e9, 0, block.timestamp + 1 hours, nonce));
        return vm.sign(1, keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), structHash)));
    }

    function measure(uint256 payers, uint256 sellers, bool byApproval, uint256 gasPerRowMax) internal {
        address[] memory receivers = new address[](sellers);
        for (uint256 i = 0; i < sellers; ++i) {
            receivers[i] = address(uint160(uint256(keccak256(abi.encode("seller", i)))));
        }
        for (uint256 i = 1; i <= payers; ++i) {
            token.mint(address(this), DEPOSIT);
            token.approve(address(escrow), DEPOSIT);
            escrow.deposit(config(i), DEPOSIT);
        }
        settle(receivers, payers, 1_000_000, byApproval, ROWS_PER_TRANSACTION / 3);
        uint256 gas = settle(receivers, payers, 2_345_678, byApproval, ROWS_PER_TRANSACTION);
        for (uint256 i = 0; i < sellers; ++i) {
            assertEq(token.balanceOf(receivers[i]), payers * 2_345_678, "paid");
        }
        uint256 perRow = gas / (payers * sellers);
        string memory by = byApproval ? "_by_approval" : "_by_vouchers";
        vm.snapshotValue("claim_per_row", string.concat(vm.toString(payers), "x", vm.toString(sellers), by), perRow);
        assertAtMost(perRow, gasPerRowMax, "gas per row");
    }

    /// @dev Claims `total` on every channel, in as many transactions as a settler has to make of it.
    function settle(address[] memory receivers, uint256 payers, uint128 total, bool byApproval, uint256 rowsMax)
        internal
        returns (uint256 gas)
    {
        uint256 step = rowsMax / receivers.length;
        for (uint256 first = 1; first <= payers; first += step) {
            uint256 count = payers - first + 1 < step ? payers - first + 1 : step;
            bytes[] memory accounts = new bytes[](count);
            for (uint256 i = 0; i < count; ++i) {
                accounts[i] = account(first + i, receivers, total, byApproval);
            }
            gas += claim(Batches.batch(operator, address(token), receivers, accounts));
        }
    }

    function claim(bytes memory batch) internal returns (uint256 gas) {
        assertAtMost(batch.length, TRANSACTION_BYTES_MAX, "bytes of a transaction");
        vm.prank(operator);
        escrow.claim(batch);
        gas = vm.lastCallGas().gasTotalUsed;
        assertAtMost(gas, TRANSACTION_GAS_MAX, "gas of a transaction");
    }

    function account(uint256 key, address[] memory receivers, uint128 total, bool byApproval)
        internal
        view
        returns (bytes memory)
    {
        address payer = vm.addr(key);
        bytes[] memory rows = byApproval ? approvalRows(receivers, total) : voucherRows(key, receivers, total);
        bytes memory approval = byApproval ? signApproval(key, receivers, total) : bytes("");
        return Batches.account(payer, payer, DELAY, config(key).salt, approval, rows);
    }

    /// @dev Ceilings are above totals, as they are when requests are in flight.
    function voucherRows(uint256 key, address[] memory receivers, uint128 total)
        internal
        view
        returns (bytes[] memory rows)
    {
        rows = new bytes[](receivers.length);
        IEscrow.ChannelConfig memory c = config(key);
        for (uint256 i = 0; i < rows.length; ++i) {
            c.receiver = receivers[i];
            bytes memory signature = sign(key, escrow.voucherDigest(escrow.channelId(c), total + 500_000));
            rows[i] = Batches.voucherRow(uint16(i), total, total + 500_000, signature);
        }
    }

    function approvalRows(address[] memory receivers, uint128 total) internal pure returns (bytes[] memory rows) {
        rows = new bytes[](receivers.length);
        for (uint256 i = 0; i < rows.length; ++i) {
            rows[i] = Batches.approvalRow(uint16(i), total);
        }
    }

    function signApproval(uint256 key, address[] memory receivers, uint128 total) internal view returns (bytes memory) {
        IEscrow.ReceiverTotal[] memory totals = new IEscrow.ReceiverTotal[](receivers.length);
        for (uint256 i = 0; i < totals.length; ++i) {
            totals[i] = IEscrow.ReceiverTotal(receivers[i], total);
        }
        return sign(key, escrow.approvalDigest(escrow.accountId(config(key)), totals));
    }

    function config(uint256 key) internal view returns (IEscrow.ChannelConfig memory) {
        address payer = vm.addr(key);
        return IEscrow.ChannelConfig(payer, payer, address(0), operator, address(token), DELAY, bytes32(0));
    }

    function sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return Batches.compact(v, r, s);
    }
}
