// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {ClaimReader} from "../src/libraries/ClaimReader.sol";
import {EscrowHashes} from "../src/libraries/EscrowHashes.sol";
import {Signatures} from "../src/libraries/Signatures.sol";
import {Batches} from "../test/support/Batches.sol";
import {Symbolic} from "./Symbolic.sol";

/// @notice Reads batches with the escrow's reader, and shows what it has read.
contract OpenReader {
    using ClaimReader for ClaimReader.Batch;
    using ClaimReader for ClaimReader.Rows;

    struct Header {
        address operator;
        address token;
        uint256 receivers;
        uint256 accounts;
    }

    struct Account {
        address payer;
        address authorizer;
        uint40 delay;
        bytes32 salt;
        uint256 rows;
        bool byApproval;
    }

    struct Row {
        uint256 receiver;
        uint256 total;
        uint256 ceiling;
        bytes32 r;
        bytes32 vs;
    }

    function header(bytes calldata data) external pure returns (Header memory) {
        ClaimReader.Batch memory batch = ClaimReader.open(data);
        return Header(batch.operator, batch.token, batch.receiverCount, batch.accountCount);
    }

    function account(bytes calldata data) external pure returns (Account memory) {
        (EscrowHashes.ChannelPreimage memory channel, ClaimReader.Rows memory rows) = _account(data);
        return Account(
            channel.payer, channel.payerAuthorizer, channel.withdrawDelay, channel.salt, rows.count, rows.byApproval
        );
    }

    /// @notice The first row, with its voucher's ceiling and signature; by approval with the approval's signature.
    function row(bytes calldata data) external pure returns (Row memory) {
        (, ClaimReader.Rows memory rows) = _account(data);
        (uint256 receiver, uint256 total) = ClaimReader.row(rows.first);
        (uint256 ceiling, uint256 signature) =
            rows.byApproval ? (total, rows.approval()) : ClaimReader.voucher(rows.first);
        (bytes32 r, bytes32 vs) = ClaimReader.signatureAt(signature);
        return Row(receiver, total, ceiling, r, vs);
    }

    function isSigned(address signer, bytes32 digest, bytes32 r, bytes32 vs) external view returns (bool) {
        return Signatures.isSignedByKey(signer, digest, r, vs);
    }

    function isSigned(address signer, bytes32 digest, bytes calldata signature) external pure returns (bool) {
        return Signatures.isSignedByKey(signer, digest, signature);
    }

    function _account(bytes calldata data)
        private
        pure
        returns (EscrowHashes.ChannelPreimage memory channel, ClaimReader.Rows memory rows)
    {
        ClaimReader.Batch memory batch = ClaimReader.open(data);
        batch.next(channel, rows);
        batch.close();
    }
}

/// @notice The packing: what is read from a batch, a compact signature or a configuration is what was written, bit by
///         bit, for all values.
contract EncodingProof is Symbolic {
    OpenReader internal reader = new OpenReader();

    /// @notice Every field of a row by voucher, and of what stands before it.
    function check_a_batch_by_voucher_is_read_as_written(
        address[2] memory parties,
        address[3] memory people,
        uint40 delay,
        bytes32 salt,
        uint128 total,
        uint128 ceiling,
        bytes32 r,
        bytes32 vs
    ) public view {
        bytes[] memory rows = one(Batches.voucherRow(0, total, ceiling, abi.encodePacked(r, vs)));
        bytes memory data = batch(parties, people, delay, salt, "", rows);

        assertHeader(data, parties);
        assertAccount(data, people, delay, salt, false);
        OpenReader.Row memory row = reader.row(data);
        assert(row.receiver == 0 && row.total == total && row.ceiling == ceiling);
        assert(row.r == r && row.vs == vs);
    }

    /// @notice The same by approval.
    function check_a_batch_by_approval_is_read_as_written(
        address[2] memory parties,
        address[3] memory people,
        uint40 delay,
        bytes32 salt,
        uint16 index,
        uint128 total,
        bytes32 r,
        bytes32 vs
    ) public view {
        bytes memory data = batch(
            parties, people, delay, salt, abi.encodePacked(r, vs), one(Batches.approvalRow(index, total))
        );

        assertHeader(data, parties);
        assertAccount(data, people, delay, salt, true);
        OpenReader.Row memory row = reader.row(data);
        assert(row.receiver == index && row.total == total && row.ceiling == total);
        assert(row.r == r && row.vs == vs);
    }

    /// @notice A compact signature counts exactly if its long form does, and never with a high s or for nobody.
    function check_a_compact_signature_is_worth_its_long_form(address signer, bytes32 digest, bytes32 r, bytes32 vs)
        public
        view
    {
        bytes32 s = vs & bytes32(uint256(2 ** 255 - 1));
        bytes memory long = abi.encodePacked(r, s, uint8(27 + (uint256(vs) >> 255)));
        bool signed = reader.isSigned(signer, digest, r, vs);

        assert(signed == reader.isSigned(signer, digest, long));
        assert(!signed || uint256(s) <= 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0);
        assert(!signed || signer != address(0));
    }

    /// @notice An account's id is the EIP-712 hash of its configuration, whatever receiver is named; words that are no
    ///         addresses or delays are refused and never cut.
    function check_an_account_id_is_the_hash_of_every_field(uint256[7] memory words) public view {
        (bool success, bytes memory answer) =
            address(escrow).staticcall(abi.encodePacked(IEscrow.accountId.selector, words));
        bool fits = words[0] < 2 ** 160 && words[1] < 2 ** 160 && words[2] < 2 ** 160 && words[3] < 2 ** 160
            && words[4] < 2 ** 160 && words[5] < 2 ** 40;

        assert(success == fits);
        if (!success) return;
        bytes32 structHash = keccak256(
            abi.encode(
                EscrowHashes.CHANNEL_CONFIG_TYPEHASH, words[0], words[1], 0, words[3], words[4], words[5], words[6]
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", escrow.domainSeparator(), structHash));
        assert(abi.decode(answer, (bytes32)) == digest);
    }

    /// @dev `parties` are operator and token, `people` payer, authorizer and the one receiver.
    function batch(
        address[2] memory parties,
        address[3] memory people,
        uint40 delay,
        bytes32 salt,
        bytes memory approval,
        bytes[] memory rows
    ) internal pure returns (bytes memory) {
        address[] memory receivers = new address[](1);
        receivers[0] = people[2];
        bytes[] memory accounts = one(Batches.account(people[0], people[1], delay, salt, approval, rows));
        return Batches.batch(parties[0], parties[1], receivers, accounts);
    }

    function assertHeader(bytes memory data, address[2] memory parties) internal view {
        OpenReader.Header memory header = reader.header(data);
        assert(header.operator == parties[0] && header.token == parties[1]);
        assert(header.receivers == 1 && header.accounts == 1);
    }

    function assertAccount(bytes memory data, address[3] memory people, uint40 delay, bytes32 salt, bool byApproval)
        internal
        view
    {
        OpenReader.Account memory read = reader.account(data);
        assert(read.payer == people[0] && read.authorizer == people[1]);
        assert(read.delay == delay && read.salt == salt);
        assert(read.rows == 1 && read.byApproval == byApproval);
    }

    function one(bytes memory a) internal pure returns (bytes[] memory all) {
        all = new bytes[](1);
        all[0] = a;
    }
}
