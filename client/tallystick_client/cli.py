"""The `tallystick` command. Every part registers its own commands under the entry point group `tallystick.commands`."""

from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Final

import click

EXIT_FAILED: Final = 1
"""Refused, or failed: the same command may succeed later."""
EXIT_CONFIGURATION: Final = 2
"""What the caller has to change first."""
COMMANDS_GROUP: Final = "tallystick.commands"
_EXTRAS: Final = {"tallystick_aggregator": "aggregator", "web3": "chain"}
_OPERATORS: Final = frozenset({"deploy", "seller", "serve"})
"""Commands of the extra `aggregator`, which `grpc_health` comes with."""
_SUMMARIES: Final = {
    "deploy": "Deploy the escrow to a chain and write aggregator.toml and operator.json.",
    "estimate": "Estimate what a day costs by deferred, by batch-settlement and by exact.",
    "fetch": "Fetch one URL, pay for it if it asks, and print its body.",
    "seller": "Sellers' tokens: who may charge, read and settle for which receivers.",
    "serve": "Run the aggregator until it is told to stop (Ctrl-C or SIGTERM).",
    "settle": "Claim now what is owed to the token's receivers, and wait until it is on chain.",
    "settlements": "List the settlements that paid the token's receivers, newest first.",
    "wallet": "Look after a payer's wallet: its deposits, its book, its money back.",
}
"""The first sentences of our own commands, so that `tallystick --help` imports none of them."""


class Commands(click.Group):
    """Finds commands by entry point and imports one only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all registered commands."""
        return sorted({*super().list_commands(ctx), *(entry.name for entry in entry_points(group=COMMANDS_GROUP))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; one whose extra is not installed says which extra that is."""
        known = super().get_command(ctx, cmd_name)
        if known is not None:
            return known
        for entry in entry_points(group=COMMANDS_GROUP, name=cmd_name):
            return _load(entry)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with its first sentence; imports only those whose sentence is not known here."""
        names = self.list_commands(ctx)
        limit = formatter.width - 6 - max(map(len, names), default=0)
        rows = [(name, self._summary(ctx, name).get_short_help_str(limit)) for name in names]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _summary(self, ctx: click.Context, name: str) -> click.Command:
        summary = _SUMMARIES.get(name)
        if summary is not None and (name not in _OPERATORS or find_spec("grpc_health") is not None):
            return click.Command(name, help=summary)
        found = self.get_command(ctx, name)
        assert found is not None, f"{name} is listed"
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that was typed; where there is none of that name, the error says which is near it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None


def _load(entry: EntryPoint) -> click.Command:
    try:
        command = entry.load()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        extra = _EXTRAS.get(missing, "aggregator")
        return _not_installed(entry.name, extra)
    assert isinstance(command, click.Command), f"{entry.value} is no command"
    return command


def _not_installed(name: str, extra: str) -> click.Command:
    sentence = f"needs more than the base install: pip install 'tallystick[{extra}]'"

    @click.command(name, help=f"({sentence})", context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        del arguments
        raise click.ClickException(f"tallystick {name} {sentence}")

    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tallystick", prog_name="tallystick")
def main() -> None:
    """Pay per request, settle per hour: x402 with deferred settlement."""


if __name__ == "__main__":
    main()
