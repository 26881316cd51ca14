// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title TestPermitToken
/// @notice Play money without ERC-3009: approvals by signature (EIP-2612) are all that it takes from its holders' keys.
/// @dev Anyone may mint. For tests only.
contract TestPermitToken is ERC20, ERC20Permit {
    constructor() ERC20("Permit Dollar", "PUSD") ERC20Permit("Permit Dollar") {}

    function decimals() public pure override returns (uint8) {
        return 6;
    }

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}
