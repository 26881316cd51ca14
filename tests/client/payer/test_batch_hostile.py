"""Sellers that answer payments by `batch-settlement` as they like: what a wallet signs stays within what it asked for.

A seller keeps every voucher that it ever got, and can take the highest. So what counts is what was signed, whatever
came of it: at most one price for each page that the caller asked for, and never more than the budget.
"""

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from batch_seller import DEFAULTS, SCHEME, BatchBuyer, BatchSeller
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import structs
from payer_buyer import OpenWallet
from payer_fakes import CHAIN_ID, OPERATOR, PRICE, FakeAggregator, make_operator, no_sleep

from tallystick import eip712
from tallystick.errors import TallystickError
from tallystick.hexadecimal import checksum, to_hex
from tallystick.signatures import Signer
from tallystick.x402 import (
    PAYMENT_RESPONSE_HEADER,
    PAYMENT_SIGNATURE_HEADER,
    PaymentPayload,
    SettleResponse,
    decode_header,
    encode_header,
)
from tallystick.x402.batch_settlement import BatchSettlementCode, ChannelState, VoucherState
from tallystick_client import Budgets, DepositPolicy, PayingTransport, Wallet
from tallystick_client.payer.errors import OfferNotAllowedError
from tallystick_client.payer.wallet.schemes.batch_settlement import BatchSettlementScheme

HOSTS = ("a.example", "b.example")
HIGH = 200_000
HUGE = 2**128 - 1
CODES = (
    BatchSettlementCode.CUMULATIVE_AMOUNT_MISMATCH,
    BatchSettlementCode.CUMULATIVE_BELOW_CLAIMED,
    BatchSettlementCode.CHANNEL_BUSY,
    BatchSettlementCode.CUMULATIVE_EXCEEDS_BALANCE,
    BatchSettlementCode.CHANNEL_NOT_FOUND,
    "",
)
PROOFS = ("none", "newest", "oldest", "another_channels", "raised", "forged")


@dataclass(frozen=True)
class Says:
    """One answer of a seller. `total`: relative to the highest voucher that it has; None is no state at all."""

    status: int = 200
    code: str = ""
    total: int | None = None
    proof: str = "none"
    charged: int | None = None
    is_lost: bool = False
    balance: int = 0
    price: int = PRICE


TAKES = Says(status=402, code=BatchSettlementCode.CUMULATIVE_AMOUNT_MISMATCH, total=0)
"""A correction to the very total that the refused payment allows."""
SELLS = Says(charged=PRICE, total=0)


@dataclass
class Rogue(BatchSeller):
    """Answers by a script, one line a payment, and has a memory for vouchers. `asked`: the highest price, by host."""

    script: list[Says] = field(default_factory=list)
    has: dict[bytes, list[VoucherState]] = field(default_factory=dict)
    deposits: dict[str, int] = field(default_factory=dict)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        header = request.headers.get(PAYMENT_SIGNATURE_HEADER)
        if header is None:
            return self.ask(request, "pay")
        message = decode_header(header, PaymentPayload, PAYMENT_SIGNATURE_HEADER)
        assert message.accepted.scheme == SCHEME
        self.payments.append(message)
        voucher = message.payload["voucher"]
        id_ = bytes.fromhex(voucher["channelId"][2:])
        known = self.has.setdefault(id_, [])
        newest = VoucherState(int(voucher["maxClaimableAmount"]), bytes.fromhex(voucher["signature"][2:]))
        most = max((one.signed_max_claimable for one in known), default=0)
        assert newest.signed_max_claimable <= most + int(message.accepted.amount), "a step at a time"
        known.append(newest)
        if "deposit" in message.payload:
            deposit = message.payload["deposit"]
            self.deposits[deposit["authorization"]["erc3009Authorization"]["salt"]] = int(deposit["amount"])
        says = self.script.pop(0) if self.script else Says(status=402)
        self.price = says.price
        if says.is_lost:
            raise httpx2.ReadError("lost")
        return self._answer(request, id_, says)

    def signed(self, id_: bytes) -> int:
        return max(one.signed_max_claimable for one in self.has[id_])

    def _answer(self, request: httpx2.Request, id_: bytes, says: Says) -> httpx2.Response:
        extra: dict[str, Any] = {}
        if says.total is not None:
            total = min(HUGE, max(0, self.signed(id_) + says.total))
            extra["channelState"] = ChannelState(id_, says.balance, 0, 0, 0, total).extra()
            extra |= self._proof(id_, says.proof)
        if says.status == 402:
            return self.ask(request, says.code or "no", extra)
        if says.charged is None:
            return httpx2.Response(says.status, text="page")
        extra["chargedAmount"] = str(says.charged)
        receipt = SettleResponse(success=True, transaction="", network=f"eip155:{CHAIN_ID}", amount="", extra=extra)
        return httpx2.Response(says.status, headers={PAYMENT_RESPONSE_HEADER: encode_header(receipt)}, text="page")

    def _proof(self, id_: bytes, proof: str) -> dict[str, Any]:
        mine = self.has[id_]
        others = [one for channel, known in self.has.items() if channel != id_ for one in known] or mine
        found = {
            "newest": mine[-1],
            "oldest": mine[0],
            "another_channels": others[-1],
            "raised": VoucherState(mine[-1].signed_max_claimable + 10 * PRICE, mine[-1].signature),
            "forged": VoucherState(HUGE, bytes(64) + b"\x1b"),
        }.get(proof)
        if found is None:
            return {}
        said = {"signedMaxClaimable": str(found.signed_max_claimable), "signature": to_hex(found.signature)}
        return {"voucherState": said}


