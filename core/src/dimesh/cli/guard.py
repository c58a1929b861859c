"""Runs the application and turns what goes wrong into one line and an exit code."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from typing import Any

import typer
import typer.main

from dimesh.cli.app import app
from dimesh.cli.exit_codes import ExitCode
from dimesh.errors import (
    BusError,
    ConfigurationError,
    DeadLetterNotFoundError,
    DimeshError,
    EventError,
    GroupNotFoundError,
    NodeNotFoundError,
    PluginError,
    StorageError,
    SubjectNotFoundError,
    TopicNotFoundError,
)

# Typer brings its own click in newer versions; these are whichever it uses.
_UsageError = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")
_ClickError = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def guarded(arguments: Sequence[str]) -> int:
    """The exit code of the command. Prints no traceback unless ``--debug`` is given.

    Raises:
        BrokenPipeError: whoever read the output has gone.
    """
    command = typer.main.get_command(app)
    debug = "--debug" in arguments
    try:
        result = command.main(args=list(arguments), prog_name="dimesh", standalone_mode=False)
    except typer.Exit as done:
        return int(done.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _say(arguments, "interrupted", ExitCode.INTERRUPTED)
    except (BrokenPipeError, SystemExit):
        # Typer ends the process by itself when the reader of its output has gone, and in no other case.
        raise BrokenPipeError from None
    except DimeshError as error:
        if debug:
            raise
        return _say(arguments, str(error), code_of(error))
    except OSError as error:
        if debug:
            raise
        return _say(
            arguments, f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), ExitCode.FAILED
        )
    except Exception as error:
        if isinstance(error, _ClickError):
            return _usage(arguments, error)
        if debug:
            raise
        return _say(
            arguments,
            f"this is a bug in dimesh: {type(error).__name__}: {error}; --debug shows where",
            ExitCode.FAILED,
        )
    return int(result) if isinstance(result, int) else ExitCode.OK


_NOT_FOUND = (
    TopicNotFoundError,
    GroupNotFoundError,
    DeadLetterNotFoundError,
    SubjectNotFoundError,
    NodeNotFoundError,
)


def code_of(error: DimeshError) -> ExitCode:
    """The exit code for an error."""
    if isinstance(error, _NOT_FOUND):
        return ExitCode.NOT_FOUND
    if isinstance(error, ConfigurationError):
        return ExitCode.CONFIGURATION
    if isinstance(error, PluginError):
        return ExitCode.PLUGIN
    if isinstance(error, EventError):
        return ExitCode.USAGE
    if isinstance(error, (StorageError, BusError)):
        return ExitCode.UNAVAILABLE
    return ExitCode.FAILED


def _usage(arguments: Sequence[str], error: Any) -> int:
    """What the command line's parser has to say."""
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(error.format_message() + "\n")
        return ExitCode.OK
    code = ExitCode.USAGE if isinstance(error, _UsageError) else ExitCode.FAILED
    return _say(arguments, error.format_message(), code, getattr(error, "ctx", None))


def _say(arguments: Sequence[str], text: str, code: ExitCode, context: Any = None) -> int:
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if "--output=json" in arguments or _follows(arguments, "--output", "json"):
        sys.stderr.write(json.dumps({"error": text, "code": int(code)}) + "\n")
    else:
        sys.stderr.write(f"error: {text}\n")
        if context is not None:
            sys.stderr.write(f"see '{context.command_path} --help'\n")
    return code


def _follows(arguments: Sequence[str], name: str, value: str) -> bool:
    return any(a == name and b == value for a, b in itertools.pairwise(arguments))
