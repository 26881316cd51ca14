"""The `[[chain]]` tables of the configuration: their settings, and the checks of each and of how they fit together."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from tallystick.amounts import parse_amount
from tallystick.channels import WITHDRAW_DELAY_S_MAX, WITHDRAW_DELAY_S_MIN
from tallystick.eip712 import BATCH_SETTLEMENT_ADDRESS
from tallystick.hexadecimal import checksum, parse_address
from tallystick.keys import with_paths
from tallystick.quantities import MAX_AMOUNT
from tallystick.signatures import Signer
from tallystick.x402 import ASSET_TRANSFER_EIP3009, ASSET_TRANSFER_PERMIT2
from tallystick_aggregator.chain.settings import (
    LOGS_RANGE_BLOCKS,
    URGENT_CAP_FACTOR,
    BundleSettings,
    ChainSettings,
    ConfigurationError,
    FeeSettings,
    TokenSettings,
)
from tallystick_aggregator.ledger.values import SECONDS_MAX
from tallystick_aggregator.runtime.config.errors import between

SETTLEMENT_MARGIN_S: Final = 600
"""What a claim may take from its planning to its block; added to two settlement intervals (I9)."""
DEFAULT_WITHDRAW_DELAY_S: Final = 86_400
DEFAULT_WITHDRAW_DELAY_S_MIN: Final = 10_800
LOGS_RANGE_BLOCKS_MAX: Final = 1_000_000
WORTH_GWEI_MAX: Final = 1e18
_GWEI: Final = 10**9
_TRANSFER_METHODS: Final = frozenset({ASSET_TRANSFER_EIP3009, ASSET_TRANSFER_PERMIT2})

KeyLoader = Callable[[str, str], Signer]
"""As `tallystick.keys.load_signer`: the signer of a key reference; the second is the setting that holds it."""


class TokenSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A token that is taken; `name` and `version` are of its EIP-712 domain."""

    address: str
    symbol: str
    decimals: int
    name: str
    version: str
    min_deposit: str = ""
    """Left out: one whole token. Each deposit, refund and claim costs gas, whatever is in the account."""
    worth_gwei: float = 0.0
    """Roughly what a whole token is worth in the chain's coin; 0: not told."""
    transfer_methods: list[str] = msgspec.field(default_factory=lambda: [ASSET_TRANSFER_EIP3009])
    """How payments without a deposit move it: "eip3009", "permit2" or both."""
    eip2612: bool = False
    """Whether permits to Permit2 are landed with the payments that they come with."""


class EscrowSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One of several escrows of a network; `block` is where the search for its accounts begins."""

    address: str
    block: int = 0


class ChainSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One network. `operator` is needed only where it is a contract; else it is the operator key's own address."""

    network: str
    rpc_urls: list[str]
    escrow: str | list[EscrowSection]
    """One address, from `escrow_block` on, or several `[[chain.escrow]]`; a call that names none means the first."""
    operator_key: str
    sender_key: str
    token: list[TokenSection]
    operator: str = ""
    escrow_block: int = 0
    batch_settlement: bool = False
    """Whether x402's own contract is served beside, by its scheme batch-settlement."""
    batch_settlement_block: int = 0
    """Where the search for its channels begins: no channel has named our operator before."""
    confirmations: int = 12
    reorg_depth: int = 64
    poll_s: float = 2.0
    rpc_timeout_s: float = 10.0
    logs_range_blocks_max: int = LOGS_RANGE_BLOCKS
    head_age_s_max: int | None = None
    """None: HEAD_AGE_S_MAX, and any age on chains for development. 0: any age."""
    replace_after_s: float = 60.0
    withdraw_delay_s_min: int = DEFAULT_WITHDRAW_DELAY_S_MIN
    withdraw_delay_s_max: int = WITHDRAW_DELAY_S_MAX
    withdraw_delay_s: int = DEFAULT_WITHDRAW_DELAY_S
    """What is proposed to payers that name none of their own."""
    max_fee_per_gas_gwei: float = 500.0
    priority_fee_per_gas_gwei_min: float = 1e-9
    priority_fee_per_gas_gwei_max: float = 50.0
    urgent_max_fee_per_gas_gwei: float = 0.0
    """What a withdrawal's claim may bid; 0: URGENT_CAP_FACTOR times `max_fee_per_gas_gwei`."""
    bundle_url: str = ""
    """A builder that takes `eth_sendBundle`; none: nobody's approval of Permit2 is paid for."""
    bundle_sender_key: str = ""


