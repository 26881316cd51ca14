"""A running fake aggregator, and wallets that pay through it."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

from payer_buyer import Buyer, OpenWallet
from payer_fakes import FakeAggregator, FakeSeller, make_operator

from tallystick.signatures import Signer
from tallystick_client import Budgets, DepositPolicy, Operator, Wallet


@pytest.fixture
def signer() -> Signer:
    return Signer(bytes([0x11] * 32))


@pytest.fixture
async def aggregator() -> AsyncIterator[FakeAggregator]:
    fake = FakeAggregator()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def operator(aggregator: FakeAggregator) -> Operator:
    return make_operator(aggregator.target)


@pytest.fixture
def seller(aggregator: FakeAggregator, operator: Operator) -> FakeSeller:
    return FakeSeller(aggregator, operator)


@pytest.fixture
async def open_wallet(tmp_path: Path, signer: Signer, operator: Operator) -> AsyncIterator[OpenWallet]:
    """Opens wallets on one file; closes what is still open at the end."""
    opened: list[Wallet] = []

    async def open_(**settings: Any) -> Wallet:
        defaults: dict[str, Any] = {
            "key": signer,
            "operators": [operator],
            "budgets": Budgets(),
            "deposit": DepositPolicy(low="0.1", high="1"),
            "reconcile_every_s": 0,
        }
        path = settings.pop("path", tmp_path / "wallet.db")
        wallet = await Wallet.open(path, **{**defaults, **settings})
        opened.append(wallet)
        return wallet

    yield open_
    for wallet in opened:
        await wallet.close()


@pytest.fixture
async def wallet(open_wallet: OpenWallet) -> Wallet:
    return await open_wallet()


@pytest.fixture
def buyer(wallet: Wallet, seller: FakeSeller) -> Buyer:
    return Buyer(wallet, seller)
