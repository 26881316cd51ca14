import pytest

from tallystick.tokens import Token
from tallystick_client.payer.cli.withdrawals import Taken

TOKEN = Token(bytes(20), "USDC", 6, "USD Coin", "2")
ACCOUNT = bytes([0xAB] * 32)
HASH = bytes([0xCD] * 32)


@pytest.mark.parametrize(
    ("taken", "text", "fields"),
    [
        (
            Taken(ACCOUNT, TOKEN, HASH, finalizes_at=1_800_000_000),
            "account 0xabab…abab is being withdrawn: --finalize takes the money from 2027-01-15T08:00:00+00:00 on",
            {"finalizes_at": 1_800_000_000},
        ),
        (
            Taken(ACCOUNT, TOKEN, HASH, finalizes_at=0),
            "account 0xabab…abab is being withdrawn: --finalize takes the money after the delay",
            {"finalizes_at": 0},
        ),
        (
            Taken(ACCOUNT, TOKEN, HASH, returned=1_500_000),
            f"account 0xabab…abab: 1.5 USDC came back in 0x{HASH.hex()}",
            {"returned": 1_500_000},
        ),
        (Taken(ACCOUNT, TOKEN, HASH), "account 0xabab…abab is not being withdrawn any more", {}),
    ],
)
def test_a_step_is_told_to_people_and_to_programs(taken: Taken, text: str, fields: dict[str, int]) -> None:
    assert str(taken) == text
    assert taken.as_dict() == {"account": f"0x{ACCOUNT.hex()}", "transaction": f"0x{HASH.hex()}", **fields}
