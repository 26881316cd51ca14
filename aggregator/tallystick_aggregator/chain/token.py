"""An ERC-20 with ERC-3009, as configured and as the chain has it: the two must agree, or nothing is served.

What a payer signs for a token is bound to its EIP-712 domain. A configured name or version that is not the contract's
own would make every deposit and every exact payment fail after it was signed; so the domain is compared at the start.
"""

from dataclasses import dataclass
from typing import Final

from eth_abi.abi import encode

from tallystick.eip712 import Domain
from tallystick.hexadecimal import checksum
from tallystick.quantities import ZERO_ADDRESS
from tallystick.x402 import ExactAuthorization
from tallystick_aggregator.chain.escrow_calls import selector, topic
from tallystick_aggregator.chain.multicall import deploy_first
from tallystick_aggregator.chain.node import CallRevertedError, Log, Node
from tallystick_aggregator.chain.port import Block, Call, ChainUnavailableError, Heard
from tallystick_aggregator.chain.settings import ConfigurationError, TokenSettings
from tallystick_aggregator.chain.token_port import Deployment
from tallystick_chain.reverts import describe

BALANCE_OF: Final = "balanceOf(address)"
DECIMALS: Final = "decimals()"
DOMAIN_SEPARATOR: Final = "DOMAIN_SEPARATOR()"
AUTHORIZATION_STATE: Final = "authorizationState(address,bytes32)"
_AUTHORIZATION_TYPES: Final = ("address", "address", "uint256", "uint256", "uint256", "bytes32")
PARTS_TYPES: Final = (*_AUTHORIZATION_TYPES, "uint8", "bytes32", "bytes32")
BYTES_TYPES: Final = (*_AUTHORIZATION_TYPES, "bytes")
TRANSFER_BY_PARTS: Final = f"transferWithAuthorization({','.join(PARTS_TYPES)})"
TRANSFER_BY_BYTES: Final = f"transferWithAuthorization({','.join(BYTES_TYPES)})"
AUTHORIZATION_USED_TOPIC: Final = topic("AuthorizationUsed(address,bytes32)")
TRANSFER_TOPIC: Final = topic("Transfer(address,address,uint256)")


@dataclass(frozen=True, slots=True)
class Erc3009Token:
    """Implements `port.Token`. Made by `open_token`, which has compared it with the chain.

    `by_parts`, `by_bytes`: the forms of `transferWithAuthorization` that the contract has.
    """

    settings: TokenSettings
    domain: Domain
    node: Node
    by_parts: bool
    by_bytes: bool

    @property
    def address(self) -> bytes:
        return self.settings.address

    @property
    def by_eip3009(self) -> bool:
        return self.settings.by_eip3009

    async def balance(self, holder: bytes, block: Block) -> int:
        answer = await self._read(selector(BALANCE_OF) + encode(["address"], [holder]), block)
        return int.from_bytes(answer, "big")

    async def authorization_used(self, authorizer: bytes, nonce: bytes, block: Block) -> bool:
        answer = await self._read(
            selector(AUTHORIZATION_STATE) + encode(["address", "bytes32"], [authorizer, nonce]), block
        )
        return int.from_bytes(answer, "big") != 0

    def transfer_call(self, authorization: ExactAuthorization) -> Call:
        """The transfer, in a form that the token has: `v, r, s` where that is possible, as every ERC-3009 token has it;
        `bytes` for the signatures of contract wallets, which are of any length.
        """
        fields = (
            authorization.from_,
            authorization.to,
            authorization.value,
            authorization.valid_after,
            authorization.valid_before,
            authorization.nonce,
        )
        signature = authorization.signature
        if len(signature) == 65 and (self.by_parts or not self.by_bytes):
            parts = (signature[64], signature[:32], signature[32:64])
            return Call(self.address, selector(TRANSFER_BY_PARTS) + encode(PARTS_TYPES, (*fields, *parts)))
        return Call(self.address, selector(TRANSFER_BY_BYTES) + encode(BYTES_TYPES, (*fields, signature)))

    def deploying_transfer_call(self, authorization: ExactAuthorization, deployment: Deployment) -> Call:
        return deploy_first(deployment, self.transfer_call(authorization))

    async def _read(self, data: bytes, block: Block) -> bytes:
        try:
            answer = await self.node.call(self.address, data, block)
        except CallRevertedError as reverted:
            raise ChainUnavailableError(f"{self.settings.symbol} cannot be read: {describe(reverted)}") from reverted
        if len(answer) != 32:
            raise ChainUnavailableError(f"{self.settings.symbol} answered with {len(answer)} bytes instead of 32")
        return answer


