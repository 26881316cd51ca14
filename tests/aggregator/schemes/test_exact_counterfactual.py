"""Payers whose wallet is deployed by their first payment (ERC-6492): which are paid for, and which are refused."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest
from chain_twin import CONTRACT_WALLET_SIGNATURE, TokenTwin
from doubles import NETWORK, Payer
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st
from marketplace import EXACT_TERMS, PRICE, Marketplace, marketplace, transfer_of

from tallystick.facilitator import Settled, Verified
from tallystick.hexadecimal import checksum
from tallystick.reasons import Reason
from tallystick.x402 import ExactAuthorization
from tallystick_aggregator.auth.transfer_limits import TransferLimits
from tallystick_aggregator.chain.multicall import MULTICALL3_ADDRESS
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.exact.authorizations import ERC6492_SUFFIX
from tallystick_aggregator.schemes.exact.counterfactual import Unwrapped, unwrap
from tallystick_aggregator.schemes.exact.preconditions import BY_CONTRACT_AT_ONCE, DEPLOYING_GAS_MAX
from tallystick_aggregator.schemes.port import Caller
from tallystick_aggregator.store.port import TransactionStatus

WALLET = Payer("wallet")
ADDRESS = WALLET.signer.address
FACTORY, STRANGE = b"\xfa" * 20, b"\x57" * 20
CALLER = Caller("news", bytes(16), bytes(32))


@pytest.fixture
async def market() -> AsyncIterator[Marketplace]:
    """One whose operator lists FACTORY; the wallet has money and no code."""
    async with marketplace(limits=TransferLimits(erc6492_factories=frozenset({FACTORY}))) as opened:
        opened.chain.balances[ADDRESS] = 100 * PRICE
        opened.chain.contract_wallets.add(MULTICALL3_ADDRESS)
        yield opened


def wrapped(signature: bytes, factory: bytes = FACTORY, data: bytes = ADDRESS) -> bytes:
    return encode(["address", "bytes", "bytes"], [factory, data, signature]) + ERC6492_SUFFIX


def by_wallet(number: int = 0, *, factory: bytes = FACTORY, data: bytes = ADDRESS) -> ExactAuthorization:
    return replace(transfer_of(WALLET, number), signature=wrapped(CONTRACT_WALLET_SIGNATURE, factory, data))


async def refused(market: Marketplace, transfer: ExactAuthorization) -> Refusal:
    """By verify and by settle alike, and nothing is sent."""
    answers = [await ask(EXACT_TERMS, transfer, CALLER) for ask in (market.exact.verify, market.exact.settle)]
    assert isinstance(answers[0], Refusal), answers
    assert answers[0] == answers[1]
    assert not market.chain.sent
    return answers[0]


async def test_a_listed_factorys_wallet_is_deployed_by_its_first_payment(market: Marketplace) -> None:
    assert isinstance(await market.exact.verify(EXACT_TERMS, by_wallet()), Verified)
    settled = await market.exact.settle(EXACT_TERMS, by_wallet())
    assert isinstance(settled, Settled)
    (sent,) = market.chain.sent
    assert (sent.to, sent.payer) == (MULTICALL3_ADDRESS, ADDRESS)
    assert sent.gas_limit <= DEPLOYING_GAS_MAX
    assert ADDRESS in market.chain.contract_wallets
    assert market.chain.balances[EXACT_TERMS.pay_to] == PRICE


async def test_settling_again_answers_from_the_outbox(market: Marketplace) -> None:
    first = await market.exact.settle(EXACT_TERMS, by_wallet(), CALLER)
    assert await market.exact.settle(EXACT_TERMS, by_wallet(), CALLER) == first
    assert len(market.chain.sent) == 1


async def test_the_same_signature_without_its_wrapper_is_the_same_payment(market: Marketplace) -> None:
    first = await market.exact.settle(EXACT_TERMS, by_wallet(), CALLER)
    bare = replace(transfer_of(WALLET), signature=CONTRACT_WALLET_SIGNATURE)
    assert await market.exact.settle(EXACT_TERMS, bare, CALLER) == first
    assert len(market.chain.sent) == 1


@pytest.mark.parametrize("factory", [FACTORY, STRANGE])
async def test_a_wallet_that_has_code_is_paid_the_ordinary_way(market: Marketplace, factory: bytes) -> None:
    market.chain.contract_wallets.add(ADDRESS)
    assert isinstance(await market.exact.settle(EXACT_TERMS, by_wallet(factory=factory)), Settled)
    assert market.chain.sent[0].to == EXACT_TERMS.asset


async def test_a_wallet_that_somebody_deploys_meanwhile_pays_all_the_same(market: Marketplace) -> None:
    market.chain.held = True
    pending = await market.exact.settle(EXACT_TERMS, by_wallet(), CALLER)
    assert isinstance(pending, Refusal)
    market.chain.contract_wallets.add(ADDRESS)
    market.chain.held = False
    assert isinstance(await market.exact.settle(EXACT_TERMS, by_wallet(), CALLER), Settled)


async def test_a_factory_that_is_not_listed_is_refused_and_named(market: Marketplace) -> None:
    refusal = await refused(market, by_wallet(factory=STRANGE))
    assert (refusal.reason, refusal.field) == (Reason.EXACT_SIGNATURE, "signature")
    assert (refusal.got, refusal.allowed) == (checksum(STRANGE), checksum(FACTORY))
    assert refusal.code == "eip6492_factory_not_allowed"
    assert market.chain.simulated == 0


async def test_without_a_list_every_wrapper_is_refused() -> None:
    async with marketplace() as market:
        market.chain.balances[ADDRESS] = PRICE
        market.chain.contract_wallets.add(MULTICALL3_ADDRESS)
        refusal = await refused(market, by_wallet())
        assert refusal.code == "invalid_exact_evm_payload_undeployed_smart_wallet"
        assert market.chain.simulated == 0


async def test_a_chain_without_multicall3_refuses_it(market: Marketplace) -> None:
    market.chain.contract_wallets.remove(MULTICALL3_ADDRESS)
    refusal = await refused(market, by_wallet())
    assert refusal.code == "invalid_exact_evm_payload_undeployed_smart_wallet"
    assert NETWORK in refusal.allowed
    assert market.chain.simulated == 0


@pytest.mark.parametrize(
    "signature",
    [
        ERC6492_SUFFIX,
        b"\xff" * 96 + ERC6492_SUFFIX,
        b"\x01" * 31 + wrapped(CONTRACT_WALLET_SIGNATURE)[31:],
        wrapped(CONTRACT_WALLET_SIGNATURE)[:96] + ERC6492_SUFFIX,
    ],
)
async def test_a_wrapper_that_cannot_be_read_is_refused(market: Marketplace, signature: bytes) -> None:
    refusal = await refused(market, replace(transfer_of(WALLET), signature=signature))
    assert (refusal.reason, refusal.field) == (Reason.EXACT_SIGNATURE, "signature")
    assert refusal.allowed == "(factory, factoryCalldata, signature)"


@pytest.mark.parametrize("inner", [b"", wrapped(CONTRACT_WALLET_SIGNATURE)])
async def test_a_wrapper_around_nothing_or_around_another_is_refused(market: Marketplace, inner: bytes) -> None:
    refusal = await refused(market, replace(transfer_of(WALLET), signature=wrapped(inner)))
    assert refusal.reason is Reason.EXACT_SIGNATURE
    assert market.chain.simulated == 0


@given(st.binary(max_size=300))
def test_no_wrapper_raises_anything(content: bytes) -> None:
    transfer = replace(transfer_of(WALLET), signature=content + ERC6492_SUFFIX)
    assert isinstance(unwrap(TokenTwin(cast("Any", None)), transfer), Unwrapped | Refusal)


async def test_x2_a_deployment_above_the_gas_cap_is_refused_and_named(market: Marketplace) -> None:
    market.chain.wallet_gas[ADDRESS] = DEPLOYING_GAS_MAX + 1
    refusal = await refused(market, by_wallet())
    assert (refusal.reason, refusal.allowed) == (Reason.EXACT_GAS, f"at most {DEPLOYING_GAS_MAX}")
    assert checksum(FACTORY) in refusal.message


async def test_x5_a_sender_that_can_pay_for_a_transfer_alone_deploys_nothing(market: Marketplace) -> None:
    market.chain.gas_money = DEPLOYING_GAS_MAX - 1
    assert (await refused(market, by_wallet())).reason is Reason.EXACT_UNAVAILABLE
    assert isinstance(await market.exact.verify(EXACT_TERMS, transfer_of(WALLET, 1), CALLER), Verified)


async def test_a_call_that_deploys_another_wallet_pays_nothing(market: Marketplace) -> None:
    refusal = await refused(market, by_wallet(data=STRANGE))
    assert refusal.reason is Reason.EXACT_SIGNATURE
    assert checksum(FACTORY) in refusal.message
    assert STRANGE not in market.chain.contract_wallets


async def test_a_payer_whose_own_key_signed_deploys_nothing(market: Marketplace) -> None:
    """The operator would pay for somebody's deployment that the transfer does not need."""
    transfer = transfer_of(WALLET)
    transfer = replace(transfer, signature=wrapped(transfer.signature, data=STRANGE))
    assert isinstance(await market.exact.settle(EXACT_TERMS, transfer), Settled)
    assert market.chain.sent[0].to == EXACT_TERMS.asset
    assert STRANGE not in market.chain.contract_wallets


async def test_x3_a_wallet_without_code_has_few_transfers_under_way(market: Marketplace) -> None:
    market.chain.held = True
    for number in range(BY_CONTRACT_AT_ONCE):
        await market.exact.settle(EXACT_TERMS, by_wallet(number), CALLER)
    assert len(market.chain.sent) == BY_CONTRACT_AT_ONCE
    refusal = await market.exact.settle(EXACT_TERMS, by_wallet(BY_CONTRACT_AT_ONCE), CALLER)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.field) == (Reason.PAYMENT_PENDING, "from")


async def test_x3_a_wallet_whose_deployment_reverts_on_chain_is_barred(market: Marketplace) -> None:
    market.chain.fate = TransactionStatus.REVERTED
    assert isinstance(await market.exact.settle(EXACT_TERMS, by_wallet(), CALLER), Refusal)
    market.chain.fate = TransactionStatus.MINED
    refusal = await market.exact.settle(EXACT_TERMS, by_wallet(1), CALLER)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.EXACT_PAYER_BARRED
