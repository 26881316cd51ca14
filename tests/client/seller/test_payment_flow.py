"""A sale without any I/O: every way it can go, driven by hand, step by step."""

import json
from typing import Any

import grpc
import pytest
from seller_fakes import PAYER, SELLER, TRANSACTION, FakeAggregator
from seller_shop import Buyer, supported_by

from tallystick import x402
from tallystick.errors import RefusedError
from tallystick.facilitator import Settled, Verified
from tallystick.reasons import Reason
from tallystick_client.errors import AggregatorUnavailableError
from tallystick_client.seller.paywall.payment_flow import PaymentFlow, PaymentFlows
from tallystick_client.seller.paywall.rules import Rule
from tallystick_client.seller.paywall.steps import (
    AskAggregator,
    AwaitPrice,
    AwaitWork,
    Background,
    BodyTooSlowError,
    CallApp,
    CheckClient,
    ClientGoneError,
    ContinueApp,
    Deliver,
    Done,
    ReadBody,
    RequestHead,
    RoomFullError,
    SendResponse,
    Step,
    StopApp,
    Wait,
)

PAGE = "/articles/1"
ID = "a-payment-id-of-mine"
SUPPORTED = supported_by(FakeAggregator())
HELD = Verified(PAYER, b"handle", 2_000_000_000, replayed=False)
CHARGED = Settled(PAYER, 1_000, charged=1_000)
SENT = Settled(PAYER, 1_000, transaction=TRANSACTION)
AWAY = AggregatorUnavailableError("away", grpc.StatusCode.UNAVAILABLE)
PENDING = RefusedError(Reason.TRANSACTION_PENDING, "Not yet.")
TEXT = [(b"content-type", b"text/plain")]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def flows_of(*rules: Rule, **settings: Any) -> PaymentFlows:
    rules = rules or (Rule(path="/articles/*", price="0.001 USDC"),)
    return PaymentFlows(pay_to="0x" + SELLER.hex(), rules=rules, **settings)


def head_of(
    payment: dict[str, str], path: str = PAGE, *, method: str = "GET", length: int | None = None
) -> RequestHead:
    headers = [(name.lower().encode(), value.encode()) for name, value in payment.items()]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return RequestHead(method, path, headers)


def header(step: SendResponse | Deliver, name: bytes) -> str | None:
    return next((value.decode() for key, value in step.headers if key.lower() == name), None)


def receipt(step: Step) -> x402.SettleResponse:
    assert isinstance(step, SendResponse | Deliver)
    return x402.decode_header(header(step, b"payment-response") or "", x402.SettleResponse, "PAYMENT-RESPONSE")


def error_of(step: Step) -> tuple[int, str]:
    """The status of an answer in the paywall's own name, and its reason."""
    assert isinstance(step, SendResponse)
    required = header(step, b"payment-required")
    if required is None:
        return step.status, step.body.decode().partition('"error":"')[2].partition('"')[0]
    error = x402.decode_header(required, x402.PaymentRequired, "PAYMENT-REQUIRED").error or ""
    return step.status, error.partition(":")[0]


def offers_of(flows: PaymentFlows, path: str = PAGE) -> dict[str, x402.PaymentRequirements]:
    with flows.flow(head_of({}, path)) as flow:
        assert flow.start() == AskAggregator("supported")
        step = flow.resume(SUPPORTED)
        assert isinstance(step, SendResponse)
        assert (step.status, json.loads(step.body)["x402Version"]) == (402, 2)
        text = header(step, b"payment-required") or ""
        assert flow.resume() == Done()
    required = x402.decode_header(text, x402.PaymentRequired, "PAYMENT-REQUIRED")
    return {offer.scheme: offer for offer in required.accepts}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def flows(clock: Clock) -> PaymentFlows:
    return flows_of(clock=clock)


@pytest.fixture
def deferred(flows: PaymentFlows, buyer: Buyer) -> dict[str, str]:
    return buyer.deferred(offers_of(flows)["deferred"], PAGE)


