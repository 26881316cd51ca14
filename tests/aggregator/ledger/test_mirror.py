"""The mirror: increases count when final, decreases at first sight; the chain may know of more claims than we do."""

import pytest
from doubles import MUSIC, NEWS, NOW_S, Payer, PureLedger, by_voucher, handle_of

from tallystick.reasons import Reason
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger.accounts import Overclaim
from tallystick_aggregator.ledger.answers import Accepted, Done, Refusal


@pytest.fixture
def alice() -> Payer:
    return Payer("alice")


@pytest.fixture
def books(alice: Payer) -> PureLedger:
    books = PureLedger()
    books.fund(alice, 1_000, NEWS, MUSIC)
    return books


def test_a_deposit_counts_when_it_is_final(books: PureLedger, alice: Payer) -> None:
    books.mirror(alice, balance=1_500, final_balance=1_000)
    assert books.account(alice).funds == 1_000

    books.mirror(alice, balance=1_500, final_balance=1_500)
    assert books.account(alice).funds == 1_500


def test_money_that_leaves_counts_at_first_sight(books: PureLedger, alice: Payer) -> None:
    books.mirror(alice, balance=200, final_balance=1_000)

    assert books.account(alice).funds == 200


def test_a_deposit_that_is_not_final_hides_no_withdrawal(books: PureLedger, alice: Payer) -> None:
    """1,000 were there; 300 left and 500 came in blocks that are not final: 700 are sure whatever stays."""
    books.mirror(alice, balance=1_200, final_balance=1_000, left_since_final=300)
    assert books.account(alice).funds == 700

    books.mirror(alice, balance=10, final_balance=1_000, left_since_final=2_000)
    assert books.account(alice).funds == 0


def test_a_withdrawal_that_a_reorg_took_back_is_there_again(books: PureLedger, alice: Payer) -> None:
    books.mirror(alice, balance=200, final_balance=1_000)
    books.mirror(alice, balance=1_000, final_balance=1_000)

    assert books.account(alice).funds == 1_000


def test_a_claim_in_flight_changes_no_funds(books: PureLedger, alice: Payer) -> None:
    """AccountSnapshot at the head, then final, then (had it not been) gone in a reorg: both sides of I2 stay."""
    books.charge(by_voucher(alice, 1, 400, 5_000))
    claimed = {alice.channel_id(): 400}

    books.mirror(alice, balance=600, claimed=claimed, final_balance=1_000, final_claimed={alice.channel_id(): 0})
    assert (books.account(alice).funds, books.channel(alice).claimed) == (1_000, 0)

    books.mirror(alice, balance=1_000, claimed={alice.channel_id(): 0})
    assert (books.account(alice).funds, books.channel(alice).claimed) == (1_000, 0)

    books.mirror(alice, balance=600, claimed=claimed)
    assert (books.account(alice).funds, books.channel(alice).claimed) == (1_000, 400)
    assert books.account(alice).available == 600


def test_claimed_only_grows(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 400, 5_000))
    books.mirror(alice, balance=600, claimed={alice.channel_id(): 400})
    books.mirror(alice, balance=900, claimed={alice.channel_id(): 100})

    assert books.channel(alice).claimed == 400


def test_a_channel_that_was_not_asked_for_keeps_its_claims(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 400, 5_000))
    books.mirror(alice, balance=600, claimed={alice.channel_id(): 400})
    books.mirror(alice, balance=600)

    assert (books.account(alice).funds, books.channel(alice).claimed) == (1_000, 400)


def test_a_pending_withdrawal_is_the_heads(books: PureLedger, alice: Payer) -> None:
    books.mirror(alice, balance=1_000, withdrawing=700, finalizes_at=NOW_S + 86_400)

    account = books.account(alice)
    assert (account.withdrawing, account.withdraw_finalizes_at) == (700, NOW_S + 86_400)
    assert account.available == 300


def test_news_that_say_nothing_new_are_not_journaled(books: PureLedger, alice: Payer) -> None:
    before = len(books.events)
    books.mirror(alice, balance=1_000)

    assert len(books.events) == before


def test_the_chain_may_pay_a_receiver_more_than_was_charged_here(books: PureLedger, alice: Payer) -> None:
    """Threat 36, the canonical contract: `charged` follows with an alarm, nothing crashes."""
    books.charge(by_voucher(alice, 1, 40, 100))

    alarms = books.mirror(alice, balance=900, claimed={alice.channel_id(): 100})

    assert alarms == [Overclaim(alice.channel_id(), 40, 100)]
    channel, account = books.channel(alice), books.account(alice)
    assert (channel.charged, channel.claimed) == (100, 100)
    assert (account.funds, account.available, account.exposure) == (1_000, 900, 0)
    refused = books.charge(by_voucher(alice, 2, 1, 99))
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.INSUFFICIENT_CEILING
    assert isinstance(books.charge(by_voucher(alice, 3, 1, 101)), Accepted)


