"""What gas costs now, as one node of the chain says: `eth_gasPrice`, and nothing else."""

import re
from typing import Final

import httpx2
import msgspec

from tallystick.errors import Described, MalformedError

TIMEOUT_S: Final = 10.0
GAS_WEI_MAX: Final = 10**15
"""A million gwei; what is above is no price."""
_ALLOWED: Final = "the http(s) URL of a node that answers eth_gasPrice with 1 wei to 1,000,000 gwei"


class _Answer(msgspec.Struct):
    result: str


def read_gas_price(url: str, transport: httpx2.BaseTransport | None = None, timeout_s: float = TIMEOUT_S) -> int:
    """Wei per gas, asked of the node at `url`.

    Raises MalformedError, which never shows the URL, as it may hold a key: if it is none, if the node does not answer,
    or not with a price.
    """
    question: dict[str, object] = {"jsonrpc": "2.0", "id": 1, "method": "eth_gasPrice", "params": []}
    try:
        with httpx2.Client(transport=transport, timeout=timeout_s) as http:
            response = http.post(url, json=question)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise MalformedError("--rpc-url", Described(f"no answer ({type(error).__name__})"), _ALLOWED) from None
    try:
        answer = msgspec.json.decode(response.content, type=_Answer)
    except msgspec.DecodeError:
        raise MalformedError("--rpc-url", Described(f"HTTP {response.status_code} without a price"), _ALLOWED) from None
    price = int(answer.result, 16) if re.fullmatch("0x[0-9a-fA-F]{1,64}", answer.result) else 0
    if not 1 <= price <= GAS_WEI_MAX:
        raise MalformedError("--rpc-url", answer.result, _ALLOWED)
    return price
