"""Runs the payer's commands as a person does: each a process of its own."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, NamedTuple

from payer_fakes import write_operator_file

from tallystick_client import Operator

KEY = "11" * 32


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Result]]


def command_runner(tmp_path: Path, operator: Operator) -> Run:
    """Runs `tallystick ...` with a wallet in a folder of its own."""
    write_operator_file(operator, tmp_path / "operator.json")
    (tmp_path / "payer.key").write_text(KEY)
    (tmp_path / "payer.key").chmod(0o600)

    async def run_(*arguments: str, stdout: int | IO[bytes] = asyncio.subprocess.PIPE, **environment: str) -> Result:
        settings = {
            "TALLYSTICK_WALLET": str(tmp_path / "wallet.db"),
            "TALLYSTICK_KEY": f"file:{tmp_path / 'payer.key'}",
            "TALLYSTICK_OPERATOR": str(tmp_path / "operator.json"),
            "COLUMNS": "200",
            **environment,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tallystick_client.cli",
            *arguments,
            env=os.environ | settings,
            cwd=tmp_path,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        out = out or b""
        assert "Traceback" not in err.decode()
        assert KEY not in out.decode() + err.decode()
        return Result(process.returncode or 0, out.decode(), err.decode())

    return run_
