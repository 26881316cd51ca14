"""From unchecked to proven (rule 2, I5): what its payer did not sign for this charge is charged to nobody."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest
from doubles import DOMAIN, ESCROW, MUSIC, NEWS, OTHER_PAGE, PAGE, Payer, PureLedger, payment_id_of
from msgspec.structs import replace
from running import Scripted, running

from tallystick.eip712 import batch_settlement_domain, escrow_domain
from tallystick.reasons import Reason
from tallystick.signatures import ORDER, AuthorizerKey, Signer
from tallystick.spend_keys import SpendProver
from tallystick.vouchers import sign_voucher
from tallystick_aggregator.charging import UncheckedPayment, UncheckedSpendProof, signatures
from tallystick_aggregator.charging.batcher import BatcherSettings
from tallystick_aggregator.charging.signatures import AuthorizerKeys, SignatureCheck
from tallystick_aggregator.charging.verification import Provers
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger

Check = Callable[[Sequence[SignatureCheck], AuthorizerKeys], list[bool]]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Ceilings whose signatures were checked, and the threads that did it."""
    seen: list[tuple[int, str]] = []
    check: Check = signatures.check_signatures

    def counting(checks: Sequence[SignatureCheck], keys: AuthorizerKeys) -> list[bool]:
        seen.extend((item.ceiling, threading.current_thread().name) for item in checks)
        return check(checks, keys)

    monkeypatch.setattr(signatures, "check_signatures", counting)
    return seen


def with_v(signature: bytes, v: int) -> bytes:
    return signature[:64] + bytes([v])


def high_s(signature: bytes) -> bytes:
    """The other signature of the same key over the same digest: valid for common libraries, not for the chain."""
    s = ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


def forged(name: str, alice: Payer) -> UncheckedPayment:
    """A payment of 10 from Alice's channel to the news that Alice has not signed like this."""
    good = alice.payment(1, 10, ceiling=100)
    by_mallory = sign_voucher(Signer(b"\7" * 32), DOMAIN, good.channel_id, 100).signature
    on_another_chain = sign_voucher(alice.signer, escrow_domain(1, ESCROW), good.channel_id, 100).signature
    on_another_escrow = sign_voucher(alice.signer, batch_settlement_domain(31337), good.channel_id, 100).signature
    signatures = {
        "junk": b"\x5a" * 64 + b"\x1b",
        "zeros": bytes(65),
        "empty": b"",
        "64 bytes": good.signature[:64],
        "66 bytes": good.signature + b"\0",
        "v of 0": with_v(good.signature, good.signature[64] - 27),
        "the wrong v": with_v(good.signature, 55 - good.signature[64]),
        "v of 35": with_v(good.signature, 35),
        "high s": high_s(good.signature),
        "one bit flipped": bytes([good.signature[0] ^ 1]) + good.signature[1:],
        "signed by a stranger": by_mallory,
        "copied from another channel": alice.voucher(100, MUSIC).signature,
        "copied from another payer": Payer("bob").voucher(100).signature,
        "copied from another ceiling": alice.voucher(99).signature,
        "made for another chain": on_another_chain,
        "made for another escrow": on_another_escrow,
    }
    return good._replace(signature=signatures[name])


FORGERIES = (
    "junk",
    "zeros",
    "empty",
    "64 bytes",
    "66 bytes",
    "v of 0",
    "the wrong v",
    "v of 35",
    "high s",
    "one bit flipped",
    "signed by a stranger",
    "copied from another channel",
    "copied from another payer",
    "copied from another ceiling",
    "made for another chain",
    "made for another escrow",
)


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.parametrize("seen_before", [False, True])
async def test_a_voucher_that_its_payer_did_not_sign_charges_nobody(
    shop: Scripted, alice: Payer, name: str, *, seen_before: bool
) -> None:
    """Whether the payer's key is parsed already or has to be recovered; threat 3 and 19."""
    if seen_before:
        await shop.batcher.charge([alice.payment(9, 1, ceiling=5)])
    commits = len(shop.journal.commits)

    (charged,) = await shop.batcher.charge([forged(name, alice)])
    reserved = await shop.batcher.reserve(forged(name, alice))

    for refused in (charged, reserved):
        assert isinstance(refused, Refusal)
        assert (refused.reason, refused.field) == (Reason.VOUCHER_SIGNATURE, "signature")
    assert len(shop.journal.commits) == commits
    assert await shop.batcher.charge([alice.payment(1, 10, ceiling=100)]), "and the id is still free"
    assert shop.ledger.channels[alice.channel_id()].charged == (11 if seen_before else 10)


