"""Outside of the payer's schemes nobody of the payer's side tells schemes apart."""

from pathlib import Path

import pytest

import tallystick_client
from scheme_names import Schemes

PAYER = Schemes(Path(tallystick_client.__file__).parent, "payer.wallet.schemes", open_modules=("port", "standard"))


def test_nobody_of_the_payers_side_tells_schemes_apart() -> None:
    assert PAYER.told_apart_in("payer") == []


@pytest.mark.parametrize(
    "source",
    [
        "if offer.terms.scheme == 'exact': pass",
        "from tallystick.x402 import SCHEME_DEFERRED",
        "from tallystick_client.payer.wallet.schemes.exact import ExactScheme",
    ],
)
def test_a_module_that_does_is_found(source: str) -> None:
    assert list(PAYER.told_apart("payer/http/new.py", source))
