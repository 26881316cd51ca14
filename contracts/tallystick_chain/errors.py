"""What endpoints answer instead of a result.

ChainUnavailableError    there is no answer, or none that makes sense: never taken for one
  UnansweredError        the endpoint itself failed: no connection, no answer in time, no JSON-RPC
RpcError                 the endpoint answered with an error of JSON-RPC
CallRevertedError        what that error means where a call ran and failed
"""

import re
from typing import Any, Final, cast

_DATA: Final = re.compile(r"0[xX](?:[0-9a-fA-F]{2})*")
_MESSAGE_CHARS_MAX: Final = 300


class ChainUnavailableError(Exception):
    """No endpoint answered, or they lag; retryable."""


class UnansweredError(ChainUnavailableError):
    """An endpoint failed. `status`: of HTTP, 0 without a response; `retry_after`: its header, as it stands."""

    def __init__(self, message: str, *, status: int = 0, retry_after: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class RpcError(Exception):
    """An endpoint's JSON-RPC error. `data`: what a contract returned; `status` and `retry_after` as above."""

    def __init__(self, code: int, message: str, data: bytes, *, status: int = 200, retry_after: str = "") -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data
        self.status = status
        self.retry_after = retry_after


class CallRevertedError(Exception):
    """An eth_call or an estimate would revert. `data` is what the contract returned, `message` the node's words."""

    def __init__(self, data: bytes, message: str) -> None:
        """Keep both; `reverts.describe` makes a sentence of them."""
        super().__init__(message)
        self.data = data
        self.message = message


def says_out_of_gas(message: str) -> bool:
    """Whether a node's words mean that a call's gas did not suffice: each kind of node has its own."""
    text = message.lower()
    return "out of gas" in text or "outofgas" in text or "gas required exceeds" in text


def is_revert(error: RpcError) -> bool:
    """Whether a call ran and failed. Geth and those after it use code 3; others only say so. Too little gas is the
    caller's matter too.
    """
    return error.code == 3 or "revert" in error.message.lower() or says_out_of_gas(error.message)


def is_unknown_method(error: RpcError) -> bool:
    """Whether an error says that there is no such method, and not that something failed."""
    text = error.message.lower()
    return error.code in (-32601, -32004) or ("method" in text and ("not" in text or "unsupported" in text))


def read_error(error: Any, *, status: int = 200, retry_after: str = "") -> RpcError:
    """What stands under `error`, in whatever form; nothing in it is refused."""
    if not isinstance(error, dict):
        return RpcError(0, str(error)[:_MESSAGE_CHARS_MAX], b"", status=status, retry_after=retry_after)
    fields = cast("dict[str, Any]", error)
    code, message, data = fields.get("code"), str(fields.get("message", ""))[:_MESSAGE_CHARS_MAX], fields.get("data")
    if isinstance(data, dict):  # some nodes wrap it
        data = cast("dict[str, Any]", data).get("data")
    payload = bytes.fromhex(data[2:]) if isinstance(data, str) and _DATA.fullmatch(data) else b""
    code = code if isinstance(code, int) else 0
    return RpcError(code, message, payload, status=status, retry_after=retry_after)