def chain_settings(section: ChainSection, index: int, folder: Path, load_key: KeyLoader) -> list[ChainSettings]:
    """What the chain side takes, for each of its escrows. Raises ConfigurationError and MalformedError."""
    where = f"chain[{index}]"
    for name in ("poll_s", "rpc_timeout_s", "replace_after_s", "max_fee_per_gas_gwei", "priority_fee_per_gas_gwei_max"):
        if not (math.isfinite(value := getattr(section, name)) and 0 < value <= SECONDS_MAX):
            raise ConfigurationError(f"{where}.{name}: got {value}, allowed above 0 and at most {SECONDS_MAX}")
    between(1, section.logs_range_blocks_max, LOGS_RANGE_BLOCKS_MAX, f"{where}.logs_range_blocks_max")
    if section.head_age_s_max is not None:
        between(0, section.head_age_s_max, SECONDS_MAX, f"{where}.head_age_s_max")
    fees = _fees(section, where)
    operator_signer = load_key(with_paths(section.operator_key, folder.joinpath), f"{where}.operator_key")
    escrows = _escrows(section, where)
    settings = ChainSettings(
        network=section.network,
        rpc_urls=tuple(
            read_endpoint(url, f"{where}.rpc_urls[{number}]") for number, url in enumerate(section.rpc_urls)
        ),
        escrow=escrows[0][0],
        operator=parse_address(section.operator, f"{where}.operator") if section.operator else operator_signer.address,
        operator_signer=operator_signer,
        sender=load_key(with_paths(section.sender_key, folder.joinpath), f"{where}.sender_key"),
        tokens=tuple(_token(token, f"{where}.token[{number}]") for number, token in enumerate(section.token)),
        escrow_block=escrows[0][1],
        confirmations=section.confirmations,
        reorg_depth=section.reorg_depth,
        poll_s=section.poll_s,
        rpc_timeout_s=section.rpc_timeout_s,
        logs_range_blocks_max=section.logs_range_blocks_max,
        head_age_s_max=section.head_age_s_max,
        replace_after_s=section.replace_after_s,
        withdraw_delay_s_min=section.withdraw_delay_s_min,
        withdraw_delay_s_max=section.withdraw_delay_s_max,
        fees=fees,
    )
    settings = replace(settings, bundles=_bundles(section, where, settings, folder, load_key))
    if section.batch_settlement:
        escrows.append((BATCH_SETTLEMENT_ADDRESS, section.batch_settlement_block))
    return [replace(settings, escrow=address, escrow_block=block) for address, block in escrows]


def _bundles(
    section: ChainSection, where: str, chain: ChainSettings, folder: Path, load_key: KeyLoader
) -> BundleSettings | None:
    """Return where bundles go, and whose they are; None where nothing of it is set."""
    if bool(section.bundle_url) != bool(section.bundle_sender_key):
        raise ConfigurationError(f"{where}.bundle_url: allowed only together with bundle_sender_key, and that with it")
    if not section.bundle_url:
        return None
    if not any(token.by_permit2 for token in chain.tokens):
        raise ConfigurationError(
            f"{where}.bundle_url: allowed only where a token's transfer_methods have {ASSET_TRANSFER_PERMIT2!r}"
        )
    url = read_endpoint(section.bundle_url, f"{where}.bundle_url")
    sender = load_key(with_paths(section.bundle_sender_key, folder.joinpath), f"{where}.bundle_sender_key")
    if sender.address in {chain.sender.address, chain.operator, chain.operator_signer.address}:
        raise ConfigurationError(
            f"{where}.bundle_sender_key: got the sender's or the operator's key, allowed one of its own: nothing else"
            " may wait behind a bundle that no builder takes"
        )
    return BundleSettings(url, sender)


