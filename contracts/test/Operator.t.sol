// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {Operator} from "../src/Operator.sol";
import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {IOperator} from "../src/interfaces/IOperator.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {CanonicalModel} from "./mocks/CanonicalModel.sol";

/// @notice An operator whose keys change, as `receiverAuthorizer` of both escrows.
contract OperatorTest is EscrowTest {
    uint256 internal constant SIGNER_KEY = 0x516;
    uint256 internal constant NEW_KEY = 0x9EE;
    uint40 internal constant ADDITION_DELAY = 2 days;

    address internal owner = address(0x0F0F);
    address internal sender = address(0x5E4D);
    Operator internal contract_;
    CanonicalModel internal canonical;

    function setUp() public override {
        super.setUp();
        canonical = new CanonicalModel();
        contract_ = new Operator(
            owner, ADDITION_DELAY, escrow, list(vm.addr(SIGNER_KEY)), list(sender), list(address(canonical))
        );
        operator = address(contract_);
        deposit(1_000);
    }

    // ---------------------------------------------------------------------------------------------- as an operator

    function test_its_signers_claim_and_refund_on_the_escrow() public {
        bytes memory batch = voucherBatch(alice, 300);
        escrow.claimWithSignature(batch, sign(SIGNER_KEY, escrow.claimBatchDigest(batch)));
        assertEq(token.balanceOf(alice), 300, "paid");
        escrow.refundWithSignature(config(), 100, 0, sign(SIGNER_KEY, escrow.refundDigest(account(), 0, 100)));
        assertEq(token.balanceOf(payer), 100, "refunded");
    }

    function test_its_signers_claim_and_refund_on_the_canonical_contract() public view {
        bytes32 id = keccak256("channel");
        bytes32 digest = canonical.claimBatchDigest(id, 500, 300);
        assertTrue(canonical.accepts(operator, digest, sign(SIGNER_KEY, digest)), "claim batch");
        digest = canonical.refundDigest(id, 0, 100);
        assertTrue(canonical.accepts(operator, digest, sign(SIGNER_KEY, digest)), "refund");
        assertTrue(!canonical.accepts(operator, digest, sign(STRANGER_KEY, digest)), "a stranger's");
    }

    function test_its_senders_claim_on_the_escrow() public {
        bytes memory batch = voucherBatch(alice, 300);
        vm.prank(sender);
        escrow.claim(batch);
        assertEq(token.balanceOf(alice), 300, "paid");
    }

    function test_a_signer_is_no_sender_and_a_sender_no_signer() public {
        bytes memory batch = voucherBatch(alice, 300);
        address signer = vm.addr(SIGNER_KEY);
        vm.prank(signer);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NotOperatorOrSender.selector, signer, operator));
        escrow.claim(batch);
        assertTrue(!contract_.isActive(IOperator.Role.Signer, sender), "a sender signs");
    }

    /// @dev Else a signer could sign transfers of tokens that somebody has sent to this contract.
    function test_it_tells_nobody_but_its_verifiers_whose_signature_is_good() public {
        bytes32 digest = keccak256("anything");
        bytes memory signature = sign(SIGNER_KEY, digest);
        assertEq(bytes32(contract_.isValidSignature(digest, signature)), bytes32(bytes4(0xffffffff)), "a stranger");
        vm.prank(address(escrow));
        assertEq(
            bytes32(contract_.isValidSignature(digest, signature)),
            bytes32(IERC1271.isValidSignature.selector),
            "the escrow"
        );
        token.mint(operator, 50);
        bytes32 structHash = keccak256(
            abi.encode(token.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), operator, stranger, 50, 0, START + 1, bytes32(0))
        );
        digest = keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), structHash));
        signature = sign(SIGNER_KEY, digest);
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "FiatTokenV2: invalid signature"));
        token.transferWithAuthorization(operator, stranger, 50, 0, START + 1, bytes32(0), signature);
    }

    function test_junk_signatures_are_not_valid() public {
        vm.startPrank(address(escrow));
        bytes[3] memory junk = [bytes(""), new bytes(65), new bytes(64)];
        for (uint256 i = 0; i < junk.length; ++i) {
            bytes4 answer = contract_.isValidSignature(keccak256("anything"), junk[i]);
            assertEq(bytes32(answer), bytes32(bytes4(0xffffffff)), "junk");
        }
        vm.stopPrank();
    }

    // --------------------------------------------------------------------------------------------------- additions

    function test_an_addition_waits_its_delay() public {
        address signer = vm.addr(NEW_KEY);
        vm.expectEmit(operator);
        emit IOperator.Added(IOperator.Role.Signer, signer, uint40(START) + ADDITION_DELAY);
        vm.prank(owner);
        contract_.add(IOperator.Role.Signer, signer);
        assertEq(contract_.activeAt(IOperator.Role.Signer, signer), START + ADDITION_DELAY, "time");

        vm.warp(START + ADDITION_DELAY - 1);
        bytes32 digest = escrow.refundDigest(account(), 0, 100);
        bytes memory signature = sign(NEW_KEY, digest);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadSignature.selector, operator, digest));
        escrow.refundWithSignature(config(), 100, 0, signature);

        vm.warp(START + ADDITION_DELAY);
        escrow.refundWithSignature(config(), 100, 0, signature);
        assertEq(token.balanceOf(payer), 100, "refunded");
    }

    function test_a_new_sender_is_passed_on_after_its_delay() public {
        address fresh = address(0x123);
        vm.prank(owner);
        contract_.add(IOperator.Role.Sender, fresh);
        vm.expectRevert(
            abi.encodeWithSelector(
                IOperator.NotActiveYet.selector, IOperator.Role.Sender, fresh, START + ADDITION_DELAY, START
            )
        );
        contract_.activateSender(fresh);
        assertTrue(!escrow.isSender(operator, fresh), "allowed at once");
        vm.warp(START + ADDITION_DELAY);
        vm.prank(stranger);
        contract_.activateSender(fresh);
        assertTrue(escrow.isSender(operator, fresh), "allowed");
    }

    function test_a_sender_that_was_not_added_cannot_be_activated() public {
        vm.expectRevert(abi.encodeWithSelector(IOperator.NotAdded.selector, IOperator.Role.Sender, stranger));
        contract_.activateSender(stranger);
    }

    function test_adding_twice_does_not_start_the_clock_again() public {
        address signer = vm.addr(NEW_KEY);
        vm.startPrank(owner);
        contract_.add(IOperator.Role.Signer, signer);
        vm.warp(START + 1);
        vm.expectRevert(
            abi.encodeWithSelector(
                IOperator.AlreadyAdded.selector, IOperator.Role.Signer, signer, START + ADDITION_DELAY
            )
        );
        contract_.add(IOperator.Role.Signer, signer);
        vm.stopPrank();
    }

    function test_the_zero_address_is_never_a_member() public {
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IOperator.ZeroMember.selector, IOperator.Role.Signer));
        contract_.add(IOperator.Role.Signer, address(0));
    }

    // ---------------------------------------------------------------------------------------------------- removals

    function test_a_removed_signer_is_out_at_once() public {
        address signer = vm.addr(SIGNER_KEY);
        bytes32 digest = escrow.refundDigest(account(), 0, 100);
        bytes memory signature = sign(SIGNER_KEY, digest);
        vm.expectEmit(operator);
        emit IOperator.Removed(IOperator.Role.Signer, signer);
        vm.prank(owner);
        contract_.remove(IOperator.Role.Signer, signer);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadSignature.selector, operator, digest));
        escrow.refundWithSignature(config(), 100, 0, signature);
    }

    function test_a_removed_sender_is_out_at_once_and_cannot_be_activated_again() public {
        vm.prank(owner);
        contract_.remove(IOperator.Role.Sender, sender);
        assertTrue(!escrow.isSender(operator, sender), "allowed");
        vm.expectRevert(abi.encodeWithSelector(IOperator.NotAdded.selector, IOperator.Role.Sender, sender));
        contract_.activateSender(sender);
    }

    function test_an_addition_can_be_taken_back_before_it_takes_effect() public {
        address signer = vm.addr(NEW_KEY);
        vm.startPrank(owner);
        contract_.add(IOperator.Role.Signer, signer);
        contract_.remove(IOperator.Role.Signer, signer);
        vm.stopPrank();
        vm.warp(START + ADDITION_DELAY);
        assertTrue(!contract_.isActive(IOperator.Role.Signer, signer), "active");
    }

    function test_who_is_no_member_cannot_be_removed() public {
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IOperator.NotAdded.selector, IOperator.Role.Signer, stranger));
        contract_.remove(IOperator.Role.Signer, stranger);
    }

    function test_only_the_owner_changes_members() public {
        address[3] memory others = [vm.addr(SIGNER_KEY), sender, stranger];
        for (uint256 i = 0; i < others.length; ++i) {
            bytes memory expected = abi.encodeWithSignature("OwnableUnauthorizedAccount(address)", others[i]);
            vm.startPrank(others[i]);
            vm.expectRevert(expected);
            contract_.add(IOperator.Role.Signer, stranger);
            vm.expectRevert(expected);
            contract_.remove(IOperator.Role.Sender, sender);
            vm.stopPrank();
        }
    }

    function test_ownership_moves_in_two_steps() public {
        vm.prank(owner);
        contract_.transferOwnership(stranger);
        assertEq(contract_.owner(), owner, "before it was accepted");
        vm.prank(stranger);
        contract_.acceptOwnership();
        assertEq(contract_.owner(), stranger, "after");
    }

    function test_without_an_owner_its_members_stay_as_they_are_for_good() public {
        vm.startPrank(owner);
        contract_.renounceOwnership();
        vm.expectRevert(abi.encodeWithSignature("OwnableUnauthorizedAccount(address)", owner));
        contract_.remove(IOperator.Role.Sender, sender);
        vm.stopPrank();
        assertEq(contract_.owner(), address(0), "owner");
        bytes memory batch = voucherBatch(alice, 300);
        vm.prank(sender);
        escrow.claim(batch);
        assertEq(token.balanceOf(alice), 300, "what was charged is still paid");
    }

    // ------------------------------------------------------------------------------------------------- constructor

    function test_members_of_the_constructor_are_active_at_once() public view {
        assertTrue(contract_.isActive(IOperator.Role.Signer, vm.addr(SIGNER_KEY)), "signer");
        assertTrue(contract_.isActive(IOperator.Role.Sender, sender), "sender");
        assertTrue(contract_.isActive(IOperator.Role.Verifier, address(escrow)), "escrow");
        assertTrue(contract_.isActive(IOperator.Role.Verifier, address(canonical)), "canonical");
        assertTrue(escrow.isSender(operator, sender), "passed on");
        assertEq(contract_.escrow(), address(escrow), "the escrow");
        assertEq(contract_.additionDelay(), ADDITION_DELAY, "delay");
        assertEq(contract_.owner(), owner, "owner");
    }

    function test_the_delay_is_bounded() public {
        uint40[2] memory good = [uint40(1 hours), uint40(30 days)];
        uint40[3] memory bad = [uint40(0), uint40(1 hours - 1), uint40(30 days + 1)];
        for (uint256 i = 0; i < good.length; ++i) {
            new Operator(owner, good[i], escrow, none(), none(), none());
        }
        for (uint256 i = 0; i < bad.length; ++i) {
            vm.expectRevert(
                abi.encodeWithSelector(IOperator.AdditionDelayOutOfRange.selector, bad[i], 1 hours, 30 days)
            );
            new Operator(owner, bad[i], escrow, none(), none(), none());
        }
    }
}
