"""The tables `[exact]` and `[exact_open]`: which transfers the operator pays for, those of strangers among them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from tallystick.amounts import parse_amount
from tallystick.eip712 import PERMIT2_ADDRESS
from tallystick.hexadecimal import parse_address
from tallystick.keys import with_paths
from tallystick.quantities import ZERO_ADDRESS
from tallystick.signatures import Signer
from tallystick_aggregator.auth.limits import GAS_TYPICAL, GasLimits
from tallystick_aggregator.auth.transfer_limits import TransferLimits
from tallystick_aggregator.chain.multicall import MULTICALL3_ADDRESS
from tallystick_aggregator.chain.settings import ChainSettings, ConfigurationError
from tallystick_aggregator.runtime.config.chains import KeyLoader
from tallystick_aggregator.runtime.config.errors import between
from tallystick_aggregator.store.port import TransactionKind

GAS_PER_HOUR_MAX: Final = 10**12
PAYMENTS_MAX: Final = 1_000_000


class ExactSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Transfers for sellers with a token; their gas budget is `gas.exact_gas_per_hour_max`."""

    enabled: bool = True
    amount_min: str = "0"
    """The least that is transferred, in atomic units."""
    erc6492_factories: tuple[str, ...] = ()
    """Who may be called to deploy payers' wallets."""

    def limits(self, chains: tuple[ChainSettings, ...]) -> TransferLimits:
        """What the scheme takes. Raises ConfigurationError and MalformedError."""
        amount_min = parse_amount(self.amount_min, "exact.amount_min")
        taken = {address: what for chain in chains for address, what in _no_factories(chain)} | _NO_FACTORIES
        factories = set[bytes]()
        for index, text in enumerate(self.erc6492_factories):
            field = f"exact.erc6492_factories[{index}]"
            address = parse_address(text, field)
            if what := taken.get(address):
                raise ConfigurationError(f"{field}: got {text}, {what}; allowed a contract that deploys wallets")
            factories.add(address)
        return TransferLimits(self.enabled, amount_min, erc6492_factories=frozenset(factories))


_NO_FACTORIES: Final = {
    ZERO_ADDRESS: "which is nobody's",
    MULTICALL3_ADDRESS: "which is Multicall3",
    PERMIT2_ADDRESS: "which is Permit2",
}


def _no_factories(chain: ChainSettings) -> Iterator[tuple[bytes, str]]:
    """What payers must not have called in the place of a factory."""
    yield chain.escrow, f"which is the escrow of {chain.network}"
    yield chain.operator, f"which is the operator of {chain.network}"
    for token in chain.tokens:
        yield token.address, f"which is the token {token.symbol} of {chain.network}"


class ExactOpenSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Transfers for callers without a token: none, unless there is a key that pays for their gas."""

    sender_key: str = ""
    amount_min: str = "10000"
    gas_per_hour_max: int = 10_000_000
    payments_per_payer_hour_max: int = 60
    payments_per_receiver_hour_max: int = 600


@dataclass(frozen=True, slots=True)
class ExactOpen:
    """What callers without a token may spend: the sender is theirs alone."""

    sender: Signer
    limits: TransferLimits
    gas_limits: GasLimits


def exact_open(
    section: ExactOpenSection, chains: tuple[ChainSettings, ...], folder: Path, load_key: KeyLoader | None
) -> ExactOpen | None:
    """Check the table; None where there is no sender. Raises ConfigurationError, MalformedError, KeyReferenceError."""
    amount_min = parse_amount(section.amount_min, "exact_open.amount_min")
    between(
        GAS_TYPICAL[TransactionKind.EXACT], section.gas_per_hour_max, GAS_PER_HOUR_MAX, "exact_open.gas_per_hour_max"
    )
    per_payer, per_receiver = section.payments_per_payer_hour_max, section.payments_per_receiver_hour_max
    between(1, per_payer, PAYMENTS_MAX, "exact_open.payments_per_payer_hour_max")
    between(1, per_receiver, PAYMENTS_MAX, "exact_open.payments_per_receiver_hour_max")
    if not section.sender_key or load_key is None:
        return None
    sender = load_key(with_paths(section.sender_key, folder.joinpath), "exact_open.sender_key")
    for chain in chains:
        bundles = {chain.bundles.sender.address} if chain.bundles else set[bytes]()
        if sender.address in {chain.sender.address, chain.operator, chain.operator_signer.address} | bundles:
            raise ConfigurationError(
                f"exact_open.sender_key: got a key that {chain.network} uses as its sender or operator, allowed one of"
                " its own: strangers must not spend what sellers' claims are sent with"
            )
    return ExactOpen(
        sender,
        TransferLimits(amount_min=amount_min, per_receiver_hour_max=per_receiver),
        GasLimits(0, 0, section.gas_per_hour_max, 0, 0, per_payer),
    )
