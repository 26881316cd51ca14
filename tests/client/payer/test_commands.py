"""The payer's commands, as a person runs them: separate processes, and one sentence where something is wrong."""

import json
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from payer_buyer import OpenWallet
from payer_commands import KEY, Result, Run, command_runner
from payer_fakes import PRICE, FakeAggregator, FakeSeller, served, write_operator_file

from tallystick.reasons import Reason
from tallystick.x402 import PaymentRequired
from tallystick_client import Operator
from tallystick_client.payer.cli.status_text import print_status


@pytest.fixture
def run(tmp_path: Path, operator: Operator) -> Run:
    return command_runner(tmp_path, operator)


@pytest.fixture
async def site(seller: FakeSeller) -> AsyncIterator[str]:
    """The fake seller on a port of its own."""
    async with served(seller) as port:
        yield f"http://127.0.0.1:{port}"


async def test_a_page_is_fetched_and_paid_for(run: Run, site: str, aggregator: FakeAggregator) -> None:
    result = await run("fetch", f"{site}/page?x=1", "--deposit", "1", "--max-price", "0.01", "-v")
    assert result == Result(0, "page", "it cost 0.001 USDC by deferred\n")
    status = json.loads((await run("wallet", "status", "--json")).out)
    (account,) = status["accounts"]
    (channel,) = status["channels"]
    assert (account["deposited"], account["charged"], channel["charged"]) == (1_000_000, PRICE, PRICE)
    assert channel["account_id"] == account["account_id"]
    assert aggregator.account.committed == PRICE
    shown = (await run("wallet", "status")).out
    assert "on eip155:31337, in USDC\n  deposited 1, returned 0, charged 0.001, free 0.999\n" in shown
    assert f"{channel['receiver'][:6]}…{channel['receiver'][-4:]}" in shown


async def test_in_a_terminal_a_page_ends_its_line(run: Run, site: str) -> None:
    terminal, screen = os.openpty()
    with os.fdopen(screen, "wb") as out:
        result = await run("fetch", f"{site}/page", stdout=out)
    assert (result.code, os.read(terminal, 1_000)) == (0, b"page\r\n")
    os.close(terminal)


async def test_a_page_is_paid_by_exact_without_a_deposit(run: Run, site: str, seller: FakeSeller) -> None:
    result = await run("fetch", f"{site}/page", "-v")
    assert result == Result(0, "page", "it cost 0.001 USDC by exact\n")
    assert len(seller.exact) == 1
    shown = (await run("wallet", "status")).out
    assert "No deposit yet: each payment is an exact transfer of its own." in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "signed for exact transfers 0.001 USDC on eip155:31337" in shown
    (spent,) = json.loads((await run("wallet", "status", "--json")).out)["exact"]
    assert (spent["paid"], spent["symbol"]) == (PRICE, "USDC")


async def test_a_status_fits_into_80_columns_and_cuts_no_amount(run: Run, site: str, seller: FakeSeller) -> None:
    seller.price = 123_456_789
    assert (await run("fetch", f"{site}/page", "--deposit", "1000")).code == 0
    shown = (await run("wallet", "status", COLUMNS="80")).out
    assert max(map(len, shown.splitlines())) <= 80, shown
    heading, row = shown.splitlines()[-2:]
    assert heading.split() == ["seller", "host", "charged", "granted", "signed"]
    assert row.split()[1:] == [site.removeprefix("http://"), "123.456789", "0", "123.456789"]


