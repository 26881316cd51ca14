"""Escrow.sol and a USDC-like token at their addresses: takes calldata, gives return data, logs or revert data.

What a call does is `EscrowModel`'s business, which was written from the design and is held against Escrow.sol; here it
is only decoded and encoded, by the contracts' own ABIs, so that everything above the node is the real thing. A
differential test holds this one against the contracts, too. Signatures of contract wallets are not modelled.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Final, TypeAlias

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import (
    event_abi_to_log_topic,
    function_abi_to_4byte_selector,
    get_abi_input_types,
    get_abi_output_types,
)

from escrow_model import (
    Account,
    AuthorizationUsed,
    Config,
    EscrowModel,
    RevertedError,
    Signed,
    TokenModel,
    TokenRevertedError,
    Transfer,
    signed,
)
from tallystick import eip712
from tallystick.channels import ChannelConfig
from tallystick.eip712 import Domain
from tallystick.hashing import keccak256
from tallystick.x402 import ExactAuthorization
from tallystick_aggregator.chain.node import CallRevertedError, Log
from tallystick_contracts import claim_batch, load
from tallystick_contracts.claim_batch import ClaimBatchError

Logs: TypeAlias = list[tuple[bytes, Log]]


def _entries(contract: str, type_: str) -> list[dict[str, Any]]:
    return [entry for entry in load(contract).abi if entry["type"] == type_]


_EVENTS: Final = {entry["name"]: entry for entry in (*_entries("Escrow", "event"), *_entries("TestUSDC", "event"))}
_ERRORS: Final = {entry["name"]: function_abi_to_4byte_selector(entry) for entry in _entries("Escrow", "error")}
_TEXT: Final = keccak256(b"Error(string)")[:4]
_PANIC: Final = keccak256(b"Panic(uint256)")[:4]


def call_data(contract: str, name: str, *arguments: Any) -> bytes:
    """Calldata of the function that has this name and as many arguments."""
    values = [astuple(argument) if isinstance(argument, ChannelConfig) else argument for argument in arguments]
    (entry,) = (e for e in _entries(contract, "function") if e["name"] == name and len(e["inputs"]) == len(arguments))
    return function_abi_to_4byte_selector(entry) + encode(get_abi_input_types(entry), values)


@dataclass(slots=True)
class World:
    """All state of the chain after one block."""

    escrow: EscrowModel
    token: bytes
    nonces: dict[bytes, int] = field(default_factory=dict[bytes, int])

    @property
    def balances(self) -> dict[bytes, int]:
        """The token's."""
        return self.escrow.tokens[self.token].balances

    def owed(self, to: bytes) -> int:
        """What the escrow keeps for somebody."""
        return self.escrow.owed.get((to, self.token), 0)

    def copy(self) -> "World":
        """An independent copy."""
        return World(self.escrow.copy(), self.token, dict(self.nonces))


class _Call:
    """One call while it runs: who calls, when, and on which state."""

    def __init__(self, world: World, sender: bytes, now_s: int) -> None:
        self.world = world
        self.escrow = world.escrow
        self.token = world.escrow.tokens[world.token]
        self.sender = sender
        self.now_s = now_s
        self.events: list[Any] = []


class Contracts:
    """One escrow and one token at fixed addresses; `run` executes a call on a world and changes it."""

    def __init__(self, chain_id: int, escrow: bytes, token: bytes, signed: Signed = signed) -> None:
        self.escrow = escrow
        self.token = token
        self.escrow_domain = eip712.escrow_domain(chain_id, escrow)
        self.token_domain = Domain("USD Coin", "2", chain_id, token)
        self._signed = signed
        self._functions: dict[tuple[bytes, bytes], tuple[Callable[..., Any], dict[str, Any]]] = {}
        for address, contract, functions in ((escrow, "Escrow", _OF_ESCROW), (token, "TestUSDC", _OF_TOKEN)):
            for entry in _entries(contract, "function"):
                if entry["name"] in functions:
                    selector = function_abi_to_4byte_selector(entry)
                    self._functions[address, selector] = functions[entry["name"]], entry

    def genesis(self) -> World:
        """The state before anything happened."""
        token = TokenModel(self.token, self.token_domain, signed=self._signed)
        escrow = EscrowModel(self.escrow, self.escrow_domain, {self.token: token}, signed=self._signed)
        return World(escrow, self.token)

    def run(self, world: World, sender: bytes, to: bytes, data: bytes, timestamp: int) -> tuple[bytes, Logs]:
        """Execute a call; raises CallRevertedError, and then the world is to be thrown away."""
        if to not in {self.escrow, self.token}:
            return b"", []
        if (to, data[:4]) not in self._functions:
            raise CallRevertedError(b"", "execution reverted: no such function")
        function, entry = self._functions[to, data[:4]]
        call = _Call(world, sender, timestamp)
        try:
            answer = function(call, *map(_plain, decode(get_abi_input_types(entry), data[4:])))
            call.events += call.token.events
            call.token.events.clear()
        except RevertedError as reverted:
            raise CallRevertedError(*_revert(reverted)) from reverted
        except (DecodingError, ClaimBatchError, ValueError) as error:
            raise CallRevertedError(b"", f"execution reverted: {error}") from error
        outputs = get_abi_output_types(entry)
        return encode(outputs, [answer]) if outputs else b"", [self._log(event) for event in call.events]

    def _log(self, event: Any) -> tuple[bytes, Log]:
        entry = _EVENTS[type(event).__name__]
        topics, types, values = [event_abi_to_log_topic(entry)], list[str](), list[Any]()
        for argument, type_, value in zip(entry["inputs"], get_abi_input_types(entry), event, strict=True):
            if argument["indexed"]:
                topics.append(encode([type_], [value]))
            else:
                types.append(type_)
                values.append(value)
        source = self.token if isinstance(event, Transfer | AuthorizationUsed) else self.escrow
        return source, Log(tuple(topics), encode(types, values), 0)


