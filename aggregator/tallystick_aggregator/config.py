"""The configuration file: TOML, strict, units in the names, keys by reference only.

    [server]
    listen = "127.0.0.1:7402"
    [store]
    path = "tallystick.db"
    [[chain]]
    network = "eip155:8453"
    ...

`Config.load` checks everything that can be checked without a network; what does not fit raises ConfigurationError with
one sentence that names the setting. docs/configuration.md lists all settings.
"""

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from tallystick.amounts import parse_amount
from tallystick.channels import WITHDRAW_DELAY_S_MAX
from tallystick.errors import KeyReferenceError, MalformedError
from tallystick.hexadecimal import checksum, parse_address
from tallystick.keys import load_signer
from tallystick.targets import is_loopback
from tallystick_aggregator.chain.settings import ChainSettings, ConfigurationError, FeeSettings, TokenSettings
from tallystick_aggregator.config_errors import what_is_wrong
from tallystick_aggregator.edges.grpc.charge import ChargeLimits
from tallystick_aggregator.edges.grpc.server import Tls
from tallystick_aggregator.intake.intake import BATCH_MAX
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.logs import LEVELS

DEFAULT_LISTEN: Final = "127.0.0.1:7402"
SETTLEMENT_MARGIN_S: Final = 600
"""What a claim may take from its planning to its block; added to two settlement intervals (I9)."""
SECONDS_MAX: Final = 10 * 365 * 24 * 3_600
COUNT_MAX: Final = 2**31 - 1
CONFIG_BYTES_MAX: Final = 1024 * 1024
_GWEI: Final = 10**9


class ServerSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where the server listens, and how it proves who it is."""

    listen: str = DEFAULT_LISTEN
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    """With it, callers need a certificate of this authority too (mTLS)."""
    insecure: bool = False
    """Plain text beyond loopback, on purpose."""
    log_json: bool = False
    log_level: str = "info"
    signature_processes: int = 1
    """Children that check vouchers' signatures beside the server's own process; 0: threads of its own do."""
    stop_grace_s: int = 10
    """How long calls under way may still last when the server is told to stop."""

    def check(self, folder: Path) -> None:
        """Raise ConfigurationError for an address or TLS files that cannot work."""
        host, _, port = self.listen.rpartition(":")
        if not host or not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65_535):
            raise ConfigurationError(f"server.listen: got {self.listen!r}, allowed HOST:PORT, such as {DEFAULT_LISTEN}")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ConfigurationError("server: tls_certificate and tls_key go together; one of them is missing")
        if self.tls_client_ca and not self.tls_certificate:
            raise ConfigurationError("server.tls_client_ca: asks for certificates, but tls_certificate is not set")
        for name in ("tls_certificate", "tls_key", "tls_client_ca"):
            path = getattr(self, name)
            if path and not (folder / path).is_file():
                raise ConfigurationError(f"server.{name}: got {path!r}, which is no file that can be read")
        if self.log_level not in LEVELS:
            raise ConfigurationError(f"server.log_level: got {self.log_level!r}, allowed {', '.join(LEVELS)}")
        _between(0, self.stop_grace_s, SECONDS_MAX, "server.stop_grace_s")
        _between(0, self.signature_processes, 256, "server.signature_processes")
        if not self.tls_certificate and not self.insecure and not is_loopback(self.listen):
            raise ConfigurationError(
                f"server.listen: {self.listen} can be reached from outside without TLS;"
                " set tls_certificate and tls_key, or insecure = true if something in front does TLS"
            )

    def tls(self, folder: Path) -> Tls | None:
        """Read the TLS files, if there are any."""
        if not self.tls_certificate:
            return None
        return Tls(
            certificate=_pem(folder, self.tls_certificate, "server.tls_certificate", b"CERTIFICATE-----"),
            key=_pem(folder, self.tls_key, "server.tls_key", b"PRIVATE KEY-----"),
            client_ca=_pem(folder, self.tls_client_ca, "server.tls_client_ca", b"CERTIFICATE-----")
            if self.tls_client_ca
            else None,
        )


class StoreSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where the store is; relative to the configuration file."""

    path: str = "tallystick.db"
    credentials_path: str = ""
    """Sellers' tokens; by default beside the store."""


class SettlementSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """When charges are claimed."""

    interval_s: int = 3_600
    claim_amount_min: str = "0"
    """A channel owed less than this (atomic units) waits, but not longer than `claim_age_s_max`."""
    claim_age_s_max: int = 86_400


class LimitsSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The limits of payers, sellers and peers; amounts in atomic units, "0" for none."""

    payment_id_retention_s: int = 172_800
    payment_id_skew_s: int = 600
    withdraw_margin_s: int = 3_600
    reservation_s: int = 300
    reservations_per_account_max: int = 1_000
    exposure_per_account_max: str = "0"
    exposure_per_receiver_max: str = "0"
    channels_per_account_max: int = 10_000
    spend_keys_per_account_max: int = 1_024
    charges_per_batch_max: int = 256
    unanswered_batches_max: int = 8
    streams_per_seller_max: int = 64
    streams_max: int = 1_024
    stream_idle_s: int = 900

    def rules(self) -> Rules:
        """The same as the ledger takes it."""
        for name in ("payment_id_retention_s", "reservation_s"):
            _between(1, getattr(self, name), SECONDS_MAX, f"limits.{name}")
        for name in ("withdraw_margin_s", "payment_id_skew_s"):
            _between(0, getattr(self, name), SECONDS_MAX, f"limits.{name}")
        for name in ("reservations_per_account_max", "channels_per_account_max", "spend_keys_per_account_max"):
            _between(1, getattr(self, name), COUNT_MAX, f"limits.{name}")
        if self.reservation_s >= self.payment_id_retention_s:
            raise ConfigurationError(
                f"limits.reservation_s: got {self.reservation_s}, allowed less than payment_id_retention_s"
                f" ({self.payment_id_retention_s})"
            )
        return Rules(
            payment_id_retention_s=self.payment_id_retention_s,
            payment_id_skew_s=self.payment_id_skew_s,
            withdraw_margin_s=self.withdraw_margin_s,
            reservation_s=self.reservation_s,
            reservations_per_account_max=self.reservations_per_account_max,
            exposure_per_account_max=parse_amount(self.exposure_per_account_max, "limits.exposure_per_account_max"),
            exposure_per_receiver_max=parse_amount(self.exposure_per_receiver_max, "limits.exposure_per_receiver_max"),
            channels_per_account_max=self.channels_per_account_max,
            spend_keys_per_account_max=self.spend_keys_per_account_max,
        )

    def charge_limits(self) -> ChargeLimits:
        """The same as streams of charges are held to."""
        _between(1, self.charges_per_batch_max, BATCH_MAX, "limits.charges_per_batch_max")
        _between(1, self.unanswered_batches_max, 1_024, "limits.unanswered_batches_max")
        _between(1, self.streams_per_seller_max, COUNT_MAX, "limits.streams_per_seller_max")
        _between(1, self.streams_max, COUNT_MAX, "limits.streams_max")
        _between(1, self.stream_idle_s, SECONDS_MAX, "limits.stream_idle_s")
        return ChargeLimits(
            charges_per_batch_max=self.charges_per_batch_max,
            unanswered_batches_max=self.unanswered_batches_max,
            streams_per_principal_max=self.streams_per_seller_max,
            streams_max=self.streams_max,
            stream_idle_s=self.stream_idle_s,
        )


class TokenSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A token that is taken; `name` and `version` are of its EIP-712 domain."""

    address: str
    symbol: str
    decimals: int
    name: str
    version: str
    min_deposit: str = "0"


class ChainSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One network. `operator` is needed only where it is a contract; else it is the operator key's own address."""

    network: str
    rpc_urls: list[str]
    escrow: str
    operator_key: str
    sender_key: str
    token: list[TokenSection]
    operator: str = ""
    escrow_block: int = 0
    confirmations: int = 12
    reorg_depth: int = 64
    poll_s: float = 2.0
    rpc_timeout_s: float = 10.0
    replace_after_s: float = 60.0
    withdraw_delay_s_min: int = 10_800
    withdraw_delay_s_max: int = WITHDRAW_DELAY_S_MAX
    withdraw_delay_s: int = 86_400
    """What is proposed to payers that name none of their own."""
    max_fee_per_gas_gwei: float = 500.0
    priority_fee_per_gas_gwei_max: float = 50.0


