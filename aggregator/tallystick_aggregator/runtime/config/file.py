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

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from tallystick.amounts import parse_amount
from tallystick.errors import KeyReferenceError, MalformedError
from tallystick.keys import load_signer
from tallystick.targets import is_loopback
from tallystick_aggregator.api.grpc.charge import ChargeLimits
from tallystick_aggregator.api.tls import Tls, TlsFiles
from tallystick_aggregator.auth.limits import GasLimits
from tallystick_aggregator.auth.transfer_limits import TransferLimits
from tallystick_aggregator.chain.settings import ChainSettings, ConfigurationError
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.ledger.values import COUNT_MAX, SECONDS_MAX
from tallystick_aggregator.listing import ListingLimits
from tallystick_aggregator.runtime.config.chains import (
    ChainSection,
    KeyLoader,
    chain_settings,
    check_delays,
    check_networks,
)
from tallystick_aggregator.runtime.config.errors import between, read_table, what_is_wrong
from tallystick_aggregator.runtime.config.exact import ExactOpen, ExactOpenSection, ExactSection, exact_open
from tallystick_aggregator.runtime.config.http import HttpSettings, read_http
from tallystick_aggregator.runtime.logs import LEVELS
from tallystick_aggregator.store.opening import SCHEMES, allowed_urls, sqlite_path, sqlite_url
from tallystick_aggregator.store.port import StoreUnusableError

DEFAULT_LISTEN: Final = "127.0.0.1:7402"
DEFAULT_STORE_PATH: Final = "tallystick.db"
DEFAULT_INTERVAL_S: Final = 3_600
CONFIG_BYTES_MAX: Final = 1024 * 1024
_AMOUNTS: Final = "reserved_per_channel_max", "exposure_per_account_max", "exposure_per_receiver_max"


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
        self.check_listen(self.listen, "server.listen", DEFAULT_LISTEN)
        if bool(self.tls_certificate) != bool(self.tls_key):
            there, missing = ("tls_certificate", "tls_key") if self.tls_certificate else ("tls_key", "tls_certificate")
            raise ConfigurationError(f"server.{missing}: got nothing, allowed a PEM file, because {there} is set")
        if self.tls_client_ca and not self.tls_certificate:
            raise ConfigurationError("server.tls_client_ca: asks for certificates, but tls_certificate is not set")
        for name in ("tls_certificate", "tls_key", "tls_client_ca"):
            path = getattr(self, name)
            if path and not (folder / path).is_file():
                raise ConfigurationError(f"server.{name}: got {path!r}, which is no file that can be read")
        if self.log_level not in LEVELS:
            raise ConfigurationError(f"server.log_level: got {self.log_level!r}, allowed {', '.join(LEVELS)}")
        between(0, self.stop_grace_s, SECONDS_MAX, "server.stop_grace_s")
        between(0, self.signature_processes, 256, "server.signature_processes")

    def check_listen(self, listen: str, setting: str, example: str) -> None:
        """Raise ConfigurationError for an address that is none, or that is open to others without TLS."""
        host, _, port = listen.rpartition(":")
        if not host or not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65_535):
            raise ConfigurationError(f"{setting}: got {listen!r}, allowed HOST:PORT, such as {example}")
        if not self.tls_certificate and not self.insecure and not is_loopback(listen):
            raise ConfigurationError(
                f"{setting}: {listen} can be reached from outside without TLS;"
                " set tls_certificate and tls_key, or insecure = true if something in front does TLS"
            )

    def tls(self, folder: Path) -> TlsFiles | None:
        """Read the TLS files, if there are any."""
        if not self.tls_certificate:
            return None
        current = Tls(
            certificate=_pem(folder, self.tls_certificate, "server.tls_certificate", b"CERTIFICATE-----"),
            key=_pem(folder, self.tls_key, "server.tls_key", b"PRIVATE KEY-----"),
            client_ca=_pem(folder, self.tls_client_ca, "server.tls_client_ca", b"CERTIFICATE-----")
            if self.tls_client_ca
            else None,
        )
        return TlsFiles(folder / self.tls_certificate, folder / self.tls_key, current)


class StoreSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where the store is. Paths are relative to the configuration file."""

    path: str = ""
    """Its SQLite file; DEFAULT_STORE_PATH if neither `path` nor `url` is set."""
    url: str = ""
    """Instead of `path`: the store's URL (`store.opening`)."""
    credentials_path: str = ""
    """Sellers' tokens; by default beside the store's file."""

    def located(self, folder: Path) -> tuple[str, Path]:
        """Return the store's URL and the path of the credentials; raises ConfigurationError."""
        if self.path and self.url:
            raise ConfigurationError("store.url: is set together with store.path, allowed one of the two")
        url = self.url or sqlite_url((folder / (self.path or DEFAULT_STORE_PATH)).resolve())
        scheme, colon, _ = url.partition(":")
        if not colon or scheme not in SCHEMES:
            raise ConfigurationError(f"store.url: begins with {scheme!r}, allowed {allowed_urls()}")
        file = None
        if scheme == "sqlite":
            try:
                file = sqlite_path(url)
            except StoreUnusableError as error:
                raise ConfigurationError(f"store.url: {error}") from None
        if self.credentials_path:
            return url, folder / self.credentials_path
        if file is None:
            raise ConfigurationError(
                f"store.credentials_path: got nothing, allowed the path of a file, because store.url is of {scheme}:"
            )
        return url, file.with_name(file.name + ".credentials")


class SettlementSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """When charges are claimed."""

    interval_s: int = DEFAULT_INTERVAL_S
    claim_amount_min: str = "0"
    """A channel owed less than this (atomic units) waits, but not longer than `claim_age_s_max`."""
    claim_age_s_max: int = 86_400