corrections = st.builds(
    Says,
    status=st.just(402),
    code=st.just(BatchSettlementCode.CUMULATIVE_AMOUNT_MISMATCH),
    total=st.sampled_from([0, 0, -PRICE, -2 * PRICE, PRICE, HUGE]),
    proof=st.sampled_from(PROOFS),
)
anything = st.builds(
    Says,
    status=st.sampled_from([200, 200, 402, 402, 402, 500, 503]),
    code=st.sampled_from(CODES),
    total=st.one_of(
        st.none(), st.sampled_from([0, -PRICE, PRICE, 1, -1, -HUGE, HUGE, 7 * PRICE]), st.integers(-5 * PRICE, PRICE)
    ),
    proof=st.sampled_from(PROOFS),
    charged=st.one_of(st.none(), st.sampled_from([0, 1, PRICE, PRICE + 1, HUGE]), st.integers(0, PRICE)),
    is_lost=st.sampled_from([False, False, False, True]),
    balance=st.sampled_from([0, 1, HUGE]),
    price=st.sampled_from([PRICE, PRICE, PRICE, 400, 3 * PRICE]),
)
lines = st.one_of(corrections, anything)
requests = st.lists(st.tuples(st.sampled_from(HOSTS), st.sampled_from(["/1", "/2", "/3"])), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([("a.example", "/1")], [TAKES, Says(charged=0, total=0)], 12 * PRICE)
@example([("a.example", "/1")], [replace(TAKES, total=7 * PRICE), Says(charged=0, total=0)], 12 * PRICE)
@example([("a.example", "/1"), ("a.example", "/2")], [SELLS, replace(TAKES, total=-2 * PRICE), TAKES], 12 * PRICE)
@given(requests, st.lists(lines, max_size=30), st.integers(PRICE, 12 * PRICE))
def test_whatever_sellers_answer_no_more_is_signed_than_was_asked_for_and_budgeted(
    asked: list[tuple[str, str]], script: list[Says], budget: int
) -> None:
    asyncio.run(buy(asked, script, budget))


async def buy(asked: list[tuple[str, str]], script: list[Says], budget: int) -> None:
    aggregator = FakeAggregator()
    await aggregator.start()
    seller = Rogue(script=list(script))
    try:
        with tempfile.TemporaryDirectory() as folder:
            wallet = await Wallet.open(
                Path(folder) / "wallet.db",
                key=Signer(bytes([0x11] * 32)),
                operators=[make_operator(aggregator.target)],
                budgets=Budgets(total=budget),
                deposit=DepositPolicy(low=0, high="0.2"),
                schemes=(BatchSettlementScheme(sleep=no_sleep),),
                reconcile_every_s=0,
            )
            async with wallet:
                await buy_all(wallet, seller, asked, budget)
    finally:
        await aggregator.stop()


async def buy_all(wallet: Wallet, seller: Rogue, asked: list[tuple[str, str]], budget: int) -> None:
    buyer = BatchBuyer(wallet, seller, PayingTransport(wallet, seller, sleep=no_sleep))
    allowed = dict.fromkeys(HOSTS, 0)
    for host, path in asked:
        sent = len(seller.payments)
        # Whatever the caller is told, the sums below hold.
        with suppress(TallystickError, httpx2.ReadError):
            await asyncio.wait_for(buyer.get(path, host=host), 10)
        allowed[host] += max((int(payment.accepted.amount) for payment in seller.payments[sent:]), default=0)
        check(wallet, seller, allowed, budget)


def check(wallet: Wallet, seller: Rogue, allowed: dict[str, int], budget: int) -> None:
    """What the sellers could take now."""
    signed = {channel.host: seller.signed(channel.id) for channel in wallet.channels.known if channel.id in seller.has}
    assert all(most <= allowed[host] for host, most in signed.items())
    assert sum(signed.values()) <= budget
    assert sum(seller.deposits.values()) <= HIGH
    for channel in wallet.channels.known:
        assert channel.counted <= channel.signed
        assert seller.signed(channel.id) == channel.signed if channel.id in seller.has else not channel.signed
    wallet._book.check()


# Offers.


Open = Callable[..., Any]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"minDeposit": str(10**30)}, r"deposit.high: got 0.2 USDC, of which channels lock 0 USDC, allowed at least"),
        ({"minDeposit": "a lot"}, r"extra.minDeposit: got 'a lot'"),
        ({"minDeposit": str(2**128)}, r"extra.minDeposit: got "),
        ({"withdrawDelay": 30 * 86_400}, r"extra.withdrawDelay: got 2592000, allowed 900 to 86400 seconds"),
        ({"withdrawDelay": "86400"}, r"extra.withdrawDelay: got '86400', allowed an integer"),
        ({"voucherManager": "nobody"}, r"extra.voucherManager: got 'nobody', allowed \"server\" or \"facilitator\""),
        ({"voucherManager": ["facilitator"]}, r"extra.voucherManager: got "),
        ({"refundAuthorizer": "0x12"}, r"extra.refundAuthorizer: got 0x and 2 hex digits"),
        ({"receiverAuthorizer": "0x" + "66" * 20}, rf"extra.receiverAuthorizer: got .*, allowed {checksum(OPERATOR)}"),
        ({"receiverAuthorizer": None}, r"extra.receiverAuthorizer: got nothing"),
    ],
)
async def test_an_offer_beyond_the_policy_makes_the_wallet_sign_nothing(
    open_wallet: OpenWallet, changes: dict[str, Any], problem: str
) -> None:
    seller = BatchSeller()
    real = seller.offer
    seller.offer = lambda request: structs.replace(  # type: ignore[method-assign]
        real(request), extra=real(request).extra | changes
    )
    wallet = await open_wallet(**DEFAULTS, schemes=(BatchSettlementScheme(sleep=no_sleep),))
    with pytest.raises(OfferNotAllowedError, match=problem):
        await BatchBuyer(wallet, seller, PayingTransport(wallet, seller, sleep=no_sleep)).get()
    assert seller.payments == []
    assert wallet.channels.known == []


async def test_a_token_of_another_contract_makes_the_wallet_sign_nothing(open_wallet: OpenWallet) -> None:
    other = eip712.keccak256(b"another contract")[:20]
    seller = BatchSeller(token=other, token_domain=replace(BatchSeller().token_domain, verifying_contract=other))
    wallet = await open_wallet(**DEFAULTS, schemes=(BatchSettlementScheme(sleep=no_sleep),))
    with pytest.raises(OfferNotAllowedError, match=rf"asset: got {checksum(other)}, allowed a configured token"):
        await BatchBuyer(wallet, seller, PayingTransport(wallet, seller, sleep=no_sleep)).get()
    assert seller.payments == []