async def balance_of(node: Node, token: bytes, holder: bytes, block: Block, heard: Heard) -> int:
    """What an address holds of a token after a block, in atomic units. Raises ChainUnavailableError."""
    answer = await node.call(token, selector(BALANCE_OF) + encode(["address"], [holder]), block, heard=heard)
    if len(answer) != 32:
        raise ChainUnavailableError(f"token {checksum(token)} answered with {len(answer)} bytes instead of 32")
    return int.from_bytes(answer, "big")


def read_transfer(log: Log) -> tuple[bytes, bytes, int] | None:
    """An ERC-20 Transfer event: from whom, to whom, how much; None for another event of the token.

    Raises ChainUnavailableError for one that is malformed: the answer is unreadable.
    """
    if log.topics[:1] != (TRANSFER_TOPIC,):
        return None
    if len(log.topics) != 3 or len(log.data) != 32:
        raise ChainUnavailableError(f"a Transfer event has {len(log.topics)} topics and {len(log.data)} bytes")
    return log.topics[1][12:], log.topics[2][12:], int.from_bytes(log.data, "big")


async def open_token(node: Node, chain_id: int, settings: TokenSettings, block: Block) -> Erc3009Token:
    """The token, compared with its contract. Raises ConfigurationError, and ChainUnavailableError if nobody answers."""
    domain = Domain(settings.name, settings.version, chain_id, settings.address)
    where = f"token {settings.symbol} at {checksum(settings.address)}"
    if not await node.code(settings.address):
        raise ConfigurationError(f"{where}: there is no contract at this address")
    if await _word(node, settings.address, DOMAIN_SEPARATOR, block) != domain.separator:
        raise ConfigurationError(
            f"{where}: name {settings.name!r} and version {settings.version!r} do not make its EIP-712 domain"
        )
    decimals = await _word(node, settings.address, DECIMALS, block)
    if decimals is not None and int.from_bytes(decimals, "big") != settings.decimals:
        raise ConfigurationError(
            f"{where}: decimals: got {settings.decimals}, the contract has {int.from_bytes(decimals, 'big')}"
        )
    by_parts = await _has(
        node, settings.address, TRANSFER_BY_PARTS, encode(PARTS_TYPES, (*_NOTHING, 27, _ZERO, _ZERO)), block
    )
    by_bytes = await _has(node, settings.address, TRANSFER_BY_BYTES, encode(BYTES_TYPES, (*_NOTHING, bytes(65))), block)
    return Erc3009Token(settings, domain, node, by_parts, by_bytes)


_ZERO: Final = bytes(32)
_NOTHING: Final = (ZERO_ADDRESS, ZERO_ADDRESS, 0, 0, 0, _ZERO)
"""A transfer of nothing from nobody that expired in 1970."""


async def _word(node: Node, address: bytes, function: str, block: Block) -> bytes | None:
    try:
        answer = await node.call(address, selector(function), block)
    except CallRevertedError:
        return None
    return answer if len(answer) == 32 else None


async def _has(node: Node, address: bytes, function: str, arguments: bytes, block: Block) -> bool:
    """Whether the contract has a function: one that it has refuses nonsense with a reason, one that it has not with
    no word at all.
    """
    try:
        await node.call(address, selector(function) + arguments, block)
    except CallRevertedError as reverted:
        return bool(reverted.data)
    return True
