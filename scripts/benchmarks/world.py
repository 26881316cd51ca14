"""The world of a benchmark, all of it made from numbers: one operator, one seller, and as many payers as are wanted.

Every payer has an account and a channel of its own, so that the number of channels is the number of keys: the hardest
mix for whoever has to check signatures. A table of what the payers have in common with all runs is made once per run
and kept in a file: 32 bytes of key, 32 of account id, 32 of channel id each.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from tallystick.channels import ChannelConfig, account_id, channel_id
from tallystick.eip712 import escrow_domain
from tallystick.quantities import ZERO_ADDRESS
from tallystick.signatures import Signer

CHAIN_ID: Final = 31_337
NETWORK: Final = "eip155:31337"
ESCROW: Final = bytes.fromhex("e5" * 20)
DOMAIN: Final = escrow_domain(CHAIN_ID, ESCROW)
TOKEN: Final = bytes.fromhex("70" * 20)
OPERATOR: Final = bytes.fromhex("09" * 20)
RECEIVER: Final = bytes.fromhex("aa" * 20)
PRICE: Final = 1_000
"""Of every charge: a tenth of a cent."""
FUNDS: Final = 10**18
"""Of every account: never the limit here."""
KEY_CAP: Final = 10**18

_ROW: Final = 96


class Payer(NamedTuple):
    """What is needed to pay."""

    private_key: bytes
    account_id: bytes
    channel_id: bytes


class SpendSecret(NamedTuple):
    """A payer's spend key."""

    key_id: bytes
    secret: bytes


def config_of(private_key: bytes) -> ChannelConfig:
    """The account of the payer with this key."""
    address = Signer(private_key).address
    return ChannelConfig(
        payer=address,
        payer_authorizer=address,
        receiver=ZERO_ADDRESS,
        receiver_authorizer=OPERATOR,
        token=TOKEN,
        withdraw_delay_s=86_400,
        salt=ZERO_ADDRESS + bytes(12),
    )


def spend_secret(payer: Payer) -> SpendSecret:
    """The spend key of a payer."""
    return SpendSecret(sha256(b"key id" + payer.private_key).digest(), sha256(b"secret" + payer.private_key).digest())


def make_payer(number: int) -> Payer:
    """The payer with this number."""
    private_key = sha256(b"tallystick benchmark payer %d" % number).digest()
    config = config_of(private_key)
    return Payer(private_key, account_id(DOMAIN, config), channel_id(DOMAIN, config.channel(RECEIVER)))


def write_payers(path: Path, count: int, processes: int) -> None:
    """Make the table of the first `count` payers."""
    write_in_parts(path, _rows, count, processes)


def write_in_parts(path: Path, make: Callable[[int, int], bytes], count: int, processes: int) -> None:
    """Write what `make` makes of the numbers from `start` to `stop`, for parts of `count`, in these many processes."""
    size = max(1, -(-count // (processes * 8)))
    starts = range(0, count, size)
    with ProcessPoolExecutor(processes) as workers, path.open("wb") as file:
        file.writelines(workers.map(make, starts, (min(count, start + size) for start in starts)))


def read_payers(path: Path, numbers: Sequence[int] | None = None, count: int | None = None) -> list[Payer]:
    """The payers with these numbers, or the first `count`."""
    with path.open("rb") as file:
        if numbers is None:
            data = file.read(-1 if count is None else count * _ROW)
            return [_payer(data[start : start + _ROW]) for start in range(0, len(data), _ROW)]
        payers: list[Payer] = []
        for number in numbers:
            file.seek(number * _ROW)
            payers.append(_payer(file.read(_ROW)))
        return payers


def _payer(row: bytes) -> Payer:
    if len(row) != _ROW:
        raise ValueError("the table of payers is shorter than what is asked of it")
    return Payer(row[:32], row[32:64], row[64:])


def _rows(start: int, stop: int) -> bytes:
    return b"".join(b"".join(make_payer(number)) for number in range(start, stop))
