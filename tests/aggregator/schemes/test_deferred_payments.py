import asyncio
from dataclasses import replace

import pytest
from doubles import ESCROW_REF, MUSIC, NEWS, NOW_MS, OTHER_PAGE, Payer
from failing_disk import Fault, MemoryDisk, Operation
from marketplace import PRICE, TERMS, Marketplace, marketplace

from tallystick.charges import DeferredCharge
from tallystick.facilitator import Settled, Verified
from tallystick.reasons import Reason
from tallystick.x402 import Network
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.commands import Rules

ALICE = Payer("alice")


async def verify(market: Marketplace, payer: Payer = ALICE, number: int = 1, **changes: object) -> Verified | Refusal:
    """Verify a payment of PRICE to NEWS by a voucher of its own; `changes` are made to the payment."""
    payment = payer.payment(number, PRICE, ceiling=PRICE * number)._replace(**changes)  # type: ignore[arg-type]
    return await market.deferred.verify(TERMS, DeferredCharge(payer.config.channel(NEWS), payment))


async def held(market: Marketplace, number: int = 1) -> Verified:
    answer = await verify(market, number=number)
    assert isinstance(answer, Verified)
    return answer


async def test_verify_opens_the_channel_and_holds_the_amount(market: Marketplace) -> None:
    await market.fund(ALICE, 10_000)
    answer = await held(market)
    assert answer.payer == ALICE.config.payer
    assert len(answer.handle) == 64
    assert answer.expires_at == NOW_MS // 1000 + market.rules.reservation_s
    assert market.channel(ALICE).reserved == PRICE


async def test_settle_captures_in_full_or_less_and_answers_alike_when_repeated(market: Marketplace) -> None:
    await market.fund(ALICE, 10_000)
    handle = (await held(market)).handle
    less = replace(TERMS, amount=PRICE - 1)
    first = await market.deferred.settle(less, handle)
    again = await market.deferred.settle(less, handle)
    assert first == Settled(ALICE.config.payer, PRICE - 1, PRICE - 1)
    assert again == Settled(ALICE.config.payer, PRICE - 1, PRICE - 1, replayed=True)
    assert (market.channel(ALICE).charged, market.channel(ALICE).reserved) == (PRICE - 1, 0)


async def test_settle_refuses_to_capture_more_than_was_held(market: Marketplace) -> None:
    await market.fund(ALICE, 10_000)
    handle = (await held(market)).handle
    answer = await market.deferred.settle(replace(TERMS, amount=PRICE + 1), handle)
    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.AMOUNT_ABOVE_AGREED


async def test_release_gives_everything_back_for_good(market: Marketplace) -> None:
    await market.fund(ALICE, 10_000)
    handle = (await held(market)).handle
    assert await market.deferred.release(TERMS, handle) == Settled(ALICE.config.payer, 0)
    assert await market.deferred.release(TERMS, handle) == Settled(ALICE.config.payer, 0, replayed=True)
    late = await market.deferred.settle(TERMS, handle)
    assert isinstance(late, Refusal)
    assert late.reason is Reason.RESERVATION_RELEASED
    assert market.channel(ALICE).charged == market.channel(ALICE).reserved == 0


async def test_a_verified_payment_is_a_replay_the_second_time_and_carries_no_handle(market: Marketplace) -> None:
    await market.fund(ALICE, 10_000)
    handle = (await held(market)).handle
    assert await verify(market) == Verified(ALICE.config.payer, replayed=True)
    await market.deferred.settle(TERMS, handle)
    assert await verify(market) == Verified(ALICE.config.payer, replayed=True)


async def test_the_same_payment_for_another_request_buys_nothing(market: Marketplace) -> None:
    await market.fund(ALICE, 10_000)
    await held(market)
    answer = await verify(market, request_hash=OTHER_PAGE)
    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.PAYMENT_ID_REUSED


@pytest.mark.parametrize(
    ("terms", "reason", "field"),
    [
        (replace(TERMS, network=Network(1)), Reason.NETWORK_UNSUPPORTED, "network"),
        (replace(TERMS, pay_to=MUSIC), Reason.RECEIVER_MISMATCH, "receiver"),
        (replace(TERMS, asset=MUSIC), Reason.TOKEN_MISMATCH, "token"),
        (replace(TERMS, amount=PRICE + 1), Reason.AMOUNT_MISMATCH, "amount"),
    ],
)
async def test_verify_refuses_a_payment_that_does_not_meet_the_terms(
    market: Marketplace, terms: object, reason: Reason, field: str
) -> None:
    await market.fund(ALICE, 10_000)
    payment = ALICE.payment(1, PRICE, ceiling=PRICE)
    answer = await market.deferred.verify(terms, DeferredCharge(ALICE.config.channel(NEWS), payment))  # type: ignore[arg-type]
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.field) == (reason, field)
    assert not market.ledger.channels


