// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../interfaces/IEscrow.sol";

/// @title EscrowHashes
/// @notice The EIP-712 struct hashes of everything that is signed for the escrow.
///
/// @dev The hot ones (a channel, a voucher) are made from *preimages*: structs in memory that hold the type hash and the
///      fields, one word each, exactly as EIP-712 encodes them. A batch fills one preimage and changes a word per row
///      instead of encoding anew.
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
        uint128 maxClaimableAmount;
    }

    /// @notice A `ReceiverTotal`'s type hash and fields.
    struct ReceiverTotalPreimage {
        bytes32 typeHash;
        address receiver;
        uint128 total;
    }

    /// @notice The preimage of the account that `config` belongs to: its fields with the receiver left zero.
    function accountPreimage(IEscrow.ChannelConfig calldata config)
        internal
        pure
        returns (ChannelPreimage memory preimage)
    {
        preimage.typeHash = CHANNEL_CONFIG_TYPEHASH;
        preimage.payer = config.payer;
        preimage.payerAuthorizer = config.payerAuthorizer;
        preimage.receiverAuthorizer = config.receiverAuthorizer;
        preimage.token = config.token;
        preimage.withdrawDelay = config.withdrawDelay;
        preimage.salt = config.salt;
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
    function hash(ReceiverTotalPreimage memory preimage) internal pure returns (bytes32 structHash) {
        assembly ("memory-safe") {
            structHash := keccak256(preimage, 0x60) // three words
        }
    }

    /// @notice The struct hash of a `TotalsApproval` over the hashes of its totals.
    function totalsApproval(bytes32 accountId, bytes32[] memory totals) internal pure returns (bytes32 structHash) {
        return keccak256(abi.encode(TOTALS_APPROVAL_TYPEHASH, accountId, concatenated(totals)));
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
    function claimBatch(bytes32[] memory entries) internal pure returns (bytes32 structHash) {
        return keccak256(abi.encode(CLAIM_BATCH_TYPEHASH, concatenated(entries)));
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

    /// @notice EIP-712's hash of an array of structs: the hash of their hashes, one after the other.
    function concatenated(bytes32[] memory hashes) internal pure returns (bytes32 arrayHash) {
        assembly ("memory-safe") {
            arrayHash := keccak256(add(hashes, 0x20), shl(5, mload(hashes)))
        }
    }
}
