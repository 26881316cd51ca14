"""The README's snippets, run in their order as a newcomer would, on free ports and in a folder of their own."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PORTS = ("8545", "7402", "8000")
STEP_TIMEOUT_S = 90


def snippets() -> list[tuple[str, str]]:
    """(language, code) of every fenced block from "Try it yourself" on, in order."""
    part = README.partition("## Try it yourself")[2].partition("\n## ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", part, re.DOTALL)


def file_names() -> list[str]:
    """The names under which the README has its Python snippets saved."""
    return re.findall(r"Save this as `([\w.]+)`", README)


class Shell:
    """One bash that keeps its state between snippets, as a newcomer's terminal does."""

    def __init__(self, folder: Path) -> None:
        self._output = folder / "terminal.log"
        self._folder = folder
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
        self.wait_for(end)
        printed = self.output[before:]
        assert f"{end}0" in printed, printed
        return printed

    def wait_for(self, text: str) -> None:
        """Wait until the terminal shows this."""
        deadline = time.monotonic() + STEP_TIMEOUT_S
        while text not in self.output:
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.output}"
            time.sleep(0.05)

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def close(self) -> None:
        os.killpg(self._bash.pid, signal.SIGTERM)
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            self._bash.poll()
            try:
                os.killpg(self._bash.pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.05)
        else:
            os.killpg(self._bash.pid, signal.SIGKILL)
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        self._bash.wait()


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


@pytest.mark.timeout(400)
def test_a_newcomer_gets_through_the_readme(shell: Shell, tmp_path: Path) -> None:
    ports = {port: free_port() for port in PORTS}
    names = iter(file_names())
    for language, code in snippets():
        for port, free in ports.items():
            code = code.replace(f":{port}", f":{free}").replace(f"--port {port}", f"--port {free}")  # noqa: PLW2901
        if language == "python":
            (tmp_path / next(names)).write_text(code)
            continue
        # A person reads what is printed before going on; `deploy` must not overtake the chain, nor the shop the server.
        for command in re.split(r"(?<=&)\n", code):
            with_listen = command.replace(
                "tallystick deploy --dev", f"tallystick deploy --dev --listen 127.0.0.1:{ports['7402']}"
            )
            with_target = re.sub(
                r"tallystick settle$",
                f"tallystick settle --aggregator 127.0.0.1:{ports['7402']}",
                with_listen,
                flags=re.MULTILINE,
            )
            printed = shell.run(with_target)
            wait_for_background(shell, command, ports)
            if "crawl.py" in command:
                assert "100 articles read" in printed
    assert "TypeError" not in shell.output
    assert "Traceback" not in shell.output


def wait_for_background(shell: Shell, command: str, ports: dict[str, str]) -> None:
    """Wait until what a snippet left running answers."""
    if "anvil" in command:
        wait_for_port(ports["8545"])
    if "serve" in command:
        shell.wait_for("listening on ")
    if "uvicorn" in command:
        shell.wait_for("running on ")


def wait_for_port(port: str) -> None:
    deadline = time.monotonic() + STEP_TIMEOUT_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on {port}")
