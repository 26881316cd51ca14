"""Charges that were signed before the clock starts: vouchers by the hundred thousand, each with a ceiling of its own.

Payers take turns; at its turn each pays `burst` charges in a row, as a crawler does that fetches a few pages at once.
Signatures do not depend on the time, so one pool serves every scenario with as many channels and the same bursts, each
on a store of its own. Payment ids and spend proofs do, and are made by the load itself right before it starts.
"""

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.world import DOMAIN, PRICE, read_payers, spend_secret, write_in_parts
from tallystick.amounts import encode_amount
from tallystick.payment_ids import new
from tallystick.signatures import Signer
from tallystick.spend_keys import SpendProver
from tallystick.v1 import charge_pb2
from tallystick.vouchers import sign_voucher

SIGNATURE_BYTES: Final = 65
REQUEST_HASH: Final = bytes.fromhex("5a" * 32)
PRICE_BYTES: Final = encode_amount(PRICE)


class Order(NamedTuple):
    """Who pays which charge of a pool."""

    channels: int
    burst: int

    def payer(self, number: int) -> int:
        """Which payer pays charge `number`."""
        return number // self.burst % self.channels

    def ceiling(self, number: int) -> int:
        """The ceiling of the voucher that goes with it: one price more than the payer's voucher before."""
        turn, within = divmod(number, self.burst)
        return (turn // self.channels * self.burst + within + 1) * PRICE


def write_signatures(path: Path, payers_path: Path, order: Order, charges: int, processes: int) -> None:
    """Sign the vouchers of the first `charges` charges of a pool."""
    write_in_parts(path, partial(_sign, payers_path, order), charges, processes)


def by_voucher(
    signatures_path: Path, payers_path: Path, order: Order, start: int, stop: int
) -> Iterator[charge_pb2.Charge]:
    """Charges `start` to `stop`, each with a fresh payment id and its own voucher."""
    payers = read_payers(payers_path, count=order.channels)
    with signatures_path.open("rb") as file:
        file.seek(start * SIGNATURE_BYTES)
        signatures = file.read((stop - start) * SIGNATURE_BYTES)
    if len(signatures) != (stop - start) * SIGNATURE_BYTES:
        raise ValueError("the pool has fewer signatures than the load needs")
    for number in range(start, stop):
        offset = (number - start) * SIGNATURE_BYTES
        yield charge_pb2.Charge(
            channel_id=payers[order.payer(number)].channel_id,
            payment_id=new(),
            amount=PRICE_BYTES,
            request_hash=REQUEST_HASH,
            ceiling=encode_amount(order.ceiling(number)),
            signature=signatures[offset : offset + SIGNATURE_BYTES],
        )


def by_spend_key(payers_path: Path, order: Order, start: int, stop: int) -> Iterator[charge_pb2.Charge]:
    """Charges `start` to `stop`, each proven under its payer's spend key. The ceiling is raised already."""
    payers = read_payers(payers_path, count=order.channels)
    keys = [spend_secret(payer) for payer in payers]
    provers = [SpendProver(key.secret) for key in keys]
    for number in range(start, stop):
        position = order.payer(number)
        channel_id, payment_id = payers[position].channel_id, new()
        mac = provers[position].mac(channel_id, payment_id, PRICE, REQUEST_HASH)
        yield charge_pb2.Charge(
            channel_id=channel_id,
            payment_id=payment_id,
            amount=PRICE_BYTES,
            request_hash=REQUEST_HASH,
            spend_proof=charge_pb2.SpendProof(key_id=keys[position].key_id, max_amount=PRICE_BYTES, mac=mac),
        )


def _sign(payers_path: Path, order: Order, start: int, stop: int) -> bytes:
    payers = read_payers(payers_path, count=order.channels)
    signer_of = cache(lambda position: Signer(payers[position].private_key))
    return b"".join(
        sign_voucher(
            signer_of(order.payer(number)), DOMAIN, payers[order.payer(number)].channel_id, order.ceiling(number)
        ).signature
        for number in range(start, stop)
    )
