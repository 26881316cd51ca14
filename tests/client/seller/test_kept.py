"""Kept answers: bounded in bytes and in age."""

from tallystick.x402 import Network, PaymentTerms
from tallystick_client.seller.paywall.response_cache import Answer, Recording, ResponseCache
from tallystick_client.seller.paywall.steps import Part

TERMS = PaymentTerms("deferred", Network(1), 1, bytes(20), bytes(20))


def answer(size: int = 100) -> Answer:
    return Answer(200, [], b"x" * size, TERMS, b"handle")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_answer_is_kept_until_it_is_too_old() -> None:
    clock = Clock()
    kept = ResponseCache(100_000, age_s=10, clock=clock)
    one = answer()
    assert kept.keep("a", one)
    clock.now = 10.0
    assert kept.get("a") is one
    clock.now = 10.1
    assert kept.get("a") is None
    assert len(kept) == 0


def test_the_oldest_makes_room() -> None:
    kept = ResponseCache(16_384)
    for n in range(100):
        kept.keep(n, answer(1_024))
    assert kept.get(0) is None
    assert kept.get(99) is not None
    assert sum(1 for n in range(100) if kept.get(n)) == 16_384 // answer(1_024).size


def test_keeping_again_and_forgetting_free_what_was_taken() -> None:
    kept = ResponseCache(16_384)
    for _ in range(100):
        kept.keep("same", answer(1_024))
    kept.keep("other", answer(1_024))
    assert len(kept) == 2
    kept.forget("same")
    kept.forget("same")
    assert kept.get("same") is None
    assert kept.get("other") is not None


def test_an_answer_too_large_is_not_kept() -> None:
    kept = ResponseCache(16_384)
    assert not kept.keep("a", answer(4_096))
    assert kept.get("a") is None


def test_no_room_keeps_nothing() -> None:
    kept = ResponseCache(0)
    assert not kept.keep("a", answer(0))


def test_a_recording_is_whole_at_the_last_chunk() -> None:
    recording = Recording(10)
    assert recording.take(Part(b"abc", is_last=False)) is None
    assert recording.take(Part(b"def", is_last=True)) == b"abcdef"


def test_a_recording_that_grows_too_large_is_dropped_for_good() -> None:
    recording = Recording(4)
    assert recording.take(Part(b"abc", is_last=False)) is None
    assert recording.take(Part(b"def", is_last=False)) is None
    assert recording.take(Part(b"", is_last=True)) is None


def test_a_file_that_the_server_sends_by_itself_is_not_recorded() -> None:
    recording = Recording(10)
    assert recording.take(Part(None, is_last=False)) is None
    assert recording.take(Part(b"", is_last=True)) is None
