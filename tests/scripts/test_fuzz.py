"""`scripts/fuzz`: its targets hold for well-formed inputs and for damaged ones, and they do find what is wrong.

Without atheris, which only the full run has: here a fixed number of seeded changes stands in for it.
"""

import random
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import __main__ as fuzz
from fuzzing import targets
from fuzzing.targets import TABLES, TARGETS
from tallystick_aggregator.api.grpc.fast_codec import Incoming
from tallystick_aggregator.store.port import StoreDamagedError
from tallystick_contracts import claim_batch

CHANGES = 300


@pytest.mark.parametrize("name", TARGETS)
def test_well_formed_inputs_pass(name: str) -> None:
    _run_all(name)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_pass(name: str) -> None:
    chance = random.Random(name)
    seeds = TARGETS[name].seeds()
    for _ in range(CHANGES):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(data) + 1)
            match chance.randrange(4):
                case 0:
                    data[place : place + 1] = chance.randbytes(1)
                case 1:
                    data[place:place] = chance.randbytes(chance.randint(1, 40))
                case 2:
                    del data[place : place + chance.randint(1, 40)]
                case _:
                    data = data[:place] + bytearray(chance.choice(seeds))[place:]
        TARGETS[name].run(bytes(data))


@given(st.sampled_from(sorted(TARGETS)), st.binary(max_size=200))
def test_any_bytes_pass(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


def _run_all(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].run(seed)


def _reads_another_seq(data: bytes, count_max: int) -> Incoming:
    incoming = targets._by_protobuf(data)
    assert count_max
    return Incoming(incoming.seq + 1, incoming.payments)


@pytest.mark.parametrize(
    ("name", "broken", "stand_in", "error"),
    [
        ("stream_batch", "read_batch", _reads_another_seq, AssertionError),
        ("journal_entry", "decode_entry", lambda _: [], AssertionError),
        ("text", "parse_amount", lambda *_: 7, AssertionError),
        ("payment_required", "read_offers", lambda header: header[99_999], IndexError),
    ],
)
def test_a_decoder_that_is_wrong_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, broken: str, stand_in: Callable[..., object], error: type[Exception]
) -> None:
    monkeypatch.setattr(targets, broken, stand_in)

    with pytest.raises(error):
        _run_all(name)


def test_an_encoder_whose_output_is_refused_is_found() -> None:
    """The decoder's own error is forgiven for what comes from outside only."""
    damaged = [(length, read, lambda *_: b"") for length, read, _ in TABLES]

    with pytest.raises(StoreDamagedError):
        targets.journal_row(TARGETS["journal_row"].seeds()[0], damaged)


def test_a_batch_that_encodes_to_other_bytes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = claim_batch.encode
    monkeypatch.setattr(claim_batch, "encode", lambda batch: encode(batch) + b"\0")

    with pytest.raises(AssertionError):
        TARGETS["claim_batch"].run(TARGETS["claim_batch"].seeds()[0])


def test_no_seed_is_refused() -> None:
    """Else fuzzing would begin outside of the decoder. (Other targets give an input to several of them.)"""
    for seed in TARGETS["claim_batch"].seeds():
        claim_batch.decode(seed)
    for seed in TARGETS["journal_row"].seeds():
        written: list[object] = []
        targets.journal_row(seed, [(length, read, partial(_noting, write, written)) for length, read, write in TABLES])
        assert len(written) == 1, "what is refused is not written again"


def _noting(write: Callable[..., bytes], written: list[object], key: bytes, value: object) -> bytes:
    written.append(value)
    return write(key, value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "TARGET: got nonsense; allowed stream_batch, "),
        (["--minutes", "0"], "--minutes: got 0; allowed a number above 0"),
        (["--replay", "file"], "--replay: name the one TARGET that the input is for"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_allowed(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        fuzz.main(arguments)

    assert ended.value.code == 2
    assert f"error: {told}" in capsys.readouterr().err


def test_targets_are_listed_with_what_they_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--list"]) == 0

    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(TARGETS)
