"""Sorts the arguments of a command line: global options are accepted after the command, too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

_AT_FRONT = frozenset({"install_completion", "show_completion", "help"})
"""The root's parameters that are not options of every command."""


def global_options_first(root: Any, arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the global options before the command, where the parser expects them.

    An option that the command itself has, and the value of such an option, stay where they are. So does everything after ``--``,
    and after a command that passes its arguments on or that a plugin added.
    """
    shared = _options(root, _AT_FRONT)
    front: list[str] = []
    rest: list[str] = []
    command, own = root, shared
    left = iter(arguments)
    for word in left:
        name, given, _ = word.partition("=")
        if word == "--":
            rest += [word, *left]
        elif not word.startswith("-") or word == "-":
            rest.append(word)
            if getattr(command, "commands", None):
                command = command.built_in(word) if command is root else command.commands.get(word)
                if command is None or command.context_settings.get("ignore_unknown_options"):
                    rest += left
                    break
                own = _options(command)
        elif name in own and command is not root:
            rest += [word, *_value(left, own[name] and not given)]
        elif name in shared:
            value = _value(left, shared[name] and not given)
            front += [word, *value]
            if shared[name] and not given and not value:
                return front  # the parser reports that the value is missing, and takes no command for it
        else:
            rest.append(word)  # the parser reports it
    return front + rest


def _options(command: Any, without: frozenset[str] = frozenset()) -> dict[str, bool]:
    """Return the names of a command's options, and whether a value follows."""
    return {
        name: not parameter.is_flag
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.name not in without
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def _value(left: Iterator[str], follows: bool) -> list[str]:
    """Return the next argument if the value of an option follows."""
    return [value for value in (next(left, None) if follows else None,) if value is not None]
