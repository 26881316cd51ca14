"""X2, X5, X7 on a chain: what contracts of payers may burn, what a sender can pay for, and what a token takes for v."""

import time
from dataclasses import replace
from hashlib import sha256

import pytest
from harness import Side, chain_side

from _anvil import hexed
from anvil import NETWORK, Devnet, Payer, receiver
from tallystick import eip712
from tallystick.eip712 import ESCROW_NAME, ESCROW_VERSION
from tallystick.facilitator import Settled, Verified
from tallystick.hexadecimal import checksum
from tallystick.reasons import Reason
from tallystick.tokens import Token
from tallystick.x402 import SCHEME_EXACT, ExactAuthorization, Network, PaymentTerms
from tallystick_aggregator.accounts.offers import EscrowOffer
from tallystick_aggregator.chain.port import Chain, OutOfGasError, Send
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.exact import ExactPayments
from tallystick_aggregator.schemes.exact.preconditions import TRANSFER_GAS_MAX
from tallystick_aggregator.schemes.port import Caller
from tallystick_aggregator.store.port import TransactionKind

NEWS = receiver(1)
VALUE = 1_000
CALLER = Caller("news", bytes(16), bytes(32))
ENDLESS = bytes.fromhex("5b600056")
"""JUMPDEST, and back to it."""
YES = bytes.fromhex("7f1626ba7e" + "00" * 28 + "60005260206000f3")
"""Answers the magic value of ERC-1271 to everything."""


def burning(gas: int) -> bytes:
    """Code that burns about so much gas, and then says yes."""
    rounds = gas // 36
    # PUSH3 rounds; JUMPDEST; PUSH1 1; SWAP1; SUB; DUP1; PUSH1 4; JUMPI
    return bytes.fromhex("62") + rounds.to_bytes(3, "big") + bytes.fromhex("5b6001900380600457") + YES


def exact_over(side: Side, devnet: Devnet, chain: Chain | None = None) -> ExactPayments:
    token = devnet.token_settings
    offered = {token.address: Token(token.address, token.symbol, token.decimals, token.name, token.version, 0)}
    offer = EscrowOffer(
        NETWORK, devnet.escrow, ESCROW_NAME, ESCROW_VERSION, devnet.operator.address, offered, 900, 2**20, 86_400
    )
    return ExactPayments({offer.ref: chain or side.chain}, {offer.ref: offer}, side.outbox, lambda: int(time.time()))


def terms_of(devnet: Devnet) -> PaymentTerms:
    return PaymentTerms(SCHEME_EXACT, Network.parse(NETWORK, "network"), VALUE, devnet.token, NEWS)


def transfer_of(devnet: Devnet, payer: Payer, number: int = 0) -> ExactAuthorization:
    nonce = sha256(b"transfer %d" % number).digest()
    transfer = ExactAuthorization(payer.signer.address, NEWS, VALUE, 0, int(time.time()) + 600, nonce, b"")
    struct = eip712.hash_transfer_with_authorization(
        transfer.from_, transfer.to, transfer.value, transfer.valid_after, transfer.valid_before, nonce
    )
    return replace(transfer, signature=payer.signer.sign(eip712.digest(devnet.token_domain, struct)))


def rich(devnet: Devnet) -> Payer:
    payer = devnet.payer()
    devnet.anvil.mint(devnet.token, payer.signer.address, 10 * VALUE)
    return payer


@pytest.mark.parametrize("code", [ENDLESS, burning(5_000_000)])
@pytest.mark.parametrize("signature", [None, b"whatever"])
async def test_x2_a_payer_whose_contract_burns_gas_costs_no_transaction(
    devnet: Devnet, code: bytes, signature: bytes | None
) -> None:
    payer = rich(devnet)
    devnet.anvil.rpc("anvil_setCode", hexed(payer.signer.address), hexed(code))
    async with chain_side(devnet) as side:
        exact = exact_over(side, devnet)
        transfer = transfer_of(devnet, payer)
        transfer = transfer if signature is None else replace(transfer, signature=signature)
        for ask in (exact.verify, exact.settle):
            refusal = await ask(terms_of(devnet), transfer, CALLER)
            assert isinstance(refusal, Refusal)
            assert refusal.reason in {Reason.EXACT_SIGNATURE, Reason.EXACT_GAS, Reason.SIMULATION_FAILED}
            if signature is not None:
                assert checksum(payer.signer.address) in refusal.message
        assert await side.outbox.open(NETWORK) == []
    assert devnet.anvil.rpc("eth_getTransactionCount", hexed(devnet.sender.address), "latest") == "0x0"


