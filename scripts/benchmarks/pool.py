"""Charges that were signed before the clock starts: vouchers by the hundred thousand, each with a ceiling of its own.

Charge number n is paid by payer n % channels, with the voucher over (n // channels + 1) prices. Signatures do not depend
on the time, so one pool serves every scenario with as many channels, each on a store of its own. Payment ids and spend
proofs do, and are made by the load itself right before it starts.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from benchmarks.world import DOMAIN, PRICE, Payer, read_payers, spend_secret
from tallystick.amounts import encode_amount
from tallystick.payment_ids import new
from tallystick.signatures import Signer
from tallystick.spend_keys import SpendProver
from tallystick.v1 import charge_pb2
from tallystick.vouchers import sign_voucher

SIGNATURE_BYTES: Final = 65
REQUEST_HASH: Final = bytes.fromhex("5a" * 32)
PRICE_BYTES: Final = encode_amount(PRICE)


def write_signatures(path: Path, payers_path: Path, channels: int, charges: int, processes: int) -> None:
    """Sign the vouchers of the first `charges` charges of a pool with so many channels."""
    size = max(1, -(-charges // (processes * 8)))
    parts = [(payers_path, channels, start, min(charges, start + size)) for start in range(0, charges, size)]
    with ProcessPoolExecutor(processes) as pool, path.open("wb") as file:
        for part in pool.map(_sign, parts):
            file.write(part)


def ceiling_of(number: int, channels: int) -> int:
    """The ceiling of the voucher that goes with this charge."""
    return (number // channels + 1) * PRICE


def by_voucher(
    signatures_path: Path, payers_path: Path, channels: int, start: int, stop: int
) -> Iterator[charge_pb2.Charge]:
    """Charges `start` to `stop`, each with a fresh payment id and its own voucher."""
    payers = read_payers(payers_path, count=channels)
    with signatures_path.open("rb") as file:
        file.seek(start * SIGNATURE_BYTES)
        signatures = file.read((stop - start) * SIGNATURE_BYTES)
    if len(signatures) != (stop - start) * SIGNATURE_BYTES:
        raise ValueError("the pool has fewer signatures than the load needs")
    for number in range(start, stop):
        offset = (number - start) * SIGNATURE_BYTES
        yield charge_pb2.Charge(
            channel_id=payers[number % channels].channel_id,
            payment_id=new(),
            amount=PRICE_BYTES,
            request_hash=REQUEST_HASH,
            ceiling=encode_amount(ceiling_of(number, channels)),
            signature=signatures[offset : offset + SIGNATURE_BYTES],
        )


def by_spend_key(payers_path: Path, channels: int, start: int, stop: int) -> Iterator[charge_pb2.Charge]:
    """Charges `start` to `stop`, each proven under its payer's spend key. The ceiling is raised already."""
    payers = read_payers(payers_path, count=channels)
    secrets = [spend_secret(payer) for payer in payers]
    provers: dict[int, SpendProver] = {}
    for number in range(start, stop):
        position = number % channels
        if position not in provers:
            provers[position] = SpendProver(secrets[position].secret)
        channel_id, payment_id = payers[position].channel_id, new()
        mac = provers[position].mac(channel_id, payment_id, PRICE, REQUEST_HASH)
        yield charge_pb2.Charge(
            channel_id=channel_id,
            payment_id=payment_id,
            amount=PRICE_BYTES,
            request_hash=REQUEST_HASH,
            spend_proof=charge_pb2.SpendProof(key_id=secrets[position].key_id, max_amount=PRICE_BYTES, mac=mac),
        )


def _sign(part: tuple[Path, int, int, int]) -> bytes:
    payers_path, channels, start, stop = part
    payers = read_payers(payers_path, count=channels)
    signers: dict[int, Signer] = {}
    signatures: list[bytes] = []
    for number in range(start, stop):
        position = number % channels
        signer = signers.get(position)
        if signer is None:
            signer = signers[position] = _signer(payers[position])
        voucher = sign_voucher(signer, DOMAIN, payers[position].channel_id, ceiling_of(number, channels))
        signatures.append(voucher.signature)
    return b"".join(signatures)


def _signer(payer: Payer) -> Signer:
    return Signer(payer.private_key)
