"""The sellers' commands, as a person reads them."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import AsyncMock

import grpc
import pytest
from click.testing import CliRunner, Result

from tallystick_client import Aggregator
from tallystick_client.cli import main
from tallystick_client.seller import LeftOut, Payout, SettledNow, Settlement, SettlementStatus


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"TALLYSTICK_TOKEN": "a-token", "COLUMNS": "80"})


@pytest.fixture
def stranger() -> Iterator[str]:
    """A gRPC server that is no aggregator."""
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def settlement(number: int, network: str, amount: int) -> Settlement:
    payout = Payout(bytes.fromhex("90f79bf6eb2c4f870365e785982e1f101e93b906"), bytes(20), amount)
    return Settlement(
        id=number,
        network=network,
        transaction=bytes.fromhex("ab" * 31 + "cd"),
        status=SettlementStatus.PENDING,
        created_at=1_700_000_000,
        block_number=7,
        gas_used=100_000,
        rows=3,
        payouts=(payout, payout),
    )


@pytest.mark.parametrize(("network", "amount"), [("eip155:8453", 12_345_678), ("eip155:84532", 1_234_567_890)])
def test_settlements_are_read_in_80_columns(monkeypatch: pytest.MonkeyPatch, network: str, amount: int) -> None:
    found = [settlement(number, network, amount) for number in (120, 7)]
    monkeypatch.setattr(Aggregator, "list_settlements", AsyncMock(return_value=found))

    lines = run("settlements").stdout.splitlines()

    assert len(lines) == 1 + 4, "a heading, and a line for each payout"
    assert all(len(line.rstrip()) <= 80 for line in lines)
    for line in lines[1:]:
        for shown in (network, "pending", "2023-11-14 22:13", f"{amount:,}", "0x90F7…b906", "0xabab…abcd"):
            assert shown in line

    data = json.loads(run("settlements", "--json").stdout)
    assert [one["transaction"] for one in data] == ["0x" + "ab" * 31 + "cd"] * 2
    assert data[0]["payouts"][0]["receiver"] == "0x90F79bf6EB2c4f870365E785982E1f101E93b906"


def test_r12_what_was_not_claimed_is_printed_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = LeftOut("eip155:8453", bytes(32), b"\x01" * 20, bytes(20), 12_345, "set aside: ZeroAmount()")
    answer = SettledNow([settlement(7, "eip155:8453", 5)], [left_out])
    monkeypatch.setattr(Aggregator, "settle_now", AsyncMock(return_value=answer))
    some = run("settle")
    assert some.exit_code == 0
    assert "7 eip155:8453" in some.stdout
    assert "not claimed: 12,345 atomic units of 0x0000" in some.stderr
    assert "eip155:8453: set aside: ZeroAmount()" in some.stderr
    answer.clear()
    none = run("settle")
    assert none.exit_code == 1
    assert "Nothing waits" not in none.output
    assert json.loads(run("settle", "--json").stdout) == []


@pytest.mark.parametrize("command", ["settle", "settlements"])
def test_a_server_that_is_no_aggregator_is_told_in_a_sentence(stranger: str, command: str) -> None:
    result = run(command, "--aggregator", stranger)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"tallystick: {stranger}: what answers there is no aggregator")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("typed", "meant"), [("settlments", "settlements"), ("serv", "serve"), ("walet", "wallet")])
def test_a_typing_error_is_answered_with_the_nearest_command(typed: str, meant: str) -> None:
    result = run(typed)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"No such command '{typed}'. Did you mean '{meant}'?\n")


def test_what_is_near_no_command_is_answered_with_none() -> None:
    result = run("quux")
    assert result.exit_code == 2
    assert result.stderr.endswith("No such command 'quux'.\n")


def test_an_option_that_is_unknown_is_no_command() -> None:
    result = run("--serve")
    assert result.exit_code == 2
    assert "No such option" in result.stderr