async def test_a_status_shows_what_is_unknown_where_there_is_any(
    open_wallet: OpenWallet,
    seller: FakeSeller,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    wallet = await open_wallet()
    hosts = ["[fe80::1]:8000", "a-host-with-a-long-name.and-a-longer-domain.example.org"]
    for host in hosts:
        offer = wallet.choose(PaymentRequired(accepts=[seller.offer("deferred", host, PRICE)]))
        (await wallet.grants.pay(offer, host, bytes(32))).lose()
    print_status(await wallet.status())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80, lines
    heading, first, second, rest = lines[3:]
    assert heading.split() == ["seller", "host", "charged", "granted", "unknown", "signed"]
    assert first.split()[1:] == [hosts[0], "0", "0", "0.001", "0.001"]
    assert second.split()[1] + rest.strip() == hosts[1]


async def test_a_deposit_and_a_refund_that_are_under_way_are_shown(run: Run, aggregator: FakeAggregator) -> None:
    aggregator.refuse["Deposit"] = Reason.DEPOSIT_AUTHORIZATION
    before = int(time.time())
    assert (await run("wallet", "deposit", "2")).code == 1
    (account,) = json.loads((await run("wallet", "status", "--json")).out)["accounts"]
    (deposit,) = account["deposits_under_way"]
    assert deposit["amount"] == 2_000_000
    assert before + 4_200 <= deposit["landable_until"] <= time.time() + 4_200
    until = datetime.fromtimestamp(deposit["landable_until"], UTC).isoformat()
    shown = (await run("wallet", "status", COLUMNS="80")).out
    assert f"deposit of 2 USDC under way, may be landed until {until};" in shown
    assert max(map(len, shown.splitlines())) <= 80, shown

    aggregator.refuse = {"RequestRefund": Reason.CHAIN_UNAVAILABLE}
    assert (await run("wallet", "deposit", "2")).code == 0
    assert "under way" not in (await run("wallet", "status")).out
    assert (await run("wallet", "refund")).code == 1
    assert "refund of all that is not owed under way" in (await run("wallet", "status")).out
    aggregator.refuse = {}
    assert (await run("wallet", "refund")).code == 0
    assert "under way" not in (await run("wallet", "status")).out


async def test_a_page_that_is_too_dear_is_not_paid_for(run: Run, site: str, seller: FakeSeller) -> None:
    result = await run("fetch", f"{site}/page", "--max-price", "0.0001", "--deposit", "1")
    assert result.code == 1
    assert result.err == "tallystick: budget per_request: got 0.001 USDC, allowed 0.0001 USDC\n"
    assert not seller.paid_requests


async def test_an_answer_that_is_an_error_is_told_by_the_exit_code(run: Run, site: str, seller: FakeSeller) -> None:
    seller.prices["/gone"] = 0
    seller.schemes = ()
    result = await run("fetch", f"{site}/page")
    assert result.code == 1
    assert "no offer of the 402 may be taken: it makes none" in result.err


async def test_deposit_refund_and_reconcile(run: Run, aggregator: FakeAggregator) -> None:
    assert "2 USDC free" in (await run("wallet", "deposit", "2")).out
    assert aggregator.account.funds == 2_000_000
    assert (await run("wallet", "reconcile", "--json")).out.split() == (
        ["{", '"freed":', "0,", '"charged":', "0,", '"unknown":', "0,", '"disputed":', "0", "}"]
    )
    (row,) = json.loads((await run("wallet", "refund", "--json")).out)
    assert row["amount"] == 2_000_000
    assert (await run("wallet", "refund")).out == "nothing to bring back\n"


async def test_a_wallet_is_created_once(run: Run, tmp_path: Path) -> None:
    password = {"TALLYSTICK_KEYSTORE_PASSWORD": "correct horse"}
    created = json.loads((await run("wallet", "create", "new.json", "--json", **password)).out)
    assert created["key"] == "keystore:new.json"
    assert (tmp_path / "new.json").stat().st_mode & 0o077 == 0
    again = await run("wallet", "create", "new.json", **password)
    assert (again.code, again.err) == (2, "tallystick: the keystore new.json was not written: it exists already\n")
    used = ("--key", "keystore:new.json", "--wallet", "new.db")
    assert (await run("wallet", "deposit", "1", *used, **password)).code == 0
    assert created["address"] in (await run("wallet", "status", *used, **password)).out


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "sentence"),
    [
        (["wallet", "deposit", "1"], {"TALLYSTICK_KEY": "env:NOT_THERE"}, 2, "NOT_THERE is not set"),
        (["wallet", "deposit", "1"], {"TALLYSTICK_KEY": KEY}, 2, "looks like a private key itself"),
        (["wallet", "deposit", "1"], {"TALLYSTICK_OPERATOR": "nowhere.json"}, 2, "nowhere.json"),
        (["wallet", "deposit", "1"], {"TALLYSTICK_WALLET": "nowhere/wallet.db"}, 1, "cannot be opened"),
        (["wallet", "deposit", "1e6"], {}, 2, "AMOUNT: got '1e6', allowed a decimal number above zero"),
        (["wallet", "deposit", "0.00000001"], {}, 2, "AMOUNT: got '0.00000001', allowed a decimal number above zero"),
        (["wallet", "deposit", "0"], {}, 2, "AMOUNT: got '0', allowed a decimal number above zero"),
        (["wallet", "deposit", "-1"], {}, 2, "AMOUNT: got '-1', allowed a decimal number above zero, of at most 6"),
        (["fetch", "https://a.example/", "--max-price", "0"], {}, 2, "--max-price: got '0', allowed a decimal number"),
        (["fetch", "https://a.example/", "--max-price", "-1"], {}, 2, "--max-price: got '-1'"),
        (["fetch", "https://a.example/", "--deposit", ""], {}, 2, "--deposit: got ''"),
        (["fetch", "https://a.example/", "--deposit", "0.0"], {}, 2, "--deposit: got '0.0'"),
        (["wallet", "serve", "--per-day", "-5"], {}, 2, "--per-day: got '-5'"),
        (["wallet", "serve", "--deposit-high", "0"], {}, 2, "--deposit-high: got '0'"),
        (["wallet", "serve", "--deposit-low", "-1"], {}, 2, "--deposit-low: got '-1', allowed a decimal number, of at"),
        (
            ["wallet", "serve", "--deposit-low", "2", "--deposit-high", "1"],
            {},
            2,
            "deposit: got low 2, high 1, allowed",
        ),
        (["wallet", "deposit", "0.00001"], {}, 1, "allowed at least 0.0001 USDC"),
        (["wallet", "withdraw"], {}, 2, "Missing option '--rpc'"),
        (["wallet", "withdraw", "--rpc", "x", "--finalize", "--cancel"], {}, 2, "--finalize, --cancel: got both"),
        (["fetch", "ftp://a.example/"], {}, 1, "the request failed"),
        (["fetch", "https://a.example:port/"], {}, 2, "url"),
        (["fetch", "http://127.0.0.1:1/"], {}, 1, "the request failed"),
    ],
)
async def test_what_is_wrong_is_told_in_one_sentence(
    run: Run, arguments: list[str], environment: dict[str, str], code: int, sentence: str
) -> None:
    result = await run(*arguments, **environment)
    assert (result.code, sentence in result.err) == (code, True), result.err


