"""Opening accounts and channels, and approving totals."""

from dataclasses import replace

import pytest
from doubles import ESCROW_REF, MUSIC, NEWS, Payer, PureLedger, by_voucher

from tallystick.reasons import Reason
from tallystick_aggregator.ledger import accounts, approvals
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.commands import DecisionContext, Rules
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Approval, Ledger


@pytest.fixture
def alice() -> Payer:
    return Payer("alice")


@pytest.fixture
def books(alice: Payer) -> PureLedger:
    books = PureLedger(Rules(channels_per_account_max=2))
    books.fund(alice, 1_000)
    return books


def approve(books: PureLedger, alice: Payer, *totals: tuple[bytes, int]) -> Refusal | None:
    return books.run(
        lambda draft, ledger, _moment: approvals.approve_totals(draft, ledger, alice.account_id, totals, b"signature")
    )


def test_the_same_approval_again_leaves_nothing_behind(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 10, 100))
    assert approve(books, alice, (NEWS, 10)) is None
    commits, approval = books.ledger.commits, books.account(alice).approval

    assert approve(books, alice, (NEWS, 10)) is None
    assert (books.ledger.commits, books.account(alice).approval) == (commits, approval)
    assert approve(books, alice, (NEWS, 9)) is not None


def test_opening_an_account_again_keeps_what_it_is(books: PureLedger, alice: Payer) -> None:
    other = replace(alice.config, withdraw_delay_s=3_600)
    books.run(lambda draft, _ledger, _moment: accounts.open_account(draft, alice.account_id, ESCROW_REF, other))

    assert (books.account(alice).funds, books.account(alice).config) == (1_000, alice.config)


def test_opening_a_channel_again_keeps_what_it_is(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 10, 100))

    assert books.open_channel(alice, NEWS, claimed=77) is None
    assert (books.channel(alice).charged, books.account(alice).channels) == (10, 1)


def test_a_channel_needs_an_account(books: PureLedger) -> None:
    refused = books.open_channel(Payer("mallory"))

    assert refused is not None
    assert refused.reason is Reason.ACCOUNT_UNKNOWN


def test_channels_per_account_are_limited(books: PureLedger, alice: Payer) -> None:
    assert books.open_channel(alice, MUSIC) is None

    refused = books.open_channel(alice, bytes.fromhex("cc" * 20))

    assert refused is not None
    assert (refused.reason, refused.got, refused.allowed) == (Reason.CHANNEL_LIMIT, "3", "at most 2")


def test_channels_are_listed_in_the_order_of_opening(alice: Payer) -> None:
    """Also when many are opened in one draft: replay must list them alike."""
    books = PureLedger()
    receivers = [bytes([number]) * 20 for number in range(1, 60)]
    books.fund(alice, 1, *receivers)

    def decision(draft: Draft, _ledger: Ledger, _moment: DecisionContext) -> None:
        for receiver in reversed(range(60, 120)):
            address = bytes([receiver]) * 20
            accounts.open_channel(draft, alice.account_id, alice.channel_id(address), address, 0, books.rules)

    books.run(decision)

    opened = [channel.receiver[0] for channel in books.ledger.channels_of(alice.account_id)]
    assert opened == [*range(1, 60), *reversed(range(60, 120))]
    assert books.replayed().channel_ids == books.ledger.channel_ids


@pytest.fixture
def charged(books: PureLedger, alice: Payer) -> PureLedger:
    """Alice owes the news 20 and the music 20."""
    assert books.open_channel(alice, MUSIC) is None
    books.charge(by_voucher(alice, 1, 20, 20))
    books.charge(by_voucher(alice, 2, 20, 20, receiver=MUSIC))
    return books


def test_an_approval_is_kept_with_its_signature(charged: PureLedger, alice: Payer) -> None:
    assert approve(charged, alice, (NEWS, 10), (MUSIC, 5)) is None
    assert charged.account(alice).approval == Approval(((NEWS, 10), (MUSIC, 5)), b"signature")  # type: ignore[arg-type]


def test_an_approval_may_grow_and_not_shrink(charged: PureLedger, alice: Payer) -> None:
    approve(charged, alice, (NEWS, 10), (MUSIC, 5))

    for smaller in (((NEWS, 9), (MUSIC, 5)), ((NEWS, 10),), ()):
        refused = approve(charged, alice, *smaller)
        assert refused is not None
        assert (refused.reason, refused.field) == (Reason.AMOUNT_MISMATCH, "totals")
    assert approve(charged, alice, (MUSIC, 6), (NEWS, 10)) is None


def test_an_approval_may_leave_out_what_is_paid(charged: PureLedger, alice: Payer) -> None:
    approve(charged, alice, (NEWS, 10), (MUSIC, 5))
    charged.mirror(alice, balance=990, claimed={alice.channel_id(): 10})

    assert approve(charged, alice, (MUSIC, 6)) is None


def test_an_approval_names_each_receiver_once_and_nothing_that_was_not_charged(
    charged: PureLedger, alice: Payer
) -> None:
    stranger = bytes.fromhex("cc" * 20)
    for totals, reason in (
        (((NEWS, 21),), Reason.AMOUNT_MISMATCH),
        (((NEWS, 1), (NEWS, 1)), Reason.PAYLOAD_INVALID),
        (((stranger, 1),), Reason.CHANNEL_UNKNOWN),
    ):
        refused = approve(charged, alice, *totals)
        assert refused is not None
        assert refused.reason is reason