class _File(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    chain: list[ChainSection]
    server: ServerSection = ServerSection()
    store: StoreSection = StoreSection()
    settlement: SettlementSection = SettlementSection()
    limits: LimitsSection = LimitsSection()


@dataclass(frozen=True, slots=True)
class Config:
    """A checked configuration; paths are absolute. `withdraw_delays_s`: what is proposed to payers, by network."""

    server: ServerSection
    tls: Tls | None
    store_path: Path
    credentials_path: Path
    interval_s: int
    claim_amount_min: int
    claim_age_s_max: int
    rules: Rules
    charge_limits: ChargeLimits
    chains: tuple[ChainSettings, ...]
    withdraw_delays_s: Mapping[str, int]

    @classmethod
    def load(cls, path: Path, *, with_keys: bool = True) -> Self:
        """Read and check a file. Without keys, for commands that need the store only, chains are left out."""
        file, folder = _read(path), path.absolute().parent
        try:
            file.server.check(folder)
            tls = file.server.tls(folder) if with_keys else None
            rules, charge_limits = file.limits.rules(), file.limits.charge_limits()
            amount_min = parse_amount(file.settlement.claim_amount_min, "settlement.claim_amount_min")
            _between(1, file.settlement.interval_s, SECONDS_MAX, "settlement.interval_s")
            _between(1, file.settlement.claim_age_s_max, SECONDS_MAX, "settlement.claim_age_s_max")
            chains = tuple(_chain(section, index, folder) for index, section in enumerate(file.chain) if with_keys)
        except (MalformedError, KeyReferenceError, ConfigurationError) as error:
            raise ConfigurationError(f"{path}: {error}") from None
        if not file.chain:
            raise ConfigurationError(f"{path}: chain: got none, allowed at least one [[chain]]")
        _check_networks(path, file.chain)
        for section in file.chain:
            _check_delays(path, section, file.settlement.interval_s)
        store_path = (folder / file.store.path).resolve()
        beside = store_path.with_name(store_path.name + ".credentials")
        return cls(
            server=file.server,
            tls=tls,
            store_path=store_path,
            credentials_path=folder / file.store.credentials_path if file.store.credentials_path else beside,
            interval_s=file.settlement.interval_s,
            claim_amount_min=amount_min,
            claim_age_s_max=file.settlement.claim_age_s_max,
            rules=rules,
            charge_limits=charge_limits,
            chains=chains,
            withdraw_delays_s={section.network: section.withdraw_delay_s for section in file.chain},
        )


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as opened:
            text = opened.read(CONFIG_BYTES_MAX + 1)
        if len(text) > CONFIG_BYTES_MAX:
            raise ConfigurationError(f"{path}: got more than {CONFIG_BYTES_MAX} bytes, allowed a short TOML file")
        data = tomllib.loads(text.decode())
    except OSError as error:
        raise ConfigurationError(f"{path}: the configuration cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: this is no TOML: {error}") from None
    try:
        return msgspec.convert(data, _File)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {what_is_wrong(error)}") from None


def _chain(section: ChainSection, index: int, folder: Path) -> ChainSettings:
    where = f"chain[{index}]"
    for name in ("poll_s", "rpc_timeout_s", "replace_after_s", "max_fee_per_gas_gwei", "priority_fee_per_gas_gwei_max"):
        if not (math.isfinite(value := getattr(section, name)) and 0 < value <= SECONDS_MAX):
            raise ConfigurationError(f"{where}.{name}: got {value}, allowed above 0 and at most {SECONDS_MAX}")
    operator_signer = load_signer(_reference(section.operator_key, folder), f"{where}.operator_key")
    return ChainSettings(
        network=section.network,
        rpc_urls=tuple(
            read_endpoint(url, f"{where}.rpc_urls[{number}]") for number, url in enumerate(section.rpc_urls)
        ),
        escrow=parse_address(section.escrow, f"{where}.escrow"),
        operator=parse_address(section.operator, f"{where}.operator") if section.operator else operator_signer.address,
        operator_signer=operator_signer,
        sender=load_signer(_reference(section.sender_key, folder), f"{where}.sender_key"),
        tokens=tuple(_token(token, f"{where}.token[{number}]") for number, token in enumerate(section.token)),
        escrow_block=section.escrow_block,
        confirmations=section.confirmations,
        reorg_depth=section.reorg_depth,
        poll_s=section.poll_s,
        rpc_timeout_s=section.rpc_timeout_s,
        replace_after_s=section.replace_after_s,
        withdraw_delay_s_min=section.withdraw_delay_s_min,
        withdraw_delay_s_max=section.withdraw_delay_s_max,
        fees=FeeSettings(
            max_fee_per_gas_wei=round(section.max_fee_per_gas_gwei * _GWEI),
            priority_fee_per_gas_wei_max=round(section.priority_fee_per_gas_gwei_max * _GWEI),
        ),
    )


def _token(section: TokenSection, where: str) -> TokenSettings:
    if not 0 <= section.decimals <= 36:
        raise ConfigurationError(f"{where}.decimals: got {section.decimals}, allowed 0 to 36")
    if not section.symbol:
        raise ConfigurationError(f"{where}.symbol: got nothing, allowed a name such as USDC")
    return TokenSettings(
        address=parse_address(section.address, f"{where}.address"),
        symbol=section.symbol,
        decimals=section.decimals,
        name=section.name,
        version=section.version,
        min_deposit=parse_amount(section.min_deposit, f"{where}.min_deposit"),
    )


def _reference(reference: str, folder: Path) -> str:
    """File references are relative to the configuration file, so that a folder can be moved as a whole."""
    scheme, separator, target = reference.partition(":")
    if separator and scheme in {"file", "keystore"} and target and not Path(target).is_absolute():
        return f"{scheme}:{folder / target}"
    return reference


def read_endpoint(url: str, setting: str) -> str:
    """An endpoint; `env:NAME` takes it from a variable, because some hold a provider's key."""
    if url.startswith("env:"):
        url = os.environ.get(url.removeprefix("env:"), "")
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"{setting}: allowed an http:// or https:// URL, or env:NAME of a variable with one")
    return url


