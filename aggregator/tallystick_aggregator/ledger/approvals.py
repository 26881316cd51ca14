"""Decisions about approvals: one signature of the payer over the totals of many channels. Pure, like `decide`."""

from tallystick.hexadecimal import checksum
from tallystick.reasons import Reason
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.draft import Draft
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
        return Refusal(Reason.ACCOUNT_UNKNOWN, "The account is not known here; make a deposit first.", "account_id")
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
            return Refusal(
                Reason.AMOUNT_MISMATCH,
                f"The approval for {checksum(receiver)} is below the one before it, which is not paid yet.",
                "totals",
                str(approved.get(receiver, 0)),
                f"at least {total}",
            )
    draft.record(ev.TotalsApproved(account_id, totals, signature))
    return None


def _may_be_approved(channel: Channel | None, receiver: bytes, total: int, *, again: bool) -> Refusal | None:
    if channel is None:
        return Refusal(
            Reason.CHANNEL_UNKNOWN, "The account has no channel to this receiver.", "totals", checksum(receiver)
        )
    if again:
        return Refusal(Reason.PAYLOAD_INVALID, "The approval names a receiver twice.", "totals", checksum(receiver))
    if total > channel.charged:
        return Refusal(
            Reason.AMOUNT_MISMATCH,
            f"The approval for {checksum(receiver)} is above what was charged.",
            "totals",
            str(total),
            f"at most {channel.charged}",
        )
    return None