@pytest.fixture
def exact(flows: PaymentFlows, buyer: Buyer) -> dict[str, str]:
    return buyer.exact(offers_of(flows)["exact"])


@pytest.fixture
def named(flows: PaymentFlows, buyer: Buyer) -> dict[str, str]:
    return buyer.exact(offers_of(flows)["exact"], identifier=ID)


def begun(flows: PaymentFlows, payment: dict[str, str], **request: Any) -> tuple[PaymentFlow, Step]:
    """A flow up to the first step after it knows the prices."""
    flow = flows.flow(head_of(payment, **request))
    assert flow.start() == AskAggregator("supported")
    return flow, flow.resume(SUPPORTED)


def served(flows: PaymentFlows, payment: dict[str, str], status: int = 200, body: bytes = b"page") -> Any:
    """A flow whose application has answered: what is asked for then."""
    flow, step = begun(flows, payment)
    assert isinstance(step, AskAggregator)
    assert step.verb == "verify"
    step = flow.resume(HELD if step.arguments[2] is None else Verified(PAYER, b"", 0, replayed=False))
    assert isinstance(step, CallApp)
    assert step.is_held
    assert step.paid is not None
    assert step.paid.amount == 1_000
    assert flow.responded(status, TEXT, body, is_last=True) == CheckClient()
    return flow, flow.resume(False)


def asks(step: Step, verb: str) -> bool:
    return isinstance(step, AskAggregator) and step.verb == verb


def test_a_deferred_payment_is_taken_between_the_response_and_its_first_byte(
    flows: PaymentFlows, deferred: dict[str, str]
) -> None:
    flow, step = served(flows, deferred)
    assert asks(step, "settle")
    terms, handle, attempt = step.arguments
    assert (terms.amount, handle, attempt) == (1_000, b"handle", None)
    step = flow.resume(CHARGED)
    assert isinstance(step, Deliver)
    assert (header(step, b"cache-control"), receipt(step).amount) == ("private", "1000")
    assert flow.sent(b"page", is_last=True) == ContinueApp()
    assert flow.resume() == Done()
    flow.close()


def test_the_same_payment_gets_the_kept_answer_and_nobody_is_asked(
    flows: PaymentFlows, deferred: dict[str, str]
) -> None:
    flow, _ = served(flows, deferred)
    flow.resume(CHARGED)
    flow.close()
    flow, step = begun(flows, deferred)
    assert isinstance(step, SendResponse)
    assert (step.status, step.body, receipt(step).amount) == (200, b"page", "1000")
    assert flow.resume() == Done()


def test_a_streamed_answer_is_kept_when_its_last_part_was_sent(flows: PaymentFlows, deferred: dict[str, str]) -> None:
    flow, _ = begun(flows, deferred)
    flow.resume(HELD)
    flow.responded(200, TEXT, b"a", is_last=False)
    assert asks(flow.resume(False), "settle")
    assert isinstance(flow.resume(CHARGED), Deliver)
    assert flow.sent(b"a", is_last=False) == ContinueApp()
    assert len(flows.state.kept) == 0
    assert flow.sent(b"b", is_last=True) == ContinueApp()
    assert flow.resume() == Done()
    _, step = begun(flows, deferred)
    assert isinstance(step, SendResponse)
    assert step.body == b"ab"


def test_a_handler_may_take_less(flows: PaymentFlows, deferred: dict[str, str]) -> None:
    flow, _ = begun(flows, deferred)
    step = flow.resume(HELD)
    assert isinstance(step, CallApp)
    assert step.paid is not None
    step.paid.capture(250)
    flow.responded(200, TEXT, b"page", is_last=True)
    step = flow.resume(False)
    assert isinstance(step, AskAggregator)
    assert step.arguments[0].amount == 250


