"""What the sales of one paywall share, and how a payment is given back that nobody waits for."""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tallystick.errors import MalformedError, RefusedError
from tallystick.facilitator import Settled
from tallystick.hexadecimal import checksum, to_hex
from tallystick_client.errors import AggregatorUnavailableError, CallRejectedError
from tallystick_client.seller.paywall import responses
from tallystick_client.seller.paywall.response_cache import Answer, ResponseCache
from tallystick_client.seller.paywall.schemes.port import IncomingPayment
from tallystick_client.seller.paywall.steps import AskAggregator, Background, Flow, Wait, Work

UNSERVED_MAX: Final = 1_000
"""So many are remembered, the newest."""
FOLLOW_S: Final = 900.0
"""How long it is asked what became of a transfer whose client has gone: longer than authorizations are valid."""
_FOLLOW_PAUSES_S: Final = (0.2, 1.0, 5.0)
"""Between two such questions; the last one repeats."""

_log = logging.getLogger("tallystick.seller")


@dataclass(frozen=True, slots=True)
class Unserved:
    """An exact payment that was taken for a request whose client had gone, and which named no payment id.

    `at` is in seconds since the epoch, `amount` in atomic units of `asset`; addresses, nonce, transaction are 0x-hex.
    """

    at: float
    request: str
    """Method and path."""
    payer: str
    amount: int
    asset: str
    network: str
    nonce: str
    transaction: str


@dataclass(slots=True)
class PaywallState:
    """What the sales of one paywall share: the kept answers, and the payments under way. Times are seconds."""

    kept: ResponseCache
    settle_patience_s: float
    release_wait_s: float
    """How long a response waits for its reservation to be given back; the reservation expires by itself."""
    busy_patience_s: float
    """How long a request waits while another one is under way on its payer's channel."""
    clock: Callable[[], float] = time.monotonic
    under_way: set[tuple[object, ...]] = field(default_factory=set[tuple[object, ...]])
    """The money of requests that are being served here."""
    unserved: deque[Unserved] = field(default_factory=lambda: deque[Unserved](maxlen=UNSERVED_MAX))
    following: dict[int, Work] = field(default_factory=dict[int, Work])
    """By the answer that is not delivered."""

    def follow(self, payment: IncomingPayment, answer: Answer, request: str) -> Background:
        """Give back an exact payment whose client has gone or was told to ask again, so that nothing of it is lost.

        What was not sent is then free for any request. What was sent belongs to who shows its payment id, at whichever
        process; where it has none, it goes on the list of the unserved once it has landed.
        """
        work = self.following[id(answer)] = Work(self._follow(payment, answer, request), may_be_left=True)
        return Background(work)

    def note_unserved(self, payment: IncomingPayment, settled: Settled, request: str) -> None:
        """Put a payment that was taken for nothing on the seller's list."""
        terms = payment.offer.terms
        entry = Unserved(
            at=time.time(),
            request=request,
            payer=checksum(payment.payer),
            amount=settled.amount,
            asset=checksum(terms.asset),
            network=str(terms.network),
            nonce=payment.payment_id,
            transaction=to_hex(settled.transaction),
        )
        self.unserved.append(entry)
        _log.warning(
            "%s paid %d of %s for %s and is gone; nobody can prove to be the payer: transaction %s",
            entry.payer, entry.amount, entry.asset, request, entry.transaction,
        )  # fmt: skip

    def _follow(self, payment: IncomingPayment, answer: Answer, request: str) -> Flow[None]:
        settlement = (answer.terms, answer.payment, answer.attempt)
        give_up_at, asked, was_sent = self.clock() + FOLLOW_S, 0, False
        try:
            while self.clock() < give_up_at:
                try:
                    if not was_sent:
                        released: Settled = yield AskAggregator("release", settlement)
                        was_sent = released.replayed
                    if was_sent and payment.identifier is None:
                        # Sends nothing: it was sent. Tells when it has landed.
                        settled: Settled = yield AskAggregator("settle", settlement)
                        self.note_unserved(payment, settled, request)
                except RefusedError as refused:
                    if refused.reason not in responses.PASSING_REASONS:
                        return  # it is somebody else's, or nobody's: it did not land
                except (CallRejectedError, MalformedError) as error:
                    _log.warning("what became of a transfer for %s cannot be learned: %s", request, error)
                    return
                except AggregatorUnavailableError as error:
                    _log.debug("the aggregator is away: %s", error)
                else:
                    return
                yield Wait(_FOLLOW_PAUSES_S[min(asked, len(_FOLLOW_PAUSES_S) - 1)])
                asked += 1
        except Exception:
            raise
        except BaseException:
            _log.warning("stopping; what becomes of a transfer of %s for %s is not known here",
                         checksum(payment.payer), request)  # fmt: skip
            raise
        finally:
            self.following.pop(id(answer), None)
        _log.warning("what became of a transfer of %s for %s was not learned in time",
                     checksum(payment.payer), request)  # fmt: skip
