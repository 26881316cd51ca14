// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {TokenCalls} from "../src/libraries/TokenCalls.sol";
import {Batches} from "./support/Batches.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

/// @notice Ids and digests against EIP-712 written out plainly, and the batch views.
contract ViewsTest is EscrowTest {
    string internal constant CHANNEL_CONFIG =
        "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)";
    string internal constant RECEIVER_TOTAL = "ReceiverTotal(address receiver,uint128 total)";
    string internal constant CLAIM_ENTRY =
        "ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)";

    function test_the_domain_is_the_documented_one() public view {
        (bytes1 fields, string memory name, string memory version, uint256 chain, address contract_, bytes32 salt,) =
            escrow.eip712Domain();
        assertEq(bytes32(fields), bytes32(bytes1(0x0f)), "fields");
        assertEq(keccak256(bytes(name)), keccak256("Tallystick Escrow"), "name");
        assertEq(keccak256(bytes(version)), keccak256("1"), "version");
        assertEq(chain, block.chainid, "chain id");
        assertEq(contract_, address(escrow), "contract");
        assertEq(salt, 0, "salt");
        bytes32 separator = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Tallystick Escrow"),
                keccak256("1"),
                block.chainid,
                address(escrow)
            )
        );
        assertEq(escrow.domainSeparator(), separator, "separator");
    }

    function testFuzz_ids_are_eip712_hashes(IEscrow.ChannelConfig memory c) public {
        bytes32 typeHash = keccak256(bytes(CHANNEL_CONFIG));
        if (c.receiver == address(0)) {
            vm.expectRevert(abi.encodeWithSelector(IEscrow.BadAddress.selector, bytes32("receiver"), address(0)));
            escrow.channelId(c);
        } else {
            assertEq(escrow.channelId(c), digest(keccak256(abi.encode(typeHash, c))), "channel");
        }
        bytes32 account_ = escrow.accountId(c);
        c.receiver = address(0);
        assertEq(account_, digest(keccak256(abi.encode(typeHash, c))), "account");
    }

    function test_a_channel_needs_a_receiver() public {
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadAddress.selector, bytes32("receiver"), address(0)));
        escrow.channelId(config());
    }

    function testFuzz_digests_are_eip712_hashes(bytes32 id, uint128 amount, uint256 nonce, uint256 deadline)
        public
        view
    {
        bytes32 typeHash = keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)");
        assertEq(escrow.voucherDigest(id, amount), digest(keccak256(abi.encode(typeHash, id, amount))), "voucher");

        typeHash = keccak256("Refund(bytes32 channelId,uint256 nonce,uint128 amount)");
        bytes32 expected = digest(keccak256(abi.encode(typeHash, id, nonce, amount)));
        assertEq(escrow.refundDigest(id, nonce, amount), expected, "refund");

        typeHash = keccak256("Withdraw(bytes32 accountId,uint128 amount,uint256 nonce,uint256 deadline)");
        expected = digest(keccak256(abi.encode(typeHash, id, amount, nonce, deadline)));
        assertEq(escrow.withdrawDigest(id, amount, nonce, deadline), expected, "withdraw");

        assertEq(escrow.depositNonce(id, bytes32(nonce)), keccak256(abi.encode(id, nonce)), "deposit nonce");
    }

    function testFuzz_an_approvals_digest_is_its_eip712_hash(bytes32 id, IEscrow.ReceiverTotal[] memory totals)
        public
        view
    {
        bytes memory hashes;
        for (uint256 i = 0; i < totals.length; ++i) {
            hashes = bytes.concat(hashes, keccak256(abi.encode(keccak256(bytes(RECEIVER_TOTAL)), totals[i])));
        }
        bytes32 typeHash =
            keccak256(bytes.concat("TotalsApproval(bytes32 accountId,ReceiverTotal[] totals)", bytes(RECEIVER_TOTAL)));
        bytes32 expected = digest(keccak256(abi.encode(typeHash, id, keccak256(hashes))));
        assertEq(escrow.approvalDigest(id, totals), expected, "approval");
    }

    function test_a_batchs_digest_is_the_eip712_hash_of_its_rows() public view {
        bytes[] memory two = list(
            Batches.account(
                payer,
                authorizer,
                DELAY,
                bytes32(0),
                "",
                list(Batches.voucherRow(1, 5, 9, signVoucher(bob, 9)), Batches.voucherRow(0, 6, 7, abi.encode(1, 2)))
            ),
            Batches.account(payer, authorizer, DELAY, bytes32(0), abi.encode(3, 4), list(Batches.approvalRow(0, 11)))
        );
        bytes memory batch = Batches.batch(operator, address(token), list(alice, bob), two);

        bytes32 hashes = keccak256(
            bytes.concat(entry(channel(bob), 9, 5), entry(channel(alice), 7, 6), entry(channel(alice), 11, 11))
        );
        bytes32 typeHash = keccak256(bytes.concat("ClaimBatch(ClaimEntry[] claims)", bytes(CLAIM_ENTRY)));
        assertEq(escrow.claimBatchDigest(batch), digest(keccak256(abi.encode(typeHash, hashes))), "claim batch");
    }

    function test_accounts_and_claimed_answer_in_the_order_asked() public {
        deposit(1_000);
        claim(voucherBatch(alice, 300));
        initiateWithdraw(50);
        bytes32[] memory ids = new bytes32[](3);
        (ids[0], ids[1], ids[2]) = (keccak256("nobody"), account(), keccak256("nothing"));
        IEscrow.AccountState[] memory states = escrow.accounts(ids);
        assertEq(states.length, 3, "states");
        assertTrue(!states[0].opened && !states[2].opened, "strangers are open");
        assertTrue(states[1].opened, "opened");
        assertEq(states[1].balance, 700, "balance");
        assertEq(states[1].withdrawAmount, 50, "withdrawal");
        assertEq(states[1].withdrawNonce, 1, "nonce");
        assertEq(states[1].authorizerNonce, 0, "the authorizer's nonce");
        assertTrue(states[1].withdrawByPayer, "the payer's");

        (ids[0], ids[1], ids[2]) = (channel(bob), channel(alice), account());
        uint128[] memory totals = escrow.claimed(ids);
        assertEq(totals[0], 0, "bob");
        assertEq(totals[1], 300, "alice");
        assertEq(totals[2], 0, "no channel");
        assertEq(escrow.accounts(new bytes32[](0)).length, 0, "nothing asked");
    }

    /// @dev The EVM keeps a 64th back: what has to be left before a transfer covers that and the call's own cost.
    function test_the_gas_kept_ready_is_enough_for_a_transfer() public pure {
        uint256 forwarded = (TokenCalls.GAS_NEEDED - 5_000) * 63 / 64;
        assertAtMost(TokenCalls.TRANSFER_GAS, forwarded, "gas for a transfer");
    }

    function entry(bytes32 id, uint128 ceiling, uint128 total) internal pure returns (bytes memory) {
        return abi.encodePacked(keccak256(abi.encode(keccak256(bytes(CLAIM_ENTRY)), id, ceiling, total)));
    }

    function digest(bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked("\x19\x01", escrow.domainSeparator(), structHash));
    }
}