async def test_verify_refuses_a_channel_id_that_is_not_the_configs(market: Marketplace) -> None:
    await market.fund(ALICE, 10_000)
    answer = await verify(market, channel_id=Payer("mallory").channel_id())
    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.CHANNEL_ID_MISMATCH


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"receiver_authorizer": MUSIC}, Reason.OPERATOR_MISMATCH),
        ({"token": MUSIC}, Reason.TOKEN_UNSUPPORTED),
        ({"withdraw_delay_s": 10_799}, Reason.WITHDRAW_DELAY_OUT_OF_RANGE),
    ],
)
async def test_open_refuses_what_is_not_served(market: Marketplace, changes: dict[str, object], reason: Reason) -> None:
    config = replace(ALICE.config.channel(NEWS), **changes)  # type: ignore[arg-type]
    await market.chain.fund(config, 10_000)
    answer = await market.channels.open(ESCROW_REF, config)
    assert answer is not None
    assert answer.reason is reason
    assert answer.allowed


async def test_a_channel_of_an_unknown_or_empty_account_is_not_opened(market: Marketplace) -> None:
    answer = await verify(market)
    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.ACCOUNT_UNKNOWN
    await market.fund(ALICE, 0)
    answer = await verify(market)
    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.INSUFFICIENT_FUNDS
    assert market.chain.claimed_reads == 0


async def test_fifty_payments_at_once_open_their_channel_once(market: Marketplace) -> None:
    await market.fund(ALICE, 100_000)
    ceilings = range(50, 100)
    payments = [ALICE.payment(number, PRICE, ceiling=PRICE * number) for number in ceilings]
    config = ALICE.config.channel(NEWS)
    answers = await asyncio.gather(
        *(market.deferred.verify(TERMS, DeferredCharge(config, payment)) for payment in payments)
    )
    assert all(isinstance(answer, Verified) for answer in answers)
    assert market.chain.claimed_reads == 2, "one baseline for all of them, in two answers"


async def test_one_who_goes_away_does_not_take_the_others_channel_along(market: Marketplace) -> None:
    await market.fund(ALICE, 100_000)
    config = ALICE.config.channel(NEWS)
    first = asyncio.create_task(market.channels.open(ESCROW_REF, config))
    second = asyncio.create_task(market.channels.open(ESCROW_REF, config))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is None
    assert market.channel(ALICE).id == ALICE.channel_id()


async def test_the_baseline_comes_from_the_chain(market: Marketplace) -> None:
    market.chain.paid[ALICE.channel_id()] = 700
    await market.fund(ALICE, 10_000, NEWS)
    assert (market.channel(ALICE).charged, market.channel(ALICE).claimed) == (700, 700)
    assert market.chain.tracked == [ALICE.config]
    await market.chain.look()
    # What was paid before counts on both sides: the deposit is as spendable as it was.
    assert market.account(ALICE).available == 10_000


async def test_a_channel_beyond_the_accounts_limit_is_refused() -> None:
    async with marketplace(rules=Rules(channels_per_account_max=1)) as market:
        await market.fund(ALICE, 10_000, MUSIC)
        answer = await verify(market)
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.CHANNEL_LIMIT


async def test_a_chain_that_cannot_be_reached_refuses_new_channels_and_serves_known_ones(market: Marketplace) -> None:
    await market.fund(ALICE, 10_000, NEWS)
    market.chain.down = True
    assert isinstance(await verify(market), Verified)
    answer = await market.channels.open(ESCROW_REF, ALICE.config.channel(MUSIC))
    assert answer is not None
    assert (answer.reason, answer.reason.retry) == (Reason.CHAIN_UNAVAILABLE, True)


async def test_a_store_that_cannot_be_written_refuses_and_holds_nothing() -> None:
    broken = False
    disk = MemoryDisk(plan=lambda operation: Fault.REFUSED if broken and operation is Operation.APPEND else Fault.NONE)
    async with marketplace(disk) as market:
        await market.fund(ALICE, 10_000, NEWS)
        broken = True
        answer = await verify(market)
        assert isinstance(answer, Refusal)
        assert (answer.reason, answer.reason.retry) == (Reason.STORE_UNAVAILABLE, True)
        opened = await market.channels.open(ESCROW_REF, ALICE.config.channel(MUSIC))
        assert opened is not None
        assert opened.reason is Reason.STORE_UNAVAILABLE
        broken = False
        assert isinstance(await verify(market), Verified)
        assert market.channel(ALICE).reserved == PRICE