def _pem(folder: Path, name: str, setting: str, kind: bytes) -> bytes:
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{setting}: {name!r} cannot be read: {error.strerror}") from None
    if b"-----BEGIN " not in data or kind not in data:
        raise ConfigurationError(f"{setting}: {name!r} holds no {kind.decode().rstrip('-').lower()} in PEM")
    return data


def _check_networks(path: Path, sections: list[ChainSection]) -> None:
    names = [section.network for section in sections]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{path}: chain: {name} stands there twice")
    for number, section in enumerate(sections):
        for key in ("address", "symbol"):
            values = [getattr(token, key).lower() for token in section.token]
            if len(set(values)) < len(values):
                raise ConfigurationError(f"{path}: chain[{number}].token: one {key} stands there twice")


def _check_delays(path: Path, section: ChainSection, interval_s: int) -> None:
    shortest = 2 * interval_s + SETTLEMENT_MARGIN_S
    if section.withdraw_delay_s_min < shortest:
        raise ConfigurationError(
            f"{path}: {section.network}: withdraw_delay_s_min: got {section.withdraw_delay_s_min}, allowed"
            f" {shortest} or more: two settlement intervals and {SETTLEMENT_MARGIN_S} s,"
            " or a payer could leave before its charges are claimed"
        )
    if not section.withdraw_delay_s_min <= section.withdraw_delay_s <= section.withdraw_delay_s_max:
        raise ConfigurationError(
            f"{path}: {section.network}: withdraw_delay_s: got {section.withdraw_delay_s}, allowed"
            f" {section.withdraw_delay_s_min} to {section.withdraw_delay_s_max}"
        )


def _between(least: int, value: int, most: int, setting: str) -> None:
    if not least <= value <= most:
        raise ConfigurationError(f"{setting}: got {value}, allowed {least} to {most}")


def describe(chain: ChainSettings) -> str:
    """One line about a chain for the log: addresses, never keys."""
    return (
        f"{chain.network}: escrow {checksum(chain.escrow)}, operator {checksum(chain.operator)},"
        f" gas paid by {checksum(chain.sender.address)}"
    )
