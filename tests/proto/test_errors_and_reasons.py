import pickle
import re
from pathlib import Path

import pytest

from tallystick.errors import InvalidSignatureError, MalformedError, RefusedError, TallystickError
from tallystick.quantities import ChannelTotals
from tallystick.reasons import Reason
from tallystick.v1 import common_pb2

PROTO = Path(__file__).parents[2] / "proto/tallystick/v1/common.proto"


def test_reasons_agree_with_the_proto_file_in_names_and_numbers() -> None:
    declared = re.search(r"enum Reason \{(.*?)\n\}", PROTO.read_text(), re.DOTALL)
    assert declared
    in_proto = {name: int(number) for name, number in re.findall(r"REASON_(\w+) = (\d+);", declared[1])}
    assert in_proto == {reason.name: reason.value for reason in Reason}


def test_reasons_agree_with_the_generated_code() -> None:
    assert {f"REASON_{reason.name}": reason.value for reason in Reason} == dict(common_pb2.Reason.items())


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_says_what_to_do(reason: Reason) -> None:
    assert isinstance(reason.retry, bool)
    assert re.fullmatch(r"[A-Z].{10,160}\.", reason.advice)
    assert reason.code == reason.name.lower()
    assert Reason.from_code(reason.code) is reason
    assert Reason.from_wire(reason.value) is reason


def test_a_reason_of_a_newer_peer_is_unspecified_not_a_crash() -> None:
    assert Reason.from_wire(9999) is Reason.UNSPECIFIED
    assert Reason.from_wire(-1) is Reason.UNSPECIFIED
    assert Reason.from_code("from_the_future") is Reason.UNSPECIFIED


def test_state_that_passes_is_worth_a_retry_and_what_was_decided_is_final() -> None:
    assert Reason.INSUFFICIENT_CEILING.retry
    assert Reason.CHAIN_STALE.retry
    assert Reason.STORE_UNAVAILABLE.retry
    assert not Reason.VOUCHER_USED.retry
    assert not Reason.PAYMENT_ID_REUSED.retry
    assert not Reason.RESERVATION_RELEASED.retry


def test_every_error_is_one_of_ours_and_malformed_is_a_value_error() -> None:
    for error in (MalformedError("f", "g", "a"), InvalidSignatureError("p"), RefusedError(Reason.VOUCHER_USED, "m")):
        assert isinstance(error, TallystickError)
    assert isinstance(MalformedError("f", "g", "a"), ValueError)


@pytest.mark.parametrize(
    ("got", "shown"),
    [
        ("abc", "'abc'"),
        ("a\nb\x00é", r"'a\nb\x00\xe9'"),
        ("s" * 132, "'ssssssssssssssss'... (132 characters)"),
        (b"\x01\x02", "2 bytes"),
        (5, "5"),
        (2**100_000, "an integer of 100001 bits"),
        (True, "true"),
        (None, "nothing"),
        (1.5, "a value of type float"),
        (["secret"], "a value of type list"),
    ],
    ids=[str(n) for n in range(10)],
)
def test_what_was_got_is_told_in_one_short_printable_line(got: object, shown: str) -> None:
    error = MalformedError("field", got, "something else")
    assert str(error) == f"field: got {shown}, allowed something else"
    assert (error.field, error.got, error.allowed) == ("field", shown, "something else")


def test_a_key_or_signature_is_never_shown_in_full() -> None:
    for secret in ("ab" * 32, "0x" + "ab" * 32, "0x" + "cd" * 65):
        message = str(MalformedError("field", secret, "an address"))
        assert secret not in message
        assert len(message) < 90


def test_a_refusal_carries_its_reason_and_the_state_that_the_client_needs() -> None:
    state = ChannelTotals(b"\1" * 32, b"\2" * 20, ceiling=10, charged=8, reserved=1, claimed=0)
    refused = RefusedError(
        Reason.INSUFFICIENT_CEILING, "too low", field="ceiling", got="10", allowed="at least 12", state=state
    )
    assert refused.retry
    assert refused.state is state
    assert str(refused) == "insufficient_ceiling: too low"


def test_channel_totals_survive_a_process_boundary() -> None:
    state = ChannelTotals(b"\1" * 32, b"\2" * 20, 1, 2, 3, 4)
    assert pickle.loads(pickle.dumps(state)) == state
