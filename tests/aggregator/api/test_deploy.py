"""`tallystick deploy`: two files from one command, nothing overwritten, no key and no endpoint's secret told."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from _anvil import Anvil
from tallystick.hexadecimal import checksum
from tallystick.keys import create_keystore
from tallystick.signatures import Signer
from tallystick_aggregator.auth.limits import NO_LIMITS, GasLimits
from tallystick_aggregator.chain import deployer
from tallystick_aggregator.runtime.cli import deploy
from tallystick_aggregator.runtime.config.file import Config
from tallystick_aggregator.runtime.deploy import DEV_KEYS
from tallystick_client import Operator
from tallystick_contracts import load

OPERATOR = Signer(bytes.fromhex(DEV_KEYS["operator"]))
TLS = Path(__file__).parent / "tls"
CERTIFIED = ["--tls-certificate", f"{TLS}/server.pem", "--tls-key", f"{TLS}/server.key"]


@pytest.fixture(scope="module")
def chain() -> Iterator[Anvil]:
    with Anvil() as running:
        yield running


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(deploy, arguments, env=environment)
    return result.exit_code, result.output


def test_a_development_chain_gets_a_token_keys_and_files_that_are_read_back(chain: Anvil, tmp_path: Path) -> None:
    code, output = run("--dev", "--rpc", "env:RPC", "--out", str(tmp_path), RPC=chain.url)
    assert (code, chain.url in output) == (0, False)
    text = (tmp_path / "aggregator.toml").read_text()
    assert 'rpc_urls = ["env:RPC"]' in text
    operator = Operator.load(tmp_path / "operator.json")
    assert [token.symbol for token in operator.tokens] == ["USDC"]
    assert (tmp_path / "sender.key").stat().st_mode & 0o077 == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RPC", chain.url)
        (settings,) = Config.load(tmp_path / "aggregator.toml").chains
    assert (settings.escrow, settings.operator) == (operator.escrow, operator.operator)

    code, output = run("--dev", "--rpc", chain.url, "--out", str(tmp_path))
    assert (code, "nothing is overwritten" in output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rpc", "http://127.0.0.1:1"], "--sender-key, --operator-key and --token are needed"),
        (["--rpc", "http://127.0.0.1:1", "--dev", "--token", "0x" + "11" * 20], "leave --sender-key and the like out"),
        (["--rpc", "http://127.0.0.1:1/v1/secret", "--dev"], "nothing answers"),
        (["--rpc", "ftp://nowhere", "--dev"], "http"),
        (["--rpc", "http://127.0.0.1:1", "--dev", "--min-deposit", "-1"], "--min-deposit"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_writes_nothing(
    arguments: list[str], sentence: str, tmp_path: Path
) -> None:
    code, output = run(*arguments, "--out", str(tmp_path))
    assert code == 2
    assert sentence in output
    assert len(output.strip().splitlines()) == 1
    assert "secret" not in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--listen", "7402"], "tallystick: --listen: got '7402', allowed a host and a port"),
        (["--listen", "7402", "--public", "pay.example:1"], "tallystick: --listen: got '7402', allowed HOST:PORT"),
        (["--listen", "http://127.0.0.1:7402", "--insecure"], "tallystick: --listen: got 'http://127.0.0.1:7402', "),
        (["--listen", "127.0.0.1:0"], "tallystick: --public: got nothing, allowed the HOST:PORT at which payers reach"),
        (["--listen", "127.0.0.1:00"], "tallystick: --listen: got '127.0.0.1:00', allowed a host and a port"),
        (
            ["--listen", "0.0.0.0:7402"],
            "tallystick: --public: got nothing, allowed the HOST:PORT at which payers reach",
        ),
        (["--listen", "[::]:7402"], "tallystick: --public: got nothing, allowed the HOST:PORT at which payers reach"),
        (["--public", "0.0.0.0:7402"], "tallystick: --public: got '0.0.0.0:7402', allowed an address to call"),
        (
            ["--public", "https://pay.example:7402"],
            "tallystick: --public: got 'https://pay.example:7402', allowed a host",
        ),
        (["--listen", "10.0.0.1:7402"], "tallystick: --listen: 10.0.0.1:7402 can be reached from outside without TLS"),
        (["--tls-certificate", "no.pem", "--tls-key", "no.key"], "tallystick: --tls-certificate: got "),
        (
            ["--tls-certificate", f"{TLS}/server.pem"],
            "tallystick: --tls-key: got nothing, allowed a PEM file, because tls_certificate is set",
        ),
        (
            ["--tls-key", f"{TLS}/server.key"],
            "tallystick: --tls-certificate: got nothing, allowed a PEM file, because tls_key is set",
        ),
        (["--tls-certificate", "\udcff.pem", "--tls-key", "no.key"], "tallystick: this is no TOML"),
        (["--min-deposit", "0"], "tallystick: --min-deposit: got 0, allowed 1 to"),
        (["--interval", "0"], "tallystick: --interval: got 0, allowed 1 to"),
        (["--withdraw-delay", "7799"], "tallystick: --withdraw-delay: got 7799, allowed 7800 or more: two settlement"),
        (["--interval", "60", "--withdraw-delay", "899"], "tallystick: --withdraw-delay: got 899, allowed 900 or more"),
        (["--withdraw-delay", "2592001"], "tallystick: --withdraw-delay: got 2592001, allowed 7800 to 2592000"),
        (["--interval", "1295701"], "tallystick: --interval: got 1295701, allowed 1 to 1295700"),
        (["--interval", "50000"], "tallystick: --withdraw-delay: got 86400, allowed 100600 or more: two settlement"),
    ],
)
def test_what_serve_would_refuse_is_refused_before_anything_is_sent(
    chain: Anvil, arguments: list[str], sentence: str, tmp_path: Path
) -> None:
    before = chain.block_number
    code, output = run("--dev", "--rpc", chain.url, "--out", str(tmp_path / "new"), *arguments)
    assert (code, chain.block_number) == (2, before)
    assert output.startswith(sentence)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("interval_s", "delay_s", "shortest_s"), [(3_600, 86_400, 10_800), (3_600, 7_800, 7_800), (20_000, 90_000, 40_600)]
)
def test_delays_that_fit_the_interval_are_taken_and_proposed(
    chain: Anvil, interval_s: int, delay_s: int, shortest_s: int, tmp_path: Path
) -> None:
    options = ("--interval", str(interval_s), "--withdraw-delay", str(delay_s))
    assert run("--dev", "--rpc", chain.url, "--out", str(tmp_path), *options)[0] == 0
    config = Config.load(tmp_path / "aggregator.toml")
    assert config.interval_s == interval_s
    assert set(config.withdraw_delays_s.values()) == {delay_s}
    assert config.chains[0].withdraw_delay_s_min == shortest_s
    assert Operator.load(tmp_path / "operator.json").withdraw_delay_s == delay_s


def test_a_folder_that_takes_no_file_is_refused_before_anything_is_sent(chain: Anvil) -> None:
    before = chain.block_number
    code, output = run("--dev", "--rpc", chain.url, "--out", "/proc/self")
    assert (code, chain.block_number) == (2, before)
    assert output.startswith("tallystick: --out: /proc/self cannot be written to: ")


@contextmanager
def money(chain: Anvil, address: bytes, wei: int) -> Iterator[None]:
    chain.set_ether(address, wei)
    try:
        yield
    finally:
        chain.set_ether(address, 10**21)


@pytest.mark.parametrize("wei", [0, 1, 10**12])
@pytest.mark.parametrize("key", ["operator", "sender"])
def test_a_key_with_too_little_money_for_gas_is_refused_before_anything_is_sent(
    chain: Anvil, key: str, wei: int, tmp_path: Path
) -> None:
    before, address = chain.block_number, Signer(bytes.fromhex(DEV_KEYS[key])).address
    with money(chain, address, wei):
        code, output = run("--dev", "--rpc", chain.url, "--out", str(tmp_path))
    assert (code, chain.block_number) == (2, before)
    assert output.startswith(f"tallystick: --{key}-key: got {checksum(address)}, which has {wei} wei to pay for gas")
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize("key", ["operator", "sender"])
def test_the_money_for_gas_that_is_asked_for_suffices(chain: Anvil, key: str, tmp_path: Path) -> None:
    address = Signer(bytes.fromhex(DEV_KEYS[key])).address
    with money(chain, address, 1):
        _, output = run("--dev", "--rpc", chain.url, "--out", str(tmp_path))
        needed = re.search(r"allowed a key with (\d+) or more", output)
        assert needed, output
        chain.set_ether(address, int(needed[1]))
        code, output = run("--dev", "--rpc", chain.url, "--out", str(tmp_path))
    assert code == 0, output


def test_a_transaction_that_the_node_does_not_take_is_told_in_one_sentence(
    chain: Anvil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployer, "CALL_GAS_MAX", 0)  # as where fees rise after the look at the money
    with money(chain, OPERATOR.address, 1):
        code, output = run("--dev", "--rpc", chain.url, "--out", str(tmp_path))
    assert (code, output.splitlines()[1].split()[0]) == (2, "Escrow")
    refused = f"tallystick: {checksum(OPERATOR.address)} cannot send to {chain.url}: Insufficient funds for gas"
    assert len(output.splitlines()) == 3
    assert output.splitlines()[2].startswith(refused)


def deploy_with(
    chain: Anvil, out: Path, *, sender: str, operator: str, references: tuple[str, str] = ("env:SENDER", "env:OPERATOR")
) -> tuple[int, str]:
    """Deploy without --dev, with a token that is there already."""
    token = checksum(chain.deploy_contract("TestUSDC"))
    for key in (sender, operator):
        chain.set_ether(Signer(bytes.fromhex(key)).address, 10**18)
    options = ("--token", token, "--sender-key", references[0], "--operator-key", references[1])
    return run("--rpc", chain.url, "--out", str(out), *options, SENDER=sender, OPERATOR=operator)


def test_one_key_for_both_is_refused_on_a_live_chain_and_taken_on_one_for_development(
    chain: Anvil, tmp_path: Path
) -> None:
    with Anvil(chain_id=1) as live:
        before = live.block_number
        code, output = deploy_with(live, tmp_path, sender="11" * 32, operator="11" * 32)
        assert live.block_number == before + 1, "the token, and nothing else"
        assert (code, output.startswith("tallystick: --operator-key: got the key of --sender-key")) == (2, True)

        assert deploy_with(live, tmp_path / "two", sender="11" * 32, operator="22" * 32)[0] == 0

    assert deploy_with(chain, tmp_path / "dev", sender="11" * 32, operator="11" * 32)[0] == 0


@pytest.mark.parametrize("out", ["elsewhere", "."])
def test_keys_that_were_named_from_here_are_found_from_anywhere(
    chain: Anvil, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = tmp_path / "sender.key"
    sender.write_text("11" * 32)
    (tmp_path / "password").write_text("correct horse")
    for file in (sender, tmp_path / "password"):
        file.chmod(0o600)
    operator = create_keystore(tmp_path / "operator.keystore", "correct horse")
    chain.set_ether(operator, 10**18)
    monkeypatch.chdir(tmp_path)
    references = ("file:sender.key", "keystore:operator.keystore?password-file=password")
    code, output = deploy_with(chain, Path(out), sender="11" * 32, operator="22" * 32, references=references)
    assert code == 0, output

    monkeypatch.chdir("/")
    (settings,) = Config.load(tmp_path / out / "aggregator.toml").chains
    assert settings.sender.address == Signer(bytes.fromhex("11" * 32)).address
    assert settings.operator_signer.address == operator


def test_a_folder_can_be_moved_with_the_keys_in_it(
    chain: Anvil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for name, key in (("sender", "11" * 32), ("operator", "22" * 32)):
        (site / f"{name}.key").write_text(key)
        (site / f"{name}.key").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    references = ("file:site/sender.key", f"file:{site}/operator.key")
    assert deploy_with(chain, site, sender="11" * 32, operator="22" * 32, references=references)[0] == 0
    assert Config.load(site.rename(tmp_path / "moved") / "aggregator.toml").chains


@pytest.mark.parametrize(
    ("listen", "options", "aggregator", "insecure"),
    [
        ("127.0.0.1:7402", [], "127.0.0.1:7402", True),
        ("[::1]:7402", [], "[::1]:7402", True),
        ("127.0.0.1:7402", ["--insecure"], "127.0.0.1:7402", True),
        ("127.0.0.1:7402", CERTIFIED, "127.0.0.1:7402", False),
        ("127.0.0.1:7402", [*CERTIFIED, "--insecure"], "127.0.0.1:7402", False),
        ("0.0.0.0:7402", [*CERTIFIED, "--public", "localhost:7402"], "localhost:7402", False),
        ("127.0.0.1:7402", ["--public", "pay.example:443"], "pay.example:443", False),
        ("0.0.0.0:7402", ["--insecure", "--public", "pay.example:443"], "pay.example:443", False),
        ("10.0.0.1:7402", ["--insecure"], "10.0.0.1:7402", False),
    ],
)
def test_payers_are_told_where_they_reach_the_aggregator(
    chain: Anvil, listen: str, options: list[str], aggregator: str, insecure: bool, tmp_path: Path
) -> None:
    code, output = run("--dev", "--rpc", chain.url, "--out", str(tmp_path), "--listen", listen, *options)
    assert code == 0, output
    operator = Operator.load(tmp_path / "operator.json")
    assert (operator.aggregator, operator.insecure) == (aggregator, insecure)
    assert ("ca_file" in output) == (aggregator in {"127.0.0.1:7402", "localhost:7402"} and not insecure)
    assert Config.load(tmp_path / "aggregator.toml").server.listen == listen


def test_tls_files_are_found_from_any_folder(chain: Anvil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TLS)
    options = ("--listen", "0.0.0.0:7402", "--public", "pay.example:7402")
    files = ("--tls-certificate", "server.pem", "--tls-key", "server.key")
    code, output = run("--dev", "--rpc", chain.url, "--out", str(tmp_path), *options, *files)
    assert code == 0, output
    monkeypatch.chdir("/")
    tls = Config.load(tmp_path / "aggregator.toml").tls
    assert tls is not None
    assert tls.current.certificate == (TLS / "server.pem").read_bytes()
    assert not Operator.load(tmp_path / "operator.json").insecure


@pytest.mark.parametrize("name", ["\N{COIN} USD", 'U\x7f"\\\n\x01\x1f$', "\N{EURO SIGN} Coin"])
def test_a_tokens_name_is_read_back_whatever_it_is(
    chain: Anvil, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = load("TestUSDC")
    assert len(name.encode()) == len(b"USD Coin")
    assert usual.bytecode.count(b"USD Coin") == 1
    named = replace(usual, bytecode=usual.bytecode.replace(b"USD Coin", name.encode()))
    monkeypatch.setattr(deployer, "load", lambda contract: named if contract == "TestUSDC" else load(contract))
    code, output = run("--dev", "--rpc", chain.url, "--out", str(tmp_path))
    assert code == 0, output
    assert Config.load(tmp_path / "aggregator.toml").chains[0].tokens[0].name == name
    assert Operator.load(tmp_path / "operator.json").tokens[0].name == name


def test_public_keys_are_refused_on_a_live_chain(tmp_path: Path) -> None:
    with Anvil(chain_id=1) as live:
        code, output = run("--dev", "--rpc", live.url, "--out", str(tmp_path))
    assert (code, "its keys are public" in output) == (2, True)


def test_the_operators_file_is_what_wallets_read(chain: Anvil, tmp_path: Path) -> None:
    assert run("--dev", "--rpc", chain.url, "--out", str(tmp_path), "--min-deposit", "5")[0] == 0
    written = json.loads((tmp_path / "operator.json").read_text())
    assert written["tokens"][0]["min_deposit"] == "5"


def test_a3_a_deposit_is_worth_its_gas_unless_the_operator_says_otherwise(chain: Anvil, tmp_path: Path) -> None:
    """One whole token; of a test token the least there is, where gas costs nothing either."""
    for key in (DEV_KEYS["operator"], "11" * 32):
        chain.set_ether(Signer(bytes.fromhex(key)).address, 10**19)
    assert deploy_with(chain, tmp_path / "live", sender=DEV_KEYS["sender"], operator=DEV_KEYS["operator"])[0] == 0
    assert run("--dev", "--rpc", chain.url, "--out", str(tmp_path / "dev"))[0] == 0
    for out, least in (("live", 1_000_000), ("dev", 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SENDER", DEV_KEYS["sender"])
            patch.setenv("OPERATOR", DEV_KEYS["operator"])
            config = Config.load(tmp_path / out / "aggregator.toml")
        assert [token.min_deposit for token in config.chains[0].tokens] == [least]
        assert [token.min_deposit for token in Operator.load(tmp_path / out / "operator.json").tokens] == [least]
        assert config.gas_limits == (GasLimits() if out == "live" else NO_LIMITS)