@pytest.mark.parametrize(
    ("reason", "answer"),
    [
        (Reason.SPEND_KEY_PROOF, (402, "spend_key_proof")),
        (Reason.OVERLOADED, (503, "aggregator_unavailable")),
        (Reason.PAYMENT_USED, (409, "payment_used")),
        (Reason.PAYMENT_PENDING, (409, "payment_pending")),
    ],
)
def test_what_is_refused_is_not_served(
    flows: PaymentFlows, deferred: dict[str, str], reason: Reason, answer: tuple[int, str]
) -> None:
    flow, _ = begun(flows, deferred)
    assert error_of(flow.failed(RefusedError(reason, "No."))) == answer
    assert flow.resume() == Done()


def test_a_lost_answer_to_verify_is_503(flows: PaymentFlows, deferred: dict[str, str]) -> None:
    flow, _ = begun(flows, deferred)
    assert error_of(flow.failed(AWAY)) == (503, "aggregator_unavailable")
    assert flow.resume() == Done()


def test_a_lost_answer_to_settle_is_asked_for_again_then_put_off_and_taken_when_the_payment_comes_again(
    flows: PaymentFlows, deferred: dict[str, str], clock: Clock
) -> None:
    flow, step = served(flows, deferred)
    waited = []
    while isinstance(step, AskAggregator):
        step = flow.failed(AWAY)
        if isinstance(step, Wait):
            waited.append(step.seconds)
            clock.now += step.seconds
            step = flow.resume()
    assert waited[:4] == [0.1, 0.2, 0.5, 1.0]
    assert 9 < sum(waited) <= 10
    assert error_of(step) == (503, "aggregator_unavailable")
    assert flow.resume() == StopApp()
    assert flow.failed(OSError("the rest is not sent")) == Done()
    flow, step = begun(flows, deferred)
    assert asks(step, "settle")
    step = flow.resume(CHARGED)
    assert isinstance(step, SendResponse)
    assert (step.status, step.body) == (200, b"page")


def test_a_settlement_that_is_refused_is_given_back_and_its_page_stays_inside(
    flows: PaymentFlows, deferred: dict[str, str]
) -> None:
    flow, _ = served(flows, deferred)
    step = flow.failed(RefusedError(Reason.INSUFFICIENT_FUNDS, "No."))
    assert isinstance(step, Background)
    assert asks(step.work.start(), "release")
    assert step.work.resume(CHARGED) == Done()
    step = flow.resume()
    assert error_of(step) == (402, "insufficient_funds")
    assert not receipt(step).success
    assert (flow.resume(), flow.resume()) == (StopApp(), Done())


@pytest.mark.parametrize("status", [304, 404, 500])
def test_another_status_than_2xx_gives_the_money_back_first(
    flows: PaymentFlows, deferred: dict[str, str], status: int
) -> None:
    flow, step = served(flows, deferred, status)
    assert asks(step, "release")
    assert step.within_s == 2.0
    assert receipt(flow.resume(CHARGED)).amount == "0"


def test_what_could_not_be_given_back_is_not_told_as_given_back(flows: PaymentFlows, deferred: dict[str, str]) -> None:
    flow, _ = served(flows, deferred, 404)
    step = flow.failed(TimeoutError())
    assert isinstance(step, Deliver)
    assert header(step, b"payment-response") is None


def test_an_application_that_fails_gives_the_money_back_and_its_error_goes_on(
    flows: PaymentFlows, deferred: dict[str, str]
) -> None:
    flow, _ = begun(flows, deferred)
    flow.resume(HELD)
    assert asks(flow.failed(KeyError("broken")), "release")
    step = flow.resume(CHARGED)
    assert error_of(step) == (500, "internal_error")
    assert receipt(step).amount == "0"
    with pytest.raises(KeyError, match="broken"):
        flow.resume()
    assert flow.is_done


def test_a_client_that_left_is_not_charged(flows: PaymentFlows, deferred: dict[str, str]) -> None:
    flow, _ = begun(flows, deferred)
    flow.resume(HELD)
    assert flow.responded(200, TEXT, b"page", is_last=True) == CheckClient()
    step = flow.resume(True)
    assert isinstance(step, Background)
    assert asks(step.work.start(), "release")
    assert (flow.resume(), flow.resume()) == (StopApp(), Done())


