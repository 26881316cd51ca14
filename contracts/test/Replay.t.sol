// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Escrow} from "../src/Escrow.sol";
import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {Batches} from "./support/Batches.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

/// @notice A signature counts for one account, channel, contract and chain. ("Time" is tested with each operation.)
contract ReplayTest is EscrowTest {
    uint256 internal constant DEADLINE = START + 1 hours;

    struct Signatures {
        bytes voucher;
        bytes approval;
        bytes refund;
        bytes withdraw;
        bytes batch;
    }

    function setUp() public override {
        super.setUp();
        deposit(1_000);
    }

    function test_signatures_do_not_count_on_another_contract() public {
        Signatures memory s = signatures();
        escrow = new Escrow();
        deposit(1_000);
        nothingCounts(s);
    }

    function test_signatures_do_not_count_on_another_chain() public {
        Signatures memory s = signatures();
        vm.chainId(4_242);
        deposit(1_000);
        nothingCounts(s);
    }

    function test_signatures_do_not_count_for_an_account_with_another_salt() public {
        IEscrow.ChannelConfig memory other = config();
        other.salt = bytes32(uint256(1));
        onlyForTheirAccount(other);
    }

    function test_signatures_do_not_count_for_an_account_with_another_delay() public {
        IEscrow.ChannelConfig memory other = config();
        other.withdrawDelay = DELAY + 1;
        onlyForTheirAccount(other);
    }

    function test_signatures_do_not_count_for_another_payers_account() public {
        IEscrow.ChannelConfig memory other = config();
        other.payer = stranger;
        onlyForTheirAccount(other);
    }

    function test_a_voucher_does_not_count_for_another_channel() public {
        bytes memory row = Batches.voucherRow(0, 300, 300, signVoucher(alice, 300));
        skips(oneRow(bob, row), bob, 300, IEscrow.SkipReason.BadSignature);
    }

    /// @dev An account's id is a channel's id with receiver zero: no voucher of the one is a voucher of the other.
    function test_a_refund_is_no_voucher_and_an_account_no_channel() public {
        IEscrow.ChannelConfig memory c = config();
        c.receiver = alice;
        assertTrue(escrow.accountId(c) != escrow.channelId(c), "account and channel alike");
        bytes memory onAccount = signCompact(AUTHORIZER_KEY, escrow.voucherDigest(account(), 300));
        bytes memory batch = oneRow(alice, Batches.voucherRow(0, 300, 300, onAccount));
        skips(batch, alice, 300, IEscrow.SkipReason.BadSignature);
    }

    /// @dev After a fork with a new chain id the same configuration is another account.
    function test_ids_change_with_the_chain_id() public {
        bytes32 before = account();
        bytes32 separator = escrow.domainSeparator();
        vm.chainId(4_242);
        assertTrue(account() != before, "account id");
        assertTrue(escrow.domainSeparator() != separator, "domain separator");
        (,,, uint256 chain,,,) = escrow.eip712Domain();
        assertEq(chain, 4_242, "chain id of the domain");
    }

    function onlyForTheirAccount(IEscrow.ChannelConfig memory other) internal {
        Signatures memory s = signatures();
        token.mint(address(this), 1_000);
        token.approve(address(escrow), 1_000);
        escrow.deposit(other, 1_000);

        bytes[] memory both = list(
            Batches.account(other.payer, authorizer, other.withdrawDelay, other.salt, "", voucherRows(s)),
            Batches.account(other.payer, authorizer, other.withdrawDelay, other.salt, s.approval, approvalRows())
        );
        claim(Batches.batch(operator, address(token), list(alice), both));
        vm.expectRevert();
        escrow.refundWithSignature(other, 400, 0, s.refund);
        vm.expectRevert();
        escrow.initiateWithdrawWithSignature(other, 400, 0, DEADLINE, s.withdraw);
        assertEq(escrow.accounts(list(escrow.accountId(other)))[0].balance, 1_000, "the other account");
        assertEq(token.balanceOf(alice), 0, "paid");
    }

    /// @dev Tries all signatures on this test's account as `escrow` sees it now.
    function nothingCounts(Signatures memory s) internal {
        claim(batchOf(list(alice), "", voucherRows(s)));
        claim(batchOf(list(alice), s.approval, approvalRows()));
        bytes memory batch = voucherBatch(alice, 300);
        vm.expectRevert();
        escrow.claimWithSignature(batch, s.batch);
        vm.expectRevert();
        escrow.refundWithSignature(config(), 400, 0, s.refund);
        vm.expectRevert();
        escrow.initiateWithdrawWithSignature(config(), 400, 0, DEADLINE, s.withdraw);
        assertEq(balance(), 1_000, "balance");
        assertEq(token.balanceOf(alice), 0, "paid");
    }

    function signatures() internal view returns (Signatures memory s) {
        s.voucher = signVoucher(alice, 300);
        s.approval = signApproval(list(alice), list(300));
        s.refund = signRefund(400, 0);
        s.withdraw = signWithdraw(PAYER_KEY, 400, 0, DEADLINE);
        s.batch = sign(OPERATOR_KEY, escrow.claimBatchDigest(voucherBatch(alice, 300)));
    }

    function voucherRows(Signatures memory s) internal pure returns (bytes[] memory) {
        return list(Batches.voucherRow(0, 300, 300, s.voucher));
    }

    function approvalRows() internal pure returns (bytes[] memory) {
        return list(Batches.approvalRow(0, 300));
    }
}
