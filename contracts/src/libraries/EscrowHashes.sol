// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../interfaces/IEscrow.sol";

/// @title EscrowHashes
/// @notice The EIP-712 struct hashes of everything that is signed for the escrow.
///
/// @dev The hot ones (a channel, a voucher) are made from *preimages*: structs in memory that hold the type hash and the
///      fields, one word each, exactly as EIP-712 encodes them. A batch fills one preimage and changes a word per row
///      instead of encoding anew. Amounts are words there: they are below 2^128 where they come from.
library EscrowHashes {
    bytes32 internal constant CHANNEL_CONFIG_TYPEHASH = keccak256(
        "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
    );
    bytes32 internal constant VOUCHER_TYPEHASH = keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)");
    bytes32 internal constant REFUND_TYPEHASH = keccak256("Refund(bytes32 channelId,uint256 nonce,uint128 amount)");
    bytes32 internal constant WITHDRAW_TYPEHASH =
        keccak256("Withdraw(bytes32 accountId,uint128 amount,uint256 nonce,uint256 deadline)");
    bytes32 internal constant RECEIVER_TOTAL_TYPEHASH = keccak256("ReceiverTotal(address receiver,uint128 total)");
    bytes32 internal constant TOTALS_APPROVAL_TYPEHASH = keccak256(
        "TotalsApproval(bytes32 accountId,ReceiverTotal[] totals)ReceiverTotal(address receiver,uint128 total)"
    );
    bytes32 internal constant CLAIM_ENTRY_TYPEHASH =
        keccak256("ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)");
    bytes32 internal constant CLAIM_BATCH_TYPEHASH = keccak256(
        "ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
    );

    /// @notice A channel's type hash and fields. With `receiver` zero it gives the account.
    struct ChannelPreimage {
        bytes32 typeHash;
        address payer;
        address payerAuthorizer;
        address receiver;
        address receiverAuthorizer;
        address token;
        uint40 withdrawDelay;
        bytes32 salt;
    }

    /// @notice A voucher's type hash and fields.
    struct VoucherPreimage {
        bytes32 typeHash;
        bytes32 channelId;
        uint256 maxClaimableAmount;
    }

    /// @notice A `TotalsApproval`'s type hash and fields, the array of totals by its hash.
    struct ApprovalPreimage {
        bytes32 typeHash;
        bytes32 accountId;
        bytes32 totalsHash;
    }

    /// @notice An array of structs in the making: the hashes of its elements, one after the other.
    struct Array {
        /// @dev Where the first hash is in memory.
        uint256 start;
        /// @dev Where the next one goes.
        uint256 next;
    }

    /// @notice An empty array with room for at most `capacity` elements.
    function array(uint256 capacity) internal pure returns (Array memory hashes) {
        uint256 start;
        assembly ("memory-safe") {
            start := mload(0x40)
            mstore(0x40, add(start, shl(5, capacity)))
        }
        hashes.start = start;
        hashes.next = start;
    }

    /// @notice Adds an element by its struct hash; never more than {array} made room for.
    function push(Array memory hashes, bytes32 structHash) internal pure {
        assembly ("memory-safe") {
            let next := mload(add(hashes, 0x20))
            mstore(next, structHash)
            mstore(add(hashes, 0x20), add(next, 0x20))
        }
    }

    /// @notice EIP-712's hash of an array of structs.
    function hash(Array memory hashes) internal pure returns (bytes32 arrayHash) {
        assembly ("memory-safe") {
            let start := mload(hashes)
            arrayHash := keccak256(start, sub(mload(add(hashes, 0x20)), start))
        }
    }

    /// @notice What every digest is made of: the prefix and domain of EIP-712, and a struct hash.
    struct DigestPreimage {
        /// @dev 0x1901 in the last two bytes.
        uint256 prefix;
        bytes32 domain;
        bytes32 structHash;
    }

    /// @notice A digest under `domain` with the struct hash left open.
    function digestUnder(bytes32 domain) internal pure returns (DigestPreimage memory preimage) {
        preimage.prefix = 0x1901;
        preimage.domain = domain;
    }

    /// @notice The digest of `structHash`.
    function over(DigestPreimage memory preimage, bytes32 structHash) internal pure returns (bytes32 digest) {
        assembly ("memory-safe") {
            mstore(add(preimage, 0x40), structHash)
            digest := keccak256(add(preimage, 30), 66) // two bytes and two words
        }
    }

    /// @notice The id of the channel between the account that `channel` describes and `receiver`; with `receiver` zero
    ///         the account's. Leaves `receiver` in the preimage.
    function idOf(DigestPreimage memory preimage, ChannelPreimage memory channel, address receiver)
        internal
        pure
        returns (bytes32 id)
    {
        assembly ("memory-safe") {
            mstore(add(channel, 0x60), receiver) // the fourth word
            mstore(add(preimage, 0x40), keccak256(channel, 0x100)) // of eight
            id := keccak256(add(preimage, 30), 66)
        }
    }

    /// @notice The digest of a channel's voucher.
    function overVoucher(
        DigestPreimage memory preimage,
        VoucherPreimage memory voucher,
        bytes32 channelId,
        uint256 maxClaimableAmount
    ) internal pure returns (bytes32 digest) {
        assembly ("memory-safe") {
            mstore(add(voucher, 0x20), channelId)
            mstore(add(voucher, 0x40), maxClaimableAmount)
            mstore(add(preimage, 0x40), keccak256(voucher, 0x60)) // three words
            digest := keccak256(add(preimage, 30), 66)
        }
    }

    /// @notice The preimage of the account that `config` belongs to: its fields with the receiver left zero.
    /// @dev The fields are copied in one go and then checked as the compiler would check each where it is read: an
    ///      address or delay with more bits than its type has reverts with no data.
    function accountPreimage(IEscrow.ChannelConfig calldata config)
        internal
        pure
        returns (ChannelPreimage memory preimage)
    {
        preimage.typeHash = CHANNEL_CONFIG_TYPEHASH;
        assembly ("memory-safe") {
            calldatacopy(add(preimage, 0x20), config, 0xe0) // all seven fields
            let addresses := or(or(mload(add(preimage, 0x20)), mload(add(preimage, 0x40))), mload(add(preimage, 0x60)))
            addresses := or(addresses, or(mload(add(preimage, 0x80)), mload(add(preimage, 0xa0))))
            if or(shr(160, addresses), shr(40, mload(add(preimage, 0xc0)))) { revert(0, 0) }
            mstore(add(preimage, 0x60), 0) // the receiver
        }
    }

    /// @notice The struct hash of a channel or account.
    function hash(ChannelPreimage memory preimage) internal pure returns (bytes32 structHash) {
        assembly ("memory-safe") {
            structHash := keccak256(preimage, 0x100) // eight words
        }
    }

    /// @notice The struct hash of a voucher.
    function hash(VoucherPreimage memory preimage) internal pure returns (bytes32 structHash) {
        assembly ("memory-safe") {
            structHash := keccak256(preimage, 0x60) // three words
        }
    }

    /// @notice The struct hash of one `ReceiverTotal`.
    function receiverTotal(address receiver, uint128 total) internal pure returns (bytes32 structHash) {
        return keccak256(abi.encode(RECEIVER_TOTAL_TYPEHASH, receiver, total));
    }

    /// @notice The struct hash of a `TotalsApproval`.
    function hash(ApprovalPreimage memory preimage) internal pure returns (bytes32 structHash) {
        assembly ("memory-safe") {
            structHash := keccak256(preimage, 0x60) // three words
        }
    }

    /// @notice The struct hash of one `ClaimEntry`.
    function claimEntry(bytes32 channelId, uint128 maxClaimableAmount, uint128 totalClaimed)
        internal
        pure
        returns (bytes32 structHash)
    {
        return keccak256(abi.encode(CLAIM_ENTRY_TYPEHASH, channelId, maxClaimableAmount, totalClaimed));
    }

    /// @notice The struct hash of a `ClaimBatch` over the hashes of its entries.
    function claimBatch(Array memory entries) internal pure returns (bytes32 structHash) {
        return keccak256(abi.encode(CLAIM_BATCH_TYPEHASH, hash(entries)));
    }

    /// @notice The struct hash of a `Refund`.
    function refund(bytes32 accountId, uint256 nonce, uint128 amount) internal pure returns (bytes32 structHash) {
        return keccak256(abi.encode(REFUND_TYPEHASH, accountId, nonce, amount));
    }

    /// @notice The struct hash of a `Withdraw`.
    function withdraw(bytes32 accountId, uint128 amount, uint256 nonce, uint256 deadline)
        internal
        pure
        returns (bytes32 structHash)
    {
        return keccak256(abi.encode(WITHDRAW_TYPEHASH, accountId, amount, nonce, deadline));
    }
}
