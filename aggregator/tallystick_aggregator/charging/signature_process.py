"""The child that checks signatures, and how it is spoken to (see `signature_processes`).

request: 4 bytes, how many checks; then 166 bytes each: kept (1), domain separator (32), authorizer (20),
channel id (32), ceiling (16, big-endian), signature (65)
answer:  a byte for each: 1 good, 0 bad
"""

import signal
import sys
from collections.abc import Sequence
from typing import BinaryIO, Final

from tallystick_aggregator.charging.signatures import AuthorizerKeys, SignatureCheck, check_signatures

SIGNATURE_BYTES: Final = 65
CHECK_BYTES: Final = 166


def pack(checks: Sequence[SignatureCheck]) -> bytes:
    """A request. Signatures must have 65 bytes."""
    parts = [len(checks).to_bytes(4, "big")]
    for check in checks:
        parts += (
            b"\1" if check.kept else b"\0",
            check.domain_separator,
            check.authorizer,
            check.channel_id,
            check.ceiling.to_bytes(16, "big"),
            check.signature,
        )
    return b"".join(parts)


def unpack(body: bytes) -> list[SignatureCheck]:
    """The checks of a request, after its first 4 bytes."""
    return [
        SignatureCheck(
            position=0,
            domain_separator=body[at + 1 : at + 33],
            channel_id=body[at + 53 : at + 85],
            ceiling=int.from_bytes(body[at + 85 : at + 101], "big"),
            signature=body[at + 101 : at + CHECK_BYTES],
            authorizer=body[at + 33 : at + 53],
            kept=body[at] == 1,
        )
        for at in range(0, len(body), CHECK_BYTES)
    ]


def work(requests: BinaryIO, answers: BinaryIO) -> None:
    """Be the child: answer until there are no more requests."""
    keys = AuthorizerKeys()
    while len(head := requests.read(4)) == 4:
        body = requests.read(int.from_bytes(head, "big") * CHECK_BYTES)
        answers.write(bytes(check_signatures(unpack(body), keys)))
        answers.flush()


if __name__ == "__main__":
    # The parent decides when to stop, by closing the pipe; what a terminal or a shell sends reaches its children too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    work(sys.stdin.buffer, sys.stdout.buffer)