def _escrows(section: ChainSection, where: str) -> list[tuple[bytes, int]]:
    """Return each escrow's address and first block; that of batch-settlement has a setting of its own."""
    between(0, section.batch_settlement_block, SECONDS_MAX, f"{where}.batch_settlement_block")
    escrows = _own_escrows(section, where)
    if BATCH_SETTLEMENT_ADDRESS in dict(escrows):
        canonical = checksum(BATCH_SETTLEMENT_ADDRESS)
        raise ConfigurationError(
            f"{where}.escrow: got {canonical}, x402's own contract, allowed escrows of `tallystick deploy`; set"
            " batch_settlement = true to serve that one too"
        )
    return escrows


def _own_escrows(section: ChainSection, where: str) -> list[tuple[bytes, int]]:
    if isinstance(section.escrow, str):
        return [(parse_address(section.escrow, f"{where}.escrow"), section.escrow_block)]
    if section.escrow_block:
        raise ConfigurationError(
            f"{where}.escrow_block: got {section.escrow_block}, allowed none beside [[chain.escrow]]"
        )
    escrows: list[tuple[bytes, int]] = [
        (parse_address(one.address, f"{where}.escrow[{number}].address"), one.block)
        for number, one in enumerate(section.escrow)
    ]
    if not escrows or len(dict(escrows)) < len(escrows):
        raise ConfigurationError(f"{where}.escrow: allowed at least one, and each address once")
    return escrows


def _fees(section: ChainSection, where: str) -> FeeSettings:
    tip_min, tip_max = section.priority_fee_per_gas_gwei_min, section.priority_fee_per_gas_gwei_max
    cap, urgent_cap = section.max_fee_per_gas_gwei, section.urgent_max_fee_per_gas_gwei
    if not 0 <= tip_min <= tip_max * 8 / 9:  # also where it is no number
        raise ConfigurationError(
            f"{where}.priority_fee_per_gas_gwei_min: got {tip_min}, allowed 0 to eight ninths of"
            f" priority_fee_per_gas_gwei_max ({tip_max}), so that a transaction that waits can bid more"
        )
    if tip_max > cap:
        raise ConfigurationError(
            f"{where}.priority_fee_per_gas_gwei_max: got {tip_max}, allowed at most max_fee_per_gas_gwei ({cap})"
        )
    if urgent_cap and not cap <= urgent_cap <= SECONDS_MAX:
        raise ConfigurationError(
            f"{where}.urgent_max_fee_per_gas_gwei: got {urgent_cap}, allowed max_fee_per_gas_gwei ({cap}) or more,"
            f" or 0 for {URGENT_CAP_FACTOR} times as much"
        )
    return FeeSettings(
        max_fee_per_gas_wei=round(cap * _GWEI),
        priority_fee_per_gas_wei_min=round(tip_min * _GWEI),
        priority_fee_per_gas_wei_max=round(tip_max * _GWEI),
        urgent_max_fee_per_gas_wei=round(urgent_cap * _GWEI),
    )


