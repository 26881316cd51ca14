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

import ipaddress
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from tallystick.amounts import parse_amount
from tallystick.channels import WITHDRAW_DELAY_S_MAX
from tallystick.errors import KeyReferenceError, MalformedError
from tallystick.hexadecimal import checksum, parse_address
from tallystick.keys import load_signer
from tallystick.x402.messages import malformed
from tallystick_aggregator.chain.settings import ChainSettings, ConfigurationError, FeeSettings, TokenSettings
from tallystick_aggregator.ledger.commands import Rules

DEFAULT_LISTEN: Final = "127.0.0.1:7402"
SETTLEMENT_MARGIN_S: Final = 600
"""What a claim may take from its planning to its block; added to two settlement intervals (I9)."""
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

    @property
    def host(self) -> str:
        """The host part of `listen`."""
        return self.listen.rpartition(":")[0].strip("[]")

    def check(self) -> None:
        """Raise ConfigurationError for an address or TLS files that cannot work."""
        host, _, port = self.listen.rpartition(":")
        if not host or not (port.isascii() and port.isdecimal() and int(port) <= 65_535):
            raise ConfigurationError(f"server.listen: got {self.listen!r}, allowed HOST:PORT, such as {DEFAULT_LISTEN}")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ConfigurationError("server: tls_certificate and tls_key go together; one of them is missing")
        if self.tls_client_ca and not self.tls_certificate:
            raise ConfigurationError("server.tls_client_ca: asks for certificates, but tls_certificate is not set")
        for name in ("tls_certificate", "tls_key", "tls_client_ca"):
            path = getattr(self, name)
            if path and not Path(path).is_file():
                raise ConfigurationError(f"server.{name}: got {path!r}, which is no file that can be read")
        if not self.tls_certificate and not self.insecure and not _is_loopback(self.host):
            raise ConfigurationError(
                f"server.listen: {self.listen} can be reached from outside without TLS;"
                " set tls_certificate and tls_key, or insecure = true if something in front does TLS"
            )


class StoreSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where the store is; relative to the configuration file."""

    path: str = "tallystick.db"


class SettlementSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """When charges are claimed."""

    interval_s: int = 3_600
    claim_amount_min: str = "0"
    """A channel owed less than this (atomic units) waits, but not longer than `claim_age_s_max`."""
    claim_age_s_max: int = 86_400


class LimitsSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The ledger's limits; amounts in atomic units, "0" for none."""

    payment_id_retention_s: int = 172_800
    withdraw_margin_s: int = 3_600
    reservation_s: int = 300
    reservations_per_account_max: int = 1_000
    exposure_per_account_max: str = "0"
    exposure_per_receiver_max: str = "0"
    channels_per_account_max: int = 10_000
    spend_keys_per_account_max: int = 256

    def rules(self) -> Rules:
        """The same as the ledger takes it."""
        for name in ("payment_id_retention_s", "reservation_s", "reservations_per_account_max"):
            _at_least(1, getattr(self, name), f"limits.{name}")
        for name in ("withdraw_margin_s", "channels_per_account_max", "spend_keys_per_account_max"):
            _at_least(0, getattr(self, name), f"limits.{name}")
        return Rules(
            payment_id_retention_s=self.payment_id_retention_s,
            withdraw_margin_s=self.withdraw_margin_s,
            reservation_s=self.reservation_s,
            reservations_per_account_max=self.reservations_per_account_max,
            exposure_per_account_max=parse_amount(self.exposure_per_account_max, "limits.exposure_per_account_max"),
            exposure_per_receiver_max=parse_amount(self.exposure_per_receiver_max, "limits.exposure_per_receiver_max"),
            channels_per_account_max=self.channels_per_account_max,
            spend_keys_per_account_max=self.spend_keys_per_account_max,
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
    """A checked configuration; `store_path` is absolute."""

    server: ServerSection
    store_path: Path
    interval_s: int
    claim_amount_min: int
    claim_age_s_max: int
    rules: Rules
    chains: tuple[ChainSettings, ...]

    @classmethod
    def load(cls, path: Path, *, with_keys: bool = True) -> Self:
        """Read and check a file. Without keys, for commands that need the store only, chains are left out."""
        file = _read(path)
        try:
            file.server.check()
            rules = file.limits.rules()
            amount_min = parse_amount(file.settlement.claim_amount_min, "settlement.claim_amount_min")
            _at_least(1, file.settlement.interval_s, "settlement.interval_s")
            chains = tuple(_chain(section, index, path.parent) for index, section in enumerate(file.chain) if with_keys)
        except (MalformedError, KeyReferenceError, ConfigurationError) as error:
            raise ConfigurationError(f"{path}: {error}") from None
        if not file.chain:
            raise ConfigurationError(f"{path}: chain: got none, allowed at least one [[chain]]")
        _check_networks(path, file.chain)
        for section in file.chain:
            _check_delays(path, section, file.settlement.interval_s)
        return cls(
            server=file.server,
            store_path=(path.parent / file.store.path).resolve(),
            interval_s=file.settlement.interval_s,
            claim_amount_min=amount_min,
            claim_age_s_max=file.settlement.claim_age_s_max,
            rules=rules,
            chains=chains,
        )


def _read(path: Path) -> _File:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: the configuration cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: this is no TOML: {error}") from None
    try:
        return msgspec.convert(data, _File)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {malformed(error, 'setting')}") from None


def _chain(section: ChainSection, index: int, folder: Path) -> ChainSettings:
    where = f"chain[{index}]"
    operator_signer = load_signer(_reference(section.operator_key, folder), f"{where}.operator_key")
    return ChainSettings(
        network=section.network,
        rpc_urls=tuple(section.rpc_urls),
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


def _check_networks(path: Path, sections: list[ChainSection]) -> None:
    names = [section.network for section in sections]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{path}: chain: {name} stands there twice")


def _check_delays(path: Path, section: ChainSection, interval_s: int) -> None:
    shortest = 2 * interval_s + SETTLEMENT_MARGIN_S
    if section.withdraw_delay_s_min < shortest:
        raise ConfigurationError(
            f"{path}: {section.network}: withdraw_delay_s_min: got {section.withdraw_delay_s_min}, allowed"
            f" {shortest} or more: two settlement intervals and {SETTLEMENT_MARGIN_S} s,"
            " or a payer could leave before its charges are claimed"
        )


def _at_least(least: int, value: int, setting: str) -> None:
    if value < least:
        raise ConfigurationError(f"{setting}: got {value}, allowed {least} or more")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def describe(chain: ChainSettings) -> str:
    """One line about a chain for the log: addresses, never keys."""
    return (
        f"{chain.network}: escrow {checksum(chain.escrow)}, operator {checksum(chain.operator)},"
        f" gas paid by {checksum(chain.sender.address)}"
    )
