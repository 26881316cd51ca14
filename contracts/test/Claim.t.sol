// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {EscrowTest} from "./support/EscrowTest.sol";

contract ClaimTest is EscrowTest {
    function test_claim_by_voucher_pays_the_receiver() public {
        deposit(1_000);
        claim(voucherBatch(alice, 300));
        assertEq(token.balanceOf(alice), 300, "paid");
        assertEq(balance(), 700, "balance");
        assertEq(claimed(alice), 300, "claimed");
    }

    function test_claim_by_approval_pays_every_receiver() public {
        deposit(1_000);
        claim(approvalBatch(list(alice, bob), list(100, 250)));
        assertEq(token.balanceOf(alice), 100, "paid to alice");
        assertEq(token.balanceOf(bob), 250, "paid to bob");
        assertEq(balance(), 650, "balance");
    }
}
