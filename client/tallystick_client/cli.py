"""The `tallystick` command. Every part registers its own commands under the entry point group `tallystick.commands`."""

from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import click

EXIT_FAILED: Final = 1
"""Refused, or failed: the same command may succeed later."""
EXIT_CONFIGURATION: Final = 2
"""What the caller has to change first."""
COMMANDS_GROUP: Final = "tallystick.commands"
_EXTRAS: Final = {"tallystick_aggregator": "aggregator", "web3": "chain"}


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
