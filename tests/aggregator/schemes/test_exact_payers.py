"""X2, X5, X7, X10: payers whose contracts burn gas, senders without gas money, odd signatures, empty purses."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from chain_twin import CONTRACT_WALLET_SIGNATURE
from doubles import NETWORK, Payer
from marketplace import EXACT_TERMS, PRICE, Marketplace, deposit_of, transfer_of

from tallystick.facilitator import Settled, Verified
from tallystick.hexadecimal import checksum
from tallystick.reasons import Reason
from tallystick.signatures import ORDER
from tallystick.x402 import ExactAuthorization
from tallystick_aggregator.accounts.deposits import DEPOSIT_GAS_MAX
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.exact.authorizations import describe_code
from tallystick_aggregator.schemes.exact.preconditions import (
    FRESH_S,
    PROBE_GAS_MAX,
    TRANSFER_GAS_MAX,
    UNPROVEN_BURST,
    GasMoney,
)
from tallystick_aggregator.schemes.port import Caller

ALICE = Payer("alice")
WALLET = Payer("wallet")
ADDRESS, CONTRACT = ALICE.signer.address, WALLET.signer.address
CALLER = Caller("news", bytes(16), bytes(32))


@pytest.fixture(autouse=True)
def _money(market: Marketplace) -> None:
    market.chain.balances.update({ADDRESS: 1_000, CONTRACT: 10_000})
    market.chain.contract_wallets.add(CONTRACT)


def refused(answer: object) -> Refusal:
    assert isinstance(answer, Refusal), answer
    return answer


def by_contract(number: int = 0) -> ExactAuthorization:
    return replace(transfer_of(WALLET, number), signature=CONTRACT_WALLET_SIGNATURE)


# X2.


@pytest.mark.parametrize("burns", [TRANSFER_GAS_MAX + 1, PROBE_GAS_MAX])
async def test_x2_a_contract_that_burns_more_than_the_cap_is_refused_and_named(market: Marketplace, burns: int) -> None:
    market.chain.wallet_gas[CONTRACT] = burns
    for ask in (market.exact.verify, market.exact.settle):
        refusal = refused(await ask(EXACT_TERMS, by_contract(), CALLER))
        assert (refusal.reason, refusal.allowed) == (Reason.EXACT_GAS, f"at most {TRANSFER_GAS_MAX}")
        assert checksum(CONTRACT) in refusal.message
    assert not market.chain.sent


async def test_x2_a_contract_that_never_ends_is_refused_like_one_that_says_no(market: Marketplace) -> None:
    market.chain.wallet_gas[CONTRACT] = 10**9
    refusal = refused(await market.exact.settle(EXACT_TERMS, by_contract(), CALLER))
    assert refusal.reason is Reason.EXACT_SIGNATURE
    assert checksum(CONTRACT) in refusal.message
    assert not market.chain.sent


async def test_x2_a_contract_within_the_cap_pays_and_its_transaction_has_no_more_gas(market: Marketplace) -> None:
    market.chain.wallet_gas[CONTRACT] = TRANSFER_GAS_MAX
    assert isinstance(await market.exact.settle(EXACT_TERMS, by_contract()), Settled)
    assert market.chain.sent[0].gas_limit <= TRANSFER_GAS_MAX


async def test_x2_a_contract_that_burns_more_only_when_it_is_sent_is_refused_then(market: Marketplace) -> None:
    assert isinstance(await market.exact.verify(EXACT_TERMS, by_contract(), CALLER), Verified)
    simulate = market.chain.simulate

    async def then_burn(*arguments: object, **rest: object) -> None:
        await simulate(*arguments, **rest)  # type: ignore[arg-type]
        market.chain.wallet_gas[CONTRACT] = 10**9

    market.chain.simulate = then_burn  # type: ignore[assignment,method-assign]
    assert refused(await market.exact.settle(EXACT_TERMS, by_contract(), CALLER)).reason is Reason.SIMULATION_FAILED
    assert not market.chain.sent


async def test_x2_a_deposit_of_a_contract_that_burns_gas_is_not_sent(market: Marketplace) -> None:
    deposit = replace(deposit_of(WALLET, 5_000), signature=CONTRACT_WALLET_SIGNATURE)
    market.chain.wallet_gas[CONTRACT] = DEPOSIT_GAS_MAX + 1
    assert refused(await market.deposits.deposit(NETWORK, deposit)).reason is Reason.DEPOSIT_AUTHORIZATION
    assert not market.chain.sent
    market.chain.wallet_gas[CONTRACT] = DEPOSIT_GAS_MAX
    await market.deposits.deposit(NETWORK, deposit)
    assert [sent.gas_limit <= DEPOSIT_GAS_MAX for sent in market.chain.sent] == [True]


def test_x2_a_delegated_account_is_named_with_its_contract() -> None:
    text = describe_code(ADDRESS, bytes.fromhex("ef0100") + CONTRACT)
    assert checksum(ADDRESS) in text
    assert checksum(CONTRACT) in text


# X5.


async def test_x5_exact_is_refused_while_the_sender_cannot_pay_for_gas(market: Marketplace) -> None:
    market.chain.gas_money = TRANSFER_GAS_MAX - 1
    for ask in (market.exact.verify, market.exact.settle):
        refusal = refused(await ask(EXACT_TERMS, transfer_of(ALICE), CALLER))
        assert (refusal.reason, refusal.reason.retry) == (Reason.EXACT_UNAVAILABLE, True)
    assert not await market.exact.is_offered(NETWORK)
    assert not market.chain.sent


async def test_x5_what_was_sent_before_is_answered_though_the_sender_is_poor_now(market: Marketplace) -> None:
    market.chain.held = True
    transfer = transfer_of(ALICE)
    await market.exact.settle(EXACT_TERMS, transfer, CALLER)
    market.chain.gas_money, market.chain.held = 0, False
    assert isinstance(await market.exact.settle(EXACT_TERMS, transfer, CALLER), Settled)


async def test_x5_the_senders_money_is_read_again_after_some_seconds(market: Marketplace) -> None:
    now = [100.0]
    money = GasMoney(market.chain, lambda: now[0])
    assert await money.suffices()
    market.chain.gas_money = 0
    now[0] += FRESH_S - 0.1
    assert await money.suffices()
    now[0] += 0.1
    assert not await money.suffices()


async def test_x5_a_chain_that_does_not_answer_withdraws_no_offer(market: Marketplace) -> None:
    market.chain.down = True
    assert await market.exact.is_offered(NETWORK)


# X7.


def low_v(transfer: ExactAuthorization) -> ExactAuthorization:
    signature = transfer.signature
    return replace(transfer, signature=signature[:64] + bytes((signature[64] - 27,)))


def compact(transfer: ExactAuthorization) -> ExactAuthorization:
    r, s, v = transfer.signature[:32], int.from_bytes(transfer.signature[32:64], "big"), transfer.signature[64]
    return replace(transfer, signature=r + (s | (v - 27) << 255).to_bytes(32, "big"))


def high_s(transfer: ExactAuthorization) -> ExactAuthorization:
    r, s, v = transfer.signature[:32], int.from_bytes(transfer.signature[32:64], "big"), transfer.signature[64]
    return replace(transfer, signature=r + (ORDER - s).to_bytes(32, "big") + bytes((55 - v,)))


async def test_x7_a_recovery_id_of_0_or_1_counts_as_v_of_27_or_28(market: Marketplace) -> None:
    seen: set[int] = set()
    market.chain.balances[ADDRESS] = 100 * PRICE
    for number in range(UNPROVEN_BURST + 10):
        transfer = low_v(transfer_of(ALICE, number))
        seen.add(transfer.signature[64])
        assert isinstance(await market.exact.verify(EXACT_TERMS, transfer), Verified)
        assert isinstance(await market.exact.settle(EXACT_TERMS, transfer), Settled)
        again = await market.exact.settle(EXACT_TERMS, transfer_of(ALICE, number))
        assert isinstance(again, Settled), "the same payment, whichever way v is written"
        assert again.replayed
    assert seen == {0, 1}


@pytest.mark.parametrize("spoil", [compact, high_s, lambda t: replace(t, signature=b"\x01" * 65)])
async def test_x7_signatures_of_plain_keys_that_no_token_takes_are_refused_clearly_and_cost_wallets_nothing(
    market: Marketplace, spoil: Callable[[ExactAuthorization], ExactAuthorization]
) -> None:
    for number in range(UNPROVEN_BURST + 10):
        refusal = refused(await market.exact.verify(EXACT_TERMS, spoil(transfer_of(ALICE, number))))
        assert (refusal.reason, refusal.field) == (Reason.EXACT_SIGNATURE, "signature")
        assert refusal.allowed == "65 bytes (r, s, v) of the payer's key, s in the lower half"
    assert market.chain.simulated == 0
    assert isinstance(await market.exact.verify(EXACT_TERMS, by_contract()), Verified)


async def test_x7_the_signature_of_a_contract_is_not_touched(market: Marketplace) -> None:
    """A Safe's signature of 65 bytes ends in 0 or 1, and means something else."""
    transfer = replace(transfer_of(WALLET), signature=bytes(64) + b"\x01")
    refusal = refused(await market.exact.verify(EXACT_TERMS, transfer))
    assert checksum(CONTRACT) in refusal.message


# X10.


async def test_x10_an_empty_purse_is_told_so_before_anything_is_counted(market: Marketplace) -> None:
    market.chain.balances.update({ADDRESS: 1, CONTRACT: 1})
    for number in range(UNPROVEN_BURST + 10):
        for transfer in (transfer_of(ALICE, number), by_contract(number)):
            refusal = refused(await market.exact.verify(EXACT_TERMS, transfer, CALLER))
            assert (refusal.reason, refusal.allowed) == (Reason.INSUFFICIENT_BALANCE, "at most 1")
    market.chain.balances[CONTRACT] = PRICE
    assert isinstance(await market.exact.verify(EXACT_TERMS, by_contract(), CALLER), Verified)
