"""What is answered: x402's own messages with 200, and errors, which carry the same fields for SDKs that look for them.

`extra` of a refusal says in our own words what its code does not: our reason, whether the same may succeed later, the
field that it is about, what came and what is allowed.
"""

import logging
import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from starlette.types import Send

from tallystick.errors import MalformedError
from tallystick.facilitator import Kind, Settled, Verified
from tallystick.hexadecimal import checksum, to_hex
from tallystick.x402 import SettleResponse, encode_json
from tallystick.x402.bazaar import BAZAAR
from tallystick.x402.facilitator import SupportedKind, SupportedResponse, VerifyResponse
from tallystick.x402.messages import Message
from tallystick_aggregator.auth.credentials import DeniedError, UnauthenticatedError
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.store.port import StoreUnavailableError

log = logging.getLogger(__name__)

JSON: Final = b"application/json"
_ALL_EVM: Final = "eip155:*"
_NOT_LISTED: Final = (
    b"extension-responses",
    b64encode(
        msgspec.json.encode(
            {
                BAZAAR: {
                    "status": "rejected",
                    "rejectedReason": "listed is what sellers push: PUT /discovery/resources with the token",
                }
            }
        )
    ),
)


class ProblemError(Exception):
    """A request that is not taken: its HTTP status, a code and one sentence."""

    def __init__(self, status: int, code: str, message: str, field: str = "", *, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field
        self.retry_after_s = retry_after_s


class Problem(Message, frozen=True, kw_only=True):
    """The body of an error. On /verify and /settle it has the fields of their answers too."""

    error: str
    message: str
    field: str | None = None


class Reply(NamedTuple):
    """A status, a JSON body, and headers beside its type and length."""

    status: int
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()

    async def send_to(self, send: Send) -> None:
        """Write it."""
        headers = [(b"content-type", JSON), (b"content-length", b"%d" % len(self.body)), *self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


# x402's answers.


def verified(answer: Verified) -> bytes:
    """A payment that will settle."""
    return encode_json(VerifyResponse(is_valid=True, payer=checksum(answer.payer), extra=_extra(answer.extra)))


def not_verified(code: str, message: str, payer: bytes = b"", extra: Mapping[str, Any] | None = None) -> bytes:
    """A payment that will not."""
    return encode_json(
        VerifyResponse(
            is_valid=False,
            invalid_reason=code,
            invalid_message=message,
            payer=checksum(payer) if payer else None,
            extra=_extra(extra),
        )
    )


def settled(answer: Settled, network: str) -> bytes:
    """A payment that was settled; `transaction` is empty where none is sent for it."""
    return encode_json(
        SettleResponse(
            success=True,
            payer=checksum(answer.payer) if answer.payer else None,
            transaction=_hash(answer.transaction),
            network=network,
            amount=str(answer.amount) if answer.moves else "",
            extra=_extra(answer.extra),
        )
    )


def not_settled(
    code: str, message: str, network: str, transaction: bytes = b"", extra: Mapping[str, Any] | None = None
) -> bytes:
    """A payment that was not settled, or is not known to be yet."""
    return encode_json(
        SettleResponse(
            success=False,
            error_reason=code,
            error_message=message,
            transaction=_hash(transaction),
            network=network,
            extra=_extra(extra),
        )
    )


def refusal_extra(refusal: Refusal) -> Mapping[str, Any]:
    """What a refusal says beside its code and its sentence; what is empty is left out."""
    said: dict[str, Any] = {**refusal.extra, "reason": refusal.reason.code, "retry": refusal.reason.retry}
    said |= {
        name: value
        for name, value in (("field", refusal.field), ("got", refusal.got), ("allowed", refusal.allowed))
        if value
    }
    if refusal.retry_after_s:
        said["retryAfterSeconds"] = refusal.retry_after_s
    return said


def supported(kinds: Sequence[Kind]) -> bytes:
    """What can be verified and settled: extensions and signers in the order in which kinds name them first."""
    return encode_json(
        SupportedResponse(
            kinds=[SupportedKind(scheme=kind.scheme, network=kind.network, extra=_extra(kind.extra)) for kind in kinds],
            extensions=list(dict.fromkeys(name for kind in kinds for name in kind.extensions)),
            signers={_ALL_EVM: signers}
            if (signers := list(dict.fromkeys(checksum(one) for kind in kinds for one in kind.signers)))
            else {},
        )
    )


def extension_outcomes(extensions: Mapping[str, Any] | None) -> Sequence[tuple[bytes, bytes]]:
    """What became of a payment's extensions, for its seller alone: the header EXTENSION-RESPONSES.

    What a payment says of a resource is its payer's word, so that nothing is listed by it (extensions/bazaar.md).
    """
    return (_NOT_LISTED,) if BAZAAR in (extensions or {}) else ()


# Errors.


def problem_of(error: Exception, where: str) -> ProblemError:
    """Return how an error is told: malformed is 400, DeniedError 401 or 403, an uncertain store 503, others 500.

    The caller of an unexpected one gets a number to quote; what happened stands in the log under it.
    """
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, MalformedError):
        return ProblemError(400, "malformed", str(error), error.field)
    if isinstance(error, DeniedError):
        if isinstance(error, UnauthenticatedError):
            return ProblemError(401, "unauthorized", error.message)
        return ProblemError(403, "forbidden", error.message)
    if isinstance(error, StoreUnavailableError):
        # Not a refusal: whether it was stored is not known. The same payment again finds out.
        message = f"{error}; send the same request again to learn its outcome"
        return ProblemError(503, "store_unavailable", message, retry_after_s=1)
    incident = secrets.token_hex(8)
    log.error("unexpected failure in %s", where, exc_info=error, extra={"incident": incident})
    return ProblemError(500, "internal", f"an unexpected failure, logged as incident {incident}")


def problem_reply(problem: ProblemError, answer: bytes = b"") -> Reply:
    """Return an error as JSON; `answer` is what the same would be as x402's answer, whose fields it has too."""
    body = msgspec.json.decode(answer, type=dict[str, Any]) if answer else {}
    body |= msgspec.to_builtins(Problem(error=problem.code, message=problem.message, field=problem.field or None))
    headers: list[tuple[bytes, bytes]] = []
    if problem.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if problem.retry_after_s:
        headers.append((b"retry-after", b"%d" % problem.retry_after_s))
    return Reply(problem.status, msgspec.json.encode(body), headers)


def _hash(transaction: bytes) -> str:
    return to_hex(transaction) if transaction else ""


def _extra(extra: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return dict(extra) if extra else None
