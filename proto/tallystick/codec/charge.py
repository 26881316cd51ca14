"""Charges and what became of them (charge.proto).

`read_charges` is on the way of every charge that does not come in the uniform batches of the aggregator's fast codec:
one pass over the fields, no objects beyond what the batcher needs.
"""

from collections.abc import Sequence
from typing import NoReturn

from tallystick.amounts import decode_amount, encode_amount
from tallystick.charges import Charge, Charged
from tallystick.codec.common import SIGNATURE_BYTES, fixed, read_refusal
from tallystick.errors import Described, MalformedError, RefusedError
from tallystick.payment_ids import parse_payment_id
from tallystick.spend_keys import SpendProof
from tallystick.v1 import charge_pb2


def read_charges(messages: Sequence[charge_pb2.Charge], count_max: int) -> list[Charge]:
    """Read a batch of charges."""
    if len(messages) > count_max:
        raise MalformedError("charges", Described(f"{len(messages)} charges"), f"at most {count_max}")
    charges: list[Charge] = []
    try:
        for message in messages:
            charges.append(read_charge(message))  # noqa: PERF401 - its length tells where an error is
    except MalformedError as error:
        raise error.within(f"charges[{len(charges)}]") from None
    return charges


def read_charge(message: charge_pb2.Charge) -> Charge:
    """Read one charge; fields are named relative to it."""
    channel_id, payment_id, request_hash = message.channel_id, message.payment_id, message.request_hash
    amount, ceiling, signature = message.amount, message.ceiling, message.signature
    if (
        len(channel_id) != 32
        or len(payment_id) != 16
        or len(request_hash) != 32
        or payment_id[6] >> 4 != 7
        or payment_id[8] >> 6 != 2
        or len(amount) > 16
        or amount[:1] == b"\0"
        or (signature and (len(signature) != SIGNATURE_BYTES or not 0 < len(ceiling) <= 16 or ceiling[0] == 0))
        or (ceiling and not signature)
    ):
        _raise_malformed_charge(message)
    spend = None
    if message.HasField("spend_proof"):
        proof = message.spend_proof
        key_id, max_amount, mac = proof.key_id, proof.max_amount, proof.mac
        if len(key_id) != 32 or len(mac) != 32 or len(max_amount) > 16 or max_amount[:1] == b"\0":
            _raise_malformed_spend_proof(proof)
        spend = SpendProof(key_id, int.from_bytes(max_amount, "big"), mac)
    return Charge(
        channel_id,
        payment_id,
        int.from_bytes(amount, "big"),
        request_hash,
        int.from_bytes(ceiling, "big"),
        signature,
        spend,
    )


def write_charge(charge: Charge) -> charge_pb2.Charge:
    """Write one charge with its proof."""
    message = charge_pb2.Charge(
        channel_id=charge.channel_id,
        payment_id=charge.payment_id,
        amount=encode_amount(charge.amount),
        request_hash=charge.request_hash,
        ceiling=encode_amount(charge.ceiling),
        signature=charge.signature,
    )
    spend = charge.spend
    if spend is not None:
        message.spend_proof.key_id = spend.key_id
        message.spend_proof.max_amount = encode_amount(spend.max_amount)
        message.spend_proof.mac = spend.mac
    return message


def read_charge_result(message: charge_pb2.ChargeResult) -> Charged | RefusedError:
    """Read what became of one charge; a refusal is returned, because it may stand in the midst of a batch."""
    if not message.accepted:
        return read_refusal(message.refusal)
    return Charged(decode_amount(message.charged, "ChargeResult.charged"), message.replayed)


def _raise_malformed_charge(message: charge_pb2.Charge) -> NoReturn:
    """Name the field that makes a charge malformed."""
    fixed(message.channel_id, 32, "channel_id")
    parse_payment_id(message.payment_id, "payment_id")
    decode_amount(message.amount, "amount")
    fixed(message.request_hash, 32, "request_hash")
    decode_amount(message.ceiling, "ceiling")
    if message.ceiling and not message.signature:
        raise MalformedError("signature", message.signature, "65 bytes where there is a ceiling")
    fixed(message.signature, SIGNATURE_BYTES, "signature")
    raise MalformedError("ceiling", Described("zero"), "an amount above zero where there is a signature")


def _raise_malformed_spend_proof(proof: charge_pb2.SpendProof) -> NoReturn:
    fixed(proof.key_id, 32, "spend_proof.key_id")
    decode_amount(proof.max_amount, "spend_proof.max_amount")
    fixed(proof.mac, 32, "spend_proof.mac")
    raise AssertionError("a spend proof is malformed in one of its fields")
