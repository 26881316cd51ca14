"""Shared by all tests: `anvil` and `scripts` are importable; whoever asks for a chain gets one of this worker's own."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT / "tests", ROOT / "scripts"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from anvil import anvil_process, devnet  # noqa: E402

__all__ = ["anvil_process", "devnet"]