def test_a_request_that_is_cancelled_gives_the_money_back_and_waits_for_nothing(
    flows: PaymentFlows, deferred: dict[str, str]
) -> None:
    flow, _ = begun(flows, deferred)
    flow.resume(HELD)
    assert isinstance(flow.failed(KeyboardInterrupt()), Background)
    with pytest.raises(KeyboardInterrupt):
        flow.resume()


def test_a_payment_that_is_under_way_is_told_so_until_its_flow_is_closed(
    flows: PaymentFlows, deferred: dict[str, str], exact: dict[str, str]
) -> None:
    first, _ = begun(flows, exact)
    _, step = begun(flows, exact)
    assert error_of(step) == (409, "payment_pending")
    first.close()
    assert asks(begun(flows, exact)[1], "verify")
    first, _ = begun(flows, deferred)
    first.resume(HELD)
    for is_over, error in ((False, "payment_under_way"), (True, "payment_replayed")):
        if is_over:
            first.close()
        again, _ = begun(flows, deferred)
        assert error_of(again.resume(Verified(PAYER, b"", 0, replayed=True))) == (409, error)


# Exact.


def late(flows: PaymentFlows, payment: dict[str, str], clock: Clock) -> tuple[PaymentFlow, Background]:
    """A sale whose transfer is in no block for as long as the offer says."""
    flow, step = served(flows, payment)
    while not isinstance(step, Background):
        assert asks(step, "settle")
        step = flow.failed(PENDING)
        if step == CheckClient():
            step = flow.resume(False)
            assert isinstance(step, Wait)
            clock.now += step.seconds
            step = flow.resume()
    assert 59 <= clock.now <= 60
    assert error_of(flow.resume()) == (409, "payment_pending")
    assert (flow.resume(), flow.resume()) == (StopApp(), Done())
    return flow, step


def test_an_exact_payment_is_sent_after_the_response_and_before_its_first_byte(
    flows: PaymentFlows, exact: dict[str, str]
) -> None:
    flow, step = served(flows, exact)
    assert asks(step, "settle")
    assert step.arguments[2] is not None, "it is this attempt's"
    assert flow.resume(SENT) == CheckClient()
    step = flow.resume(False)
    assert receipt(step).transaction == "0x" + TRANSACTION.hex()
    assert isinstance(step, Deliver)


def test_a_late_transfer_that_names_itself_is_given_back_and_its_kept_page_sent_to_who_asks_again(
    flows: PaymentFlows, named: dict[str, str], clock: Clock
) -> None:
    _, background = late(flows, named, clock)
    work = background.work
    assert work.may_be_left
    assert asks(work.start(), "release")
    # While it is given back nobody else may take it again.
    again, step = begun(flows, named)
    assert step == AwaitWork(work, 2.0)
    assert error_of(again.resume()) == (409, "payment_pending")
    assert again.resume() == Done()
    assert work.resume(Settled(PAYER, 0, replayed=True)) == Done()
    again, step = begun(flows, named)
    assert asks(step, "settle")
    assert again.resume(SENT) == CheckClient()
    step = again.resume(False)
    assert isinstance(step, SendResponse)
    assert (step.status, step.body) == (200, b"page")


def test_a_late_transfer_without_a_name_is_listed_when_it_has_landed(
    flows: PaymentFlows, exact: dict[str, str], clock: Clock
) -> None:
    _, background = late(flows, exact, clock)
    work = background.work
    work.start()
    assert asks(work.resume(Settled(PAYER, 0, replayed=True)), "settle")
    assert work.failed(PENDING) == Wait(0.2)
    assert asks(work.resume(), "settle")
    assert work.resume(SENT) == Done()
    (unserved,) = flows.unserved
    assert (unserved.request, unserved.amount) == ("GET /articles/1", 1_000)


