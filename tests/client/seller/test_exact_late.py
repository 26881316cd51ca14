"""X1, X4, X5, X11: exact payments that take long, are shown twice, or pay for a page that nobody waits for any more."""

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from tallystick_client.seller.paywall.response_cache import is_logged_in, keepable
from tallystick_client.seller.paywall.state import FOLLOW_S

PAGE = "/articles/1"
ID = "a-payment-id-of-mine"
DOWN = grpc.StatusCode.UNAVAILABLE


@dataclass
class Time:
    """A clock that passes only where somebody waits."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    @property
    def settings(self) -> dict[str, Any]:
        return {"clock": self, "sleep": self.pause}


async def buy(shop: Any, exchange: Any, payment: dict[str, str], *, leaves_at_settle: Any = None) -> Any:
    """One request whose client leaves when `leaves_at_settle`, the fake, is asked to settle."""
    one = exchange(shop.paywall, PAGE, payment)
    if leaves_at_settle is not None:
        settle = leaves_at_settle._settle_exact

        def and_leave(request: Any) -> Any:
            if not request.release:
                one.incoming.put_nowait({"type": "http.disconnect"})
            return settle(request)

        leaves_at_settle._settle_exact = and_leave
    await one.run()
    await shop.paywall.finish()
    if leaves_at_settle is not None:
        leaves_at_settle._settle_exact = settle
    return one


async def test_x4_a_slow_chain_is_waited_for_as_long_as_the_offer_says_then_told_as_under_way(
    open_shop: Any, buyer: Any, fake: Any, refusal_of: Any
) -> None:
    time = Time()
    shop = open_shop(max_timeout_s=60, **time.settings)
    payment = buyer.exact(await shop.offer(PAGE, "exact"), identifier=ID)
    fake.settle_trouble = [refusal_of("TRANSACTION_PENDING")] * 50
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 200
    assert 40 < time.now < 60
    payment = buyer.exact(await shop.offer(PAGE, "exact"), identifier=ID)
    fake.settle_trouble = [refusal_of("TRANSACTION_PENDING")] * 70
    late = await shop.http.get(PAGE, headers=payment)
    assert (late.status_code, late.json()["error"], late.headers["retry-after"]) == (409, "payment_pending", "2")
    fake.settle_trouble = []
    page = await shop.http.get(PAGE, headers=payment)
    assert (page.status_code, page.text) == (200, "hello")
    assert len(shop.served) == 2, "the handler ran once for each payment"


async def test_x1_while_one_worker_has_a_payment_another_says_that_it_is_under_way_and_never_runs(
    open_shop: Any, buyer: Any
) -> None:
    other: Any = None

    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        answer = await other.http.get(PAGE, headers=payment)
        assert (answer.status_code, answer.json()["error"]) == (409, "payment_pending")
        assert answer.headers["retry-after"] == "2"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    shop, other = open_shop(handler), open_shop()
    payment = buyer.exact(await shop.offer(PAGE, "exact"))
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 200
    used = await other.http.get(PAGE, headers=payment)
    assert (used.status_code, used.json()["error"]) == (409, "payment_used")
    assert (len(shop.served), len(other.served)) == (1, 0)


async def test_x4_a_page_whose_client_left_is_served_by_whichever_worker_is_asked_with_the_id(
    open_shop: Any, buyer: Any, exchange: Any, fake: Any
) -> None:
    shop, other = open_shop(), open_shop()
    payment = buyer.exact(await shop.offer(PAGE, "exact"), identifier=ID)
    gone = await buy(shop, exchange, payment, leaves_at_settle=fake)
    assert gone.sent == []
    assert (await other.http.get(PAGE, headers=payment)).text == "hello"
    # It was delivered there, so nowhere else.
    again = await shop.http.get(PAGE, headers=payment)
    assert (again.status_code, again.json()["error"]) == (409, "payment_used")
    assert (await other.http.get(PAGE, headers=payment)).text == "hello", "its kept answer again"
    assert (len(shop.served), len(other.served), len(fake.exact_settled)) == (1, 1, 1)
    assert shop.paywall.unserved == ()


async def test_x4_the_worker_that_kept_the_page_serves_it_without_running_again(
    open_shop: Any, buyer: Any, exchange: Any, fake: Any
) -> None:
    shop = open_shop()
    payment = buyer.exact(await shop.offer(PAGE, "exact"), identifier=ID)
    await buy(shop, exchange, payment, leaves_at_settle=fake)
    for _ in range(2):
        answer = await shop.http.get(PAGE, headers=payment)
        assert (answer.status_code, answer.text) == (200, "hello")
        assert buyer.receipt(answer).success
    assert len(shop.served) == 1


async def test_x4_a_page_that_is_still_being_given_back_is_told_as_under_way(
    open_shop: Any, buyer: Any, exchange: Any, fake: Any
) -> None:
    shop, arrived, answer = open_shop(release_wait_s=0.05), asyncio.Event(), asyncio.Event()
    payment = buyer.exact(await shop.offer(PAGE, "exact"), identifier=ID)
    release = shop.paywall.aggregator.release

    async def slow(*arguments: Any) -> Any:
        arrived.set()
        await answer.wait()
        return await release(*arguments)

    shop.paywall.aggregator.release = slow
    one = exchange(shop.paywall, PAGE, payment)
    settle = fake._settle_exact

    def and_leave(request: Any) -> Any:
        one.incoming.put_nowait({"type": "http.disconnect"})
        return settle(request)

    fake._settle_exact = and_leave
    await one.run()
    fake._settle_exact = settle
    await arrived.wait()
    early = await shop.http.get(PAGE, headers=payment)
    assert (early.status_code, early.json()["error"]) == (409, "payment_pending")
    answer.set()
    assert (await shop.http.get(PAGE, headers=payment)).text == "hello"
    assert len(shop.served) == 1


async def test_x5_without_an_id_a_page_whose_client_left_is_on_the_list_and_never_served(
    open_shop: Any, buyer: Any, exchange: Any, fake: Any, caplog: Any
) -> None:
    shop, other = open_shop(), open_shop()
    payment = buyer.exact(await shop.offer(PAGE, "exact"))
    gone = await buy(shop, exchange, payment, leaves_at_settle=fake)
    assert gone.sent == []
    for one in (shop, other):
        answer = await one.http.get(PAGE, headers=payment)
        assert (answer.status_code, answer.json()["error"]) == (409, "payment_used")
    (unserved,) = shop.paywall.unserved
    assert (unserved.request, unserved.amount, unserved.network) == ("GET /articles/1", 1000, "eip155:31337")
    assert (unserved.payer.lower(), unserved.transaction) == ("0x" + "ba" * 20, "0x" + "ab" * 32)
    assert unserved.transaction in caplog.text


@pytest.mark.parametrize("identifier", [ID, ""])
@pytest.mark.parametrize("kept", [False, True])
async def test_x5_what_lands_after_the_server_has_cancelled_its_request_is_not_forgotten(
    open_shop: Any, buyer: Any, exchange: Any, fake: Any, identifier: str, *, kept: bool
) -> None:
    shop, other = open_shop(), open_shop()
    payment = buyer.exact(await shop.offer(PAGE, "exact"), identifier=identifier)
    if kept and identifier:
        await buy(shop, exchange, payment, leaves_at_settle=fake)
    settle = fake._settle_exact

    def and_cancel(request: Any) -> Any:
        if not request.release:
            task.cancel()
        return settle(request)

    fake._settle_exact = and_cancel
    task = asyncio.create_task(exchange(shop.paywall, PAGE, payment).run())
    with pytest.raises(asyncio.CancelledError):
        await task
    fake._settle_exact = settle
    await shop.paywall.finish()
    answer = await other.http.get(PAGE, headers=payment)
    if identifier:
        assert (answer.status_code, answer.text, shop.paywall.unserved) == (200, "hello", ())
    else:
        assert (answer.status_code, answer.json()["error"]) == (409, "payment_used")
        assert [unserved.request for unserved in shop.paywall.unserved] == ["GET /articles/1"]


@pytest.mark.parametrize("identifier", [ID, ""])
async def test_x5_what_lands_after_its_request_was_put_off_is_served_with_the_id_and_listed_without(
    open_shop: Any, buyer: Any, fake: Any, refusal_of: Any, until: Any, identifier: str
) -> None:
    time = Time()
    shop, other = open_shop(max_timeout_s=5, **time.settings), open_shop(**time.settings)
    payment = buyer.exact(await shop.offer(PAGE, "exact"), identifier=identifier)
    fake.settle_trouble = [refusal_of("TRANSACTION_PENDING")] * 20
    assert (await shop.http.get(PAGE, headers=payment)).json()["error"] == "payment_pending"
    if identifier:
        await until(lambda: fake.exact_given_back)
        fake.settle_trouble = []
        assert (await other.http.get(PAGE, headers=payment)).text == "hello"
        assert shop.paywall.unserved == ()
    else:
        await until(lambda: shop.paywall.unserved)
        answer = await other.http.get(PAGE, headers=payment)
        assert (answer.status_code, answer.json()["error"]) == (409, "payment_used")
    assert len(fake.exact_settled) == 1


@pytest.mark.parametrize("identifier", [ID, ""])
async def test_x4_what_was_never_sent_is_given_back_and_the_same_payment_buys_the_page(
    open_shop: Any, buyer: Any, fake: Any, until: Any, identifier: str
) -> None:
    time = Time()
    shop, other = open_shop(max_timeout_s=1, **time.settings), open_shop()
    payment = buyer.exact(await shop.offer(PAGE, "exact"), identifier=identifier)
    fake.settle_trouble = [DOWN] * 20
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 503
    await until(lambda: not fake.exact_owners)
    assert (await other.http.get(PAGE, headers=payment)).status_code == 200
    assert (len(fake.exact_settled), shop.paywall.unserved) == (1, ())


async def test_x5_an_aggregator_that_is_away_when_a_payment_is_followed_is_asked_again_for_a_while(
    open_shop: Any, buyer: Any, fake: Any, until: Any, caplog: Any
) -> None:
    time = Time()
    shop = open_shop(max_timeout_s=1, **time.settings)
    fake.settle_trouble = [DOWN] * 10_000
    answer = await shop.http.get(PAGE, headers=buyer.exact(await shop.offer(PAGE, "exact")))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    await until(lambda: "was not learned in time" in caplog.text)
    assert FOLLOW_S < time.now < 2 * FOLLOW_S


async def test_x5_a_paywall_that_stops_says_what_it_did_not_learn(
    open_shop: Any, buyer: Any, fake: Any, caplog: Any
) -> None:
    time = Time()
    fake.settle_trouble = [DOWN] * 100

    async def pause(seconds: float) -> None:
        time.now += seconds
        if time.now > 2:
            await asyncio.Event().wait()

    shop = open_shop(max_timeout_s=1, settle_patience_s=0.0, release_wait_s=0.01, clock=time, sleep=pause)
    answer = await shop.http.get(PAGE, headers=buyer.exact(await shop.offer(PAGE, "exact")))
    assert answer.status_code == 503
    await shop.paywall.finish()
    assert "is not known here" in caplog.text


async def test_x5_a_poor_sender_is_told_as_such_and_the_handler_does_not_run(
    open_shop: Any, buyer: Any, fake: Any, refusal_of: Any
) -> None:
    shop = open_shop()
    fake.verify_trouble = [refusal_of("EXACT_UNAVAILABLE")]
    assert buyer.required(await shop.buy_exact(PAGE)).error.startswith("exact_unavailable: ")
    assert shop.served == []


async def test_x1_a_lost_verify_gives_its_hold_back(open_shop: Any, buyer: Any, fake: Any) -> None:
    shop, other = open_shop(), open_shop()
    payment = buyer.exact(await shop.offer(PAGE, "exact"))
    fake.verify_trouble = [("after", DOWN)]
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 503
    await shop.paywall.finish()
    assert (await other.http.get(PAGE, headers=payment)).status_code == 200


# X11.


async def test_x11_an_answer_is_repeated_to_who_shows_the_id_only(open_shop: Any, buyer: Any) -> None:
    shop = open_shop()
    offer = await shop.offer(PAGE, "exact")
    assert (await shop.http.get(PAGE, headers=buyer.exact(offer, nonce=5, identifier=ID))).status_code == 200
    for identifier in ("", "another-payment-id"):
        stranger = await shop.http.get(PAGE, headers=buyer.exact(offer, nonce=5, identifier=identifier))
        assert (stranger.status_code, stranger.json()["error"]) == (409, "payment_used")
    assert (await shop.http.get(PAGE, headers=buyer.exact(offer, nonce=5, identifier=ID))).text == "hello"
    assert len(shop.served) == 1


@pytest.mark.parametrize("scheme", ["exact", "deferred"])
async def test_x11_cookies_are_never_repeated(open_shop: Any, buyer: Any, scheme: str) -> None:
    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"Set-Cookie", b"session=secret"), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})

    shop = open_shop(handler)
    offer = await shop.offer(PAGE, scheme)
    payment = buyer.exact(offer, identifier=ID) if scheme == "exact" else buyer.deferred(offer, PAGE)
    first, again = [await shop.http.get(PAGE, headers=payment) for _ in range(2)]
    assert first.headers["set-cookie"] == "session=secret"
    assert (again.status_code, again.text, again.headers["content-type"]) == (200, "hello", "text/plain")
    assert "set-cookie" not in again.headers


@pytest.mark.parametrize("login", [{"Authorization": "Bearer me"}, {"Cookie": "session=me"}])
@pytest.mark.parametrize("scheme", ["exact", "deferred"])
async def test_x11_answers_to_logged_in_requests_are_not_kept(
    open_shop: Any, buyer: Any, scheme: str, login: dict[str, str]
) -> None:
    shop = open_shop()
    offer = await shop.offer(PAGE, scheme)
    payment = buyer.exact(offer, identifier=ID) if scheme == "exact" else buyer.deferred(offer, PAGE)
    assert (await shop.http.get(PAGE, headers=payment | login)).status_code == 200
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 409
    assert len(shop.paywall.flows.state.kept) == 0


async def test_x11_answers_that_must_not_be_stored_are_not_kept(open_shop: Any, buyer: Any) -> None:
    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"cache-control", b"max-age=0, No-Store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})

    shop = open_shop(handler)
    payment = buyer.deferred(await shop.offer(PAGE), PAGE)
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 200
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 409


def test_x11_what_of_an_answer_is_a_persons() -> None:
    assert keepable([(b"Set-Cookie", b"a=b"), (b"WWW-Authenticate", b"x"), (b"etag", b"1")]) == [(b"etag", b"1")]
    assert keepable([(b"Cache-Control", b"private, no-store")]) is None
    assert keepable([(b"cache-control", b"private")]) == [(b"cache-control", b"private")]
    assert is_logged_in([(b"cookie", b"a=b")])
    assert not is_logged_in([(b"accept", b"*/*")])


@pytest.mark.parametrize("identifier", ["short", "x" * 129, "with spaces in between", "umlaut-ä-in-the-id", 7])
async def test_x11_an_id_of_another_form_is_named(open_shop: Any, identifier: Any) -> None:
    shop = open_shop()
    response = await shop.buy_exact(PAGE, identifier=identifier)
    assert response.status_code == 400
    assert "extensions.payment-identifier.info.id" in response.json()["message"]
    assert shop.served == []
