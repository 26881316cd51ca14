"""`tallystick estimate`: its tables, its JSON, its errors, and that it asks nobody unless told."""

import json
import socket
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner, Result

from tallystick.errors import MalformedError
from tallystick_client.cli import main
from tallystick_client.estimate import gas_price
from tallystick_client.estimate.gas_price import read_gas_price

CRAWL = ("--payers", "10", "--sellers", "100", "--requests-per-hour", "500")
PRICES = ("--gas-gwei", "0.01", "--eth-usd", "3000")
URL = "http://node.invalid/a-key"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["estimate", *arguments], env={"COLUMNS": "80"})


def data(*arguments: str) -> dict[str, Any]:
    result = run(*CRAWL, *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def test_the_tables_fit_80_columns_and_end_without_blanks() -> None:
    for arguments in ((*CRAWL, *PRICES), CRAWL, ("--help",)):
        lines = run(*arguments).output.splitlines()
        assert max(map(len, lines)) <= 80
        assert [line for line in lines if line != line.rstrip()] == []


def test_figures_that_are_too_long_for_80_columns_are_not_cut() -> None:
    most = ("--payers", "1000000", "--sellers", "1000000", "--requests-per-hour", "1000000000")
    shown = run(*most, "--gas-gwei", "1000000", "--eth-usd", "1000000000", "--interval", "1m")
    assert shown.exit_code == 0
    assert f"{24 * 10**15 * 64_536:,}" in shown.output
    assert "…" not in shown.output


def test_the_cheapest_and_the_break_even_are_told() -> None:
    output = run(*CRAWL, *PRICES).output
    assert "Cheapest: deferred;" in output
    assert "deferred takes less than exact from 5 requests a day of each payer." in output
    few = run("--payers", "1", "--sellers", "1", "--requests-per-hour", "1").output
    assert "Cheapest: exact;" in few


def test_where_the_figures_come_from_is_told() -> None:
    output = " ".join(run(*CRAWL).output.split())
    assert "Gas of deferred and exact is measured on our contract" in output
    assert "Gas of batch-settlement is published for the original contract, not measured" in output
    assert "the L1 data fee, which Base adds" in output
    assert "L1 data fee" not in run(*CRAWL, "--chain", "ethereum").output
    assert "Without --gas-gwei" in output


def test_json_has_these_keys() -> None:
    found = data(*PRICES)
    assert set(found) == {
        "chain", "coin", "gas_wei", "usd_per_coin", "payers", "sellers", "sellers_per_payer", "requests_per_day",
        "settlement_interval_s", "deposits_per_day", "claims", "schemes", "cheapest",
        "break_even_requests_per_payer_per_day", "not_counted",
    }  # fmt: skip
    assert list(found["schemes"]) == ["deferred", "batch-settlement", "exact"]
    for scheme in found["schemes"].values():
        assert set(scheme) == {"per_day", "opening", "gas_per_request"}
        assert set(scheme["opening"]) == {"transactions", "gas", "wei", "coin", "usd"}
        assert set(scheme["per_day"]) == {*scheme["opening"], "items"}
        assert all(set(item) == {"name", *scheme["opening"]} for item in scheme["per_day"]["items"])
    names = [item["name"] for item in found["schemes"]["batch-settlement"]["per_day"]["items"]]
    assert names == ["top-ups", "claims", "settles"]


def test_sums_in_json_are_exact_to_the_last_digit() -> None:
    for scheme in data("--gas-gwei", "0.012345679", "--eth-usd", "2999.123457")["schemes"].values():
        day = scheme["per_day"]
        for key in ("transactions", "gas", "wei", "coin", "usd"):
            assert sum(Decimal(item[key]) for item in day["items"]) == Decimal(day[key])
        assert Decimal(day["usd"]) == day["gas"] * Decimal("12345679e-18") * Decimal("2999.123457")


def test_without_prices_there_is_gas_and_no_money() -> None:
    found = data()
    assert (found["gas_wei"], found["usd_per_coin"]) == (None, None)
    assert found["schemes"]["exact"]["per_day"]["usd"] is None
    assert found["schemes"]["exact"]["per_day"]["wei"] is None
    assert "USD a request" not in run(*CRAWL).output


def test_an_approval_is_cheaper_than_vouchers_of_many_rows() -> None:
    assert (
        data("--claims", "approval")["schemes"]["deferred"]["gas_per_request"]
        < (data()["schemes"]["deferred"]["gas_per_request"])
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--payers", "0"), "'--payers': got '0', allowed a whole number from 1 to 1,000,000"),
        (("--payers", "-3"), "'--payers': got '-3', allowed a whole number from 1 to 1,000,000"),
        (("--sellers", "many"), "'--sellers': got 'many', allowed a whole number"),
        (("--requests-per-hour", "1.5"), "'--requests-per-hour': got '1.5', allowed a whole number"),
        (("--sellers-per-payer", "101"), "--sellers-per-payer: got 101, allowed 1 to 100, the number of --sellers"),
        (("--interval", "7h"), "'--interval': got '7h', allowed 1m to 1d that divides a day"),
        (("--interval", "0s"), "'--interval': got '0s', allowed 1m to 1d"),
        (("--interval", "hour"), "'--interval': got 'hour', allowed 1m to 1d"),
        (("--gas-gwei", "0"), "'--gas-gwei': got '0', allowed a decimal from 0.000000001 to 1,000,000"),
        (("--gas-gwei", "NaN"), "'--gas-gwei': got 'NaN', allowed a decimal"),
        (("--gas-gwei", "1e999999"), "'--gas-gwei': got '1e999999', allowed a decimal"),
        (("--gas-gwei", "0.0000000011"), "with at most 9 digits after the point"),
        (("--gas-gwei", "1", "--eth-usd", "-1"), "'--eth-usd': got '-1', allowed a decimal from 0.000001"),
        (("--deposits-per-day", "1001"), "'--deposits-per-day': got '1001', allowed a decimal from 0 to 1,000"),
        (("--chain", "solana"), "'--chain': 'solana' is not one of 'arbitrum', 'base', 'ethereum', 'optimism'"),
        (("--gas-gwei", "1", "--rpc-url", URL), "--rpc-url: got one beside --gas-gwei, allowed either"),
        (("--eth-usd", "3000"), "--eth-usd: got one without a price of gas, allowed beside"),
    ],
)
def test_bad_input_is_named_with_what_came_and_what_is_allowed(arguments: tuple[str, ...], told: str) -> None:
    result = run(*CRAWL, *arguments)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())


