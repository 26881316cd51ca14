"""`tallystick deploy`: puts the escrow on a chain and writes the two files that everybody starts from.

`aggregator.toml` is what `tallystick serve` takes; `operator.json` is what payers put on their wallet's allow-list.
Nothing is overwritten, and no key is written into either. With `--dev`, on a development chain, it also deploys a test
token, and writes the keys that such chains give to everybody.

Transactions cost money: what would be refused later, by `serve` or by the folder, is refused before the first of them.
"""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from tallystick.amounts import parse_amount
from tallystick.channels import WITHDRAW_DELAY_S_MAX
from tallystick.errors import Described, MalformedError
from tallystick.hexadecimal import checksum, parse_address
from tallystick.keys import load_signer, with_paths
from tallystick.signatures import Signer
from tallystick.targets import check_target, is_loopback, is_wildcard
from tallystick.tokens import Token
from tallystick_aggregator.chain.deployer import Deployer, Deployment
from tallystick_aggregator.chain.settings import DEV_CHAIN_IDS, ConfigurationError
from tallystick_aggregator.runtime.config.chains import DEFAULT_WITHDRAW_DELAY_S_MIN, read_endpoint, shortest_delay_s
from tallystick_aggregator.runtime.config.file import Config
from tallystick_contracts import ContractName

CONFIG_NAME: Final = "aggregator.toml"
OPERATOR_NAME: Final = "operator.json"
DEV_PAYER_FUNDS: Final = 1_000_000_000
"""1,000 test USDC, in atomic units."""

DEV_KEYS: Final = {
    "sender": "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "operator": "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "payer": "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
}
"""Keys that every development chain funds, known to the whole world; refused on any other chain."""

_DEV_GAS: Final = """
[gas]  # a development chain's costs nothing
deposit_gas_per_hour_max = 0
refund_gas_per_hour_max = 0
exact_gas_per_hour_max = 0
deposits_per_payer_hour_max = 0
refunds_per_payer_hour_max = 0
refunds_unpaid = true
"""
_STAND_IN: Final = b"\x01" * 20
_TEST_TOKEN: Final = Token(_STAND_IN, "USDC", 6, "USD Coin", "2")
_OPTIONS: Final = {
    "server.listen": "--listen",
    "server.tls_certificate": "--tls-certificate",
    "server.tls_key": "--tls-key",
    "settlement.interval_s": "--interval",
    "chain[0].rpc_urls[0]": "--rpc",
    "chain[0].withdraw_delay_s_min": "--withdraw-delay",
    "chain[0].withdraw_delay_s": "--withdraw-delay",
    "chain[0].token[0].symbol": "--token",
    "chain[0].token[0].decimals": "--token",
    "chain[0].token[0].min_deposit": "--min-deposit",
}
"""The options that settings come from: whoever deploys has not seen the configuration yet."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to deploy and what to write to `out`. `token` None: deploy a test token.

    `min_deposit` in atomic units; None: one whole token, or the least there is of a test token.

    Key references are as they are written, with paths relative to `out`. `rpc_url` may be env:NAME, and is written as
    such: some endpoints hold a provider's key. Payers reach at `public` what listens at `listen`; `insecure`: in plain
    text, because something in front does TLS.
    """

    out: Path
    rpc_url: str
    operator: Signer
    operator_key: str
    sender: Signer
    sender_key: str
    token: bytes | None
    listen: str
    public: str
    tls_certificate: Path | None
    tls_key: Path | None
    insecure: bool
    interval_s: int
    withdraw_delay_s: int
    min_deposit: int | None
    dev: bool

    @classmethod
    def of_options(
        cls,
        *,
        dev: bool,
        out: Path,
        sender_key: str | None,
        operator_key: str | None,
        token: str | None,
        min_deposit: str | None,
        **rest: Any,
    ) -> Self:
        """From the command line; `dev`: with a test token and the development keys.

        Raises ConfigurationError and MalformedError, which name the option.
        """
        if dev and (sender_key or operator_key or token):
            raise ConfigurationError("--dev brings its own keys and token: leave --sender-key and the like out")
        if not dev and not (sender_key and operator_key and token):
            raise ConfigurationError("--sender-key, --operator-key and --token are needed (or --dev)")

        def key_of(reference: str | None, name: str) -> tuple[Signer, str]:
            if dev or reference is None:
                return _dev_signer(name), f"file:{name}.key"
            return load_signer(reference, f"--{name}-key"), with_paths(reference, partial(_seen_from, out))

        operator, sender = key_of(operator_key, "operator"), key_of(sender_key, "sender")
        return cls(
            out=out,
            operator=operator[0],
            operator_key=operator[1],
            sender=sender[0],
            sender_key=sender[1],
            token=None if dev or token is None else parse_address(token, "--token"),
            min_deposit=None if min_deposit is None else parse_amount(min_deposit, "--min-deposit"),
            dev=dev,
            **rest,
        )


