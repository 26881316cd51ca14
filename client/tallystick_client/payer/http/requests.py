"""Requests that may be paid for: which bodies can be sent twice, and what of a request a payment binds.

A body with a declared length is read into memory (up to a limit), hashed, and may be sent again. A body that is
streamed up, or longer, passes through untouched: it can be sent once.
"""

from collections.abc import Mapping
from typing import Final

from tallystick.requests import body_digest, normal_target, request_hash
from tallystick_client.payer.http.steps import PayableRequest

BUFFERED_BYTES_MAX: Final = 16 * 1024 * 1024


def is_read_first(headers: Mapping[str, str]) -> bool:
    """Whether the body is to be read into memory before the request is sent: its length is declared, within limits."""
    length = headers.get("content-length", "0")
    is_short = length.isascii() and length.isdigit() and int(length[:20]) <= BUFFERED_BYTES_MAX
    return is_short and "transfer-encoding" not in headers


def payable_request(
    method: str, scheme: str, host: str, target: bytes, headers: Mapping[str, str], body: bytes | None
) -> PayableRequest:
    """The request as a purchase needs it.

    `host`: with the port, where the URL has one. `target`: path and query as they go on the request line. `body`: None
    where it was not read, as `is_read_first` advises; such a request is sent once only.
    """
    target = normal_target(target)
    digest = b"" if body is None else body_digest(body)
    return PayableRequest(
        method,
        f"{scheme}://{host}",
        host,
        target,
        digest,
        request_hash(method, target, digest),
        is_replayable=body is not None,
        is_payable=body is not None or "transfer-encoding" in headers,
    )
