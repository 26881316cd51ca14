"""Charges decided together get the answers, and leave the events and the state, of those decided one by one."""

from doubles import (
    ESCROW_REF,
    MUSIC,
    NEWS,
    NOW_MS,
    NOW_S,
    OTHER_PAGE,
    PAGE,
    Payer,
    PureLedger,
    by_key,
    by_voucher,
    signature_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.vouchers import Voucher
from tallystick_aggregator.ledger import decide
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.batch import charge_all
from tallystick_aggregator.ledger.ceilings import USED_CEILINGS_MAX
from tallystick_aggregator.ledger.commands import ProvenPayment, Rules, SpendProof, VoucherProof
from tallystick_aggregator.ledger.draft import Draft

ALICE, BOB = Payer("alice"), Payer("bob")
KEYS = [BOB.spend_key(0, cap=60), BOB.spend_key(1), BOB.spend_key(2, expires_at=NOW_S + 1), BOB.spend_key(3)]
RULES = Rules(exposure_per_account_max=400, exposure_per_receiver_max=600)
OLD_MS = NOW_MS - RULES.payment_id_retention_s * 1000 - 1


def books(funds: int, *, withdrawing: bool, stale: bool) -> PureLedger:
    """Alice pays by vouchers, Bob by spend keys, one of which is revoked; some is charged already."""
    books = PureLedger(RULES)
    for payer in (ALICE, BOB):
        books.fund(payer, funds, NEWS, MUSIC)
    for key in KEYS:
        books.register(BOB, key)
    books.revoke(BOB, KEYS[3])
    books.charge(by_voucher(ALICE, 90, 5, 20))
    books.charge(by_key(BOB, KEYS[1], 91, 5, ceiling=100))
    if withdrawing:
        books.mirror(ALICE, balance=funds, withdrawing=10, finalizes_at=NOW_S + RULES.withdraw_margin_s)
    if stale:
        books.stale_escrows = frozenset({ESCROW_REF})
    return books


numbers = st.integers(0, 12).map(lambda number: number if number < 11 else number + 79)
"""Numbers of payment ids: few, so that some come twice; two that were charged before."""
moments = st.sampled_from([NOW_MS] * 8 + [OLD_MS, NOW_MS + RULES.payment_id_skew_s * 1000 + 1])
pages = st.sampled_from([PAGE, PAGE, OTHER_PAGE])
receivers = st.sampled_from([NEWS, NEWS, MUSIC])

vouchers = st.builds(
    lambda number, amount, ceiling, receiver, request, ms: by_voucher(
        ALICE, number, amount, ceiling, receiver=receiver, request=request, ms=ms
    ),
    numbers, st.integers(0, 30), st.integers(1, 60).map(lambda n: 4 * n), receivers, pages, moments,
)  # fmt: skip
proofs = st.builds(
    lambda key, number, amount, less, ceiling, receiver, request, ms: by_key(
        BOB, key, number, amount, max_amount=max(0, amount - less), ceiling=ceiling, receiver=receiver,
        request=request, ms=ms,
    ),
    st.sampled_from([*KEYS, KEYS[1], KEYS[1]]), numbers, st.integers(0, 30), st.sampled_from([0, 0, 0, 0, 1]),
    st.sampled_from([0, 0, 150, 300]), receivers, pages, moments,
)  # fmt: skip


def together(payments: list[ProvenPayment]) -> list[ProvenPayment]:
    """As the screening hands them on: all payments of a channel share the voucher that raises it most, and equal proofs
    of one channel are one object."""
    highest: dict[bytes, Voucher] = {}
    shared: dict[tuple[bytes, VoucherProof | SpendProof], VoucherProof | SpendProof] = {}
    for payment in payments:
        raised = payment.proof.raised
        known = highest.get(payment.channel_id)
        if raised is not None and (known is None or raised.max_claimable_amount > known.max_claimable_amount):
            highest[payment.channel_id] = raised
    raised_together = [
        payment._replace(proof=payment.proof._replace(raised=highest.get(payment.channel_id))) for payment in payments
    ]
    return [
        payment._replace(proof=shared.setdefault((payment.channel_id, payment.proof), payment.proof))
        for payment in raised_together
    ]


batches = st.lists(st.one_of(vouchers, vouchers, proofs, proofs), min_size=1, max_size=14)
sorted_batches = batches.map(lambda batch: sorted(batch, key=lambda payment: payment.channel_id))


@settings(max_examples=400)
@given(
    st.one_of(batches, sorted_batches, sorted_batches.map(together)),
    st.sampled_from([10**6, 10**6, 120]),
    st.booleans(),
    st.sampled_from([False, False, False, True]),
)
def test_together_is_as_one_by_one(payments: list[ProvenPayment], funds: int, withdrawing: bool, stale: bool) -> None:
    apart, at_once = (books(funds, withdrawing=withdrawing, stale=stale) for _ in range(2))

    expected = apart.run(
        lambda draft, _, moment: [decide.charge(draft, payment, moment, RULES) for payment in payments]
    )
    answers = at_once.run(lambda draft, _, moment: charge_all(draft, payments, moment, RULES))

    assert answers == expected
    assert at_once.events == apart.events
    assert at_once.ledger == apart.ledger == at_once.replayed()


def test_a_run_is_charged_in_one_step_and_answers_with_each_total() -> None:
    shop = books(10**6, withdrawing=False, stale=False)
    raised = Voucher(BOB.channel_id(), 300, signature_of(300))
    run = [by_key(BOB, KEYS[1], number, 10 + number) for number in range(4)]
    run = [payment._replace(proof=payment.proof._replace(raised=raised)) for payment in run]

    answers = shop.run(lambda draft, _, moment: charge_all(draft, run, moment, RULES))

    assert answers == [Accepted(10 + n, 5 + sum(range(10, 11 + n)), replayed=False) for n in range(4)]
    assert shop.ledger.channels[BOB.channel_id()].ceiling == 300


def test_of_a_run_under_one_proof_only_what_is_above_the_agreed_amount_is_refused() -> None:
    shop = books(10**6, withdrawing=False, stale=False)
    proof = SpendProof(KEYS[1].key_id, 10, None)
    run = [by_key(BOB, KEYS[1], number, amount)._replace(proof=proof) for number, amount in enumerate((10, 11, 9))]

    answers = shop.run(lambda draft, _, moment: charge_all(draft, run, moment, RULES))

    assert [type(answer) for answer in answers] == [Accepted, Refusal, Accepted]
    assert shop.ledger.channels[BOB.channel_id()].charged == 5 + 10 + 9


def test_a_long_run_is_as_one_by_one_where_a_channel_begins_to_forget_ceilings() -> None:
    ceilings = [*range(2_000, 2_000 + USED_CEILINGS_MAX - 5), *range(1_980, 1_999)]
    run = [by_voucher(ALICE, 1_000 + number, 0, ceiling) for number, ceiling in enumerate(ceilings)]
    apart, at_once = (books(10**6, withdrawing=False, stale=False) for _ in range(2))

    expected = apart.run(lambda draft, _, moment: [decide.charge(draft, payment, moment, RULES) for payment in run])

    assert at_once.run(lambda draft, _, moment: charge_all(draft, run, moment, RULES)) == expected
    assert {type(answer) for answer in expected} == {Accepted, Refusal}
    assert at_once.ledger == apart.ledger


def test_a_run_below_all_that_a_full_channel_remembers_is_as_one_by_one() -> None:
    """The first makes it forget, and what it forgets counts as used for the second."""
    full = [by_voucher(ALICE, 1_000 + number, 0, 2_000 + number) for number in range(USED_CEILINGS_MAX - 1)]
    run = [by_voucher(ALICE, 5_000 + n, 0, n)._replace(proof=VoucherProof(n, None)) for n in (1, 2)]
    apart, at_once = (books(10**6, withdrawing=False, stale=False) for _ in range(2))
    for shop in (apart, at_once):
        shop.run(lambda draft, _, moment: [decide.charge(draft, payment, moment, RULES) for payment in full])

    expected = apart.run(lambda draft, _, moment: [decide.charge(draft, payment, moment, RULES) for payment in run])

    assert at_once.run(lambda draft, _, moment: charge_all(draft, run, moment, RULES)) == expected
    assert [type(answer) for answer in expected] == [Accepted, Refusal]
    assert at_once.ledger == apart.ledger


def test_of_a_run_that_does_not_fit_as_a_whole_the_first_ones_are_charged() -> None:
    shop = books(10**6, withdrawing=False, stale=False)
    run = [by_key(BOB, KEYS[0], number, 25, ceiling=300) for number in range(4)]
    assert isinstance(run[0].proof, SpendProof)

    answers = shop.run(lambda draft, _, moment: charge_all(draft, run, moment, RULES))

    assert [isinstance(answer, Accepted) for answer in answers] == [True, True, False, False], "the key's cap is 60"
    assert all(isinstance(answer, Refusal) for answer in answers[2:])


def test_a_run_leaves_no_trace_in_a_draft_that_is_dropped() -> None:
    shop = books(10**6, withdrawing=False, stale=False)
    before = shop.replayed()
    draft = Draft(shop.ledger)

    charge_all(draft, [by_key(BOB, KEYS[1], number, 1) for number in range(3)], shop.moment, RULES)

    assert len(draft.events) == 3
    assert shop.ledger == before
