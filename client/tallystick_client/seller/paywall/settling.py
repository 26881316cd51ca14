"""Taking the money for an answer: asked for until it is decided, or until there is no patience left."""

from typing import Final

from tallystick.errors import MalformedError, RefusedError
from tallystick.facilitator import Settled
from tallystick.reasons import Reason
from tallystick_client.errors import AggregatorUnavailableError, CallRejectedError
from tallystick_client.seller.paywall import responses
from tallystick_client.seller.paywall.response_cache import Answer
from tallystick_client.seller.paywall.schemes.port import IncomingPayment
from tallystick_client.seller.paywall.state import PaywallState
from tallystick_client.seller.paywall.steps import AskAggregator, CheckClient, Flow, Wait

PAUSES_S: Final = (0.1, 0.2, 0.5, 1.0)
"""Between two questions about one payment; the last one repeats."""


class OutcomeUnknownError(Exception):
    """A payment may or may not have been taken; `reason` is the aggregator's, where it said so itself."""

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        super().__init__(message)
        self.reason = reason


def settle(state: PaywallState, payment: IncomingPayment, answer: Answer, *, is_again: bool) -> Flow[Settled]:
    """What was settled. `is_again`: it was asked for before, and nobody knows what came of it.

    Raises RefusedError or OutcomeUnknownError.
    """
    patience_s = state.settle_patience_s
    waits_for_chain = payment.moves_money or not payment.is_reserved
    if waits_for_chain:
        patience_s = max(patience_s, payment.offer.requirements.max_timeout_seconds)
    undecided = responses.UNDECIDED_REASONS if waits_for_chain else responses.PASSING_REASONS
    give_up_at = state.clock() + patience_s
    attempts = 0
    while True:
        reason = None
        try:
            settled: Settled = yield AskAggregator("settle", (answer.terms, answer.payment, answer.attempt))
        except RefusedError as refused:
            found = payment.offer.scheme.found_settled(payment, answer.terms.amount, refused) if is_again else None
            if found is not None:
                return found
            if refused.reason not in undecided:
                raise
            error: Exception = refused
            reason = refused.reason
        except AggregatorUnavailableError as unavailable:
            error = unavailable
        except (CallRejectedError, MalformedError) as rejected:
            raise OutcomeUnknownError(str(rejected)) from rejected
        else:
            return settled
        is_again = True
        pause_s = PAUSES_S[min(attempts, len(PAUSES_S) - 1)]
        attempts += 1
        is_late = state.clock() + pause_s > give_up_at
        if is_late or (not payment.is_reserved and (yield CheckClient())):
            raise OutcomeUnknownError(str(error), reason) from error
        yield Wait(pause_s)
