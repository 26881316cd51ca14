"""The yardstick: how many signatures the cores can check if they do nothing else.

One process per core, each calling libsecp256k1 in a loop on cached keys and ready digests: no hashing, no transport, no
store. Two kinds: `authorship`, the plain ECDSA check, the cheapest that is sound; and `chain`, by recovery, which also
proves that the chain will take the signature (what a stored voucher must pass; see tallystick.signatures).
"""

import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

from _children import hear, say, settings_of_child
from tallystick.signatures import AuthorizerKey, Signer, verify_authorship_many, verify_many

SIGNATURES: Final = 4_096
CHUNK: Final = 256

Item = tuple[AuthorizerKey, bytes, bytes]


def rate(check: Callable[[Sequence[Item]], list[bool]], items: Sequence[Item], duration_s: float) -> float:
    """Checks a second of this function in this thread."""
    done = 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < duration_s:
        position = done % len(items)
        verdicts = check(items[position : position + CHUNK])
        assert all(verdicts), "the yardstick's own signatures are good"
        done += len(verdicts)
    return done / elapsed


def items() -> list[Item]:
    """Signatures of one key over many digests."""
    signer = Signer(sha256(b"tallystick benchmark yardstick").digest())
    digests = [sha256(b"%d" % number).digest() for number in range(SIGNATURES)]
    signatures = [signer.sign(digest) for digest in digests]
    key = AuthorizerKey.recover(digests[0], signatures[0])
    return [(key, digest, signature) for digest, signature in zip(digests, signatures, strict=True)]


def main() -> None:
    """Measure, once the parent says so; all children start together."""
    duration_s = float(settings_of_child()["duration_s"])
    ready = items()
    say({"ready": True})
    hear()
    say({"authorship_per_s": rate(verify_authorship_many, ready, duration_s)})
    hear()
    say({"chain_per_s": rate(verify_many, ready, duration_s)})


if __name__ == "__main__":
    main()
