// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @notice Writes claim batches as `ClaimReader` reads them.
library Batches {
    /// @notice Header and the accounts that `account` has encoded.
    function batch(address operator, address token, address[] memory receivers, bytes[] memory accounts)
        internal
        pure
        returns (bytes memory data)
    {
        data = abi.encodePacked(operator, token, uint16(receivers.length));
        for (uint256 i = 0; i < receivers.length; ++i) {
            data = bytes.concat(data, bytes20(receivers[i]));
        }
        data = bytes.concat(data, bytes2(uint16(accounts.length)), join(accounts));
    }

    /// @notice An account with its rows; `approval` is a compact signature, or empty for rows by voucher.
    function account(
        address payer,
        address payerAuthorizer,
        uint40 withdrawDelay,
        bytes32 salt,
        bytes memory approval,
        bytes[] memory rows
    ) internal pure returns (bytes memory) {
        return abi.encodePacked(
            payer,
            payerAuthorizer,
            withdrawDelay,
            salt,
            uint8(approval.length == 0 ? 0 : 1),
            uint16(rows.length),
            approval,
            join(rows)
        );
    }

    /// @notice A row by voucher; `signature` is compact.
    function voucherRow(uint16 receiver, uint128 total, uint128 ceiling, bytes memory signature)
        internal
        pure
        returns (bytes memory)
    {
        return abi.encodePacked(receiver, total, ceiling, signature);
    }

    /// @notice A row by approval.
    function approvalRow(uint16 receiver, uint128 total) internal pure returns (bytes memory) {
        return abi.encodePacked(receiver, total);
    }

    /// @notice A signature in its compact form.
    function compact(uint8 v, bytes32 r, bytes32 s) internal pure returns (bytes memory) {
        return abi.encodePacked(r, bytes32(uint256(s) | (uint256(v - 27) << 255)));
    }

    /// @notice Concatenates in linear time.
    function join(bytes[] memory parts) internal pure returns (bytes memory whole) {
        uint256 length;
        for (uint256 i = 0; i < parts.length; ++i) {
            length += parts[i].length;
        }
        whole = new bytes(length);
        uint256 pos;
        for (uint256 i = 0; i < parts.length; ++i) {
            bytes memory part = parts[i];
            assembly ("memory-safe") {
                mcopy(add(add(whole, 0x20), pos), add(part, 0x20), mload(part))
            }
            pos += part.length;
        }
    }
}
