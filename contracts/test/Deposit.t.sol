// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {HostileToken} from "./mocks/HostileToken.sol";

contract DepositTest is EscrowTest {
    function test_first_deposit_opens_the_account_with_its_configuration() public {
        token.mint(address(this), 500);
        token.approve(address(escrow), 500);
        vm.expectEmit(address(escrow));
        emit IEscrow.AccountOpened(account(), payer, operator, authorizer, address(token), DELAY, bytes32(0), 500);
        escrow.deposit(config(), 500);

        IEscrow.AccountState memory s = state();
        assertTrue(s.opened, "opened");
        assertEq(s.balance, 500, "balance");
        assertEq(s.refundNonce, 0, "refund nonce");
        assertEq(s.withdrawNonce, 0, "withdraw nonce");
        assertEq(s.withdrawableAt, 0, "no withdrawal");
        assertEq(token.balanceOf(address(escrow)), 500, "the escrow's tokens");
    }

    function test_further_deposits_add_up() public {
        deposit(500);
        token.mint(stranger, 70);
        vm.startPrank(stranger);
        token.approve(address(escrow), 70);
        vm.expectEmit(address(escrow));
        emit IEscrow.Deposited(account(), 70, 570);
        escrow.deposit(config(), 70);
        vm.stopPrank();
        assertEq(balance(), 570, "balance");
    }

    function test_an_emptied_account_stays_open() public {
        deposit(500);
        claim(voucherBatch(alice, 500));
        assertEq(balance(), 0, "emptied");
        token.mint(address(this), 10);
        token.approve(address(escrow), 10);
        vm.expectEmit(address(escrow));
        emit IEscrow.Deposited(account(), 10, 10);
        escrow.deposit(config(), 10);
    }

    function test_the_receiver_of_a_configuration_does_not_matter() public {
        token.mint(address(this), 50);
        token.approve(address(escrow), 50);
        IEscrow.ChannelConfig memory c = config();
        c.receiver = alice;
        escrow.deposit(c, 50);
        assertEq(balance(), 50, "balance");
    }

    function test_deposit_reverts_for_amount_zero() public {
        vm.expectRevert(abi.encodeWithSelector(IEscrow.ZeroAmount.selector));
        escrow.deposit(config(), 0);
    }

    function test_deposit_reverts_for_payers_that_could_not_be_paid() public {
        address[3] memory bad = [address(0), address(escrow), address(token)];
        for (uint256 i = 0; i < bad.length; ++i) {
            IEscrow.ChannelConfig memory c = config();
            c.payer = bad[i];
            vm.expectRevert(abi.encodeWithSelector(IEscrow.BadAddress.selector, bytes32("payer"), bad[i]));
            escrow.deposit(c, 1);
        }
    }

    function test_deposit_reverts_for_authorizer_zero() public {
        IEscrow.ChannelConfig memory c = config();
        c.payerAuthorizer = address(0);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadAddress.selector, bytes32("payerAuthorizer"), address(0)));
        escrow.deposit(c, 1);
    }

    function test_deposit_reverts_for_operator_zero() public {
        IEscrow.ChannelConfig memory c = config();
        c.receiverAuthorizer = address(0);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadAddress.selector, bytes32("receiverAuthorizer"), address(0)));
        escrow.deposit(c, 1);
    }

    function test_withdraw_delay_is_bounded() public {
        token.mint(address(this), 2);
        token.approve(address(escrow), 2);
        uint40[2] memory good = [uint40(15 minutes), uint40(30 days)];
        uint40[4] memory bad = [uint40(0), uint40(15 minutes - 1), uint40(30 days + 1), type(uint40).max];
        for (uint256 i = 0; i < good.length; ++i) {
            IEscrow.ChannelConfig memory c = config();
            c.withdrawDelay = good[i];
            escrow.deposit(c, 1);
        }
        for (uint256 i = 0; i < bad.length; ++i) {
            IEscrow.ChannelConfig memory c = config();
            c.withdrawDelay = bad[i];
            vm.expectRevert(
                abi.encodeWithSelector(IEscrow.WithdrawDelayOutOfRange.selector, bad[i], 15 minutes, 30 days)
            );
            escrow.deposit(c, 1);
        }
    }

    function test_deposit_reverts_for_what_is_no_token() public {
        address[2] memory bad = [stranger, address(escrow)];
        for (uint256 i = 0; i < bad.length; ++i) {
            IEscrow.ChannelConfig memory c = config();
            c.token = bad[i];
            vm.expectRevert(abi.encodeWithSelector(IEscrow.NotAToken.selector, bad[i]));
            escrow.deposit(c, 1);
        }
    }

    function test_deposit_reverts_without_allowance() public {
        token.mint(address(this), 5);
        vm.expectRevert();
        escrow.deposit(config(), 5);
    }

    function test_a_balance_cannot_overflow() public {
        deposit(type(uint128).max);
        token.mint(address(this), 1);
        token.approve(address(escrow), 1);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        escrow.deposit(config(), 1);
    }

    /// @dev Bits above an address or delay would otherwise make an id that no well-formed call can name.
    function test_fields_with_more_bits_than_their_type_revert() public {
        for (uint256 word = 0; word < 6; ++word) {
            bytes memory data = abi.encodeCall(escrow.deposit, (config(), 1));
            assembly {
                let field := add(add(data, 0x24), mul(word, 0x20))
                mstore(field, or(mload(field), shl(160, 1)))
            }
            (bool success, bytes memory answer) = address(escrow).call(data);
            assertTrue(!success, "dirty field taken");
            assertEq(answer.length, 0, "refusal of a dirty field");
        }
    }

    // ---------------------------------------------------------------------------------------------- hostile tokens

    function test_a_token_that_takes_a_fee_is_refused() public {
        hostile(HostileToken.Mode.Fee, abi.encodeWithSelector(IEscrow.DepositNotExact.selector, 99, 100));
    }

    function test_a_token_that_gives_more_is_refused() public {
        hostile(HostileToken.Mode.Bonus, abi.encodeWithSelector(IEscrow.DepositNotExact.selector, 101, 100));
    }

    function test_a_token_that_returns_false_is_refused() public {
        HostileToken bad = new HostileToken();
        hostileWith(
            bad, HostileToken.Mode.ReturnFalse, abi.encodeWithSignature("SafeERC20FailedOperation(address)", bad)
        );
    }

    function test_a_token_that_reverts_passes_its_reason_on() public {
        hostile(HostileToken.Mode.Revert, abi.encodeWithSignature("Error(string)", "no"));
    }

    function test_a_token_that_returns_nothing_is_taken() public {
        HostileToken old = new HostileToken();
        old.behave(HostileToken.Mode.ReturnNothing);
        old.mint(address(this), 100);
        IEscrow.ChannelConfig memory c = config();
        c.token = address(old);
        escrow.deposit(c, 100);
        assertEq(escrow.accounts(list(escrow.accountId(c)))[0].balance, 100, "balance");
    }

    function test_a_deposit_cannot_be_booked_twice_by_reentering() public {
        HostileToken bad = new HostileToken();
        IEscrow.ChannelConfig memory c = config();
        c.token = address(bad);
        bad.mint(address(this), 100);
        bad.mint(address(bad), 100);
        bad.reenter(address(escrow), abi.encodeCall(escrow.deposit, (c, 100)));
        escrow.deposit(c, 100);
        assertTrue(!bad.attackSucceeded(), "reentered");
        assertEq(
            bytes32(bad.attackAnswer()),
            bytes32(abi.encodeWithSignature("ReentrancyGuardReentrantCall()")),
            "refused by the guard"
        );
        assertEq(escrow.accounts(list(escrow.accountId(c)))[0].balance, 100, "balance");
    }

    /// @dev Money that arrives during a deposit from elsewhere makes it inexact; it can never be booked.
    function test_a_donation_during_a_deposit_is_not_booked() public {
        HostileToken bad = new HostileToken();
        IEscrow.ChannelConfig memory c = config();
        c.token = address(bad);
        bad.mint(address(this), 100);
        bad.reenter(address(bad), abi.encodeCall(bad.mint, (address(escrow), 7)));
        vm.expectRevert(abi.encodeWithSelector(IEscrow.DepositNotExact.selector, 107, 100));
        escrow.deposit(c, 100);
    }

    function hostile(HostileToken.Mode mode, bytes memory expected) internal {
        hostileWith(new HostileToken(), mode, expected);
    }

    function hostileWith(HostileToken bad, HostileToken.Mode mode, bytes memory expected) internal {
        bad.behave(mode);
        bad.mint(address(this), 100);
        IEscrow.ChannelConfig memory c = config();
        c.token = address(bad);
        vm.expectRevert(expected);
        escrow.deposit(c, 100);
        assertEq(escrow.accounts(list(escrow.accountId(c)))[0].balance, 0, "balance");
    }
}
