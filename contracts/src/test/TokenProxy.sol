// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ERC1967Proxy} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Proxy.sol";

/// @title TokenProxy
/// @notice Puts a test token behind a proxy, as the stablecoins in use are.
contract TokenProxy is ERC1967Proxy {
    constructor(address implementation) ERC1967Proxy(implementation, "") {}

    /// @dev The proxied test tokens need no initialisation: their metadata are constants and immutables.
    function _unsafeAllowUninitialized() internal pure override returns (bool) {
        return true;
    }
}
