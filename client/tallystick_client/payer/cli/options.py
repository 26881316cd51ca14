"""What the payer's commands have in common: the options that name a wallet, and how a failure is told."""

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol, TypedDict, Unpack

import click
import httpx2

from tallystick.errors import Described, MalformedError, TallystickError
from tallystick_client.cli import EXIT_CONFIGURATION, EXIT_FAILED
from tallystick_client.payer.fleet.wallet import Wallet
from tallystick_client.payer.policy.budgets import Budgets, DepositPolicy, atomic
from tallystick_client.payer.policy.operators import Operator

_MAY_BE_ZERO: Final = frozenset({"--deposit-low"})

_WALLET = click.option(
    "--wallet", "path", default="wallet.db", show_default=True, envvar="TALLYSTICK_WALLET", metavar="FILE",
    show_envvar=True, help="The wallet's book.",
)  # fmt: skip
_KEY = click.option(
    "--key", default="keystore:wallet.key.json", show_default=True, envvar="TALLYSTICK_KEY", metavar="REF",
    show_envvar=True, help="The payer's key: keystore:PATH, file:PATH or env:NAME.",
)  # fmt: skip
_OPERATOR = click.option(
    "--operator", "operators", multiple=True, default=["operator.json"], show_default=True,
    envvar="TALLYSTICK_OPERATOR", show_envvar=True, metavar="FILE", help="Whom the wallet may pay through; repeatable.",
)  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="Print data instead of text.")


class Settings(TypedDict, total=False):
    """What the commands choose of what `Wallet.open` takes."""

    budgets: Budgets
    deposit: DepositPolicy | None
    max_headroom: int
    allow_exact: bool
    approve_every_s: float
    reconcile_every_s: float
    keep_workers: bool


class OpenWallet(Protocol):
    """Opens the wallet that the options name."""

    def __call__(
        self, amounts: Mapping[str, str | None] | None = None, **settings: Unpack[Settings]
    ) -> Awaitable[Wallet]:
        """The wallet; `amounts`: what came by these options, in the token's unit."""
        ...


def with_wallet(command: Callable[..., Awaitable[None]], *, creates: bool = True) -> Callable[..., None]:
    """Give a command the options that name a wallet, and the coroutine that opens it as its first argument.

    `creates`: where there is no such file, the command makes it.
    """

    @_WALLET
    @_KEY
    @_OPERATOR
    @functools.wraps(command)
    def run(path: str, key: str, operators: tuple[str, ...], **options: object) -> None:
        def open_wallet(
            amounts: Mapping[str, str | None] | None = None, **settings: Unpack[Settings]
        ) -> Awaitable[Wallet]:
            if not creates and not Path(path).exists():
                makes = "the file of a wallet; `tallystick wallet deposit` and `tallystick fetch` make one"
                raise MalformedError("--wallet", Described(f"{path}, and there is no such file"), makes)
            allowed = [Operator.load(operator) for operator in operators]
            for option, amount in (amounts or {}).items():
                _check_amount(option, amount, allowed)
            settings.setdefault("reconcile_every_s", 0)
            return Wallet.open(path, key=key, operators=allowed, **settings)

        run_to_end(lambda: command(open_wallet, **options))

    return run


with_existing_wallet = functools.partial(with_wallet, creates=False)
"""For commands that only look, or bring back what is there."""


def _check_amount(option: str, amount: str | None, operators: Iterable[Operator]) -> None:
    """Raises MalformedError, which names the option, unless each token of these operators can hold what it says."""
    if amount is None:
        return
    decimals = min(token.decimals for operator in operators for token in operator.tokens)
    least = 0 if option in _MAY_BE_ZERO else 1
    try:
        is_allowed = atomic(amount, decimals, option) >= least
    except MalformedError:
        is_allowed = False
    if not is_allowed:
        number = "decimal number above zero" if least else "decimal number"
        raise MalformedError(option, amount, f"a {number}, of at most {decimals} digits after the point")


def run_to_end(work: Callable[[], Awaitable[None]]) -> None:
    """Run a command; what goes wrong becomes one sentence and an exit code."""

    async def run() -> None:
        await work()

    try:
        asyncio.run(run())
    except TallystickError as error:
        click.echo(f"tallystick: {error}", err=True)
        sys.exit(EXIT_CONFIGURATION if isinstance(error, MalformedError) else EXIT_FAILED)
    except httpx2.HTTPError as error:
        click.echo(f"tallystick: the request failed: {error or type(error).__name__}", err=True)
        sys.exit(EXIT_FAILED)
    except ModuleNotFoundError as error:
        click.echo(f"tallystick: this needs {error.name}: pip install 'tallystick[chain]'", err=True)
        sys.exit(EXIT_CONFIGURATION)
