"""The chain tests' harness serves here too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "chain"))