def test_nobody_is_asked_unless_a_node_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(gas_price, "read_gas_price", refuse)
    assert run(*CRAWL, *PRICES).exit_code == 0


def node(answer: httpx2.Response, asked: list[Any] | None = None) -> httpx2.MockTransport:
    def handle(request: httpx2.Request) -> httpx2.Response:
        if asked is not None:
            asked.append(json.loads(request.content)["method"])
        return answer

    return httpx2.MockTransport(handle)


def test_a_node_is_asked_for_the_gas_price_and_nothing_else() -> None:
    asked: list[Any] = []
    transport = node(httpx2.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": "0x5f5e100"}), asked)
    assert read_gas_price(URL, transport) == 100_000_000
    assert asked == ["eth_gasPrice"]


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (httpx2.Response(200, json={"result": "0x0"}), "'0x0'"),
        (httpx2.Response(200, json={"result": "0xzz"}), "'0xzz'"),
        (httpx2.Response(200, json={"result": hex(10**15 + 1)}), "'0x38d7ea4c68001'"),
        (httpx2.Response(200, json={"error": {"code": -32601}}), "HTTP 200 without a price"),
        (httpx2.Response(200, json=[]), "HTTP 200 without a price"),
        (httpx2.Response(502, text="<html>"), "HTTP 502 without a price"),
    ],
)
def test_an_answer_that_is_no_price_is_told(answer: httpx2.Response, got: str) -> None:
    with pytest.raises(MalformedError, match="--rpc-url: got ") as caught:
        read_gas_price(URL, node(answer))
    assert caught.value.got == got


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "nonsense", "http://[", "http://127.0.0.1:1/a-key"])
def test_a_node_that_does_not_answer_is_told_without_its_key(url: str) -> None:
    result = run(*CRAWL, "--rpc-url", url)
    assert result.exit_code == 1
    assert "--rpc-url: got no answer (" in result.output
    assert "a-key" not in result.output
