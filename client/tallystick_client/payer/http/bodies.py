"""Request bodies: which can be sent twice, and what of them a payment binds.

A body with a declared length is read into memory (up to a limit), hashed, and may be sent again. A body that is
streamed up, or longer, passes through untouched: it can be sent once.
"""

from typing import Final, NamedTuple

import httpx

from tallystick.requests import body_digest

BUFFERED_BYTES_MAX: Final = 16 * 1024 * 1024


class Body(NamedTuple):
    """What a payment needs to know of a request's body; `digest` is that of `tallystick.requests`."""

    digest: bytes
    is_replayable: bool
    is_payable: bool = True
    """False: it has a declared length, so sellers hash it, but it is too long to be hashed here."""


async def prepare(request: httpx.Request) -> Body:
    """Read the body where its length is declared; what was read is sent from memory."""
    if "transfer-encoding" in request.headers:
        return Body(b"", is_replayable=False)
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or int(length[:20]) > BUFFERED_BYTES_MAX:
        return Body(b"", is_replayable=False, is_payable=False)
    return Body(body_digest(await request.aread()), is_replayable=True)
