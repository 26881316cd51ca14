"""The README's snippets and then those of its pages for sellers and payers, and those of the guides, run in their order
as a newcomer would, on free ports and in a folder of their own.
"""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from waiting import wait_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text().partition("## Try it yourself")[2].partition("\n## ")[0]
SELLERS = (ROOT / "docs/sellers.md").read_text()
PAYERS = (ROOT / "docs/payers.md").read_text()
"""It comes last: it ends a day later."""
FACILITATOR = (ROOT / "docs/guides/facilitator.md").read_text()
PORTS = ("8545", "7402", "8000", "8001", "8002", "8003", "8402", "4021", "4022")
STEP_TIMEOUT_S = 90
A_DAY_LATER = "# a day later\n"


def snippets(page: str) -> list[tuple[str, str]]:
    """(language, code) of every fenced block of a page, in order."""
    return re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)


def file_names(page: str) -> list[str]:
    """The names under which a page has its Python and JavaScript snippets saved."""
    return re.findall(r"[Ss]ave this as `([\w.]+)`", page)


class Shell:
    """One bash that keeps its state between snippets, as a newcomer's terminal does."""

    def __init__(self, folder: Path) -> None:
        self._output = folder / "terminal.log"
        self.folder = folder
        log = self._output.open("wb")
        # Its own session: at the end everything that it started in the background is ended, and nothing else.
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        log.close()
        self._count = 0

    def run(self, code: str) -> str:
        """Type a snippet, wait until it is done, and return what it printed. It must succeed."""
        self._count += 1
        end = f"snippet {self._count} ended with "
        before = len(self.output)
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{code}\necho '{end}'$?\n".encode())
        self._bash.stdin.flush()
        self.wait_for(end, before)
        printed = self.output[before:]
        assert f"{end}0" in printed, printed
        return printed

    def wait_for(self, text: str, since: int) -> None:
        """Wait until the terminal shows this after its first `since` characters."""
        wait_until(lambda: text in self.output[since:], STEP_TIMEOUT_S, lambda: f"no {text!r} in:\n{self.output}")

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def close(self) -> None:
        os.killpg(self._bash.pid, signal.SIGTERM)
        try:
            wait_until(self._all_ended, 15, lambda: "what the snippets left running does not end")
        except AssertionError:
            os.killpg(self._bash.pid, signal.SIGKILL)
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        self._bash.wait()

    def _all_ended(self) -> bool:
        self._bash.poll()
        try:
            os.killpg(self._bash.pid, 0)
        except ProcessLookupError:
            return True
        return False


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    for name in ("scripts", "contracts", ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    shell = Shell(tmp_path)
    try:
        yield shell
    finally:
        shell.close()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run_page(shell: Shell, page: str, ports: dict[str, str]) -> str:
    """Run a page's snippets; returns all that was printed meanwhile."""
    began = len(shell.output)
    names = iter(file_names(page))
    for language, code in snippets(page):
        for port, free in ports.items():
            code = re.sub(rf"(:|--port |PORT=){port}\b", rf"\g<1>{free}", code)  # noqa: PLW2901
        if language in {"python", "js"}:
            (shell.folder / next(names)).write_text(code)
            continue
        # A person reads what is printed before going on; `deploy` must not overtake the chain, nor the shop the server.
        for command in re.split(rf"(?<=&)\n|(?={A_DAY_LATER})", code):
            since = len(shell.output)
            if command.startswith(A_DAY_LATER):
                end_a_day(ports["8545"])
            shell.run(with_targets(command, ports["7402"]))
            wait_for_background(shell, command, ports, since)
    return shell.output[began:]


def with_targets(command: str, port: str) -> str:
    """The command with the aggregator's port where it relies on the default."""
    listening = command.replace("tallystick deploy --dev", f"tallystick deploy --dev --listen 127.0.0.1:{port}")
    return re.sub(
        r"^tallystick (settle|settlements)$",
        rf"tallystick \1 --aggregator 127.0.0.1:{port}",
        listening,
        flags=re.MULTILINE,
    )


def end_a_day(port: str) -> None:
    """Have the chain's clock pass the default withdraw delay."""
    for method, parameters in (("evm_increaseTime", [86_401]), ("evm_mine", [])):
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        assert "error" not in httpx2.post(f"http://127.0.0.1:{port}", json=call).json()


def wait_for_background(shell: Shell, command: str, ports: dict[str, str], since: int) -> None:
    """Wait until what a snippet left running answers."""
    if not command.endswith("&"):
        return
    if "anvil" in command:
        wait_for_port(ports["8545"])
    if "serve" in command:
        shell.wait_for("listening on ", since)
    if port := re.search(r"(?:uvicorn|flask) .*--port (\d+)|PORT=(\d+) node", command):
        wait_for_port(port[1] or port[2])


def wait_for_port(port: str) -> None:
    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(port))) == 0

    wait_until(listens, STEP_TIMEOUT_S, lambda: f"nothing listens on {port}")


@pytest.mark.timeout(400)
def test_a_newcomer_gets_through_the_readme_and_the_pages_for_sellers_and_payers(shell: Shell) -> None:
    ports = {port: free_port() for port in PORTS}
    printed = run_page(shell, README, ports)
    assert "100 articles read" in printed

    printed = run_page(shell, SELLERS, ports)
    assert '{"report":"tally"}' in printed
    assert "it cost 0.005 USDC by deferred" in printed
    assert "it cost 0.004 USDC by deferred" in printed
    assert "500 answers, as the first: channel_unknown" in printed
    assert "9,000" in printed, "the settlement's payout, in atomic units"

    printed = run_page(shell, PAYERS, ports)
    assert "it cost 0.001 USDC by deferred" in printed
    assert "200 charged 1000 of 1000" in printed
    assert "is being withdrawn: --finalize takes the money from" in printed
    assert "1 USDC came back in" in printed

    assert "TypeError" not in shell.output
    assert "Traceback" not in shell.output


@pytest.mark.timeout(400)
def test_a_newcomer_gets_through_the_guide_to_the_official_sdks(shell: Shell) -> None:
    (shell.folder / "tests").symlink_to(ROOT / "tests")

    printed = run_page(shell, FACILITATOR, {port: free_port() for port in PORTS})

    paid = re.findall(r"200 (\{.*\}) paid in 0x[0-9a-f]{64}", printed)
    assert paid == ['{"news":"tally"}', '{"weather":"kyoto"}']
    assert "Traceback" not in shell.output
