"""The book's equation holds whatever happens, on disk as in memory; and what the transport remembers stays small."""

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from payer_fakes import DOMAIN, PRICE, FakeSeller, Paying, Steps, make_operator

from tallystick.channels import account_id, channel_id
from tallystick.patterns import Pattern
from tallystick.x402 import PayAhead, PaymentRequired
from tallystick_client.payer.http.price_cache import (
    OFFER_BYTES_MAX,
    OFFERS_MAX,
    ORIGINS_MAX,
    PATTERNS_MAX,
    TARGETS_MAX,
    Prices,
)
from tallystick_client.payer.policy.offers import Offer, choose
from tallystick_client.payer.policy.operators import Asset
from tallystick_client.payer.recent import Recent
from tallystick_client.payer.wallet.book import Book
from tallystick_client.payer.wallet.rows import Account, Channel, ExactPayment, GrantRow
from tallystick_client.payer.wallet.store import Store

OPERATOR = make_operator("127.0.0.1:1")
ASSET = Asset(str(OPERATOR.network), OPERATOR.tokens[0].address)
CONFIG = OPERATOR.account(bytes([1] * 20), ASSET.token, bytes(32))
amounts = st.integers(0, 50)


def opened_account() -> Account:
    return Account(account_id(DOMAIN, CONFIG), ASSET, OPERATOR.escrow, CONFIG, 0, deposited=10_000)


