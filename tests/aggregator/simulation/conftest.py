"""The simulation's own modules are importable by name."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
