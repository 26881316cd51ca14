"""Charges that come together are decided together where that changes nothing.

A crawler fetches several pages from a seller at once, so charges of one channel come in runs. If all of a run fit, the
rules say so once for their sum: a rule that refuses some amount refuses any larger one. If anything at all is out of
the ordinary, each charge is decided by itself, as `decide.charge` says. The answers are the same, and the events too
(tests/aggregator/ledger/test_batch.py).
"""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final

from tallystick.payment_ids import payment_ids_from
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.commands import (
    DecisionContext,
    ProvenPayment,
    Rules,
    SpendProof,
    VoucherProof,
    WatermarkProof,
)
from tallystick_aggregator.ledger.decide import charge
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.rules import (
    ceiling_allows,
    exposure_allows,
    funds_allow,
    key_may_spend,
    mirror_is_fresh,
    no_withdrawal_is_near,
    times_of_payment_ids,
    voucher_may_prove,
)
from tallystick_aggregator.ledger.state import Account, Channel

_channel_of: Final = attrgetter("channel_id")


def charge_all(
    draft: Draft, payments: Sequence[ProvenPayment], moment: DecisionContext, rules: Rules
) -> list[Accepted | Refusal]:
    """Take payments, at least one, in their order, each as `decide.charge` does."""
    oldest_ms, newest_ms = times_of_payment_ids(draft, moment, rules)
    in_time = payment_ids_from(oldest_ms), payment_ids_from(newest_ms + 1)
    keys = [payment.payment_id + payment.channel_id for payment in payments]
    all_new = _are_new(draft, keys, in_time)  # nearly always: the runs need not be looked at one by one
    answers: list[Accepted | Refusal] = []
    for _, same in groupby(payments, _channel_of):
        run = list(same)
        run_keys = keys[len(answers) : len(answers) + len(run)]
        together = len(run) > 1 and (all_new or _are_new(draft, run_keys, in_time))
        answers += (together and _charge_run(draft, run, run_keys, moment, rules)) or [
            charge(draft, payment, moment, rules) for payment in run
        ]
    return answers


def _are_new(draft: Draft, keys: Sequence[bytes], in_time: tuple[bytes, bytes]) -> bool:
    """Whether no payment with any of these keys (`payment_key`) is known, none comes twice, and all are in time: at or
    above the first of `in_time`, and below the second.
    """
    # Keys begin with payment ids: if the least and the greatest are in time, all are.
    return in_time[0] <= min(keys) and max(keys) < in_time[1] and not draft.knows_any(keys)


def _charge_run(
    draft: Draft, run: Sequence[ProvenPayment], keys: Sequence[bytes], moment: DecisionContext, rules: Rules
) -> list[Accepted | Refusal] | None:
    """Take a run, all of it new, if it is proven alike and fits; None, and nothing done, if not."""
    channel_id, proof = run[0].channel_id, run[0].proof
    channel = draft.channel(channel_id)
    account = draft.account(channel.account_id) if channel is not None else None
    charges = _charged_by_key(run, proof) if isinstance(proof, SpendProof) else _charged_by_vouchers(run, proof)
    if channel is None or account is None or charges is None:
        return None
    raised, ceiling, total = proof.raised, channel.ceiling, sum([payment.amount for payment in run])
    if raised is not None and raised.max_claimable_amount > ceiling:
        ceiling = raised.max_claimable_amount
    if (
        not _may_prove(draft, account, channel, charges, total, ceiling, moment)
        or ceiling_allows(channel, ceiling, total)
        or mirror_is_fresh(account, moment)
        or no_withdrawal_is_near(account, moment, rules)
        or funds_allow(account, channel, total)
        or exposure_allows(draft, account, channel, total, rules)
    ):
        return None
    if ceiling != channel.ceiling and raised is not None:
        draft.record(ev.CeilingRaised(channel.id, ceiling, raised.signature))
    totals = draft.record_run(keys, charges)
    return [Accepted(charge.amount, charged, False) for charge, charged in zip(charges, totals, strict=True)]


def _charged_by_key(run: Sequence[ProvenPayment], first: SpendProof) -> list[ev.Charged] | None:
    """What would be recorded, if one spend key proves all of it, and for each at least as much as is charged."""
    key_id, raised = first.key_id, first.raised
    charges: list[ev.Charged] = []
    for one in run:
        proof = one.proof
        agreed = first.max_amount
        if proof is not first:  # as a rule they share it
            if not isinstance(proof, SpendProof) or proof.key_id != key_id or proof.raised is not raised:
                return None
            agreed = proof.max_amount
        if one.amount > agreed:
            return None
        charges.append(ev.Charged(one.channel_id, one.payment_id, one.amount, one.request_hash, 0, key_id))
    return charges


def _charged_by_vouchers(run: Sequence[ProvenPayment], first: VoucherProof | WatermarkProof) -> list[ev.Charged] | None:
    """What would be recorded, if each has a voucher above the one before: so none is used twice."""
    raised, before = first.raised, -1
    charges: list[ev.Charged] = []
    for one in run:
        proof = one.proof
        if not isinstance(proof, VoucherProof) or proof.raised is not raised or proof.ceiling <= before:
            return None
        before = proof.ceiling
        charges.append(ev.Charged(one.channel_id, one.payment_id, one.amount, one.request_hash, before, b""))
    return charges


def _may_prove(
    draft: Draft,
    account: Account,
    channel: Channel,
    charges: Sequence[ev.Charged],
    total: int,
    ceiling: int,
    moment: DecisionContext,
) -> bool:
    """Rule 2 for all: the key may spend the sum, or the vouchers are unused and not above the verified one."""
    if key_id := charges[0].key_id:
        return key_may_spend(draft, account, key_id, total, moment) is None
    if charges[-1].used_ceiling > ceiling or voucher_may_prove(account, channel, charges[0].used_ceiling):
        return False
    # Above the channel's ceiling none was used. Below it, what a channel forgets for one counts as used for the next.
    return charges[0].used_ceiling > channel.ceiling or (
        channel.used.has_room(len(charges))
        and not any(voucher_may_prove(account, channel, charge.used_ceiling) for charge in charges)
    )