class _File(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    chain: list[ChainSection]
    server: ServerSection = ServerSection()
    store: StoreSection = StoreSection()
    settlement: SettlementSection = SettlementSection()
    limits: dict[str, Any] = {}
    gas: dict[str, Any] = {}
    exact: ExactSection = ExactSection()
    exact_open: ExactOpenSection = ExactOpenSection()
    http: dict[str, Any] | None = None
    discovery: dict[str, Any] = {}

    def rules(self) -> tuple[Rules, ChargeLimits]:
        """The limits of payers, sellers and peers; amounts are text, "0" for none. Raises ConfigurationError."""
        amounts = {name: parse_amount(self.limits[name], f"limits.{name}") for name in _AMOUNTS if name in self.limits}
        rules, charge_limits = read_table(self.limits | amounts, "limits", Rules, ChargeLimits)
        # A seller's share is no larger than the whole, or one seller could take all of it.
        of_channel, of_receiver = rules.reservations_per_channel_max, rules.reservations_per_receiver_max
        between(1, of_channel, rules.reservations_per_account_max, "limits.reservations_per_channel_max")
        between(of_channel, of_receiver, COUNT_MAX, "limits.reservations_per_receiver_max")
        between(1, rules.reservation_s, rules.payment_id_retention_s - 1, "limits.reservation_s")
        return rules, charge_limits

    def gas_limits(self) -> GasLimits:
        """What payers may make the operator spend. Raises ConfigurationError."""
        limits: GasLimits = read_table(self.gas, "gas", GasLimits)[0]
        if problem := limits.problem():
            raise ConfigurationError(f"gas.{problem}")
        return limits


@dataclass(frozen=True, slots=True)
class Config:
    """A checked configuration; paths are absolute. `withdraw_delays_s`: what is proposed to payers, by network."""

    server: ServerSection
    tls: TlsFiles | None
    store_url: str
    credentials_path: Path
    interval_s: int
    claim_amount_min: int
    claim_age_s_max: int
    rules: Rules
    charge_limits: ChargeLimits
    gas_limits: GasLimits
    exact_limits: TransferLimits
    exact_open: ExactOpen | None
    """What strangers may have; None: nothing."""
    chains: tuple[ChainSettings, ...]
    http: HttpSettings | None
    """None without a table [http]: then there is no HTTP edge."""
    listing_limits: ListingLimits
    withdraw_delays_s: Mapping[str, int]

    @classmethod
    def load(cls, path: Path, *, with_keys: bool = True) -> Self:
        """Read and check a file. Without keys, for commands that need the store only, chains are left out."""
        try:
            return cls.parse(_read(path), path.absolute().parent, load_signer if with_keys else None)
        except (MalformedError, KeyReferenceError, ConfigurationError) as error:
            raise ConfigurationError(f"{path}: {error}") from None

    @classmethod
    def parse(cls, text: bytes, folder: Path, load_key: KeyLoader | None) -> Self:
        """The same from a file's text, for `folder`. Raises ConfigurationError and MalformedError."""
        file = _convert(text)
        file.server.check(folder)
        tls = file.server.tls(folder) if load_key else None
        rules, charge_limits = file.rules()
        amount_min = parse_amount(file.settlement.claim_amount_min, "settlement.claim_amount_min")
        between(1, file.settlement.interval_s, SECONDS_MAX, "settlement.interval_s")
        between(1, file.settlement.claim_age_s_max, SECONDS_MAX, "settlement.claim_age_s_max")
        check_networks(file.chain)
        for index, section in enumerate(file.chain):
            check_delays(section, index, file.settlement.interval_s)
        store_url, credentials_path = file.store.located(folder)
        chains = tuple(
            settings
            for index, section in enumerate(file.chain)
            if load_key is not None
            for settings in chain_settings(section, index, folder, load_key)
        )
        return cls(
            server=file.server,
            tls=tls,
            store_url=store_url,
            credentials_path=credentials_path,
            interval_s=file.settlement.interval_s,
            claim_amount_min=amount_min,
            claim_age_s_max=file.settlement.claim_age_s_max,
            rules=rules,
            charge_limits=charge_limits,
            gas_limits=file.gas_limits(),
            exact_limits=file.exact.limits(chains),
            exact_open=exact_open(file.exact_open, chains, folder, load_key),
            chains=chains,
            http=None if file.http is None else read_http(file.http, file.server.check_listen),
            listing_limits=read_table(file.discovery, "discovery", ListingLimits)[0],
            withdraw_delays_s={section.network: section.withdraw_delay_s for section in file.chain},
        )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as opened:
            text = opened.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigurationError("there is no such file; `tallystick deploy` writes one, --config names it") from None
    except OSError as error:
        raise ConfigurationError(f"the configuration cannot be read: {error.strerror}") from None
    if len(text) > CONFIG_BYTES_MAX:
        raise ConfigurationError(f"got more than {CONFIG_BYTES_MAX} bytes, allowed a short TOML file")
    return text


def _convert(text: bytes) -> _File:
    try:
        return msgspec.convert(tomllib.loads(text.decode()), _File)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"this is no TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigurationError(what_is_wrong(error)) from None


def _pem(folder: Path, name: str, setting: str, kind: bytes) -> bytes:
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{setting}: {name!r} cannot be read: {error.strerror}") from None
    if b"-----BEGIN " not in data or kind not in data:
        raise ConfigurationError(f"{setting}: {name!r} holds no {kind.decode().rstrip('-').lower()} in PEM")
    return data