async def test_a_strangers_copy_of_a_used_voucher_charges_nobody(shop: Scripted, alice: Payer) -> None:
    """The newest voucher of a channel is public after a claim; the copy has a payment id of its own."""
    payment = alice.payment(1, 10, ceiling=100)
    await shop.batcher.charge([payment])

    copied = payment._replace(payment_id=payment_id_of(2), request_hash=OTHER_PAGE)
    (refused,) = await shop.batcher.charge([copied])

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.VOUCHER_USED
    assert len(shop.charges) == 1


async def test_a_channel_nobody_opened_charges_nobody(shop: Scripted) -> None:
    mallory = Payer("mallory")

    (refused,) = await shop.batcher.charge([mallory.payment(1, 10, ceiling=100)])

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.CHANNEL_UNKNOWN


async def test_each_payment_of_a_batch_is_charged_under_its_own_proof(alice: Payer, bob: Payer) -> None:
    books, first, second = PureLedger(), bob.spend_key(0), bob.spend_key(1)
    books.fund(alice, 10**9, NEWS)
    books.fund(bob, 10**9, NEWS, MUSIC)
    books.register(bob, first)
    books.register(bob, second)
    batch = [
        bob.payment(1, 1, ceiling=10_000, key=first, max_amount=9),
        bob.payment(2, 2, key=first, max_amount=9),
        alice.payment(3, 5, ceiling=50),
        bob.payment(4, 4, key=first, max_amount=9),
        bob.payment(5, 8, key=second, max_amount=9),
        bob.payment(6, 16, key=second, max_amount=15),  # above what was agreed
        bob.payment(7, 32, key=second, max_amount=32),
        bob.payment(8, 30, ceiling=64, key=second, max_amount=32, receiver=MUSIC),
        bob.payment(9, 128, key=first, max_amount=128),
    ]
    async with running(books) as shop:
        answers = await shop.batcher.charge(batch)

        assert [n for n, answer in enumerate(answers) if isinstance(answer, Refusal)] == [5]
        ledger = shop.writer.ledger
        spent = {key.key_id: key.spent for key in ledger.spend_keys_of(bob.account_id)}
        assert spent == {first.key_id: 1 + 2 + 4 + 128, second.key_id: 8 + 32 + 30}
        assert ledger.channels[bob.channel_id(NEWS)].ceiling == 10_000
        assert ledger.channels[bob.channel_id(MUSIC)].ceiling == 64


def changed_proof(name: str, bob: Payer) -> UncheckedPayment:
    """A payment of 10 by Bob's key, changed after he proved it."""
    key = bob.spend_key()
    good = bob.payment(1, 10, ceiling=100, key=key)
    assert good.spend is not None
    unregistered = replace(bob.spend_key(1), key_id=key.key_id)
    other_secret = SpendProver(unregistered.secret).mac(good.channel_id, good.payment_id, 10, PAGE)
    return {
        "another payment id": good._replace(payment_id=payment_id_of(2)),
        "another request": good._replace(request_hash=OTHER_PAGE),
        "another channel": good._replace(channel_id=bob.channel_id(MUSIC)),
        "a higher maximum": good._replace(spend=good.spend._replace(max_amount=11)),
        "junk": good._replace(spend=good.spend._replace(mac=bytes(32))),
        "a short mac": good._replace(spend=good.spend._replace(mac=good.spend.mac[:31])),
        "another secret": good._replace(spend=good.spend._replace(mac=other_secret)),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "another payment id",
        "another request",
        "another channel",
        "a higher maximum",
        "junk",
        "a short mac",
        "another secret",
    ],
)
async def test_a_spend_proof_is_for_one_payment_as_it_was_made_out(shop: Scripted, bob: Payer, name: str) -> None:
    """Threat 34: a seller can neither charge more than was agreed, nor move the proof elsewhere."""
    (refused,) = await shop.batcher.charge([changed_proof(name, bob)])

    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.field) == (Reason.SPEND_KEY_PROOF, "mac")
    assert not shop.charges


async def test_a_seller_cannot_charge_above_the_proven_maximum(shop: Scripted, bob: Payer) -> None:
    (refused,) = await shop.batcher.charge([bob.payment(1, 11, max_amount=10, ceiling=100, key=bob.spend_key())])

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.AMOUNT_ABOVE_AGREED


