"""What `tallystick wallet withdraw` does: a step of the timed way out, for every account of a wallet."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from tallystick.hexadecimal import shorten, to_hex
from tallystick.tokens import Token
from tallystick_client.payer.errors import ChainError
from tallystick_client.payer.fleet.wallet import Wallet
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.texts import show, show_time
from tallystick_client.payer.wallet.rows import SellerChannel

Step = Literal["initiate", "cancel", "finalize"]


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was taken for an account, or had been before: then `transaction` is empty. `returned` in atomic units
    of the token; times in seconds since the epoch. `kind`: "channel" for one with a seller alone. `problem`: why the
    step could not be taken for a channel, while others were.
    """

    account_id: bytes
    token: Token
    transaction: bytes
    finalizes_at: int | None = None
    returned: int | None = None
    kind: Literal["account", "channel"] = "account"
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields: dict[str, Any] = {self.kind: to_hex(self.account_id), "transaction": to_hex(self.transaction)}
        if self.finalizes_at is not None:
            fields["finalizes_at"] = self.finalizes_at
        if self.returned is not None:
            fields["returned"] = self.returned
        return fields | ({"problem": self.problem} if self.problem else {})

    def __str__(self) -> str:
        account = f"{self.kind} {shorten(to_hex(self.account_id))}"
        if self.problem:
            return f"tallystick: {account}: {self.problem}"
        if self.finalizes_at is not None:
            # A node may be behind what it has just mined, and not know the time yet.
            when = f"from {show_time(self.finalizes_at)} on" if self.finalizes_at else "after the delay"
            return f"{account} is being withdrawn: --finalize takes the money {when}"
        if self.returned is not None:
            came = show(self.returned, self.token.decimals, self.token.symbol)
            return f"{account}: {came} came back in {to_hex(self.transaction)}"
        return f"{account} is not being withdrawn any more"


async def withdraw_all(opened: Wallet, rpc: str, step: Step) -> list[Taken]:
    """Take the step for every account and channel for which there is one to take. Raises ChainError.

    A channel whose withdrawal is not due yet keeps no other from its step, and no step that was taken from being told.
    """
    # Here, because web3 takes a second to import and is an extra.
    from tallystick_client.payer.cli.onchain import EscrowCaller  # noqa: PLC0415

    taken: list[Taken] = []
    for account, operator, token in opened.accounts():
        async with EscrowCaller(rpc, operator, opened.signer) as escrow:
            state = await escrow.account(account.config)
            if step == "initiate" and state.withdrawable_at:
                taken.append(Taken(account.id, token, b"", finalizes_at=state.withdrawable_at))
            elif step == "initiate" and state.balance:
                transaction = await escrow.initiate(account.config)
                finalizes_at = (await escrow.account(account.config)).withdrawable_at
                taken.append(Taken(account.id, token, transaction, finalizes_at=finalizes_at))
            elif step == "cancel" and state.withdrawable_at:
                taken.append(Taken(account.id, token, await escrow.cancel(account.config)))
            elif step == "finalize" and state.withdrawable_at:
                returned, transaction = await escrow.finalize(account.config)
                await opened.record_withdrawal(account.id, returned)
                taken.append(Taken(account.id, token, transaction, returned=returned))
    failed: list[tuple[Taken, ChainError]] = []
    for channel in opened.channels.known if step != "cancel" else []:
        claims, counted_in = opened.channels.operator_of(channel), opened.channels.token_of(channel)
        if claims is None or counted_in is None:
            continue
        note = partial(Taken, channel.id, counted_in, kind="channel")
        try:
            taken += await _withdraw_channel(opened, rpc, step, channel, claims, note)
        except ChainError as error:
            failed.append((note(b"", problem=str(error)), error))
    if failed and not taken:
        raise failed[0][1]
    return taken + [note for note, _ in failed]


async def _withdraw_channel(
    opened: Wallet, rpc: str, step: Step, channel: SellerChannel, operator: Operator, note: Callable[..., Taken]
) -> list[Taken]:
    """The step for a channel with one seller alone, whose withdrawal cannot be given up; none where there is none."""
    from tallystick_client.payer.cli.channel_onchain import ChannelCaller  # noqa: PLC0415

    async with ChannelCaller(rpc, operator.network.chain_id, opened.signer) as contract:
        state = await contract.channel(channel)
        if step == "initiate" and state.withdrawable_at:
            return [note(b"", finalizes_at=state.withdrawable_at)]
        if step == "initiate" and state.left:
            # Before it is sent: a payment that comes meanwhile opens another channel.
            await opened.channels.record(channel, state.balance, is_leaving=True)
            transaction = await contract.initiate(channel, state.left)
            return [note(transaction, finalizes_at=(await contract.channel(channel)).withdrawable_at)]
        if step == "finalize" and state.withdrawable_at:
            returned, transaction = await contract.finalize(channel)
            await opened.channels.record(channel, state.balance - returned, is_leaving=True)
            return [note(transaction, returned=returned)]
        await opened.channels.record(channel, state.balance, is_leaving=False)
        return []
