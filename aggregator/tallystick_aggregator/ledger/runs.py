"""Charges that come together are decided together where that changes nothing.

A crawler fetches several pages from a seller at once, so charges of one channel come in runs. If all of a run fit, the
rules say so once for their sum: a rule that refuses some amount refuses any larger one. If anything at all is out of
the ordinary, each charge is decided by itself, as `decide.charge` says. The answers are the same, and the events too
(tests/aggregator/ledger/test_runs.py).
"""

from collections.abc import Sequence
from operator import lt

from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.commands import Moment, ProvenPayment, Rules, SpendProof, VoucherProof
from tallystick_aggregator.ledger.decide import charge
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.rules import (
    ceiling_allows,
    exposure_allows,
    funds_allow,
    key_may_spend,
    mirror_is_fresh,
    no_withdrawal_is_near,
    payment_id_is_in_time,
    voucher_may_prove,
)
from tallystick_aggregator.ledger.state import Account, Channel


def charge_all(
    draft: Draft, payments: Sequence[ProvenPayment], moment: Moment, rules: Rules
) -> list[Accepted | Refusal]:
    """Take payments in their order, each as `decide.charge` does."""
    answers: list[Accepted | Refusal] = []
    start, count = 0, len(payments)
    while start < count:
        end = _end_of_run(payments, start)
        run = payments[start:end]
        answers += (len(run) > 1 and _charge_run(draft, run, moment, rules)) or [
            charge(draft, payment, moment, rules) for payment in run
        ]
        start = end
    return answers


def _end_of_run(payments: Sequence[ProvenPayment], start: int) -> int:
    """Where the payments end that have the channel, the key and the raised ceiling of the one at `start`."""
    first = payments[start]
    channel_id, proof = first.channel_id, first.proof
    raised, key_id = proof.raised, _key_of(proof)
    end, count = start + 1, len(payments)
    while end < count and payments[end].channel_id == channel_id:
        proof = payments[end].proof
        if proof.raised is not raised or _key_of(proof) != key_id:
            break
        end += 1
    return end


def _key_of(proof: VoucherProof | SpendProof) -> bytes:
    return proof.key_id if isinstance(proof, SpendProof) else b""


def _charge_run(
    draft: Draft, run: Sequence[ProvenPayment], moment: Moment, rules: Rules
) -> list[Accepted | Refusal] | None:
    """Take a run if all of it is new and fits; None, and nothing done, if not."""
    channel_id, proof = run[0].channel_id, run[0].proof
    channel = draft.channel(channel_id)
    account = draft.account(channel.account_id) if channel is not None else None
    if channel is None or account is None or not _are_new(draft, run, moment, rules):
        return None
    total = sum([payment.amount for payment in run])
    raised, ceiling = proof.raised, channel.ceiling
    if raised is not None and raised.max_claimable_amount > ceiling:
        ceiling = raised.max_claimable_amount
    if (
        not _are_proven(draft, account, channel, run, total, ceiling, moment)
        or ceiling_allows(channel, ceiling, total)
        or mirror_is_fresh(account, moment)
        or no_withdrawal_is_near(account, moment, rules)
        or funds_allow(account, channel, total)
        or exposure_allows(draft, account, channel, total, rules)
    ):
        return None
    if ceiling != channel.ceiling and raised is not None:
        draft.record(ev.CeilingRaised(channel.id, ceiling, raised.signature))
    totals = draft.record_run(_charged(run))
    return [Accepted(payment.amount, charged, False) for payment, charged in zip(run, totals, strict=True)]


def _are_new(draft: Draft, run: Sequence[ProvenPayment], moment: Moment, rules: Rules) -> bool:
    """Whether no payment id was seen before, in this run neither, and all are of these days."""
    times = [payment.payment_ms for payment in run]
    return not (
        draft.knows_any(run[0].channel_id, [payment.payment_id for payment in run])
        # What is in time from the oldest to the newest is so between them.
        or payment_id_is_in_time(draft, min(times), moment, rules)
        or payment_id_is_in_time(draft, max(times), moment, rules)
    )


def _are_proven(
    draft: Draft,
    account: Account,
    channel: Channel,
    run: Sequence[ProvenPayment],
    total: int,
    ceiling: int,
    moment: Moment,
) -> bool:
    """Rule 2 for all: unused vouchers with ascending ceilings up to the verified one, so that none falls below what a
    channel forgets on the way; or one key that may spend the sum.
    """
    proof = run[0].proof
    if not isinstance(proof, SpendProof):
        ceilings = [payment.proof.ceiling for payment in run if not isinstance(payment.proof, SpendProof)]
        ascending = all(map(lt, ceilings, ceilings[1:])) and ceilings[-1] <= ceiling
        return ascending and not any(voucher_may_prove(account, channel, used) for used in ceilings)
    if key_may_spend(draft, account, proof.key_id, total, moment) is not None:
        return False
    for payment in run:  # noqa: SIM110 - a generator would cost more than what it compares
        if payment.amount > payment.proof.max_amount:  # type: ignore[union-attr]  # one key: all are spend proofs
            return False
    return True


def _charged(run: Sequence[ProvenPayment]) -> list[ev.Charged]:
    first = run[0].proof
    if isinstance(first, SpendProof):
        key_id = first.key_id
        return [ev.Charged(one.channel_id, one.payment_id, one.amount, one.request_hash, 0, key_id) for one in run]
    return [
        ev.Charged(one.channel_id, one.payment_id, one.amount, one.request_hash, one.proof.ceiling, b"")  # type: ignore[union-attr]
        for one in run
    ]