def test_a_claim_as_charged_rings_no_alarm(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 40, 100))

    assert books.mirror(alice, balance=960, claimed={alice.channel_id(): 40}) == []


def test_what_the_receiver_took_by_itself_cannot_be_captured_too(books: PureLedger, alice: Payer) -> None:
    """It has reservations, and claims up to the ceiling on the canonical contract: above it nothing can be claimed."""
    first, second = by_voucher(alice, 1, 30, 100), by_voucher(alice, 2, 30, 99)
    books.reserve(first)
    books.reserve(second)
    books.mirror(alice, balance=900, claimed={alice.channel_id(): 100})

    refused = books.capture(handle_of(first), 30)
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.allowed) == (Reason.INSUFFICIENT_CEILING, "at least 160")
    books.charge(by_voucher(alice, 3, 0, 200))
    assert isinstance(books.capture(handle_of(first), 30), Accepted), "a higher ceiling makes room again"
    books.release(handle_of(second))
    assert (books.channel(alice).charged, books.channel(alice).reserved) == (130, 0)


def test_what_the_receiver_took_by_itself_blocks_no_release(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 30, 100)
    books.reserve(payment)
    books.mirror(alice, balance=900, claimed={alice.channel_id(): 100})

    assert books.release(handle_of(payment)) == Done(replayed=False)
    assert books.account(alice).available == 900


# What is not confirmed, or not explained (R8).


@pytest.mark.parametrize(
    ("confirmed", "explained", "balance", "counts"),
    [
        (True, None, 1_500, 1_500),  # a baseline
        (True, 1_500, 1_500, 1_500),
        (True, 1_499, 1_500, 1_000),  # to the unit
        (True, 1_600, 1_500, 1_500),  # the state has the last word downwards
        (False, 1_500, 1_500, 1_000),
        (False, None, 1_500, 1_000),
        (False, 1_500, 300, 300),  # down at once, whoever says so
        (True, 1_500, 300, 300),
    ],
)
def test_r8_funds_rise_only_as_far_as_two_answers_and_the_deposits_go(
    books: PureLedger, alice: Payer, *, confirmed: bool, explained: int | None, balance: int, counts: int
) -> None:
    at = accounts.AccountAtBlock(balance, {})
    seen = accounts.AccountOnChain(alice.account_id, at, at, 0, 0, confirmed=confirmed, explained=explained)
    books.run(lambda draft, ledger, _moment: accounts.mirror(draft, ledger, seen))

    assert books.account(alice).funds == counts


def test_r8_what_only_one_answer_says_was_paid_is_not_paid(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 400, 5_000))
    at = accounts.AccountAtBlock(600, {alice.channel_id(): 400})
    for confirmed, claimed in ((False, 0), (True, 400)):
        seen = accounts.AccountOnChain(alice.account_id, at, at, 0, 0, confirmed=confirmed)
        books.run(lambda draft, ledger, _moment, seen=seen: accounts.mirror(draft, ledger, seen))  # type: ignore[misc]
        assert books.channel(alice).claimed == claimed


# Baselines (I10).


def test_a_channels_baseline_is_the_chains(alice: Payer) -> None:
    """What was claimed before we knew the channel was not charged here, and cannot be charged on old vouchers."""
    books = PureLedger()
    books.fund(alice, 1_000)
    books.open_channel(alice, MUSIC, claimed=250)
    books.mirror(alice, balance=1_000, claimed={alice.channel_id(MUSIC): 250})

    channel, account = books.channel(alice, MUSIC), books.account(alice)
    assert (channel.charged, channel.claimed, channel.ceiling) == (250, 250, 0)
    assert (account.funds, account.available, account.exposure) == (1_250, 1_000, 0)
    refused = books.charge(by_voucher(alice, 1, 1, 250, receiver=MUSIC))
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.INSUFFICIENT_CEILING
    assert books.charge(by_voucher(alice, 2, 1, 251, receiver=MUSIC)) == Accepted(1, 251, replayed=False)


def test_until_the_next_mirror_a_baseline_counts_to_the_safe_side(books: PureLedger, alice: Payer) -> None:
    nile = bytes.fromhex("cc" * 20)
    books.open_channel(alice, nile, claimed=250)

    assert books.account(alice).available == 750
