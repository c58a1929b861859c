"""Commands that plugins add to the command line."""

from __future__ import annotations

from typing import Any

import typer
import typer.main
from typer.core import TyperGroup

from dimesh.errors import DimeshError


class ExtensibleGroup(TyperGroup):
    """The built-in commands, and those of plugins.

    Plugins are loaded only when a command is not built in, or when all commands are listed.
    """

    _added: dict[str, Any] | None = None

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of this name: a built-in one, else a plugin's."""
        return self.built_in(cmd_name) or self._of_plugins(ctx).get(cmd_name)

    def built_in(self, name: str) -> Any:
        """Return the built-in command of this name, in the singular or the plural (``topic`` is ``topics``), or None."""
        near = (name, f"{name}s", "" if name.endswith("ss") else name.removesuffix("s"))
        return next((self.commands[known] for known in near if known in self.commands), None)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the built-in commands, then those of plugins. Help works with broken settings, too."""
        try:
            added = self._of_plugins(ctx)
        except DimeshError:
            added = {}
        return [*super().list_commands(ctx), *added]

    def _of_plugins(self, ctx: Any) -> dict[str, Any]:
        if self._added is None:
            self._added = _plugin_commands(ctx.params.get("config_file"), set(self.commands))
        return self._added


def _plugin_commands(config_file: str | None, taken: set[str]) -> dict[str, Any]:
    import logging

    from dimesh.plugins import PluginManager
    from dimesh.plugins.discovery import Kind, find
    from dimesh.settings import load_settings

    if not find(Kind.HOOKS):
        return {}  # a misspelt command is reported as such, whatever the settings contain
    section = load_settings(config_file).settings.plugins
    manager = PluginManager(section.allow, section.block)
    manager.load_observers(section.options)
    found: dict[str, Any] = {}
    for who, cli in manager.extend_commands(lambda: typer.Typer(rich_markup_mode=None)):
        for name, command in _commands_of(cli).items():
            if name in taken or name in found:
                logging.getLogger("dimesh.plugins").warning(
                    "the command %r of %s is ignored: there is one of this name", name, who
                )
            else:
                found[name] = command
    return found


def _commands_of(cli: typer.Typer) -> dict[str, Any]:
    cli.callback()(
        _no_options
    )  # without a callback, Typer turns an application with one command into that command
    return dict(typer.main.get_group(cli).commands)


def _no_options() -> None:
    """Take no options: those of ``dimesh`` itself are enough."""
