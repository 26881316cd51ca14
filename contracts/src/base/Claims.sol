// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {ClaimLog} from "../libraries/ClaimLog.sol";
import {ClaimReader} from "../libraries/ClaimReader.sol";
import {EscrowHashes} from "../libraries/EscrowHashes.sol";
import {Signatures} from "../libraries/Signatures.sol";
import {EscrowStore} from "./EscrowStore.sol";

/// @title Claims
/// @notice How sellers are paid.
///
/// @dev A batch is worked off in two steps: all bookkeeping first, account by account, with what each receiver gets
///      added up in memory; then one transfer per receiver. Between the first byte read and the last balance written no
///      other contract is called.
abstract contract Claims is EscrowStore {
    using ClaimLog for ClaimLog.Buffer;
    using ClaimReader for ClaimReader.Batch;
    using EscrowHashes for EscrowHashes.ChannelPreimage;
    using EscrowHashes for EscrowHashes.ReceiverTotalPreimage;
    using EscrowHashes for EscrowHashes.VoucherPreimage;

    /// @dev What is at hand while a batch is worked off. Allocated once; from `rows` on it belongs to one account.
    struct Run {
        bytes32 domain;
        address token;
        /// @dev What each receiver of the batch gets, by its index.
        uint256[] payouts;
        EscrowHashes.VoucherPreimage voucher;
        EscrowHashes.ReceiverTotalPreimage receiverTotal;
        ClaimLog.Buffer log;
        ClaimReader.Rows rows;
        EscrowHashes.ChannelPreimage channel;
        bytes32 accountId;
        /// @dev What the account holds; written back after its last row.
        uint128 balance;
        /// @dev One approval covers all rows, and its signature is good.
        bool approved;
    }

    function claim(bytes calldata batch) external override nonReentrant {
        ClaimReader.Batch memory reader = ClaimReader.open(batch);
        address operator = reader.operator;
        if (msg.sender != operator && !isSender[operator][msg.sender]) {
            revert NotOperatorOrSender(msg.sender, operator);
        }
        _claim(reader);
    }

    function claimWithSignature(bytes calldata batch, bytes calldata signature) external override nonReentrant {
        ClaimReader.Batch memory reader = ClaimReader.open(batch);
        bytes32 digest = _claimBatchDigest(batch);
        if (!Signatures.isSignedBy(reader.operator, digest, signature)) revert BadSignature(reader.operator, digest);
        _claim(reader);
    }

    function claimBatchDigest(bytes calldata batch) external view override returns (bytes32 digest) {
        return _claimBatchDigest(batch);
    }

    function _claim(ClaimReader.Batch memory reader) private {
        Run memory run = _start(reader);
        for (uint256 i = 0; i < reader.accountCount; ++i) {
            _claimAccount(reader, run);
        }
        reader.close();

        for (uint256 i = 0; i < reader.receiverCount; ++i) {
            uint256 amount = run.payouts[i];
            if (amount != 0) _pay(reader.token, reader.receiver(i), amount);
        }
    }

    function _start(ClaimReader.Batch memory reader) private view returns (Run memory run) {
        run.domain = _domainSeparatorV4();
        run.token = reader.token;
        run.payouts = new uint256[](reader.receiverCount);
        run.voucher.typeHash = EscrowHashes.VOUCHER_TYPEHASH;
        run.receiverTotal.typeHash = EscrowHashes.RECEIVER_TOTAL_TYPEHASH;
        run.channel.typeHash = EscrowHashes.CHANNEL_CONFIG_TYPEHASH;
        run.channel.receiverAuthorizer = reader.operator;
        run.channel.token = reader.token;
    }

    function _claimAccount(ClaimReader.Batch memory reader, Run memory run) private {
        uint256 free = _freeMemory();
        reader.next(run.channel, run.rows);
        bytes32 id = MessageHashUtils.toTypedDataHash(run.domain, run.channel.hash());
        Account storage account = _accounts[id];
        uint128 before = account.balance;
        run.accountId = id;
        run.balance = before;
        run.approved = run.rows.byApproval && _isApproved(reader, run);

        _claimRows(reader, run);
        if (run.balance != before) {
            account.balance = run.balance;
            run.log.emitClaimed(id, run.balance);
        }
        // The log and the approval's hashes are done with. Memory that grew from account to account would cost more
        // and more, as its price is quadratic.
        _setFreeMemory(free);
    }

    function _claimRows(ClaimReader.Batch memory reader, Run memory run) private {
        uint256 count = run.rows.count;
        uint256 stride = run.rows.stride;
        uint256 pos = run.rows.first;
        run.log.start(count);
        for (uint256 i = 0; i < count; ++i) {
            (uint256 index, uint128 total) = ClaimReader.row(pos);
            address receiver = reader.receiver(index);
            uint128 amount = _claimRow(run, pos, receiver, total);
            unchecked {
                run.payouts[index] += amount; // at most 2^16 rows of 128 bits
                pos += stride;
            }
        }
    }

    /// @dev Claims one row as far as its account can pay, or skips it.
    /// @return amount What the row is paid, in atomic units.
    function _claimRow(Run memory run, uint256 pos, address receiver, uint128 total) private returns (uint128 amount) {
        run.channel.receiver = receiver;
        bytes32 id = MessageHashUtils.toTypedDataHash(run.domain, run.channel.hash());
        Channel storage channel = _channels[id];
        uint256 before = channel.claimed;

        SkipReason reason = _refusal(run, pos, id, total, before);
        if (reason != SkipReason.None) {
            emit RowSkipped(run.accountId, receiver, total, reason);
            return 0;
        }
        unchecked {
            amount = total - uint128(before); // a row with nothing new has been skipped
            uint128 balance = run.balance;
            if (amount > balance) {
                amount = balance;
                total = uint128(before) + amount;
            }
            run.balance = balance - amount;
        }
        channel.claimed = total;
        run.log.add(receiver, amount, total);
    }

    /// @dev The rules a row has to pass, cheapest first.
    function _refusal(Run memory run, uint256 pos, bytes32 id, uint128 total, uint256 before)
        private
        view
        returns (SkipReason)
    {
        address receiver = run.channel.receiver;
        if (receiver == address(0) || receiver == address(this) || receiver == run.token) return SkipReason.BadReceiver;
        if (total <= before) return SkipReason.NothingNew;
        if (run.balance == 0) return SkipReason.AccountEmpty;
        if (run.rows.byApproval) return run.approved ? SkipReason.None : SkipReason.BadSignature;
        return _voucherRefusal(run, pos, id, total);
    }

    /// @dev The rules of a row by voucher.
    function _voucherRefusal(Run memory run, uint256 pos, bytes32 id, uint128 total)
        private
        pure
        returns (SkipReason)
    {
        (uint128 ceiling, uint256 signature) = ClaimReader.voucher(pos);
        if (total > ceiling) return SkipReason.AboveCeiling;
        run.voucher.channelId = id;
        run.voucher.maxClaimableAmount = ceiling;
        return _isSigned(run, run.voucher.hash(), signature) ? SkipReason.None : SkipReason.BadSignature;
    }

    /// @dev Whether one approval covers all rows of the account, in their order.
    function _isApproved(ClaimReader.Batch memory reader, Run memory run) private pure returns (bool) {
        uint256 count = run.rows.count;
        uint256 pos = run.rows.first;
        bytes32[] memory totals = new bytes32[](count);
        EscrowHashes.ReceiverTotalPreimage memory preimage = run.receiverTotal;
        for (uint256 i = 0; i < count; ++i) {
            (uint256 index, uint128 total) = ClaimReader.row(pos);
            preimage.receiver = reader.receiver(index);
            preimage.total = total;
            totals[i] = preimage.hash();
            unchecked {
                pos += run.rows.stride;
            }
        }
        return _isSigned(run, EscrowHashes.totalsApproval(run.accountId, totals), run.rows.signature);
    }

    /// @dev Whether the payerAuthorizer's key has signed; `pos` is where the signature is.
    function _isSigned(Run memory run, bytes32 structHash, uint256 pos) private pure returns (bool) {
        (bytes32 r, bytes32 vs) = ClaimReader.signatureAt(pos);
        bytes32 digest = MessageHashUtils.toTypedDataHash(run.domain, structHash);
        return Signatures.isSignedByKey(run.channel.payerAuthorizer, digest, r, vs);
    }

    /// @dev Reads the batch once just for its rows' entries. By approval, a row's ceiling is its total.
    function _claimBatchDigest(bytes calldata batch) private view returns (bytes32) {
        ClaimReader.Batch memory reader = ClaimReader.open(batch);
        Run memory run = _start(reader);
        bytes32[] memory entries = new bytes32[](_rowCount(batch));
        uint256 filled;
        for (uint256 i = 0; i < reader.accountCount; ++i) {
            reader.next(run.channel, run.rows);
            for (uint256 j = 0; j < run.rows.count; ++j) {
                entries[filled++] = _claimEntry(reader, run, run.rows.first + j * run.rows.stride);
            }
        }
        return _hashTypedDataV4(EscrowHashes.claimBatch(entries));
    }

    function _claimEntry(ClaimReader.Batch memory reader, Run memory run, uint256 pos) private pure returns (bytes32) {
        (uint256 index, uint128 total) = ClaimReader.row(pos);
        uint128 ceiling = total;
        if (!run.rows.byApproval) (ceiling,) = ClaimReader.voucher(pos);
        run.channel.receiver = reader.receiver(index);
        bytes32 id = MessageHashUtils.toTypedDataHash(run.domain, run.channel.hash());
        return EscrowHashes.claimEntry(id, ceiling, total);
    }

    /// @dev How many rows the batch has; also checks that it is well-formed to its end.
    function _rowCount(bytes calldata batch) private pure returns (uint256 count) {
        ClaimReader.Batch memory reader = ClaimReader.open(batch);
        Run memory run;
        for (uint256 i = 0; i < reader.accountCount; ++i) {
            reader.next(run.channel, run.rows);
            count += run.rows.count;
        }
        reader.close();
    }

    function _freeMemory() private pure returns (uint256 pointer) {
        assembly ("memory-safe") {
            pointer := mload(0x40)
        }
    }

    function _setFreeMemory(uint256 pointer) private pure {
        assembly ("memory-safe") {
            mstore(0x40, pointer)
        }
    }
}
