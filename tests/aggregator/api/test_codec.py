from collections.abc import Callable
from typing import Any

import pytest
from doubles import NEWS, Payer
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from marketplace import PRICE
from serving_twin import charge_of

from tallystick.codec.account import read_totals
from tallystick.codec.charge import read_charge, read_charges
from tallystick.codec.common import read_account, read_channel, read_network
from tallystick.codec.facilitator import read_deferred, read_exact, read_handle, read_terms
from tallystick.errors import MalformedError
from tallystick.v1 import account_pb2, charge_pb2, common_pb2, facilitator_pb2
from tallystick_aggregator.api.grpc import codec

ALICE = Payer("alice")
KEY = ALICE.spend_key()

lengths = st.binary(max_size=80)
amounts = st.binary(max_size=20)
uint64s = st.integers(0, 2**64 - 1)


def _right(*values: bytes) -> st.SearchStrategy[bytes]:
    """Hostile bytes, and now and then what is right."""
    return st.one_of(st.sampled_from(values), lengths)


GOOD = charge_of(ALICE.payment(1, PRICE, ceiling=PRICE, key=KEY))

spend_proofs = st.builds(charge_pb2.SpendProof, key_id=_right(bytes(32)), max_amount=amounts, mac=_right(bytes(32)))
charges = st.builds(
    charge_pb2.Charge,
    channel_id=_right(GOOD.channel_id),
    payment_id=_right(GOOD.payment_id),
    amount=amounts,
    request_hash=_right(GOOD.request_hash),
    ceiling=amounts,
    signature=_right(GOOD.signature, b""),
    spend_proof=st.none() | spend_proofs,
)
configs = st.builds(
    common_pb2.ChannelConfig,
    payer=_right(NEWS),
    payer_authorizer=_right(NEWS),
    receiver=_right(NEWS, b"", bytes(20)),
    receiver_authorizer=_right(NEWS),
    token=_right(NEWS),
    withdraw_delay_s=st.one_of(st.just(86_400), uint64s),
    salt=_right(bytes(32)),
)
terms = st.builds(
    facilitator_pb2.PaymentTerms,
    scheme=st.text(max_size=70),
    network=st.one_of(st.just("eip155:1"), st.text(max_size=70)),
    amount=amounts,
    asset=_right(NEWS),
    pay_to=_right(NEWS),
)
exact_payments = st.builds(
    lambda from_, **rest: facilitator_pb2.ExactPayment(**{"from": from_}, **rest),
    from_=_right(NEWS),
    to=_right(NEWS),
    value=amounts,
    valid_after=uint64s,
    valid_before=uint64s,
    nonce=_right(bytes(32)),
    signature=st.binary(max_size=5_000),
)
deposits = st.builds(
    account_pb2.DepositRequest,
    network=st.text(max_size=70),
    account=configs,
    amount=amounts,
    valid_after=uint64s,
    valid_before=uint64s,
    salt=_right(bytes(32)),
    signature=_right(bytes(65)),
)
calls = st.builds(account_pb2.CallAuthorization, deadline=uint64s, signature=_right(bytes(65)))
totals = st.lists(st.builds(account_pb2.ReceiverTotal, receiver=_right(NEWS), total=amounts), max_size=5)

READERS: list[tuple[st.SearchStrategy[Any], Callable[[Any], object]]] = [
    (charges, read_charge),
    (st.lists(charges, max_size=5), lambda batch: read_charges(batch, 4)),
    (st.builds(facilitator_pb2.VerifyRequest, terms=st.none() | terms), read_terms),
    (st.builds(facilitator_pb2.DeferredPayment, config=configs, charge=st.none() | charges), read_deferred),
    (exact_payments, read_exact),
    (lengths, read_handle),
    (st.text(), read_network),
    (configs, lambda message: read_channel(message, "config")),
    (configs, lambda message: read_account(message, "account")),
    (deposits, codec.read_deposit),
    (calls, codec.read_call),
    (totals, lambda batch: read_totals(batch, 4)),
]


