"""The limits of ordinary RPC plans, in the providers' own words."""

from typing import Any, Final, NamedTuple

from rpc_faults.rules import Question, Refuse, Rule


class _Wording(NamedTuple):
    code: int
    message: str
    status: int = 200


RANGE_WORDINGS: Final = {
    "alchemy": _Wording(
        -32600,
        "Under the Free tier plan, you can make eth_getLogs requests with up to a {blocks} block range. Based on your"
        " parameters, this block range should work: [{first}, {last}]. Upgrade to PAYG for expanded block range.",
        400,
    ),
    "quicknode": _Wording(-32614, "eth_getLogs is limited to a {blocks} range", 413),
    "infura": _Wording(-32005, "query returned more than 10000 results. Try with this block range [{first}, {last}]."),
    "ankr": _Wording(-32600, "block range is too wide"),
    "publicnode": _Wording(-32701, "exceed maximum block range: {blocks}"),
    "cloudflare": _Wording(
        -32047, "Invalid eth_getLogs request. 'fromBlock'-'toBlock' range too large. Max range: {blocks}"
    ),
    "drpc": _Wording(35, "ranges over {blocks} blocks are not supported on freetier", 400),
}
"""What providers say to a range of blocks that is too wide for them."""


def limited_ranges(blocks_max: int, provider: str = "alchemy") -> Rule:
    """`eth_getLogs` over more than so many blocks is refused, in this provider's words."""
    wording = RANGE_WORDINGS[provider]

    def is_too_wide(question: Question) -> bool:
        asked = question.params[0]
        if "blockHash" in asked:
            return False
        return int(asked["toBlock"], 16) - int(asked["fromBlock"], 16) + 1 > blocks_max

    def message(question: Question) -> str:
        first = int(question.params[0]["fromBlock"], 16)
        return wording.message.format(blocks=blocks_max, first=hex(first), last=hex(first + blocks_max - 1))

    effect = Refuse(wording.code, message, wording.status)
    return Rule(f"range above {blocks_max}", effect, frozenset({"eth_getLogs"}), is_too_wide)


def without(*methods: str) -> Rule:
    """Methods that the endpoint does not know."""
    message = f"the method {' or '.join(methods)} does not exist/is not available"
    return Rule("method unknown", Refuse(-32601, message), frozenset(methods))


def without_block_hashes() -> Rule:
    """An endpoint that takes block numbers and tags only, where EIP-1898 allows an object with a block's hash."""

    def has_object(question: Question) -> bool:
        return any(isinstance(param, dict) and "blockHash" in param for param in question.params[1:])

    message = "invalid argument 1: json: cannot unmarshal object into Go value of type rpc.BlockNumber"
    methods = frozenset({"eth_call", "eth_getCode", "eth_getBalance", "eth_getTransactionCount", "eth_getStorageAt"})
    return Rule("EIP-1898 refused", Refuse(-32602, message), methods, has_object)


def rate_limited(*, times: int | None = None, share: float = 1.0, text: bool = False) -> Rule:
    """HTTP 429, for this share of all questions and so often; `text`: a gateway's plain words instead of JSON-RPC."""
    effect = Refuse(
        -32005, "daily request count exceeded, request rate limited", 429, text="Too Many Requests" if text else None
    )
    return Rule("rate limited", effect, times=times, share=share)


def passing_gas_error(*, times: int = 1, when: Any = None) -> Rule:
    """A node that is short of something for a moment: an estimate fails with words that a real revert has too."""
    effect = Refuse(-32000, "gas required exceeds allowance (16777216)")
    rule = Rule("gas required exceeds allowance", effect, frozenset({"eth_estimateGas"}), times=times)
    if when is not None:
        rule.when = when
    return rule
