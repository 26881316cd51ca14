"""What the SDK's servers ask for a page: prices in money, in tokens that the facilitator tells or the seller knows."""

from collections.abc import Mapping, Sequence
from typing import Any

from x402.schemas import AssetAmount
from x402.schemas.helpers import parse_money

from tallystick.amounts import parse_price
from tallystick.errors import MalformedError
from tallystick.hexadecimal import checksum, parse_address
from tallystick.tokens import Token


class Prices:
    """Prices and tokens by network. `tokens`: what is known where the facilitator tells none."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._own = tuple(tokens)
        self._told: dict[str, tuple[Token, ...]] = {}

    def learn(self, network: str, extra: Mapping[str, Any]) -> None:
        """Remember what a SupportedKind's `extra` tells of tokens. Raises MalformedError."""
        assets = extra.get("assets", [])
        self._told[network] = tuple(_token(asset, f"extra.assets[{index}]") for index, asset in enumerate(assets))

    def parse(self, price: Any, network: str) -> AssetAmount:
        """A price in atomic units: "$0.001" or "0.001 USDC" of a token that is known, or an AssetAmount of any.

        Raises MalformedError, a ValueError, on a price that the token cannot express, and where it is not clear which
        token is meant.
        """
        if isinstance(price, AssetAmount | dict):
            amount = AssetAmount.model_validate(price)
            parse_address(amount.asset, "price.asset")
            return amount
        money = parse_money(price)
        decimal = money.get("amount", "")
        token = self._meant(network, money.get("symbol"), price)
        exact = parse_price(f"{decimal} {token.symbol}", token.decimals)
        return AssetAmount(amount=str(exact.amount), asset=checksum(token.address))

    def find(self, asset: str, network: str) -> Token | None:
        """A token that is known. Raises MalformedError where `asset` is no address."""
        address = parse_address(asset, "asset")
        return next((token for token in self._known(network) if token.address == address), None)

    def _known(self, network: str) -> tuple[Token, ...]:
        return self._told.get(network) or self._own

    def _meant(self, network: str, symbol: str | None, price: object) -> Token:
        tokens = self._known(network)
        meant = [token for token in tokens if symbol is None or token.symbol.upper() == symbol]
        if len(meant) != 1:
            names = " or ".join(f'"0.001 {token.symbol}"' for token in tokens) or "an AssetAmount"
            raise MalformedError("price", str(price), f"a price in one of the facilitator's tokens: {names}")
        return meant[0]


class Priced:
    """What the SDK asks every server scheme about prices. `tokens`: as `Prices` has them."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._prices = Prices(tokens)

    def parse_price(self, price: Any, network: str) -> AssetAmount:
        """As `Prices.parse`."""
        return self._prices.parse(price, network)

    def get_asset_decimals(self, asset: str, network: str) -> int | None:
        """The decimals of a token that is known."""
        token = self._prices.find(asset, network)
        return None if token is None else token.decimals


def _token(told: Mapping[str, Any], field: str) -> Token:
    decimals = told.get("decimals")
    if not isinstance(decimals, int):
        raise MalformedError(f"{field}.decimals", decimals, "an integer")
    return Token(
        parse_address(told.get("asset"), f"{field}.asset"),
        str(told.get("symbol", "")),
        decimals,
        str(told.get("name", "")),
        str(told.get("version", "")),
        int(told.get("minDeposit", 0)),
    )
