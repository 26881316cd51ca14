"""The server scheme for npm whose vouchers the facilitator manages, in the official resource server."""

import json
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from trading_site import HERE, NODE


def test_it_passes_on_frees_skips_and_corrects_as_the_one_for_python() -> None:
    program = HERE / "node/managed_seller_check.mjs"
    ran = subprocess.run([NODE, program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    terms = {"receiverAuthorizer": "0x01", "withdrawDelay": 900, "voucherManager": "facilitator"}
    assert told["offer"] == {"name": "USD Coin", "version": "2", "minDeposit": "10000"} | terms
    held = {"type": "voucher", "voucher": {"channelId": "0x05"}, "pendingId": "held"}
    assert told["sent"] == [held | {"amount": "1000"}, held | {"cancel": True, "amount": "0"}]
    assert told["skipHandler"]["body"] == {"message": "Refund acknowledged", "channelId": "0x05"}
    correction = {
        "channelState": {"chargedCumulativeAmount": "7"},
        "voucherState": {"signedMaxClaimable": "7"},
    }
    assert told["told"] == told["offer"] | correction
    assert told["after"] == told["offer"], "the next buyer's 402 has none of it"