async def test_x2_a_contract_that_asks_for_somewhat_too_much_is_told_the_limit(devnet: Devnet) -> None:
    payer = rich(devnet)
    devnet.anvil.rpc("anvil_setCode", hexed(payer.signer.address), hexed(burning(TRANSFER_GAS_MAX)))
    async with chain_side(devnet) as side:
        refusal = await exact_over(side, devnet).verify(
            terms_of(devnet), replace(transfer_of(devnet, payer), signature=b"whatever"), CALLER
        )
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.allowed) == (Reason.EXACT_GAS, f"at most {TRANSFER_GAS_MAX}"), refusal
    assert checksum(payer.signer.address) in refusal.message


@pytest.mark.parametrize("code", [YES, burning(60_000)])
async def test_x2_a_contract_wallet_within_the_limit_pays_with_a_bounded_transaction(
    devnet: Devnet, code: bytes
) -> None:
    payer = rich(devnet)
    devnet.anvil.rpc("anvil_setCode", hexed(payer.signer.address), hexed(code))
    async with chain_side(devnet) as side:
        transfer = replace(transfer_of(devnet, payer), signature=b"whatever")
        answer = await exact_over(side, devnet).settle(terms_of(devnet), transfer, CALLER)
        assert isinstance(answer, Settled)
    sent = devnet.anvil.rpc("eth_getTransactionByHash", hexed(answer.transaction))
    assert int(sent["gas"], 16) <= TRANSFER_GAS_MAX
    assert devnet.balance(NEWS) == VALUE


async def test_x2_a_call_that_needs_more_than_its_gas_is_told_from_one_that_fails(devnet: Devnet) -> None:
    payer = rich(devnet)
    async with chain_side(devnet) as side:
        call = side.chain.tokens[devnet.token].transfer_call(transfer_of(devnet, payer))
        await side.chain.simulate(call, await side.chain.head(), gas_max=TRANSFER_GAS_MAX)
        with pytest.raises(OutOfGasError):
            await side.chain.simulate(call, await side.chain.head(), gas_max=40_000)


async def test_x5_the_gas_that_a_sender_can_pay_for_counts_what_it_has_sent(devnet: Devnet) -> None:
    payer = rich(devnet)
    sender = hexed(devnet.sender.address)
    async with chain_side(devnet) as side:
        exact = exact_over(side, devnet)
        plenty = await side.chain.gas_affordable()
        assert plenty > 10 * TRANSFER_GAS_MAX
        devnet.anvil.automine(on=False)
        await exact.verify(terms_of(devnet), transfer_of(devnet, payer), CALLER)
        call = side.chain.tokens[devnet.token].transfer_call(transfer_of(devnet, payer))
        sent = await side.chain.send(Send(TransactionKind.EXACT, bytes(32), call, gas_max=TRANSFER_GAS_MAX))
        assert plenty - await side.chain.gas_affordable() >= sent.gas_limit
        devnet.anvil.automine(on=True)
        devnet.anvil.rpc("evm_mine")
        await side.chain.wait(sent, timeout_s=10)
        devnet.anvil.rpc("anvil_setBalance", sender, hex(10**9))
        poor = exact_over(side, devnet)
        refusal = await poor.verify(terms_of(devnet), transfer_of(devnet, payer, 1), CALLER)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.EXACT_UNAVAILABLE
        assert not await poor.is_offered(NETWORK)


async def test_x7_a_recovery_id_instead_of_v_is_taken_by_the_token_once_it_is_written_its_way(devnet: Devnet) -> None:
    payer = rich(devnet)
    async with chain_side(devnet) as side:
        exact = exact_over(side, devnet)
        transfer = transfer_of(devnet, payer)
        low = replace(transfer, signature=transfer.signature[:64] + bytes((transfer.signature[64] - 27,)))
        assert isinstance(await exact.verify(terms_of(devnet), low, CALLER), Verified)
        assert isinstance(await exact.settle(terms_of(devnet), low, CALLER), Settled)
    assert devnet.balance(NEWS) == VALUE


async def test_x1_the_owner_of_a_transfer_stands_in_the_outbox(devnet: Devnet) -> None:
    payer, other = rich(devnet), Caller("news", bytes([1]) * 16, bytes(32))
    transfer, terms = transfer_of(devnet, payer), terms_of(devnet)
    async with chain_side(devnet) as side:
        settled = await exact_over(side, devnet).settle(terms, transfer, CALLER)
        assert isinstance(settled, Settled)
        later = exact_over(side, devnet)
        assert await later.settle(terms, transfer, CALLER) == settled
        refusal = await later.settle(terms, transfer, other)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.PAYMENT_USED
