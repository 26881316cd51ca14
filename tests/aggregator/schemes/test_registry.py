"""Outside of schemes/ nobody tells schemes apart: neither by name nor by what they are made of."""

from pathlib import Path

import pytest

import tallystick_aggregator
from scheme_names import Schemes

SCHEMES = Schemes(Path(tallystick_aggregator.__file__).parent, "schemes", registers={"runtime/app.py"})


def test_nobody_outside_of_schemes_tells_schemes_apart() -> None:
    assert SCHEMES.told_apart_in() == []


@pytest.mark.parametrize(
    "source",
    [
        "if terms.scheme == 'exact': pass",
        "{'deferred': 1}[terms.scheme]",
        "from tallystick.x402 import SCHEME_EXACT",
        "from tallystick import x402\nx402.SCHEME_DEFERRED",
        "from tallystick_aggregator.schemes.exact import ExactPayments",
    ],
)
def test_a_module_that_does_is_found(source: str) -> None:
    assert list(SCHEMES.told_apart("api/grpc/new.py", source))
