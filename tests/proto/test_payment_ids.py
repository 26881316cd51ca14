import threading
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.errors import MalformedError
from tallystick.payment_ids import (
    _Generator,
    format_payment_id,
    new,
    new_payment_id,
    parse_payment_id,
    payment_id_ms,
)

milliseconds = st.integers(0, 2**48 - 1)
randoms = st.binary(min_size=10, max_size=10)


@given(milliseconds, randoms)
def test_an_id_is_a_uuid_of_version_7_and_tells_its_time(ms: int, random10: bytes) -> None:
    payment_id = new_payment_id(ms, random10)
    parsed = uuid.UUID(bytes=payment_id)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert payment_id_ms(payment_id) == ms
    assert format_payment_id(payment_id) == str(parsed)


@given(milliseconds, randoms, randoms)
def test_74_random_bits_make_the_difference(ms: int, one: bytes, other: bytes) -> None:
    def significant(random10: bytes) -> int:
        return int.from_bytes(random10, "big") & (0x0FFF << 64 | 2**62 - 1)

    same = significant(one) == significant(other)
    assert (new_payment_id(ms, one) == new_payment_id(ms, other)) == same


@given(milliseconds, randoms)
def test_text_with_and_without_hyphens_and_bytes_are_read_alike(ms: int, random10: bytes) -> None:
    payment_id = new_payment_id(ms, random10)
    text = format_payment_id(payment_id)
    for form in (text, text.upper(), text.replace("-", ""), bytes(payment_id)):
        assert parse_payment_id(form, "id") == payment_id


@pytest.mark.parametrize(
    "value",
    ["", "x", "0" * 31, "0" * 33, b"", bytes(15), bytes(17), None, 7, "{019a0000-0000-7000-8000-000000000000}",
     "019a0000-0000-7000-8000-00000000000g", "019a0000-00007000-8000-000000000000",
     "019a0000-0000-7000-8000-000000000000\n", "019a0000_0000_7000_8000_000000000000", "\uff11" * 32,
     "pay_0123456789abcdef"],
)  # fmt: skip
def test_what_is_no_uuid_is_refused(value: object) -> None:
    with pytest.raises(MalformedError, match=r"^id: got .*, allowed a UUIDv7"):
        parse_payment_id(value, "id")


@pytest.mark.parametrize(
    "text",
    [
        "44417927-8183-44d2-9ae2-e1543d6a75e0",
        "f0b19770-e577-11f1-8df2-02fc00000001",
        str(uuid.UUID(int=0)),
        "019a0000-0000-7000-0000-000000000000",
        "019a0000-0000-7000-c000-000000000000",
    ],
)
def test_another_version_or_variant_is_refused(text: str) -> None:
    with pytest.raises(MalformedError, match=r"version 7, variant 10"):
        parse_payment_id(text, "id")


@given(st.one_of(st.text(), st.binary(), st.none(), st.integers()))
def test_parsing_raises_nothing_but_malformed(value: object) -> None:
    try:
        parsed = parse_payment_id(value, "id")
    except MalformedError:
        return
    assert uuid.UUID(bytes=parsed).version == 7


def test_new_ids_ascend_and_carry_the_time() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new() for _ in range(20_000)]
    assert ids == sorted(set(ids))
    # 4,096 a millisecond; beyond that, ids borrow from the milliseconds to come.
    assert before <= payment_id_ms(ids[0])
    assert payment_id_ms(ids[-1]) <= time.time_ns() // 1_000_000 + 5


def ids_at(times_ms: list[int]) -> list[bytes]:
    """The ids of one process whose clock says these."""
    clock = iter(times_ms)
    generator = _Generator(lambda: next(clock))
    return [generator.new() for _ in times_ms]


def test_ids_ascend_while_the_clock_stands_still_or_goes_on() -> None:
    ids = ids_at([1000, *[1000] * 9000, 1001, 1001, 1003])
    assert ids == sorted(set(ids))
    assert payment_id_ms(ids[0]) == 1000
    assert payment_id_ms(ids[-1]) == 1003


def test_w12_ids_follow_a_clock_that_is_set_back() -> None:
    day_ms = 86_400_000
    ids = ids_at([1000, 1000 + day_ms, 1001, 1001, 1002])
    assert [payment_id_ms(id_) for id_ in ids] == [1000, 1000 + day_ms, 1001, 1001, 1002]
    assert ids[2:] == sorted(set(ids[2:]))


def test_w12_ids_that_were_borrowed_from_the_future_are_no_clock_set_back() -> None:
    ids = ids_at([*[1000] * 9000, 1001, 1001])
    assert ids == sorted(set(ids))


def test_threads_never_make_the_same_id() -> None:
    made: list[list[bytes]] = []
    threads = [threading.Thread(target=lambda: made.append([new() for _ in range(2_000)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({payment_id for part in made for payment_id in part}) == 16_000
    assert all(part == sorted(part) for part in made)


@pytest.mark.parametrize(("ms", "random10"), [(-1, bytes(10)), (2**48, bytes(10)), (0, bytes(9))])
def test_a_time_or_randomness_that_does_not_fit_is_refused(ms: int, random10: bytes) -> None:
    with pytest.raises(OverflowError):
        new_payment_id(ms, random10)
