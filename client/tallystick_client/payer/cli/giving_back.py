"""What `tallystick wallet refund` does: accounts are refunded by their operators, channels by their sellers."""

from dataclasses import dataclass
from typing import Any

import httpx2

from tallystick.errors import TallystickError
from tallystick.hexadecimal import checksum, to_hex
from tallystick.tokens import Token
from tallystick_client.payer.fleet.wallet import Wallet
from tallystick_client.payer.http.refunds import ask_back
from tallystick_client.payer.texts import show


@dataclass(frozen=True, slots=True)
class GivenBack:
    """What came back: `amount` atomic units, and the transaction, 0x-hex. `host`: of a seller, who names both.

    `channel_id`: of the channel with that seller. `problem`: why nothing came back.
    """

    token: Token
    amount: int
    transaction: str
    host: str = ""
    problem: str = ""
    channel_id: bytes = b""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        row: dict[str, Any] = {
            "token": checksum(self.token.address), "amount": self.amount, "transaction": self.transaction
        }  # fmt: skip
        if self.channel_id:
            row |= {"channel": to_hex(self.channel_id), "host": self.host}
        return row | ({"problem": self.problem} if self.problem else {})

    def __str__(self) -> str:
        if self.problem:
            return f"tallystick: {self.problem}"
        by = f", as {self.host} says" if self.host else ""
        if not self.amount:
            return f"nothing to bring back{by}"
        return f"{show(self.amount, self.token.decimals, self.token.symbol)} came back in {self.transaction}{by}"


async def refund_all(opened: Wallet) -> list[GivenBack]:
    """Ask for all that is not owed to sellers. Who does not give it back keeps nobody else from being asked."""
    found: list[GivenBack] = []
    for account, operator, counted_in in opened.accounts():
        try:
            refunded = await opened.refund_account(account, operator, counted_in)
        except TallystickError as error:
            found.append(GivenBack(counted_in, 0, "", problem=str(error)))
        else:
            found.append(GivenBack(counted_in, refunded.amount, to_hex(refunded.transaction)))
    async with httpx2.AsyncClient() as http:
        for channel in opened.channels.known:
            token = opened.channels.token_of(channel)
            if token is None or channel.balance <= channel.counted:
                continue
            if not channel.url:
                problem = f"the book knows no page of {channel.host} to ask at; `tallystick wallet withdraw` needs none"
                found.append(GivenBack(token, 0, "", channel.host, problem, channel.id))
                continue
            try:
                amount, transaction = await ask_back(opened, http, channel)
            except (TallystickError, httpx2.HTTPError) as error:
                problem = str(error) or type(error).__name__
                found.append(GivenBack(token, 0, "", channel.host, problem, channel.id))
            else:
                found.append(GivenBack(token, amount, transaction, channel.host, channel_id=channel.id))
    return found
