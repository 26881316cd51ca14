"""What `tallystick wallet approve` does: Permit2 may move a token of the allow-list, by the payer's own transaction."""

from tallystick.amounts import parse_price
from tallystick.errors import MalformedError
from tallystick_client.payer.fleet.wallet import Wallet

EVERYTHING = 2**256 - 1


async def approve_token(wallet: Wallet, rpc_url: str, symbol: str, amount: str | None) -> bytes:
    """Approve, and return the transaction's hash; `amount` is a price such as "20 USDC", None for no limit.

    Raises MalformedError, and ChainError where the chain does not take it.
    """
    from tallystick_client.payer.cli.onchain import approve_permit2  # noqa: PLC0415 - web3, which nothing else needs

    found = [(operator, token) for operator in wallet.operators for token in operator.tokens if token.symbol == symbol]
    if not found:
        names = " or ".join(sorted({token.symbol for operator in wallet.operators for token in operator.tokens}))
        raise MalformedError("--token", symbol, names)
    operator, token = found[0]
    limit = EVERYTHING
    if amount is not None:
        price = parse_price(amount, token.decimals, "--amount")
        if price.symbol != symbol:
            raise MalformedError("--amount", amount, f"a price in {symbol}")
        limit = price.amount
    return await approve_permit2(rpc_url, operator, wallet.signer, token.address, limit)
