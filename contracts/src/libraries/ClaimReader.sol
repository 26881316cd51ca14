// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../interfaces/IEscrow.sol";
import {EscrowHashes} from "./EscrowHashes.sol";

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
        /// @dev Position of the approval's signature; means nothing if not `byApproval`.
        uint256 signature;
        /// @dev Position of the first row, and bytes from one row to the next.
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

    /// @notice Reads the account under the cursor into `channel` (the receiver becomes zero) and `rows`, and moves the
    ///         cursor behind the rows, which are then known to lie inside of the batch.
    /// @dev Fills memory that is there instead of allocating anew: a batch has many accounts. Nothing overflows, as
    ///      positions are bounded by the calldata's length plus a count of 16 bits times 98.
    function next(Batch memory batch, EscrowHashes.ChannelPreimage memory channel, Rows memory rows) internal pure {
        unchecked {
            uint256 pos = batch.cursor;
            _require(batch, pos + ACCOUNT_BYTES);
            channel.payer = _address(pos);
            channel.payerAuthorizer = _address(pos + 20);
            channel.receiver = address(0);
            channel.withdrawDelay = uint40(_word(pos + 40) >> 216);
            channel.salt = bytes32(_word(pos + 45));

            uint256 tail = _word(pos + 77);
            uint256 authorization = tail >> 248;
            if (authorization > BY_APPROVAL) revert IEscrow.UnknownAuthorization(authorization, BY_APPROVAL);
            bool byApproval = authorization == BY_APPROVAL;
            uint256 count = uint16(tail >> 232);
            uint256 first = pos + ACCOUNT_BYTES;
            rows.count = count;
            rows.byApproval = byApproval;
            rows.signature = first;
            if (byApproval) first += SIGNATURE_BYTES;
            uint256 stride = byApproval ? APPROVAL_ROW_BYTES : VOUCHER_ROW_BYTES;
            rows.first = first;
            rows.stride = stride;

            batch.cursor = first + count * stride;
            _require(batch, batch.cursor);
        }
    }

    /// @notice Call it after the last account: nothing may follow.
    function close(Batch memory batch) internal pure {
        if (batch.cursor != batch.end) {
            revert IEscrow.BatchTooLong(batch.end - batch.start, batch.cursor - batch.start);
        }
    }

    /// @notice The `index`-th receiver.
    function receiver(Batch memory batch, uint256 index) internal pure returns (address) {
        if (index >= batch.receiverCount) revert IEscrow.ReceiverIndexOutOfRange(index, batch.receiverCount);
        unchecked {
            return _address(batch.receivers + index * ADDRESS_BYTES);
        }
    }

    /// @notice What rows of both kinds begin with: the receiver's index, and the total to claim up to in atomic units.
    function row(uint256 pos) internal pure returns (uint256 receiverIndex, uint128 total) {
        uint256 word = _word(pos);
        return (word >> 240, uint128(word >> 112));
    }

    /// @notice A row's voucher: its ceiling in atomic units, and where its signature is.
    function voucher(uint256 pos) internal pure returns (uint128 ceiling, uint256 signature) {
        unchecked {
            return (uint128(_word(pos + 18) >> 128), pos + 34);
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
