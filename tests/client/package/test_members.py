"""What `tallystick_client` offers by name, and what an import of it does not load."""

import inspect
import subprocess
import sys
from importlib import import_module

import click
import pytest

import tallystick.errors
import tallystick_client
import tallystick_client.payer.errors
import tallystick_client.rpc
from tallystick_client.cli import _SUMMARIES, main

HEAVY = ("grpc", "google.protobuf", "httpx", "httpx2", "aiosqlite", "web3", "rich", "msgspec", "x402", "pydantic")
ERROR_MODULES = (tallystick.errors, tallystick_client.payer.errors, tallystick_client.rpc)


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after this code."""
    code += "\nimport sys; print('\\n' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("name", tallystick_client.__all__)
def test_every_exported_name_is_there_and_says_what_it_is(name: str) -> None:
    member = getattr(tallystick_client, name)
    assert member.__name__ == name
    assert member.__doc__


def test_the_exported_names_are_in_order_and_their_modules_are_told_once() -> None:
    listed = [name for names in tallystick_client._ROOMS.values() for name in names]
    assert tallystick_client.__all__ == sorted(set(tallystick_client.__all__))
    assert sorted(listed) == sorted(set(listed))
    assert set(listed) <= set(tallystick_client.__all__)
    assert set(dir(tallystick_client)) >= set(tallystick_client.__all__)
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = tallystick_client.nothing_such  # type: ignore[attr-defined]


def test_what_type_checkers_see_is_what_is_imported() -> None:
    source = inspect.getsource(tallystick_client)
    block = source.partition("if TYPE_CHECKING:\n")[2].partition("\n\n")[0]
    seen: dict[str, object] = {}
    exec(inspect.cleandoc(block), seen)
    del seen["__builtins__"]
    assert sorted(seen) == tallystick_client.__all__
    assert all(getattr(tallystick_client, name) is value for name, value in seen.items())


def test_every_error_is_exported_and_has_one_root() -> None:
    errors = {
        name: member
        for module in ERROR_MODULES
        for name, member in vars(module).items()
        if inspect.isclass(member) and issubclass(member, Exception)
    }
    assert len(errors) >= 17
    for name, error in errors.items():
        assert issubclass(error, tallystick_client.TallystickError)
        assert getattr(tallystick_client, name) is error


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import tallystick_client").isdisjoint(HEAVY)


def test_the_commands_help_loads_nothing_heavy() -> None:
    loaded = loaded_by("from tallystick_client.cli import main\nmain(['--help'], standalone_mode=False)")
    assert loaded.isdisjoint(HEAVY)
    assert not any(name.startswith("tallystick_aggregator") for name in loaded)


@pytest.mark.parametrize("name", _SUMMARIES)
def test_the_help_says_of_each_command_what_the_command_says(name: str) -> None:
    context = click.Context(main)
    command = main.get_command(context, name)
    assert command is not None
    assert command.help is not None
    assert " ".join(command.help.partition("\n\n")[0].split()).startswith(_SUMMARIES[name])
    assert command.get_short_help_str(200).rstrip(".") == _SUMMARIES[name].rstrip(".")


def test_an_error_is_caught_by_the_name_it_is_exported_under() -> None:
    module = import_module("tallystick_client.payer.errors")
    with pytest.raises(tallystick_client.TallystickError):
        raise module.NoHeadroomError