def test_work_that_is_left_says_what_is_not_known(
    flows: PaymentFlows, exact: dict[str, str], clock: Clock, caplog: Any
) -> None:
    _, background = late(flows, exact, clock)
    background.work.start()
    background.work.close()
    assert "is not known here" in caplog.text
    assert not flows.state.following


def test_a_transfer_whose_request_is_cancelled_is_followed(flows: PaymentFlows, exact: dict[str, str]) -> None:
    flow, _ = served(flows, exact)
    step = flow.failed(KeyboardInterrupt())
    assert isinstance(step, Background)
    assert step.work.may_be_left
    with pytest.raises(KeyboardInterrupt):
        flow.resume()


# What costs nothing, and what is never served.


@pytest.mark.parametrize(
    ("method", "path"), [("HEAD", PAGE), ("OPTIONS", PAGE), ("GET", "/free"), ("GET", "/robots.txt")]
)
def test_what_is_free_is_the_applications_alone(flows: PaymentFlows, method: str, path: str) -> None:
    flow = flows.flow(head_of({}, path, method=method))
    assert flow.start() == CallApp(is_held=False)
    assert flow.resume() == Done()


def test_a_payment_for_what_is_free_is_told_that_nothing_was_charged(
    flows: PaymentFlows, deferred: dict[str, str]
) -> None:
    flow = flows.flow(head_of(deferred, "/free"))
    assert flow.start() == CallApp()
    step = flow.responded(200, TEXT, b"free", is_last=True)
    assert isinstance(step, Deliver)
    assert (receipt(step).amount, header(step, b"cache-control")) == ("0", None)
    assert (flow.sent(b"free", is_last=True), flow.resume()) == (ContinueApp(), Done())


def test_prices_that_are_not_known_are_503(flows: PaymentFlows) -> None:
    flow = flows.flow(head_of({}))
    flow.start()
    assert error_of(flow.failed(AWAY)) == (503, "aggregator_unavailable")


def test_a_path_that_means_two_things_is_400(flows: PaymentFlows) -> None:
    assert error_of(flows.flow(head_of({}, "/free/../articles/1")).start()) == (400, "malformed")


def test_a_body_is_read_once_there_is_a_payment_for_it(flows: PaymentFlows, buyer: Buyer) -> None:
    payment = buyer.deferred(offers_of(flows)["deferred"], PAGE, method="POST", body=b"12345")
    flow, step = begun(flows, payment, method="POST", length=5)
    assert step == ReadBody(1_048_576)
    assert asks(flow.resume(b"12345"), "verify")
    assert error_of(begun(flows, {"PAYMENT-SIGNATURE": "junk"}, method="POST", length=5)[1])[0] == 400


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (BodyTooSlowError(), (408, "body_too_slow")),
        (RoomFullError(), (503, "overloaded")),
        (None, (413, "body_too_large")),
    ],
)
def test_a_body_that_cannot_be_read_is_answered(
    flows: PaymentFlows, deferred: dict[str, str], error: Any, answer: tuple[int, str]
) -> None:
    flow, _ = begun(flows, deferred, method="POST", length=5)
    assert error_of(flow.resume(None) if error is None else flow.failed(error)) == answer


def test_a_client_that_leaves_while_its_body_is_read_gets_no_answer(
    flows: PaymentFlows, deferred: dict[str, str]
) -> None:
    flow, _ = begun(flows, deferred, method="POST", length=5)
    assert flow.failed(ClientGoneError()) == Done()


def test_a_price_may_be_made_by_a_coroutine() -> None:
    async def price(_: Any) -> str:
        return "0.002 USDC"

    flow = flows_of(Rule(path="*", price=price)).flow(head_of({}))
    step = flow.start()
    assert isinstance(step, AwaitPrice)
    step.price.close()  # type: ignore[attr-defined]
    assert flow.resume("0.002 USDC") == AskAggregator("supported")
