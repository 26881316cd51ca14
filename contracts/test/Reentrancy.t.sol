// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {TestUSDC} from "../src/test/TestUSDC.sol";
import {HostileToken} from "./mocks/HostileToken.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

/// @notice Every operation that calls a token, and in the middle of it every operation that the guard keeps out.
contract ReentrancyTest is EscrowTest {
    HostileToken internal bad;

    function setUp() public override {
        super.setUp();
        bad = new HostileToken();
        token = TestUSDC(address(bad));
        bad.mint(address(this), 2_000);
        bad.mint(payer, 2_000);
        bad.mint(address(bad), 2_000);
        escrow.deposit(config(), 1_000);
    }

    function test_a_deposit_cannot_be_reentered() public {
        keepsOut(address(this), abi.encodeCall(escrow.deposit, (config(), 100)));
    }

    function test_a_deposit_by_authorization_cannot_be_reentered() public {
        keepsOut(stranger, depositWithAuthorization(bytes32("outer")));
    }

    function test_a_claim_cannot_be_reentered() public {
        keepsOut(operator, abi.encodeCall(escrow.claim, (voucherBatch(alice, 300))));
    }

    function test_a_claim_with_signature_cannot_be_reentered() public {
        keepsOut(stranger, claimWithSignature(300));
    }

    function test_a_collection_cannot_be_reentered() public {
        bad.behave(HostileToken.Mode.Revert);
        claim(voucherBatch(alice, 100));
        keepsOut(stranger, abi.encodeCall(escrow.collect, (alice, address(bad))));
    }

    function test_the_end_of_a_withdrawal_cannot_be_reentered() public {
        initiateWithdraw(400);
        vm.warp(START + DELAY);
        keepsOut(stranger, abi.encodeCall(escrow.finalizeWithdraw, (config())));
    }

    function test_a_refund_cannot_be_reentered() public {
        keepsOut(stranger, refundWithSignature());
    }

    /// @dev Sends `outer` once for each operation that the token then tries from inside.
    function keepsOut(address caller, bytes memory outer) internal {
        bytes[7] memory inner = [
            abi.encodeCall(escrow.deposit, (config(), 100)),
            depositWithAuthorization(bytes32("inner")),
            abi.encodeCall(escrow.claim, (voucherBatch(bob, 50))),
            claimWithSignature(50),
            abi.encodeCall(escrow.collect, (alice, address(bad))),
            abi.encodeCall(escrow.finalizeWithdraw, (config())),
            refundWithSignature()
        ];
        for (uint256 i = 0; i < inner.length; ++i) {
            uint256 snapshot = vm.snapshotState();
            bad.reenter(address(escrow), inner[i]);
            vm.prank(caller);
            (bool success,) = address(escrow).call(outer);
            assertTrue(success, "the operation itself");
            assertTrue(!bad.attackSucceeded(), "reentered");
            assertEq(
                bytes32(bad.attackAnswer()),
                bytes32(abi.encodeWithSignature("ReentrancyGuardReentrantCall()")),
                "refused by the guard"
            );
            assertSolvent();
            vm.revertToState(snapshot);
        }
    }

    function depositWithAuthorization(bytes32 salt) internal view returns (bytes memory) {
        return
            abi.encodeCall(escrow.depositWithAuthorization, (config(), 100, 0, type(uint256).max, salt, new bytes(65)));
    }

    function claimWithSignature(uint128 total) internal view returns (bytes memory) {
        bytes memory batch = voucherBatch(bob, total);
        return abi.encodeCall(escrow.claimWithSignature, (batch, sign(OPERATOR_KEY, escrow.claimBatchDigest(batch))));
    }

    function refundWithSignature() internal view returns (bytes memory) {
        return abi.encodeCall(escrow.refundWithSignature, (config(), 200, 0, signRefund(200, 0)));
    }
}
