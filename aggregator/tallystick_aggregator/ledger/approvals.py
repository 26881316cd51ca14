"""Decisions about approvals: one signature of the payer over the totals of many channels. Pure, like `decide`."""

from tallystick.hexadecimal import checksum
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.state import Account, Channel, Ledger

Totals = tuple[tuple[bytes, int], ...]
"""(receiver, cumulative total in atomic units) of an account's channels."""


def unpaid_totals(account: Account, ledger: Ledger) -> Totals:
    """The totals of the account's approval that the chain has not paid yet."""
    if account.approval is None:
        return ()
    claimed = {channel.receiver: channel.claimed for channel in ledger.channels_of(account.id)}
    return tuple((receiver, total) for receiver, total in account.approval.totals if total > claimed.get(receiver, 0))


def approve_totals(draft: Draft, ledger: Ledger, account_id: bytes, totals: Totals, signature: bytes) -> Refusal | None:
    """Keep an approval whose signature was checked.

    Refused where it names a receiver twice or an unknown one, where it is above what was charged, and where it falls
    below what the approval before it has for a receiver that is not paid yet.
    """
    account = draft.account(account_id)
    if account is None:
        return refuse(Why.ACCOUNT_UNKNOWN)
    if account.approval is not None and (account.approval.totals, account.approval.signature) == (totals, signature):
        return None  # the same again changes nothing, and leaves nothing behind
    channels: dict[bytes, Channel] = {
        known.receiver: draft.channel(known.id) or known for known in ledger.channels_of(account_id)
    }
    approved: dict[bytes, int] = {}
    for receiver, total in totals:
        refusal = _may_be_approved(channels.get(receiver), receiver, total, again=receiver in approved)
        if refusal is not None:
            return refusal
        approved[receiver] = total
    for receiver, total in unpaid_totals(account, ledger):
        if approved.get(receiver, 0) < total:
            return refuse(
                Why.APPROVAL_TOO_LOW, approved.get(receiver, 0), f"at least {total}", receiver=checksum(receiver)
            )
    draft.record(ev.TotalsApproved(account_id, totals, signature))
    return None


def _may_be_approved(channel: Channel | None, receiver: bytes, total: int, *, again: bool) -> Refusal | None:
    if channel is None:
        return refuse(Why.APPROVED_RECEIVER_UNKNOWN, checksum(receiver))
    if again:
        return refuse(Why.APPROVED_TWICE, checksum(receiver))
    if total > channel.charged:
        return refuse(Why.APPROVAL_TOO_HIGH, total, f"at most {channel.charged}", receiver=checksum(receiver))
    return None