async def test_openings_beyond_the_rate_are_put_off(market: Marketplace) -> None:
    await market.fund(ALICE, 10_000)
    configs = [ALICE.config.channel(number.to_bytes(20, "big")) for number in range(1, 400)]
    answers = await asyncio.gather(*(market.channels.open(ESCROW_REF, config) for config in configs))
    refused = [answer for answer in answers if answer is not None]
    assert {answer.reason for answer in refused} == {Reason.OVERLOADED}
    assert 0 < len(refused) < 399


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        (replace(TERMS, pay_to=MUSIC), Reason.RECEIVER_MISMATCH),
        (replace(TERMS, asset=MUSIC), Reason.TOKEN_MISMATCH),
        (replace(TERMS, network=Network(1)), Reason.NETWORK_UNSUPPORTED),
    ],
)
async def test_settle_refuses_terms_that_are_not_the_reservations(
    market: Marketplace, terms: object, reason: Reason
) -> None:
    await market.fund(ALICE, 10_000)
    handle = (await held(market)).handle
    answer = await market.deferred.settle(terms, handle)  # type: ignore[arg-type]
    assert isinstance(answer, Refusal)
    assert answer.reason is reason
    assert market.channel(ALICE).charged == 0


async def test_a_guessed_handle_settles_nothing(market: Marketplace) -> None:
    await market.fund(ALICE, 10_000)
    handle = (await held(market)).handle
    for guess in (handle[:48] + bytes(16), bytes(64)):
        for release in (False, True):
            answer = await (market.deferred.release if release else market.deferred.settle)(TERMS, guess)
            assert isinstance(answer, Refusal)
            assert answer.reason is Reason.RESERVATION_UNKNOWN
    assert market.channel(ALICE).reserved == PRICE


JUNK = {
    "no proof": {"signature": b""},
    "junk": {"signature": bytes(65)},
    "a stranger's voucher": {"signature": Payer("mallory").voucher(PRICE).signature},
    "a voucher of another channel": {"signature": ALICE.voucher(PRICE, MUSIC).signature},
    "a ceiling below the price": {"ceiling": PRICE - 1, "signature": ALICE.voucher(PRICE - 1).signature},
}


@pytest.mark.parametrize("changes", JUNK.values(), ids=JUNK)
async def test_a2_what_the_payer_did_not_prove_opens_no_channel_in_its_account(
    market: Marketplace, changes: dict[str, object]
) -> None:
    """A stranger names a victim's account, which is public on chain: nothing is written, read or used up."""
    await market.fund(ALICE, 10_000)
    entries, left = len(market.disk.entries), market.channels._rate._left
    answer = await verify(market, **changes)
    assert isinstance(answer, Refusal)
    assert answer.reason in {Reason.VOUCHER_SIGNATURE, Reason.INSUFFICIENT_CEILING}
    assert not market.ledger.channels
    assert (len(market.disk.entries), market.chain.claimed_reads, market.channels._rate._left) == (entries, 0, left)
    assert isinstance(await verify(market), Verified), "the payer itself opens it as ever"


async def test_a2_an_account_with_spend_keys_opens_channels_by_live_keys_only(market: Marketplace) -> None:
    await market.fund(ALICE, 10_000)
    keys = [ALICE.spend_key(number) for number in range(3)]
    for key in keys[:2]:
        await market.writer.run(
            lambda draft, _l, moment, key=key: accounts.register_spend_key(
                draft, ALICE.account_id, key, moment, market.rules
            )
        )
    await market.writer.run(lambda draft, _l, _m: accounts.revoke_spend_key(draft, ALICE.account_id, keys[1].key_id))
    config = ALICE.config.channel(NEWS)
    good, revoked, unknown = (ALICE.payment(1, PRICE, ceiling=PRICE, key=key) for key in keys)
    assert good.spend is not None
    forged = good._replace(spend=good.spend._replace(mac=bytes(32)))
    for payment, reason in (
        (ALICE.payment(1, PRICE, ceiling=PRICE), Reason.SPEND_KEY_REQUIRED),
        (revoked, Reason.SPEND_KEY_REVOKED),
        (unknown, Reason.SPEND_KEY_UNKNOWN),
        (forged, Reason.SPEND_KEY_PROOF),
    ):
        answer = await market.deferred.verify(TERMS, DeferredCharge(config, payment))
        assert isinstance(answer, Refusal)
        assert answer.reason is reason
    assert not market.ledger.channels
    assert isinstance(await market.deferred.verify(TERMS, DeferredCharge(config, good)), Verified)
