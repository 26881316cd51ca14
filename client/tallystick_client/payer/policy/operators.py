"""Whom a wallet may deposit with: operators, their escrows and tokens. No 402 can add to it (threat 39).

The file that `tallystick deploy` writes, `operator.json`:

    {"network": "eip155:8453", "aggregator": "host:7402", "insecure": false, "ca_file": "",
     "operator": "0x…", "escrow": "0x…", "withdraw_delay_s": 86400,
     "tokens": [{"token": "0x…", "symbol": "USDC", "decimals": 6, "name": "USD Coin", "version": "2",
                 "min_deposit": "1000000"}]}
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec

from tallystick.amounts import parse_amount
from tallystick.channels import ChannelConfig
from tallystick.eip712 import Domain, escrow_domain
from tallystick.errors import Described, MalformedError
from tallystick.hexadecimal import parse_address, to_hex
from tallystick.quantities import ZERO_ADDRESS
from tallystick.targets import check_target
from tallystick.tokens import DECIMALS_MAX, Token
from tallystick.x402 import Network
from tallystick.x402.messages import malformed

_FILE_BYTES_MAX: Final = 262_144
_UNKNOWN_FIELD: Final = re.compile("unknown field `([^`]*)`")


class Asset(NamedTuple):
    """A token on a network (CAIP-2): what budgets are counted in."""

    network: str
    token: bytes


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator, where its aggregator is reached, its escrow, and the terms that the wallet takes there.

    `withdraw_delay_s` is the delay of the accounts that are opened. `ca_file` names the PEM file of a certificate
    authority of the aggregator's own; empty: the machine's.
    """

    network: Network
    aggregator: str
    operator: bytes
    escrow: bytes
    withdraw_delay_s: int
    tokens: tuple[Token, ...]
    insecure: bool = False
    ca_file: str = ""

    def __post_init__(self) -> None:
        """Check what the types do not say; raises MalformedError."""
        check_target(self.aggregator, "aggregator")
        if not self.tokens:
            raise MalformedError("tokens", Described("none"), "at least one token")
        for field, address in (("operator", self.operator), ("escrow", self.escrow)):
            if len(address) != 20 or address == ZERO_ADDRESS:
                raise MalformedError(field, to_hex(address), "an address of 20 bytes that is not zero")
        # A ChannelConfig knows the limits of the rest.
        for token in self.tokens:
            self.account(b"\x01" * 20, token.address, bytes(32))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The operator in a file; raises MalformedError, which names the file and the field."""
        name = str(path)
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise MalformedError("operator file", Described(f"{name} ({error.strerror})"), "a file to read") from None
        if len(data) > _FILE_BYTES_MAX:
            raise MalformedError(name, Described(f"{len(data)} bytes"), f"at most {_FILE_BYTES_MAX}")
        try:
            message = msgspec.json.decode(data, type=_OperatorMessage)
        except msgspec.ValidationError as error:
            if unknown := _UNKNOWN_FIELD.search(str(error)):
                raise MalformedError(f"{name} {unknown[1]}", Described("a field"), "no field of this name") from None
            raise malformed(error, name) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise MalformedError(name, data, "UTF-8 JSON") from None
        try:
            return cls._read(message)
        except MalformedError as error:
            raise MalformedError(f"{name} {error.field}", Described(error.got), error.allowed) from None

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain of the escrow: of channels, vouchers and signed calls."""
        return escrow_domain(self.network.chain_id, self.escrow)

    def account(self, payer: bytes, token: bytes, salt: bytes) -> ChannelConfig:
        """What names a payer's account here."""
        return ChannelConfig(
            payer=payer,
            payer_authorizer=payer,
            receiver=ZERO_ADDRESS,
            receiver_authorizer=self.operator,
            token=token,
            withdraw_delay_s=self.withdraw_delay_s,
            salt=salt,
        )

    def token(self, address: bytes) -> Token | None:
        """The token with this address, None where the operator does not take it."""
        return next((token for token in self.tokens if token.address == address), None)

    def root_certificates(self) -> bytes | None:
        """The PEM of the aggregator's certificate authority, None for the machine's; raises MalformedError."""
        if not self.ca_file:
            return None
        try:
            return Path(self.ca_file).read_bytes()
        except OSError as error:
            got = Described(f"{self.ca_file} ({error.strerror})")
            raise MalformedError("ca_file", got, "a file to read") from None

    @classmethod
    def _read(cls, message: "_OperatorMessage") -> Self:
        return cls(
            network=Network.parse(message.network, "network"),
            aggregator=message.aggregator,
            operator=parse_address(message.operator, "operator"),
            escrow=parse_address(message.escrow, "escrow"),
            withdraw_delay_s=message.withdraw_delay_s,
            tokens=tuple(_read_token(token, f"tokens[{i}]") for i, token in enumerate(message.tokens)),
            insecure=message.insecure,
            ca_file=message.ca_file,
        )


class _TokenMessage(msgspec.Struct, forbid_unknown_fields=True):
    token: str
    symbol: str
    decimals: int
    name: str
    version: str
    min_deposit: str = "0"


class _OperatorMessage(msgspec.Struct, forbid_unknown_fields=True):
    network: str
    aggregator: str
    operator: str
    escrow: str
    withdraw_delay_s: int
    tokens: list[_TokenMessage]
    insecure: bool = False
    ca_file: str = ""


def _read_token(message: _TokenMessage, field: str) -> Token:
    if not 0 <= message.decimals <= DECIMALS_MAX:
        raise MalformedError(f"{field}.decimals", message.decimals, f"from 0 to {DECIMALS_MAX}")
    for name, value in (("symbol", message.symbol), ("name", message.name), ("version", message.version)):
        if not value:
            raise MalformedError(f"{field}.{name}", value, "a text that is not empty")
    return Token(
        address=parse_address(message.token, f"{field}.token"),
        symbol=message.symbol,
        decimals=message.decimals,
        name=message.name,
        version=message.version,
        min_deposit=parse_amount(message.min_deposit, f"{field}.min_deposit"),
    )
