"""Payments by Permit2: a token as x402's proxies move it (scheme_exact_evm.md §2, scheme_upto_evm.md).

Permit2 and the proxies are at the same addresses on every chain; that there is code is checked at the start. They are
trusted as the token is: the payer has approved Permit2 and signed for the proxy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from eth_abi.abi import encode

from tallystick.eip712 import (
    EXACT_PERMIT2_PROXY_ADDRESS,
    PERMIT2_ADDRESS,
    UPTO_PERMIT2_PROXY_ADDRESS,
    Domain,
    UnversionedDomain,
    permit2_domain,
)
from tallystick.hexadecimal import checksum
from tallystick.quantities import ZERO_ADDRESS
from tallystick.x402 import Permit2Authorization, TokenPermit
from tallystick_aggregator.chain.escrow_calls import selector
from tallystick_aggregator.chain.node import CallRevertedError, Node
from tallystick_aggregator.chain.port import Block, Call, ChainUnavailableError
from tallystick_aggregator.chain.settings import ChainSettings, ConfigurationError, TokenSettings
from tallystick_chain.reverts import describe

ALLOWANCE: Final = "allowance(address,address)"
NONCES: Final = "nonces(address)"
NONCE_BITMAP: Final = "nonceBitmap(address,uint256)"
_PERMIT: Final = "(uint256,uint256,bytes32,bytes32,uint8)"
_TRANSFER: Final = "((address,uint256),uint256,uint256)"
EXACT_TYPES: Final = (_TRANSFER, "address", "(address,uint256)", "bytes")
UPTO_TYPES: Final = (_TRANSFER, "uint256", "address", "(address,address,uint256)", "bytes")
SETTLE_EXACT: Final = f"settle({','.join(EXACT_TYPES)})"
SETTLE_UPTO: Final = f"settle({','.join(UPTO_TYPES)})"
SETTLE_EXACT_WITH_PERMIT: Final = f"settleWithPermit({','.join((_PERMIT, *EXACT_TYPES))})"
SETTLE_UPTO_WITH_PERMIT: Final = f"settleWithPermit({','.join((_PERMIT, *UPTO_TYPES))})"
_AMOUNT_WORD: Final = {selector(SETTLE_UPTO): 4, selector(SETTLE_UPTO_WITH_PERMIT): 9}
"""Which word of the arguments is the amount of an `upto` settlement."""


@dataclass(frozen=True, slots=True)
class ProxiedToken:
    """Implements `port.Permit2Token`. Made by `open_permit2`, which has looked for the contracts."""

    settings: TokenSettings
    node: Node
    domain: UnversionedDomain
    permit_domain: Domain
    facilitator: bytes

    @property
    def address(self) -> bytes:
        return self.settings.address

    @property
    def sponsors_permits(self) -> bool:
        return self.settings.sponsors_permits

    async def balance(self, holder: bytes, block: Block) -> int:
        answer = await self._read(self.address, "balanceOf(address)", encode(["address"], [holder]), block)
        return int.from_bytes(answer, "big")

    async def authorization_used(self, authorizer: bytes, nonce: bytes, block: Block) -> bool:
        word, bit = int.from_bytes(nonce[:31], "big"), nonce[31]
        bits = await self._read(
            PERMIT2_ADDRESS, NONCE_BITMAP, encode(["address", "uint256"], [authorizer, word]), block
        )
        return bool(int.from_bytes(bits, "big") >> bit & 1)

    async def allowance(self, owner: bytes, block: Block) -> int:
        arguments = encode(["address", "address"], [owner, PERMIT2_ADDRESS])
        return int.from_bytes(await self._read(self.address, ALLOWANCE, arguments, block), "big")

    async def permit_nonce(self, owner: bytes, block: Block) -> int:
        return int.from_bytes(await self._read(self.address, NONCES, encode(["address"], [owner]), block), "big")

    def transfer_call(self, authorization: Permit2Authorization) -> Call:
        """A payment with a facilitator in its witness is `upto`'s, and goes through that proxy."""
        signed = authorization
        transfer = ((signed.token, signed.permitted), int.from_bytes(signed.nonce, "big"), signed.deadline)
        types: tuple[str, ...]
        arguments: tuple[Any, ...]
        if signed.facilitator is None:
            to, types = EXACT_PERMIT2_PROXY_ADDRESS, EXACT_TYPES
            functions = SETTLE_EXACT, SETTLE_EXACT_WITH_PERMIT
            arguments = (transfer, signed.from_, (signed.to, signed.valid_after), signed.signature)
        else:
            to, types = UPTO_PERMIT2_PROXY_ADDRESS, UPTO_TYPES
            functions = SETTLE_UPTO, SETTLE_UPTO_WITH_PERMIT
            witness = signed.to, signed.facilitator, signed.valid_after
            arguments = (transfer, signed.value, signed.from_, witness, signed.signature)
        if signed.permit is None:
            return Call(to, selector(functions[0]) + encode(types, arguments))
        permit = _permit_tuple(signed.permit)
        return Call(to, selector(functions[1]) + encode((_PERMIT, *types), (permit, *arguments)))

    def moved(self, call_data: bytes) -> int:
        at = 4 + 32 * _AMOUNT_WORD[call_data[:4]]
        return int.from_bytes(call_data[at : at + 32], "big")

    async def _read(self, to: bytes, function: str, arguments: bytes, block: Block) -> bytes:
        try:
            answer = await self.node.call(to, selector(function) + arguments, block)
        except CallRevertedError as reverted:
            raise ChainUnavailableError(f"{self.settings.symbol} cannot be read: {describe(reverted)}") from reverted
        if len(answer) != 32:
            raise ChainUnavailableError(f"{checksum(to)} answered with {len(answer)} bytes instead of 32")
        return answer


async def open_permit2(node: Node, settings: ChainSettings, block: Block) -> Mapping[bytes, ProxiedToken]:
    """The tokens that are moved by Permit2. Raises ConfigurationError where that cannot work, ChainUnavailableError."""
    tokens = [token for token in settings.tokens if token.by_permit2]
    if not tokens:
        return {}
    contracts = {
        "Permit2": PERMIT2_ADDRESS,
        "x402ExactPermit2Proxy": EXACT_PERMIT2_PROXY_ADDRESS,
        "x402UptoPermit2Proxy": UPTO_PERMIT2_PROXY_ADDRESS,
    }
    for name, address in contracts.items():
        if not await node.code(address):
            raise ConfigurationError(
                f"{settings.network}: {tokens[0].symbol} is to be moved by Permit2, but there is no {name} at"
                f" {checksum(address)}"
            )
    opened = {
        token.address: ProxiedToken(
            token, node, permit2_domain(settings.chain_id), token.domain(settings.chain_id), settings.sender.address
        )
        for token in tokens
    }
    for token in opened.values():
        if token.sponsors_permits:
            await _check_permits(token, block)
    return opened


async def _check_permits(token: ProxiedToken, block: Block) -> None:
    data = selector(NONCES) + encode(["address"], [ZERO_ADDRESS])
    try:
        answer = await token.node.call(token.address, data, block)
    except CallRevertedError:
        answer = b""
    if len(answer) != 32:
        raise ConfigurationError(
            f"token {token.settings.symbol} at {checksum(token.address)}: eip2612 is set, but it has no {NONCES}"
        )


def _permit_tuple(permit: TokenPermit) -> tuple[int, int, bytes, bytes, int]:
    v = permit.signature[64]
    # Some libraries write the recovery id; tokens take 27 or 28.
    return permit.value, permit.deadline, permit.signature[:32], permit.signature[32:64], v + 27 if v < 2 else v