async def test_a_key_that_was_never_registered_proves_nothing(shop: Scripted, alice: Payer, bob: Payer) -> None:
    answers = await shop.batcher.charge(
        [
            bob.payment(1, 10, ceiling=100, key=bob.spend_key(1)),
            alice.payment(2, 10, ceiling=100, key=bob.spend_key()),
        ]
    )

    assert [answer.reason for answer in answers if isinstance(answer, Refusal)] == [Reason.SPEND_KEY_UNKNOWN] * 2


async def test_an_account_with_a_spend_key_pays_by_no_voucher_alone(shop: Scripted, bob: Payer) -> None:
    (refused,) = await shop.batcher.charge([bob.payment(1, 10, ceiling=100)])

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.SPEND_KEY_REQUIRED


# Vouchers that come along with spend proofs only to raise the ceiling.


async def test_one_poisoned_voucher_of_a_burst_sinks_no_neighbour(shop: Scripted, bob: Payer) -> None:
    """The highest is checked first, fails, and the next highest carries everybody, the poisoned payment included."""
    key = bob.spend_key()
    burst = [bob.payment(number, 10, ceiling=200 + number, key=key) for number in range(20)]
    burst[7] = burst[7]._replace(ceiling=10**9)

    answers = await shop.batcher.charge(burst)

    assert all(isinstance(answer, Accepted) for answer in answers)
    channel = shop.ledger.channels[bob.channel_id()]
    assert (channel.ceiling, channel.signature) == (219, bob.voucher(219).signature), "I5"


async def test_a_burst_that_is_poisoned_through_and_through_has_the_ceiling_it_had(shop: Scripted, bob: Payer) -> None:
    key = bob.spend_key()
    await shop.batcher.charge([bob.payment(99, 10, ceiling=30, key=key)])
    burst = [bob.payment(number, 10, ceiling=200 + number, key=key) for number in range(5)]
    burst = [payment._replace(signature=bytes(65)) for payment in burst]

    answers = await shop.batcher.charge(burst)

    assert [isinstance(answer, Accepted) for answer in answers] == [True, True, False, False, False]
    assert {answer.reason for answer in answers if isinstance(answer, Refusal)} == {Reason.INSUFFICIENT_CEILING}
    assert shop.ledger.channels[bob.channel_id()].ceiling == 30


async def test_a_poisoned_voucher_is_named_where_its_payment_needed_it(shop: Scripted, bob: Payer) -> None:
    (refused,) = await shop.batcher.charge(
        [bob.payment(1, 10, ceiling=100, key=bob.spend_key())._replace(signature=bytes(65))]
    )

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.VOUCHER_SIGNATURE


async def test_a_voucher_proves_no_neighbours_charge(shop: Scripted, bob: Payer) -> None:
    """The newest of a burst raises the ceiling, but authenticates no other charge."""
    key = bob.spend_key()
    good = bob.payment(1, 10, ceiling=500, key=key)
    junk = bob.payment(2, 10, key=key)
    assert junk.spend is not None
    junk = junk._replace(spend=junk.spend._replace(mac=bytes(32)))

    answers = await shop.batcher.charge([good, junk])

    assert isinstance(answers[0], Accepted)
    assert isinstance(answers[1], Refusal)
    assert answers[1].reason is Reason.SPEND_KEY_PROOF


async def test_one_junk_voucher_of_a_burst_by_vouchers_is_refused_alone(shop: Scripted, alice: Payer) -> None:
    burst = [alice.payment(number, 10, ceiling=2_000 + number) for number in range(64)]
    burst[40] = burst[40]._replace(ceiling=10**9)

    answers = await shop.batcher.charge(burst)

    assert [index for index, answer in enumerate(answers) if isinstance(answer, Refusal)] == [40]
    assert shop.ledger.channels[alice.channel_id()].ceiling == 2_063
    stored = [event for event in shop.journal.events if isinstance(event, ev.CeilingRaised)]
    assert all(event.signature == alice.voucher(event.ceiling).signature for event in stored), "I5"


