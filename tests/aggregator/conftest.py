"""Shared by all tests of the aggregator: their helpers are importable by name, and Hypothesis keeps no deadline."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.append(str(Path(__file__).parent))

# A machine that is busy is no bug; what was found is printed so that it can be replayed anywhere.
settings.register_profile("tallystick", deadline=None, print_blob=True)
settings.load_profile("tallystick")