def payers_reach(listen: str, public: str | None) -> str:
    """Where payers reach the aggregator: what --public says, else where it listens. Raises MalformedError."""
    if public is None:
        if is_wildcard(listen) or listen.endswith(":0"):
            allowed = f"the HOST:PORT at which payers reach the aggregator: --listen {listen} is no address to call"
            raise MalformedError("--public", Described("nothing"), allowed)
        check_target(listen, "--listen")
        return listen
    check_target(public, "--public")
    if is_wildcard(public):
        raise MalformedError("--public", public, 'an address to call, as in "aggregator.example:7402"')
    return public


async def carry_out(plan: Plan, say: Callable[[str], None]) -> None:
    """Deploy as planned and write the files; `say` is told of each step. Raises ConfigurationError."""
    out = plan.out
    _check_settings(plan, min(DEV_CHAIN_IDS), _TEST_TOKEN)
    _check_folder(out, dev=plan.dev)
    deployer = Deployer(read_endpoint(plan.rpc_url, "--rpc"), say)
    try:
        chain_id = await deployer.chain_id()
        if chain_id not in DEV_CHAIN_IDS:
            _check_keys(plan, chain_id)
        token = await deployer.describe(plan.token) if plan.token else None
        _check_settings(plan, chain_id, token or _TEST_TOKEN)
        creations: tuple[ContractName, ...] = ("Escrow",) if token else ("TestUSDC", "Escrow")
        await deployer.check_gas(plan.sender, "--sender-key", creations=creations, calls=int(plan.dev))
        if plan.operator.address != plan.sender.address:
            await deployer.check_gas(plan.operator, "--operator-key", calls=1)
        deployment = await deployer.deploy(plan.sender, plan.operator, token)
        if plan.dev:
            await deployer.mint(plan.sender, deployment.token.address, _dev_signer("payer").address, DEV_PAYER_FUNDS)
    finally:
        await deployer.close()
    written = [out / CONFIG_NAME, out / OPERATOR_NAME]
    _write_new(out / CONFIG_NAME, _configuration(deployment, plan))
    _write_new(out / OPERATOR_NAME, _operator_file(deployment, plan))
    for name, key in DEV_KEYS.items() if plan.dev else ():
        _write_new(out / f"{name}.key", f"0x{key}\n", mode=0o600)  # viem takes no key without 0x
        written.append(out / f"{name}.key")
    say("wrote      " + "\n           ".join(str(path) for path in written))
    if plan.tls_certificate and is_loopback(plan.public):
        say(f'to do      set "ca_file" in {OPERATOR_NAME}: on loopback, wallets speak TLS only with it')


def _check_keys(plan: Plan, chain_id: int) -> None:
    """Raise ConfigurationError for keys that are good for a development chain only."""
    if plan.dev:
        raise ConfigurationError(f"--dev: got chain {chain_id}, allowed {sorted(DEV_CHAIN_IDS)}: its keys are public")
    if plan.operator.address == plan.sender.address:
        raise ConfigurationError(
            f"--operator-key: got the key of --sender-key, {checksum(plan.sender.address)}; allowed one of its own,"
            " because it can refund payers what sellers are owed, and no account can change to another"
        )


def _check_settings(plan: Plan, chain_id: int, token: Token) -> None:
    """Read the configuration as `serve` will; raises ConfigurationError, which names the option."""
    shortest_s = shortest_delay_s(plan.interval_s)
    if shortest_s <= WITHDRAW_DELAY_S_MAX < plan.withdraw_delay_s:
        raise ConfigurationError(
            f"--withdraw-delay: got {plan.withdraw_delay_s}, allowed {shortest_s} to {WITHDRAW_DELAY_S_MAX}"
        )
    draft = _configuration(Deployment(chain_id, _STAND_IN, 0, plan.operator.address, token), plan)

    def loaded(_: str, setting: str) -> Signer:
        return plan.operator if setting.endswith("operator_key") else plan.sender

    try:
        # A path may hold bytes that are no UTF-8: the parser refuses them in one sentence.
        Config.parse(draft.encode(errors="surrogatepass"), plan.out, loaded)
    except (ConfigurationError, MalformedError) as error:
        setting, _, problem = str(error).partition(": ")
        raise ConfigurationError(f"{_OPTIONS.get(setting, setting)}: {problem}") from None