async def test_of_a_burst_by_vouchers_the_highest_is_kept_and_the_rest_only_authenticated(
    shop: Scripted, alice: Payer
) -> None:
    """A wrong v is nothing to the chain, so it may not be kept; that the payer signed is enough for its neighbour."""
    burst = [alice.payment(number, 10, ceiling=2_000 + number) for number in range(12)]
    burst[3] = burst[3]._replace(signature=with_v(burst[3].signature, 55 - burst[3].signature[64]))
    await shop.batcher.charge([alice.payment(99, 10, ceiling=1_000)])  # from here on Alice's key is known

    answers = await shop.batcher.charge(burst)

    assert all(isinstance(answer, Accepted) for answer in answers)
    assert [event.ceiling for event in shop.journal.events if isinstance(event, ev.CeilingRaised)] == [1_000, 2_011]
    assert shop.ledger.channels[alice.channel_id()].signature == alice.voucher(2_011).signature, "I5"


async def test_when_the_highest_of_a_burst_falls_the_next_has_its_turn(shop: Scripted, alice: Payer) -> None:
    await shop.batcher.charge([alice.payment(99, 10, ceiling=1_000)])
    burst = [alice.payment(number, 10, ceiling=2_000 + number) for number in range(12)]
    for number in (9, 10, 11):
        burst[number] = burst[number]._replace(
            signature=with_v(burst[number].signature, 55 - burst[number].signature[64])
        )

    answers = await shop.batcher.charge(burst)

    assert [isinstance(answer, Accepted) for answer in answers] == [True] * 9 + [False] * 3
    channel = shop.ledger.channels[alice.channel_id()]
    assert (channel.ceiling, channel.signature) == (2_008, alice.voucher(2_008).signature), "I5"


# What it costs.