def _token(section: TokenSection, where: str) -> TokenSettings:
    if not 0 <= section.decimals <= 36:
        raise ConfigurationError(f"{where}.decimals: got {section.decimals}, allowed 0 to 36")
    if not section.symbol:
        raise ConfigurationError(f"{where}.symbol: got nothing, allowed a name such as USDC")
    min_deposit = 10**section.decimals
    if section.min_deposit:
        min_deposit = parse_amount(section.min_deposit, f"{where}.min_deposit")
    if not 0 < min_deposit <= MAX_AMOUNT:
        raise ConfigurationError(
            f"{where}.min_deposit: got {min_deposit}, allowed 1 to {MAX_AMOUNT} atomic units; left out, it is one whole"
            " token"
        )
    if not (math.isfinite(section.worth_gwei) and 0 <= section.worth_gwei <= WORTH_GWEI_MAX):
        raise ConfigurationError(f"{where}.worth_gwei: got {section.worth_gwei}, allowed 0 to {WORTH_GWEI_MAX:g}")
    methods = section.transfer_methods
    if not methods or len(set(methods)) < len(methods) or not set(methods) <= _TRANSFER_METHODS:
        raise ConfigurationError(
            f"{where}.transfer_methods: got {methods}, allowed one or both of {sorted(_TRANSFER_METHODS)}"
        )
    by_permit2 = ASSET_TRANSFER_PERMIT2 in methods
    if section.eip2612 and not by_permit2:
        raise ConfigurationError(
            f"{where}.eip2612: got true, allowed only where transfer_methods has {ASSET_TRANSFER_PERMIT2!r}"
        )
    return TokenSettings(
        address=parse_address(section.address, f"{where}.address"),
        symbol=section.symbol,
        decimals=section.decimals,
        name=section.name,
        version=section.version,
        min_deposit=min_deposit,
        worth_gwei=section.worth_gwei,
        by_eip3009=ASSET_TRANSFER_EIP3009 in methods,
        by_permit2=by_permit2,
        sponsors_permits=section.eip2612,
    )


def check_networks(sections: Sequence[ChainSection]) -> None:
    """Raise ConfigurationError unless there is a chain, and each network, token and symbol is there once."""
    if not sections:
        raise ConfigurationError("chain: got none, allowed at least one [[chain]]")
    names = [section.network for section in sections]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"chain: {name} stands there twice")
    for number, section in enumerate(sections):
        for key in ("address", "symbol"):
            values = [getattr(token, key).lower() for token in section.token]
            if len(set(values)) < len(values):
                raise ConfigurationError(f"chain[{number}].token: one {key} stands there twice")


def shortest_delay_s(interval_s: int) -> int:
    """The shortest withdraw delay within which charges are claimed for sure, settled every `interval_s` (I9)."""
    return max(WITHDRAW_DELAY_S_MIN, 2 * interval_s + SETTLEMENT_MARGIN_S)


def check_delays(section: ChainSection, index: int, interval_s: int) -> None:
    """Raise ConfigurationError for withdraw delays that do not fit the interval between settlements."""
    shortest = shortest_delay_s(interval_s)
    if shortest > WITHDRAW_DELAY_S_MAX:
        longest = (WITHDRAW_DELAY_S_MAX - SETTLEMENT_MARGIN_S) // 2
        raise ConfigurationError(
            f"settlement.interval_s: got {interval_s}, allowed 1 to {longest}:"
            f" no withdraw delay is longer than {WITHDRAW_DELAY_S_MAX} s, and two intervals have to fit into it"
        )
    if section.withdraw_delay_s_min < shortest:
        raise ConfigurationError(
            f"chain[{index}].withdraw_delay_s_min: got {section.withdraw_delay_s_min}, allowed {shortest} or more:"
            f" two settlement intervals and {SETTLEMENT_MARGIN_S} s, or a payer could leave before its charges are"
            f" claimed, and never less than {WITHDRAW_DELAY_S_MIN}"
        )
    if not section.withdraw_delay_s_min <= section.withdraw_delay_s <= section.withdraw_delay_s_max:
        raise ConfigurationError(
            f"chain[{index}].withdraw_delay_s: got {section.withdraw_delay_s}, allowed"
            f" {section.withdraw_delay_s_min} to {section.withdraw_delay_s_max}"
        )


def read_endpoint(url: str, setting: str) -> str:
    """An endpoint; `env:NAME` takes it from a variable, because some hold a provider's key."""
    if url.startswith("env:"):
        url = os.environ.get(url.removeprefix("env:"), "")
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"{setting}: allowed an http:// or https:// URL, or env:NAME of a variable with one")
    return url


def describe(chain: ChainSettings) -> str:
    """One line about a chain for the log: addresses, never keys."""
    return (
        f"{chain.network}: escrow {checksum(chain.escrow)}, operator {checksum(chain.operator)},"
        f" gas paid by {checksum(chain.sender.address)}"
    )
