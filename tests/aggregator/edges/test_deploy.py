"""`tallystick deploy`: two files from one command, nothing overwritten, no key and no endpoint's secret told."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from _anvil import Anvil
from tallystick_aggregator.cli import deploy
from tallystick_aggregator.config import Config
from tallystick_client import Operator


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


def test_public_keys_are_refused_on_a_live_chain(tmp_path: Path) -> None:
    with Anvil(chain_id=1) as live:
        code, output = run("--dev", "--rpc", live.url, "--out", str(tmp_path))
    assert (code, "its keys are public" in output) == (2, True)


def test_the_operators_file_is_what_wallets_read(chain: Anvil, tmp_path: Path) -> None:
    assert run("--dev", "--rpc", chain.url, "--out", str(tmp_path), "--min-deposit", "5")[0] == 0
    written = json.loads((tmp_path / "operator.json").read_text())
    assert written["tokens"][0]["min_deposit"] == "5"