@pytest.mark.parametrize("who", ["alice", "bob"])
async def test_a_burst_of_bad_vouchers_costs_two_rounds_of_checks(
    shop: Scripted, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """However many there are: whoever sends them must not hold up the others."""
    payer = Payer(who)
    key = payer.spend_key() if who == "bob" else None
    await shop.batcher.charge([payer.payment(99, 10, ceiling=1_000, key=key)])
    burst = [payer.payment(number, 10, ceiling=2_000 + number, key=key) for number in range(64)]
    burst = [one._replace(signature=with_v(one.signature, 55 - one.signature[64])) for one in burst]
    rounds: list[int] = []
    checker = shop.batcher._signatures
    check = checker.check

    async def counting(checks: Sequence[SignatureCheck]) -> Sequence[bool]:
        rounds.append(len(checks))
        return await check(checks)

    monkeypatch.setattr(checker, "check", counting)
    answers = await shop.batcher.charge(burst)

    assert rounds == ([64, 63] if who == "alice" else [1, 63])
    assert not any(isinstance(answer, Accepted) for answer in answers if who == "alice")
    assert shop.ledger.channels[payer.channel_id()].ceiling == 1_000, "I5"


async def test_a_burst_by_spend_key_costs_one_signature(
    shop: Scripted, bob: Payer, checked: list[tuple[int, str]]
) -> None:
    key = bob.spend_key()
    burst = [bob.payment(number, 1, ceiling=200 + number, key=key) for number in range(50)]
    await shop.batcher.charge(burst[::-1])
    assert [ceiling for ceiling, _ in checked] == [249]

    checked.clear()
    await shop.batcher.charge([bob.payment(number, 1, ceiling=249, key=key) for number in range(50, 100)])
    assert not checked, "a ceiling that is reached already needs none"


async def test_what_is_hopeless_costs_no_signature_and_no_commit(
    shop: Scripted, alice: Payer, bob: Payer, checked: list[tuple[int, str]]
) -> None:
    used = alice.payment(1, 10, ceiling=100)
    await shop.batcher.charge([used])
    checked.clear()
    commits = len(shop.journal.commits)
    hopeless = [
        Payer("mallory").payment(2, 10, ceiling=100),
        used._replace(payment_id=payment_id_of(3)),
        alice.payment(4, 200, ceiling=110),
        bob.payment(5, 10, ceiling=100),
        bob.payment(6, 10, ceiling=100, key=bob.spend_key(5)),
        bob.payment(7, 10, ceiling=100)._replace(spend=UncheckedSpendProof(bob.spend_key().key_id, 10, bytes(32))),
        used,
    ]

    answers = await shop.batcher.charge(hopeless)

    assert [type(answer) for answer in answers] == [Refusal] * 6 + [Accepted]
    assert not checked
    assert len(shop.journal.commits) == commits


@pytest.mark.parametrize(("count", "on_threads"), [(1, False), (8, False), (9, True), (200, True)])
async def test_few_signatures_are_checked_at_once_and_many_on_threads_in_chunks(
    shop: Scripted, alice: Payer, checked: list[tuple[int, str]], count: int, *, on_threads: bool
) -> None:
    answers = await shop.batcher.charge([alice.payment(n, 1, ceiling=1_000 + n) for n in range(count)])

    assert all(isinstance(answer, Accepted) for answer in answers)
    assert sorted(ceiling for ceiling, _ in checked) == [1_000 + n for n in range(count)]
    threads = {name for _, name in checked}
    assert all(name.startswith("signatures") is on_threads for name in threads)


@pytest.mark.parametrize("batching", [BatcherSettings(batch_max=16)])  # four are worth a batch of their own
@pytest.mark.parametrize(("under_way", "late", "starts"), [(3, 3, False), (3, 4, True), (5, 4, False), (5, 5, True)])
async def test_few_wait_for_the_batch_under_way_and_as_many_start_beside_it(
    shop: Scripted, alice: Payer, under_way: int, late: int, starts: bool
) -> None:
    def charge(*numbers: int) -> "asyncio.Task[list[Accepted | Refusal]]":
        payments = [alice.payment(number, 1, ceiling=1_000 + number) for number in numbers]
        return asyncio.create_task(shop.batcher.charge(payments))

    shop.journal.hold()
    tasks = [charge(*range(under_way))]
    await shop.journal.appending.wait()
    tasks += [charge(under_way + number) for number in range(late)]
    await shop.settle_down()
    assert bool(shop.writer._waiting) is starts, "proven, and waiting for their commit only"
    shop.journal.let_go()

    answers = [answer for answered in await asyncio.gather(*tasks) for answer in answered]
    assert all(isinstance(answer, Accepted) for answer in answers)
    made = [sum(isinstance(event, ev.Charged) for event in commit) for commit in shop.journal.commits]
    assert made[-2:] == [under_way, late], "those that waited go on together"


@pytest.mark.parametrize("batching", [BatcherSettings(batch_max=2)])
async def test_a_full_batch_starts_beside_any_number(shop: Scripted, alice: Payer) -> None:
    shop.journal.hold()
    first = asyncio.create_task(
        shop.batcher.charge([alice.payment(number, 1, ceiling=1_000 + number) for number in range(5)])
    )
    await shop.journal.appending.wait()
    second = asyncio.create_task(
        shop.batcher.charge([alice.payment(number, 1, ceiling=1_000 + number) for number in (5, 6)])
    )
    await shop.settle_down()
    assert len(shop.writer._waiting) == 1
    shop.journal.let_go()

    assert all(isinstance(answer, Accepted) for answer in (*await first, *await second))


async def test_a_key_id_that_is_registered_anew_is_proven_by_its_new_secret_alone(shop: Scripted, bob: Payer) -> None:
    old = bob.spend_key()
    assert isinstance((await shop.batcher.charge([bob.payment(1, 10, ceiling=100, key=old)]))[0], Accepted)
    forgotten_s = old.expires_at + shop.batcher.rules.payment_id_skew_s + 1
    shop.now_ms = (forgotten_s + shop.batcher.rules.payment_id_retention_s) * 1000
    expires_at = shop.now_ms // 1000 + 60
    new = replace(old, secret=b"N" * 32, expires_at=expires_at)

    def register(draft: Draft, _: Ledger, moment: DecisionContext) -> None:
        draft.record(ev.PaymentsForgotten(forgotten_s * 1000))
        for key in (bob.spend_key(1, expires_at=expires_at), new):
            accounts.register_spend_key(draft, bob.account_id, key, moment, shop.batcher.rules)

    await shop.writer.run(register)

    (refused,) = await shop.batcher.charge([bob.payment(2, 10, key=old, ms=shop.now_ms)])
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.SPEND_KEY_PROOF
    assert isinstance((await shop.batcher.charge([bob.payment(3, 10, key=new, ms=shop.now_ms)]))[0], Accepted)


def test_known_keys_and_provers_are_bounded() -> None:
    provers, keys = Provers(most=2), AuthorizerKeys(most=2)
    known = [AuthorizerKey.recover(bytes(32), Signer(bytes([n + 1]) * 32).sign(bytes(32))) for n in range(5)]
    for number, key in enumerate(known):
        provers.of(bytes([number]) * 32)
        keys.remember(key)

    assert [keys.get(key.address) is key for key in known] == [False, False, False, True, True]
    assert len(provers._provers) == 2
