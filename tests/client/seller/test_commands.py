"""The sellers' commands, as a person reads them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from click.testing import CliRunner, Result

from tallystick_client.cli import main


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
