"""The guides' snippets, run in the README's playground."""

import re

import pytest

from docs.test_snippets import PORTS, README, ROOT, Shell, free_port, run_page, shell, snippets

__all__ = ["shell"]

PLAYGROUND = "".join(
    f"```sh\n{code}```\n" for _, code in snippets(README) if "deploy --dev" in code or "seller add" in code
)


@pytest.mark.timeout(400)
def test_the_official_python_sdk_sells_and_buys(shell: Shell) -> None:
    ports = {port: free_port() for port in PORTS}
    run_page(shell, PLAYGROUND, ports)
    printed = run_page(shell, (ROOT / "docs/guides/python-sdk.md").read_text(), ports)
    assert "100 articles bought" in printed
    assert re.search(r"200 \{\"article\": ?\"tally\"\}", printed)
    assert "Traceback" not in shell.output