@pytest.mark.parametrize("number", range(len(READERS)))
@given(data=st.data())
def test_whatever_comes_is_read_or_refused_by_its_field(number: int, data: st.DataObject) -> None:
    messages, read = READERS[number]
    message = data.draw(messages)
    refused = None
    try:
        read(message)
    except MalformedError as error:
        refused = error
    if refused is not None:
        assert refused.field
        assert refused.got
        assert refused.allowed
        assert "\n" not in str(refused)


@given(charges)
def test_what_is_read_of_a_charge_is_what_came(message: charge_pb2.Charge) -> None:
    try:
        payment = read_charge(message)
    except MalformedError:
        return
    assert charge_of(payment) == message
    assert len(payment.channel_id) == len(payment.request_hash) == 32
    assert payment.amount < 2**128
    assert bool(payment.ceiling) == bool(payment.signature)


def _with(field: str, value: object) -> Callable[[Message], None]:
    def change(message: Any) -> None:
        holder, _, name = field.rpartition(".")
        setattr(getattr(message, holder) if holder else message, name, value)

    return change


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("channel_id", bytes(31), "channel_id"),
        ("payment_id", bytes(16), "payment_id"),
        ("payment_id", GOOD.payment_id[:6] + b"\x40" + GOOD.payment_id[7:], "payment_id"),
        ("payment_id", GOOD.payment_id[:8] + b"\x00" + GOOD.payment_id[9:], "payment_id"),
        ("amount", b"\0\1", "amount"),
        ("amount", bytes([1]) * 17, "amount"),
        ("request_hash", b"", "request_hash"),
        ("ceiling", b"\0", "ceiling"),
        ("ceiling", b"", "ceiling"),
        ("signature", bytes(64), "signature"),
        ("signature", b"", "signature"),
        ("spend_proof.key_id", b"", "spend_proof.key_id"),
        ("spend_proof.max_amount", b"\0", "spend_proof.max_amount"),
        ("spend_proof.mac", bytes(33), "spend_proof.mac"),
    ],
)
def test_each_field_of_a_charge_is_named_when_it_is_malformed(field: str, value: object, named: str) -> None:
    message = charge_pb2.Charge()
    message.CopyFrom(GOOD)
    _with(field, value)(message)
    with pytest.raises(MalformedError) as refused:
        read_charge(message)
    assert refused.value.field == named
    with pytest.raises(MalformedError) as refused:
        read_charges([GOOD, message], 256)
    assert refused.value.field == f"charges[1].{named}"


def test_a_batch_beyond_the_limit_is_refused() -> None:
    assert len(read_charges([GOOD] * 4, 4)) == 4
    with pytest.raises(MalformedError) as refused:
        read_charges([GOOD] * 5, 4)
    assert (refused.value.field, refused.value.got) == ("charges", "5 charges")


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("payer", bytes(20), "config.payer"),
        ("payer_authorizer", bytes(20), "config.payer_authorizer"),
        ("receiver_authorizer", b"", "config.receiver_authorizer"),
        ("withdraw_delay_s", 899, "config.withdraw_delay_s"),
        ("withdraw_delay_s", 2**64 - 1, "config.withdraw_delay_s"),
        ("receiver", bytes(20), "config.receiver"),
        ("receiver", b"", "config.receiver"),
    ],
)
def test_a_channels_fields_are_named_as_the_proto_does(field: str, value: object, named: str) -> None:
    config = ALICE.config.channel(NEWS)
    message = common_pb2.ChannelConfig(
        payer=config.payer,
        payer_authorizer=config.payer_authorizer,
        receiver=config.receiver,
        receiver_authorizer=config.receiver_authorizer,
        token=config.token,
        withdraw_delay_s=config.withdraw_delay_s,
        salt=config.salt,
    )
    assert read_channel(message, "config") == config
    _with(field, value)(message)
    with pytest.raises(MalformedError) as refused:
        read_channel(message, "config")
    assert refused.value.field == named


def test_a_malformed_signature_or_secret_is_told_by_its_length_only() -> None:
    message = charge_pb2.Charge()
    message.CopyFrom(GOOD)
    message.signature = b"\xab" * 64
    with pytest.raises(MalformedError) as refused:
        read_charge(message)
    assert refused.value.got == "64 bytes"
