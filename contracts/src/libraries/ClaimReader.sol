// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../interfaces/IEscrow.sol";
import {EscrowHashes} from "./EscrowHashes.sol";
import {Payees} from "./Payees.sol";

/// @title ClaimReader
/// @notice Reads the compact encoding of a claim batch from calldata. `tallystick_contracts/claim_batch.py` writes it.
///
/// @dev A batch claims for one operator in one token. Integers are big-endian; nothing is padded.
///
///      header
///        0   20  operator
///       20   20  token
///       40    2  number of receivers, R
///       42  20R  receivers, each paid once
///       ..    2  number of accounts, A
///       ..       A accounts, one after the other, up to the last byte of the batch
///
///      account
///        0   20  payer
///       20   20  payerAuthorizer
///       40    5  withdrawDelay, seconds
///       45   32  salt
///       77    1  authorization: 0 each row by its voucher, 1 all rows by one approval
///       78    2  number of rows, N
///       80   64  only by approval: signature of `TotalsApproval` over all rows in their order, compact (r, vs)
///       ..       N rows
///
///      row by voucher (98 bytes)                     row by approval (18 bytes)
///        0    2  index into the receivers              0    2  index into the receivers
///        2   16  total to claim up to                  2   16  total to claim up to
///       18   16  the voucher's ceiling
///       34   64  the voucher's signature, (r, vs)
///
///      Compact signatures are ERC-2098's: `vs` is `s` with the parity of `v` in its highest bit.
library ClaimReader {
    using Payees for Payees.Table;

    uint256 internal constant BY_VOUCHERS = 0;
    uint256 internal constant BY_APPROVAL = 1;

    uint256 private constant HEADER_BYTES = 42;
    uint256 private constant ADDRESS_BYTES = 20;
    uint256 private constant COUNT_BYTES = 2;
    uint256 private constant ACCOUNT_BYTES = 80;
    uint256 private constant SIGNATURE_BYTES = 64;
    uint256 private constant VOUCHER_ROW_BYTES = 98;
    uint256 private constant APPROVAL_ROW_BYTES = 18;

    /// @notice A batch's header, and how far it has been read. Positions are absolute in calldata.
    struct Batch {
        address operator;
        address token;
        uint256 receiverCount;
        uint256 accountCount;
        /// @dev Where the first receiver is.
        uint256 receivers;
        /// @dev Where the next account is.
        uint256 cursor;
        /// @dev Where the batch starts and ends.
        uint256 start;
        uint256 end;
    }

    /// @notice How an account's rows are authorised, and where they are.
    struct Rows {
        uint256 count;
        bool byApproval;
        /// @dev Position of the first row (an approval's signature ends there), and bytes from one row to the next.
        uint256 first;
        uint256 stride;
    }

    /// @notice Reads the header and places the cursor on the first account.
    function open(bytes calldata data) internal pure returns (Batch memory batch) {
        uint256 pos;
        assembly ("memory-safe") {
            pos := data.offset
        }
        batch.start = pos;
        batch.end = pos + data.length;
        _require(batch, pos + HEADER_BYTES);
        batch.operator = _address(pos);
        batch.token = _address(pos + ADDRESS_BYTES);
        batch.receiverCount = _count(pos + 2 * ADDRESS_BYTES);
        batch.receivers = pos + HEADER_BYTES;

        pos = batch.receivers + batch.receiverCount * ADDRESS_BYTES;
        _require(batch, pos + COUNT_BYTES);
        batch.accountCount = _count(pos);
        batch.cursor = pos + COUNT_BYTES;
    }

    /// @notice Reads the account under the cursor into `channel` (all but its receiver) and `rows`, and moves the cursor
    ///         behind the rows, which are then known to lie inside of the batch.
    /// @dev Fills memory that is there instead of allocating anew: a batch has many accounts. What lies behind the end
    ///      of the batch may be read, but is never used. Nothing overflows: positions are bounded by the calldata's
    ///      length plus a count of 16 bits times 98.
    function next(Batch memory batch, EscrowHashes.ChannelPreimage memory channel, Rows memory rows) internal pure {
        unchecked {
            uint256 pos = batch.cursor;
            channel.payer = address(uint160(_word(pos) >> 96));
            channel.payerAuthorizer = address(uint160(_word(pos + 20) >> 96));
            channel.withdrawDelay = uint40(_word(pos + 40) >> 216);
            channel.salt = bytes32(_word(pos + 45));

            uint256 tail = _word(pos + 77);
            uint256 authorization = tail >> 248;
            uint256 count = uint16(tail >> 232);
            pos += ACCOUNT_BYTES;
            uint256 stride = VOUCHER_ROW_BYTES;
            if (authorization != BY_VOUCHERS) {
                if (authorization != BY_APPROVAL) revert IEscrow.UnknownAuthorization(authorization, BY_APPROVAL);
                pos += SIGNATURE_BYTES;
                stride = APPROVAL_ROW_BYTES;
            }
            rows.byApproval = authorization == BY_APPROVAL;
            rows.count = count;
            rows.first = pos;
            rows.stride = stride;
            pos += count * stride;
            _require(batch, pos);
            batch.cursor = pos;
        }
    }

    /// @notice Call it after the last account: nothing may follow.
    function close(Batch memory batch) internal pure {
        if (batch.cursor != batch.end) {
            revert IEscrow.BatchTooLong(batch.end - batch.start, batch.cursor - batch.start);
        }
    }

    /// @notice Fills `payees` with the batch's receivers. This contract and the token may never be paid.
    function listPayees(Batch memory batch, Payees.Table memory payees) internal view {
        payees.allocate(batch.receiverCount);
        address token = batch.token;
        uint256 pos = batch.receivers;
        (uint256 payee, uint256 end) = payees.bounds();
        for (; payee != end; payee = Payees.next(payee)) {
            address receiver = address(uint160(_word(pos) >> 96));
            bool barred = receiver == address(this) || receiver == token;
            Payees.set(payee, barred ? address(0) : receiver, receiver);
            unchecked {
                pos += ADDRESS_BYTES;
            }
        }
    }

    /// @notice What rows of both kinds begin with: the receiver's index, and the total to claim up to in atomic units.
    function row(uint256 pos) internal pure returns (uint256 receiverIndex, uint256 total) {
        uint256 word = _word(pos);
        return (word >> 240, (word << 16) >> 128);
    }

    /// @notice EIP-712's hash of the rows as an array of `ReceiverTotal`: what an approval covers.
    /// @dev One loop in assembly, since every row by approval is read twice: here, and when it is claimed. It works in
    ///      memory behind what is allocated: first the preimage of one `ReceiverTotal`, then the hashes of all. An index
    ///      out of range gives a hash of garbage here (or runs out of gas far out), and reverts when its row is claimed.
    function totalsHash(Rows memory rows, Payees.Table memory payees) internal pure returns (bytes32 arrayHash) {
        bytes32 typeHash = EscrowHashes.RECEIVER_TOTAL_TYPEHASH;
        uint256 size = rows.count * 32;
        uint256 pos = rows.first;
        uint256 entries = payees.start + Payees.LISTED;
        assembly ("memory-safe") {
            let preimage := mload(0x40)
            let receiver := add(preimage, 0x20)
            let total := add(preimage, 0x40)
            let hashes := add(preimage, 0x60)
            let end := add(hashes, size)
            mstore(preimage, typeHash)
            for { let out := hashes } lt(out, end) { out := add(out, 0x20) } {
                let word := calldataload(pos)
                mstore(receiver, mload(add(entries, mul(shr(240, word), 0x60))))
                mstore(total, shr(128, shl(16, word)))
                mstore(out, keccak256(preimage, 0x60))
                pos := add(pos, APPROVAL_ROW_BYTES)
            }
            arrayHash := keccak256(hashes, size)
        }
    }

    /// @notice A row's voucher: its ceiling in atomic units, and where its signature is.
    function voucher(uint256 pos) internal pure returns (uint256 ceiling, uint256 signature) {
        unchecked {
            return (_word(pos + 18) >> 128, pos + 34);
        }
    }

    /// @notice Where the signature of an account's approval is.
    function approval(Rows memory rows) internal pure returns (uint256 signature) {
        unchecked {
            return rows.first - SIGNATURE_BYTES;
        }
    }

    /// @notice The compact signature at a position.
    function signatureAt(uint256 pos) internal pure returns (bytes32 r, bytes32 vs) {
        unchecked {
            return (bytes32(_word(pos)), bytes32(_word(pos + 32)));
        }
    }

    function _address(uint256 pos) private pure returns (address) {
        return address(uint160(_word(pos) >> 96));
    }

    function _count(uint256 pos) private pure returns (uint256) {
        return _word(pos) >> 240;
    }

    function _word(uint256 pos) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := calldataload(pos)
        }
    }

    function _require(Batch memory batch, uint256 end) private pure {
        if (end > batch.end) revert IEscrow.BatchTruncated(batch.end - batch.start, end - batch.start);
    }
}