# The escrow's functions, by name: the call and its arguments in, what it returns out.


def _deposit_with_authorization(call: _Call, config: Sequence[Any], *rest: Any) -> bool:
    call.events += call.escrow.deposit_with_authorization(Config(*config), *rest, now_s=call.now_s)
    return bool(call.events)


def _claim(call: _Call, batch: bytes) -> None:
    call.events += call.escrow.claim(call.sender, claim_batch.decode(batch))


def _refund(call: _Call, config: Sequence[Any], *rest: Any) -> None:
    call.events += call.escrow.refund_with_signature(Config(*config), *rest)


def _initiate_withdraw(call: _Call, config: Sequence[Any], amount: int) -> None:
    call.events += call.escrow.initiate_withdraw(call.sender, Config(*config), amount, call.now_s)


def _cancel_withdraw(call: _Call, config: Sequence[Any]) -> None:
    call.events += call.escrow.cancel_withdraw(call.sender, Config(*config))


def _finalize_withdraw(call: _Call, config: Sequence[Any]) -> None:
    call.events += call.escrow.finalize_withdraw(Config(*config), call.now_s)


def _set_sender(call: _Call, sender: bytes, allowed: bool) -> None:
    call.events += call.escrow.set_sender(call.sender, sender, allowed)


def _collect(call: _Call, to: bytes, token: bytes) -> None:
    call.events += call.escrow.collect(to, token)


_OF_ESCROW: Final[dict[str, Callable[..., Any]]] = {
    "depositWithAuthorization": _deposit_with_authorization,
    "claim": _claim,
    "refundWithSignature": _refund,
    "initiateWithdraw": _initiate_withdraw,
    "cancelWithdraw": _cancel_withdraw,
    "finalizeWithdraw": _finalize_withdraw,
    "setSender": _set_sender,
    "collect": _collect,
    "accounts": lambda call, ids: [astuple(call.escrow.accounts.get(id_, Account())) for id_ in ids],
    "claimed": lambda call, ids: [call.escrow.claimed.get(id_, 0) for id_ in ids],
    "isSender": lambda call, operator, sender: (operator, sender) in call.escrow.senders,
    "owed": lambda call, to, token: call.escrow.owed.get((to, token), 0),
    "domainSeparator": lambda call: call.escrow.domain.separator,
}


# The token's.


def _mint(call: _Call, to: bytes, amount: int) -> None:
    call.token.balances[to] = call.token.balances.get(to, 0) + amount


def _transfer_with_authorization(call: _Call, *arguments: Any) -> None:
    """In both forms: one takes the signature in one piece, the other as v, r and s."""
    fields, signature = arguments[:6], arguments[6:]
    whole = signature[0] if len(signature) == 1 else signature[1] + signature[2] + bytes([signature[0]])
    call.token.transfer_with_authorization(ExactAuthorization(*fields, whole), call.now_s)


_OF_TOKEN: Final[dict[str, Callable[..., Any]]] = {
    "mint": _mint,
    "transferWithAuthorization": _transfer_with_authorization,
    "balanceOf": lambda call, holder: call.token.balances.get(holder, 0),
    "authorizationState": lambda call, holder, nonce: (holder, nonce) in call.token.used,
    "DOMAIN_SEPARATOR": lambda call: call.token.domain.separator,
    "decimals": lambda _: 6,
}


def _plain(value: Any) -> Any:
    """An argument as the model takes it: addresses, which the decoder gives as text, are bytes."""
    if isinstance(value, str):
        return bytes.fromhex(value[2:])
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


def _revert(reverted: RevertedError) -> tuple[bytes, str]:
    """The return data and the node's words."""
    if isinstance(reverted, TokenRevertedError):
        return _TEXT + encode(["string"], [reverted.text]), f"execution reverted: {reverted.text}"
    selector = _PANIC if reverted.name == "Panic" else _ERRORS[reverted.name]
    return selector + b"".join(word.to_bytes(32, "big") for word in reverted.words), "execution reverted: custom error"