def _check_folder(out: Path, *, dev: bool) -> None:
    """Make the folder; raise ConfigurationError unless it can be written to and has no file of ours yet."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigurationError(f"--out: {out} cannot be written to: {error.strerror}") from None
    for name in (CONFIG_NAME, OPERATOR_NAME, *(f"{name}.key" for name in DEV_KEYS if dev)):
        if (out / name).exists():
            raise ConfigurationError(f"--out: {out / name} is there already; nothing is overwritten")


def _seen_from(folder: Path, path: Path) -> Path:
    """How a file in `folder` has to name a path, so that it leads there from anywhere; what is inside moves with it."""
    path, folder = path.absolute(), folder.absolute()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _dev_signer(name: str) -> Signer:
    return Signer(bytes.fromhex(DEV_KEYS[name]))


def _configuration(deployment: Deployment, plan: Plan) -> str:
    token = deployment.token
    pace = "confirmations = 0\npoll_s = 0.1\n" if deployment.chain_id in DEV_CHAIN_IDS else ""
    transport = "".join(
        f"{name} = {_quoted(str(_seen_from(plan.out, file)))}\n"
        for name, file in (("tls_certificate", plan.tls_certificate), ("tls_key", plan.tls_key))
        if file is not None
    ) + ("insecure = true\n" if plan.insecure else "")
    # Accounts of the usual delays are taken, if the interval allows for them, and those that payers are told to open.
    delay_s_min = min(max(DEFAULT_WITHDRAW_DELAY_S_MIN, shortest_delay_s(plan.interval_s)), plan.withdraw_delay_s)
    return f"""\
# Written by `tallystick deploy`. docs/configuration.md lists all settings.

[server]
listen = {_quoted(plan.listen)}
{transport}
[store]
path = "tallystick.db"

[settlement]
interval_s = {plan.interval_s}

[[chain]]
network = "eip155:{deployment.chain_id}"
rpc_urls = [{_quoted(plan.rpc_url)}]
escrow = "{checksum(deployment.escrow)}"
escrow_block = {deployment.escrow_block}
operator_key = {_quoted(plan.operator_key)}
sender_key = {_quoted(plan.sender_key)}
withdraw_delay_s_min = {delay_s_min}
withdraw_delay_s = {plan.withdraw_delay_s}
{pace}
[[chain.token]]
address = "{checksum(token.address)}"
symbol = {_quoted(token.symbol)}
decimals = {token.decimals}
name = {_quoted(token.name)}
version = {_quoted(token.version)}
min_deposit = "{_min_deposit(plan, token)}"
{_DEV_GAS if plan.dev else ""}"""


def _min_deposit(plan: Plan, token: Token) -> int:
    """What a deposit must be at least to be worth its transactions, in atomic units."""
    if plan.min_deposit is not None:
        return plan.min_deposit
    return 1 if plan.dev else 10**token.decimals


def _quoted(text: str) -> str:
    """A basic string of TOML: as in JSON, but without its surrogates, and DEL is escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _operator_file(deployment: Deployment, plan: Plan) -> str:
    token = deployment.token
    return (
        json.dumps(
            {
                "network": f"eip155:{deployment.chain_id}",
                "aggregator": plan.public,
                "insecure": is_loopback(plan.public) and plan.tls_certificate is None,
                "operator": checksum(deployment.operator),
                "escrow": checksum(deployment.escrow),
                "withdraw_delay_s": plan.withdraw_delay_s,
                "tokens": [
                    {
                        "token": checksum(token.address),
                        "symbol": token.symbol,
                        "decimals": token.decimals,
                        "name": token.name,
                        "version": token.version,
                        "min_deposit": str(_min_deposit(plan, token)),
                    }
                ],
            },
            indent=2,
        )
        + "\n"
    )


def _write_new(path: Path, text: str, mode: int = 0o644) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise ConfigurationError(f"--out: {path} is there already; nothing is overwritten") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
