// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ClaimLog} from "../libraries/ClaimLog.sol";
import {ClaimReader} from "../libraries/ClaimReader.sol";
import {EscrowHashes} from "../libraries/EscrowHashes.sol";
import {Payees} from "../libraries/Payees.sol";
import {Signatures} from "../libraries/Signatures.sol";
import {EscrowStore} from "./EscrowStore.sol";

/// @title Claims
/// @notice How sellers are paid.
///
/// @dev A batch is worked off in two steps: all bookkeeping first, account by account, with what each receiver gets
///      added up in memory; then one transfer per receiver. Between the first byte read and the last balance written no
///      other contract is called.
abstract contract Claims is EscrowStore {
    using ClaimReader for ClaimReader.Batch;
    using ClaimReader for ClaimReader.Rows;
    using EscrowHashes for EscrowHashes.ApprovalPreimage;
    using EscrowHashes for EscrowHashes.Array;
    using EscrowHashes for EscrowHashes.ChannelPreimage;
    using EscrowHashes for EscrowHashes.DigestPreimage;
    using Payees for Payees.Table;

    /// @dev What is at hand while a batch is worked off, allocated once; the first part belongs to one account. Amounts
    ///      are below 2^128 in words of 256 bits, so that sums over the 2^32 rows of a batch at most cannot overflow.
    struct Run {
        /// @dev What the account holds; written back after its last row.
        uint256 balance;
        bytes32 accountId;
        /// @dev One approval covers all rows, and its signature is good.
        bool approved;
        /// @dev The event in the making: where it begins in memory, and where its next row goes.
        uint256 log;
        uint256 logNext;
        ClaimReader.Rows rows;
        EscrowHashes.ChannelPreimage channel;
        EscrowHashes.VoucherPreimage voucher;
        EscrowHashes.ApprovalPreimage approval;
        EscrowHashes.DigestPreimage digest;
        Payees.Table payees;
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

        address token = reader.token;
        (uint256 payee, uint256 last) = run.payees.bounds();
        for (; payee != last; payee = Payees.next(payee)) {
            uint256 amount = Payees.amountOf(payee);
            if (amount != 0) _pay(token, Payees.listed(payee), amount);
        }
    }

    function _start(ClaimReader.Batch memory reader) private view returns (Run memory run) {
        run.digest = EscrowHashes.digestUnder(_domainSeparatorV4());
        reader.listPayees(run.payees);
        run.voucher.typeHash = EscrowHashes.VOUCHER_TYPEHASH;
        run.approval.typeHash = EscrowHashes.TOTALS_APPROVAL_TYPEHASH;
        run.channel.typeHash = EscrowHashes.CHANNEL_CONFIG_TYPEHASH;
        run.channel.receiverAuthorizer = reader.operator;
        run.channel.token = reader.token;
    }

    function _claimAccount(ClaimReader.Batch memory reader, Run memory run) private {
        uint256 free = _freeMemory();
        reader.next(run.channel, run.rows);
        bytes32 id = run.digest.idOf(run.channel, address(0));
        Account storage account = _accounts[id];
        uint256 before = account.balance;
        run.accountId = id;
        run.balance = before;
        run.approved = run.rows.byApproval && _isApproved(run);

        run.log = ClaimLog.start(run.rows.count);
        run.logNext = ClaimLog.firstRow(run.log);
        _claimRows(run, run.rows.first, reader.cursor);
        if (run.balance != before) {
            account.balance = uint128(run.balance);
            ClaimLog.emitClaimed(run.log, run.logNext, id);
        }
        // The log and the approval's hashes are done with. Memory that grew from account to account would cost more
        // and more, as its price is quadratic.
        _setFreeMemory(free);
    }

    function _claimRows(Run memory run, uint256 pos, uint256 end) private {
        Payees.Table memory payees = run.payees;
        uint256 stride = run.rows.stride;
        if (pos == end) return;
        do {
            _claimRow(run, payees, pos);
            unchecked {
                pos += stride;
            }
        } while (pos != end);
    }

    /// @dev Claims one row as far as its account can pay, or skips it. The rules come cheapest first.
    function _claimRow(Run memory run, Payees.Table memory payees, uint256 pos) private {
        (uint256 index, uint256 total) = ClaimReader.row(pos);
        uint256 payee = payees.entryOf(index);
        address receiver = Payees.payTo(payee);
        bytes32 id = run.digest.idOf(run.channel, receiver);
        Channel storage channel = _channels[id];
        uint256 before = channel.claimed;
        uint256 balance = run.balance;

        if (receiver == address(0)) return _skip(run, payee, total, SkipReason.BadReceiver);
        if (total <= before) return _skip(run, payee, total, SkipReason.NothingNew);
        if (balance == 0) return _skip(run, payee, total, SkipReason.AccountEmpty);
        if (!run.approved) {
            if (run.rows.byApproval) return _skip(run, payee, total, SkipReason.BadSignature);
            (uint256 ceiling, uint256 signature) = ClaimReader.voucher(pos);
            if (total > ceiling) return _skip(run, payee, total, SkipReason.AboveCeiling);
            if (!_isVoucher(run, id, ceiling, signature)) return _skip(run, payee, total, SkipReason.BadSignature);
        }
        unchecked {
            uint256 amount = total - before;
            if (amount > balance) amount = balance;
            run.balance = balance - amount;
            Payees.credit(payee, amount);
            total = before + amount;
        }
        channel.claimed = total;
        run.logNext = ClaimLog.add(run.logNext, receiver, total);
    }

    function _skip(Run memory run, uint256 payee, uint256 total, SkipReason reason) private {
        emit RowSkipped(run.accountId, Payees.listed(payee), uint128(total), reason);
    }

    /// @dev Whether the payerAuthorizer has signed a voucher of this channel and ceiling.
    function _isVoucher(Run memory run, bytes32 id, uint256 ceiling, uint256 signature) private view returns (bool) {
        bytes32 digest = run.digest.overVoucher(run.voucher, id, ceiling);
        (bytes32 r, bytes32 vs) = ClaimReader.signatureAt(signature);
        return Signatures.isSignedByKey(run.channel.payerAuthorizer, digest, r, vs);
    }

    /// @dev Whether one approval covers all rows of the account, in their order.
    function _isApproved(Run memory run) private view returns (bool) {
        run.approval.accountId = run.accountId;
        run.approval.totalsHash = run.rows.totalsHash(run.payees);
        (bytes32 r, bytes32 vs) = ClaimReader.signatureAt(run.rows.approval());
        bytes32 digest = run.digest.over(run.approval.hash());
        return Signatures.isSignedByKey(run.channel.payerAuthorizer, digest, r, vs);
    }

    /// @dev Reads the batch once just for its rows' entries. By approval, a row's ceiling is its total.
    function _claimBatchDigest(bytes calldata batch) private view returns (bytes32) {
        ClaimReader.Batch memory reader = ClaimReader.open(batch);
        Run memory run = _start(reader);
        EscrowHashes.Array memory entries = EscrowHashes.array(_rowCount(batch));
        for (uint256 i = 0; i < reader.accountCount; ++i) {
            reader.next(run.channel, run.rows);
            for (uint256 j = 0; j < run.rows.count; ++j) {
                entries.push(_claimEntry(run, run.rows.first + j * run.rows.stride));
            }
        }
        return run.digest.over(EscrowHashes.claimBatch(entries));
    }

    function _claimEntry(Run memory run, uint256 pos) private pure returns (bytes32) {
        (uint256 index, uint256 total) = ClaimReader.row(pos);
        uint256 ceiling = total;
        if (!run.rows.byApproval) (ceiling,) = ClaimReader.voucher(pos);
        bytes32 id = run.digest.idOf(run.channel, Payees.listed(run.payees.entryOf(index)));
        return EscrowHashes.claimEntry(id, uint128(ceiling), uint128(total));
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