@pytest.mark.parametrize(
    "command", [["status"], ["refund"], ["reconcile"], ["withdraw", "--rpc", "http://127.0.0.1:1"]], ids="-".join
)
async def test_who_only_looks_makes_no_wallet(run: Run, tmp_path: Path, command: list[str]) -> None:
    result = await run("wallet", *command, "--wallet", "walet.db")
    assert (result.code, result.out) == (2, "")
    assert "--wallet: got walet.db, and there is no such file, allowed the file of a wallet" in result.err
    assert not (tmp_path / "walet.db").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"network": "eip155:0"}, "network"),
        ({"escrow": "0x12"}, "escrow"),
        ({"escrow": "0x" + "00" * 20}, "escrow"),
        ({"aggregator": "no-port"}, "aggregator"),
        ({"tokens": []}, "tokens"),
        ({"withdraw_delay_s": 1}, "withdrawDelay"),
        ({"withdraw_delay_s": "86400"}, "withdraw_delay_s"),
        ({"surprise": 1}, "surprise"),
        ({"ca_file": "nowhere.pem"}, ""),
    ],
)
async def test_an_operator_file_of_another_form_is_refused(
    tmp_path: Path, operator: Operator, change: dict[str, Any], sentence: str
) -> None:
    path = tmp_path / "operator.json"
    write_operator_file(operator, path)
    assert Operator.load(path) == operator
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    if not sentence:
        with pytest.raises(ValueError, match=r"ca_file: got nowhere\.pem"):
            Operator.load(path).root_certificates()
        return
    with pytest.raises(ValueError, match=f"operator.json.*{sentence}"):
        Operator.load(path)


async def test_help_has_examples(run: Run) -> None:
    for arguments in (["fetch"], ["wallet", "withdraw"], ["wallet", "create"], ["wallet", "deposit"]):
        result = await run(*arguments, "--help")
        assert result.code == 0
        assert f"tallystick {' '.join(arguments)}" in result.out