class BookMachine(RuleBasedStateMachine):
    """Grants to three sellers, spent, lost, returned, closed and reconciled in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Book()
        account = opened_account()
        self.book.add(account)
        self.highest: dict[bytes, int] = {}
        self.exact = self.transfers = 0
        for number in range(3):
            config = CONFIG.channel(bytes([number + 1] * 20))
            self.book.add(Channel(channel_id(DOMAIN, config), account.id, config, f"host{number}"))

    def pick(self, number: int, rows: list[GrantRow]) -> GrantRow:
        return rows[number % len(rows)]

    def open_rows(self) -> list[GrantRow]:
        return [row for row in self.book.grants.values() if not row.closed_at]

    @rule(number=st.integers(0, 2), amount=amounts, fresh=st.booleans(), day=st.integers(0, 2))
    def allot(self, number: int, amount: int, day: int, *, fresh: bool) -> None:
        channel = list(self.book.channels.values())[number]
        before = channel.ceiling
        row = self.book.new_grant(channel, channel.host, "", b"", day)
        ceiling = self.book.allot(row, amount, fresh=fresh)
        assert ceiling == channel.ceiling >= before
        assert ceiling - before <= amount + channel.disputed

    @precondition(lambda self: self.open_rows())
    @rule(number=st.integers(0, 99), charged=amounts, unknown=amounts)
    def report(self, number: int, charged: int, unknown: int) -> None:
        row = self.pick(number, self.open_rows())
        totals = (row.charged + charged, row.unknown + unknown)
        if charged + unknown > row.open:
            with pytest.raises(ValueError, match="do not fit"):
                self.book.report(row, *totals)
            return
        for _ in range(2):
            self.book.report(row, *totals)

    @precondition(lambda self: self.open_rows())
    @rule(number=st.integers(0, 99), amount=amounts)
    def give_back(self, number: int, amount: int) -> None:
        row = self.pick(number, self.open_rows())
        if amount > row.open:
            with pytest.raises(ValueError, match="cannot be returned"):
                self.book.give_back(row, amount)
        else:
            self.book.give_back(row, amount)

    @precondition(lambda self: self.open_rows())
    @rule(number=st.integers(0, 99))
    def close(self, number: int) -> None:
        self.book.close(self.pick(number, self.open_rows()), 1)

    @rule(number=st.integers(0, 2), charged=amounts, open_=amounts)
    def resolve(self, number: int, charged: int, open_: int) -> None:
        channel = list(self.book.channels.values())[number]
        closed = [row for row in self.book.grants_of(channel.id) if row.closed_at]
        unknown = sum(row.unknown for row in closed)
        committed = channel.committed
        freed = self.book.resolve(closed, charged, open_)
        assert freed == max(0, unknown - charged - open_)
        assert channel.committed == committed - freed

    @rule(number=st.integers(0, 2), amount=amounts)
    def dispute(self, number: int, amount: int) -> None:
        self.book.dispute(list(self.book.channels.values())[number], amount, 0)

    @rule(number=st.integers(0, 2), amount=amounts, day=st.integers(0, 2))
    def pay_by_exact(self, number: int, amount: int, day: int) -> None:
        self.transfers += 1
        nonce = self.transfers.to_bytes(32, "big")
        self.book.spend_exact(ExactPayment(nonce, ASSET, f"host{number}", amount, 1, day))
        self.exact += amount

    @precondition(lambda self: self.book.exact_payments)
    @rule(number=st.integers(0, 99), landed=st.booleans())
    def end_exact(self, number: int, *, landed: bool) -> None:
        payments = list(self.book.exact_payments.values())
        payment = payments[number % len(payments)]
        if landed:
            self.book.exact_is_spent(payment.nonce)
        else:
            self.book.free_exact(payment.nonce)
            self.exact -= payment.amount
        assert payment.nonce not in self.book.exact_payments

    @invariant()
    def the_equation_holds(self) -> None:
        self.book.check()

    @invariant()
    def budgets_count_what_is_committed_and_what_was_paid_by_exact(self) -> None:
        (account,) = self.book.accounts.values()
        assert self.book.spent(ASSET, "", 0)["total"] == account.committed + self.exact
        assert self.book.spent_by_exact(ASSET) == self.exact

    @invariant()
    def ceilings_never_fall(self) -> None:
        for channel in self.book.channels.values():
            assert channel.ceiling >= self.highest.get(channel.id, 0)
            self.highest[channel.id] = channel.ceiling


TestBook = BookMachine.TestCase
TestBook.settings = settings(deadline=None, max_examples=40, stateful_step_count=25)


async def test_what_is_committed_is_read_back_as_it_was(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "wallet.db", CONFIG.payer)
    book = store.book
    account = opened_account()
    book.add(account)
    config = CONFIG.channel(bytes([7] * 20))
    channel = Channel(channel_id(DOMAIN, config), account.id, config, "a.example")
    book.add(channel)
    row = book.new_grant(channel, "a.example", "worker", bytes([3] * 32), 20_000)
    book.allot(row, 2**100)
    book.report(row, 5, 7)
    gone = book.new_grant(channel, "a.example", "", b"", 20_000)
    await asyncio.gather(*(store.commit() for _ in range(5)))
    book.close(gone, 1)
    await store.commit()
    counters = dict(book.counters)
    await store.close()

    store = await Store.open(tmp_path / "wallet.db", CONFIG.payer)
    assert store.book.accounts == {account.id: account}
    assert store.book.channels == {channel.id: channel}
    assert store.book.grants == {row.id: row}
    assert store.book.counters == counters
    store.book.check()
    assert not store.book.take_changes()
    await store.close()


async def test_x10_a_file_of_the_format_before_is_read_and_its_transfers_stay_spent(tmp_path: Path) -> None:
    file = tmp_path / "wallet.db"
    store = await Store.open(file, CONFIG.payer)
    store.book.spend_exact(ExactPayment(bytes(32), ASSET, "a.example", 7, 1_000, 20_000))
    await store.close()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE meta SET value = '1' WHERE name = 'format'")
        connection.execute("ALTER TABLE exact_payments DROP COLUMN day")
        connection.execute("ALTER TABLE exact_payments DROP COLUMN status")
    connection.close()
    for _ in range(2):
        store = await Store.open(file, CONFIG.payer)
        assert not store.book.exact_payments
        assert store.book.spent_by_exact(ASSET) == 7
        await store.close()


def test_checking_a_book_takes_time_in_proportion_to_its_channels() -> None:
    def steps(count: int) -> int:
        book, account = Book(), opened_account()
        book.add(account)
        for number in range(1, count + 1):
            config = CONFIG.channel(number.to_bytes(20, "big"))
            channel = Channel(channel_id(DOMAIN, config), account.id, config, "a.example")
            book.add(channel)
            book.allot(book.new_grant(channel, "a.example", "", b"", 0), 1)
        with Steps() as steps:
            book.check()
        return steps.count

    assert 0 < steps(200) < 5 * steps(50)


def offer(path: str = "a.example", amount: int = PRICE) -> Offer:
    seller = FakeSeller(None, OPERATOR)  # type: ignore[arg-type]
    required = PaymentRequired(accepts=[seller.offer("deferred", path, amount)])
    return choose(required, Paying(OPERATOR))


def test_w6_a_price_stands_for_its_own_target_only() -> None:
    prices = Prices()
    assert prices.offer_for("http://a", "GET", b"/1") is None
    prices.learn("http://a", "GET", b"/1?x=1", offer())
    assert prices.offer_for("http://a", "GET", b"/1?x=1") is not None
    for method, target in (("GET", b"/1?x=2"), ("GET", b"/2"), ("POST", b"/1?x=1"), ("GET", b"/favicon.ico")):
        assert prices.offer_for("http://a", method, target) is None
    assert prices.offer_for("http://b", "GET", b"/1?x=1") is None


def test_w6_a_published_price_stands_for_its_pattern_but_for_what_is_known_to_be_free() -> None:
    prices = Prices()
    prices.learn("http://a", "GET", b"/articles/1", offer(), PayAhead(Pattern("/articles/*"), frozenset({"GET"})))
    assert prices.offer_for("http://a", "GET", b"/articles/2") is not None
    for method, target in (("GET", b"/favicon.ico"), ("POST", b"/articles/2"), ("HEAD", b"/articles/2")):
        assert prices.offer_for("http://a", method, target) is None
    prices.ask_next("http://a", "GET", b"/articles/2")
    assert prices.offer_for("http://a", "GET", b"/articles/2") is None
    assert prices.offer_for("http://a", "GET", b"/articles/3") is not None


def test_w1_a_dear_page_is_not_the_price_of_its_pattern() -> None:
    prices, cheap, dear = Prices(), offer(), offer(amount=10**6)
    everywhere = PayAhead(Pattern("/*"))
    prices.learn("http://a", "GET", b"/1", cheap, everywhere)
    for page in (b"/dear", b"/dear2"):
        prices.learn("http://a", "GET", page, dear, everywhere)
        prices.was_taken("http://a", "GET", b"/2", cheap)
        assert prices.offer_for("http://a", "GET", page) == dear
        assert prices.offer_for("http://a", "GET", b"/3") == cheap


def test_w1_a_spike_of_the_price_is_forgotten_and_a_new_price_is_learned() -> None:
    prices, cheap, dear = Prices(), offer(), offer(amount=10**6)
    everywhere = PayAhead(Pattern("/*"))
    prices.learn("http://a", "GET", b"/1", dear, everywhere)
    assert prices.offer_for("http://a", "GET", b"/3") == dear
    prices.learn("http://a", "GET", b"/2", cheap, everywhere)
    assert prices.offer_for("http://a", "GET", b"/3") == cheap
    for page in (b"/4", b"/5"):
        prices.learn("http://a", "GET", page, dear, everywhere)
    assert prices.offer_for("http://a", "GET", b"/3") == dear


@pytest.mark.parametrize("target", [b"/robots.txt", b"/.well-known/security.txt"])
def test_what_is_free_everywhere_is_never_remembered_as_paid(target: bytes) -> None:
    prices = Prices()
    prices.learn("http://a", "GET", target, offer(), PayAhead(Pattern("/*")))
    assert prices.offer_for("http://a", "GET", target) is None
    assert prices.offer_for("http://a", "HEAD", b"/1") is None


def test_what_was_not_used_for_longest_is_forgotten_first() -> None:
    recent: Recent[int, str] = Recent(2)
    recent.put(1, "one")
    recent.put(2, "two")
    assert recent.get(1) == "one"
    recent.put(3, "three")
    assert (recent.get(1), recent.get(2), recent.get(3), len(recent)) == ("one", None, "three", 2)


def test_w6_the_memory_of_prices_is_bounded() -> None:
    prices, known = Prices(), offer()
    for number in range(ORIGINS_MAX + 50):
        prices.learn(f"http://{number}", "GET", b"/", known)
    for number in range(TARGETS_MAX + 50):
        prices.learn("http://last", "GET", b"/%d" % number, known, PayAhead(Pattern(f"/{number}/*")))
        prices.ask_next("http://last", "GET", b"/%d/free" % number)
    prices.learn("http://last", "GET", b"/" + b"x" * 100_000, known)
    origins: Any = prices._origins
    assert len(origins) == ORIGINS_MAX
    last = origins.get("http://last")
    assert (len(last.targets), len(last.patterns)) == (TARGETS_MAX, PATTERNS_MAX)
    assert max(len(target) for _, target in last.targets._items) <= 256


def test_w6_many_or_long_offers_of_one_origin_are_not_all_remembered() -> None:
    prices = Prices()
    for number in range(OFFERS_MAX + 1):
        prices.learn("http://a", "GET", b"/%d" % number, offer(amount=1_000 + number))
    origins: Any = prices._origins
    assert len(origins.get("http://a").offers) == 1  # it has started anew
    assert prices.offer_for("http://a", "GET", b"/0") is None
    assert prices.offer_for("http://a", "GET", b"/%d" % OFFERS_MAX) is not None

    known = offer()
    padded = msgspec.structs.replace(known.accepted, extra={"padding": "x" * OFFER_BYTES_MAX})
    prices.learn("http://b", "GET", b"/", replace(known, accepted=padded))
    assert prices.offer_for("http://b", "GET", b"/") is None
