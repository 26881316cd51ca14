"""Checks of vouchers' signatures, and where they run.

`check_signatures` is the check itself, with the authorizers' cached keys. `SignatureThreads` runs it in this process: a
few at once on the event loop, more in chunks on threads, for libsecp256k1 lets go of the interpreter's lock. Beside a
busy event loop a thread gets that lock back only now and then, so a server has `SignatureProcesses` instead.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from tallystick.errors import InvalidSignatureError
from tallystick.signatures import AuthorizerKey, verify_authorship_many, verify_many
from tallystick.vouchers import voucher_digest
from tallystick_aggregator.ledger.values import State

INLINE_CHECKS_MAX: Final = 8
"""So few signatures are checked on the event loop: a thread would cost more than they do."""
CHUNK_MIN: Final = 16
"""Signatures per thread call at least."""
AUTHORIZER_KEYS_MAX: Final = 65_536


class SignatureCheck(State, gc=False):
    """One voucher whose signature is to be checked: all that is needed for it.

    `kept`: the voucher may become the channel's ceiling, so the chain has to take its signature (I5). Of the others of
    a burst only the authorship matters, which costs a sixth less (tallystick.signatures).
    """

    position: int
    domain_separator: bytes
    channel_id: bytes
    ceiling: int
    signature: bytes
    authorizer: bytes
    kept: bool


class SignatureChecker(Protocol):
    """Checks signatures somewhere."""

    async def check(self, checks: Sequence[SignatureCheck]) -> Sequence[bool]:
        """Whether each signature is good, in their order."""
        ...

    def close(self) -> None:
        """Let go of what it holds; checks under way fail."""
        ...


class AuthorizerKeys:
    """Parsed keys by address; bounded, the oldest go first. May be shared by threads."""

    def __init__(self, most: int = AUTHORIZER_KEYS_MAX) -> None:
        self._keys: dict[bytes, AuthorizerKey] = {}
        self._most = most
        self.get = self._keys.get

    def remember(self, key: AuthorizerKey) -> None:
        """Keep a key that was recovered."""
        self._keys[key.address] = key
        while len(self._keys) > self._most:
            self._keys.pop(next(iter(self._keys)), None)


def check_signatures(checks: Sequence[SignatureCheck], keys: AuthorizerKeys) -> list[bool]:
    """Whether each is signed by its authorizer, in a form that the chain will take where it is `kept`."""
    verdicts: list[bool] = [False] * len(checks)
    kept: list[tuple[int, tuple[AuthorizerKey, bytes, bytes]]] = []
    others: list[tuple[int, tuple[AuthorizerKey, bytes, bytes]]] = []
    for index, check in enumerate(checks):
        digest = voucher_digest(check.domain_separator, check.channel_id, check.ceiling)
        key = keys.get(check.authorizer)
        if key is None:
            verdicts[index] = _recover(digest, check, keys)
        else:
            (kept if check.kept else others).append((index, (key, digest, check.signature)))
    for part, verify in ((kept, verify_many), (others, verify_authorship_many)):
        if part:
            for (index, _), verdict in zip(part, verify([item for _, item in part]), strict=True):
                verdicts[index] = verdict
    return verdicts


def _recover(digest: bytes, check: SignatureCheck, keys: AuthorizerKeys) -> bool:
    try:
        key = AuthorizerKey.recover(digest, check.signature)
    except InvalidSignatureError:
        return False
    if key.address != check.authorizer:
        return False
    keys.remember(key)
    return True


class SignatureThreads:
    """Checks in this process."""

    def __init__(self, threads: int = 2) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="signatures")
        self._keys = AuthorizerKeys()

    async def check(self, checks: Sequence[SignatureCheck]) -> Sequence[bool]:
        if len(checks) <= INLINE_CHECKS_MAX:
            return check_signatures(checks, self._keys)
        size = max(CHUNK_MIN, -(-len(checks) // self._threads))
        loop = asyncio.get_running_loop()
        chunks = await asyncio.gather(
            *(
                loop.run_in_executor(self._pool, check_signatures, checks[start : start + size], self._keys)
                for start in range(0, len(checks), size)
            )
        )
        return [verdict for chunk in chunks for verdict in chunk]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
