// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {MinimalToken} from "../src/test/MinimalToken.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {HostileToken} from "./mocks/HostileToken.sol";
import {SmartWallet} from "./mocks/SmartWallet.sol";

contract DepositWithAuthorizationTest is EscrowTest {
    bytes32 internal constant SALT = keccak256("salt");
    uint256 internal constant EXPIRES = START + 1 hours;

    function setUp() public override {
        super.setUp();
        token.mint(payer, 1_000);
    }

    function test_anyone_lands_a_payers_authorization() public {
        vm.expectEmit(address(escrow));
        emit IEscrow.AccountOpened(account(), payer, operator, authorizer, address(token), DELAY, bytes32(0), 400);
        assertTrue(land(stranger, 400), "credited");
        assertEq(balance(), 400, "balance");
        assertEq(token.balanceOf(payer), 600, "the payer's tokens");
        assertTrue(token.authorizationState(payer, escrow.depositNonce(account(), SALT)), "nonce used");
    }

    function test_a_deposit_that_somebody_else_landed_first_is_no_error_and_counts_once() public {
        assertTrue(land(stranger, 400), "the first credits");
        vm.recordLogs();
        assertTrue(!land(operator, 400), "the second does not");
        assertEq(vm.getRecordedLogs().length, 0, "events of the second");
        assertEq(balance(), 400, "balance");
    }

    function test_an_authorization_that_the_payer_cancelled_credits_nothing() public {
        bytes32 nonce = escrow.depositNonce(account(), SALT);
        bytes32 structHash = keccak256(abi.encode(token.CANCEL_AUTHORIZATION_TYPEHASH(), payer, nonce));
        token.cancelAuthorization(payer, nonce, sign(PAYER_KEY, tokenDigest(structHash)));
        assertTrue(!land(stranger, 400), "credited");
        assertEq(balance(), 0, "balance");
        assertTrue(!state().opened, "opened");
    }

    function test_a_used_nonce_is_no_way_to_credit_another_amount() public {
        land(stranger, 400);
        assertTrue(!land(stranger, 500), "credited");
        assertEq(balance(), 400, "balance");
    }

    function test_an_authorization_cannot_be_credited_to_another_account() public {
        bytes memory signature = signReceive(400);
        IEscrow.ChannelConfig memory c = config();
        c.receiverAuthorizer = stranger;
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "FiatTokenV2: invalid signature"));
        escrow.depositWithAuthorization(c, 400, 0, EXPIRES, SALT, signature);
    }

    function test_nobody_but_the_escrow_can_use_the_authorization() public {
        bytes memory signature = signReceive(400);
        bytes32 nonce = escrow.depositNonce(account(), SALT);
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "FiatTokenV2: caller must be the payee"));
        token.receiveWithAuthorization(payer, address(escrow), 400, 0, EXPIRES, nonce, signature);
    }

    function test_what_the_token_refuses_is_passed_on() public {
        bytes memory signature = signReceive(400);
        vm.warp(EXPIRES);
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "FiatTokenV2: authorization is expired"));
        escrow.depositWithAuthorization(config(), 400, 0, EXPIRES, SALT, signature);
    }

    function test_a_bad_configuration_is_refused_before_the_token_is_asked() public {
        bytes memory signature = signReceive(400);
        IEscrow.ChannelConfig memory c = config();
        c.payerAuthorizer = address(0);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.BadAddress.selector, bytes32("payerAuthorizer"), address(0)));
        escrow.depositWithAuthorization(c, 400, 0, EXPIRES, SALT, signature);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.ZeroAmount.selector));
        escrow.depositWithAuthorization(config(), 0, 0, EXPIRES, SALT, signature);
    }

    function test_a_smart_wallet_deposits_by_its_contract_signature() public {
        SmartWallet wallet = new SmartWallet();
        token.mint(address(wallet), 100);
        payer = address(wallet);
        bytes memory signature = wallet.signatureOf(receiveDigest(100));
        assertTrue(escrow.depositWithAuthorization(config(), 100, 0, EXPIRES, SALT, signature), "credited");
        assertEq(balance(), 100, "balance");
        assertTrue(!escrow.depositWithAuthorization(config(), 100, 0, EXPIRES, SALT, signature), "credited again");
    }

    function test_a_refused_contract_signature_is_passed_on() public {
        SmartWallet wallet = new SmartWallet();
        token.mint(address(wallet), 100);
        payer = address(wallet);
        bytes memory signature = wallet.signatureOf(receiveDigest(100));
        wallet.disable();
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "FiatTokenV2: invalid signature"));
        escrow.depositWithAuthorization(config(), 100, 0, EXPIRES, SALT, signature);
    }

    function test_a_token_with_only_the_standards_form_will_do() public {
        MinimalToken minimal = new MinimalToken();
        minimal.mint(payer, 100);
        IEscrow.ChannelConfig memory c = config();
        c.token = address(minimal);
        bytes32 structHash = keccak256(
            abi.encode(
                token.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
                payer,
                address(escrow),
                100,
                0,
                EXPIRES,
                escrow.depositNonce(escrow.accountId(c), SALT)
            )
        );
        bytes32 digest = keccak256(abi.encodePacked("\x19\x01", minimal.DOMAIN_SEPARATOR(), structHash));
        escrow.depositWithAuthorization(c, 100, 0, EXPIRES, SALT, sign(PAYER_KEY, digest));
        assertEq(escrow.accounts(list(escrow.accountId(c)))[0].balance, 100, "balance");
    }

    function test_a_token_that_delivers_less_than_authorised_is_refused() public {
        HostileToken bad = new HostileToken();
        bad.behave(HostileToken.Mode.Fee);
        bad.mint(payer, 100);
        IEscrow.ChannelConfig memory c = config();
        c.token = address(bad);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.DepositNotExact.selector, 99, 100));
        escrow.depositWithAuthorization(c, 100, 0, EXPIRES, SALT, new bytes(65));
    }

    function test_a_token_that_moves_nothing_credits_nothing() public {
        HostileToken bad = new HostileToken();
        bad.behave(HostileToken.Mode.ReturnFalse);
        bad.mint(payer, 100);
        IEscrow.ChannelConfig memory c = config();
        c.token = address(bad);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.DepositNotExact.selector, 0, 100));
        escrow.depositWithAuthorization(c, 100, 0, EXPIRES, SALT, new bytes(65));
    }

    function land(address sender, uint128 amount) internal returns (bool) {
        bytes memory signature = signReceive(amount);
        vm.prank(sender);
        return escrow.depositWithAuthorization(config(), amount, 0, EXPIRES, SALT, signature);
    }

    function signReceive(uint128 amount) internal view returns (bytes memory) {
        return sign(PAYER_KEY, receiveDigest(amount));
    }

    function receiveDigest(uint128 amount) internal view returns (bytes32) {
        return tokenDigest(
            keccak256(
                abi.encode(
                    token.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
                    payer,
                    address(escrow),
                    amount,
                    0,
                    EXPIRES,
                    escrow.depositNonce(account(), SALT)
                )
            )
        );
    }

    function tokenDigest(bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), structHash));
    }
}
