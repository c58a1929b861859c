"""Runs the application and turns an error into one line and an exit code."""

from __future__ import annotations

import errno
import itertools
import json
import select
import sys
from collections.abc import Sequence
from typing import Any

import typer
import typer.main

from dimesh.cli.app import app
from dimesh.cli.arguments import global_options_first
from dimesh.cli.context import exited
from dimesh.cli.exit_codes import ExitCode
from dimesh.errors import (
    BusError,
    ConfigurationError,
    DeadLetterNotFoundError,
    DimeshError,
    EventError,
    EventNotFoundError,
    GroupNotFoundError,
    ListenError,
    NodeNotFoundError,
    NotOfferedError,
    PluginError,
    RegistryAccessError,
    RegistryUnavailableError,
    StorageError,
    SubjectNotFoundError,
    TopicNotFoundError,
    describe,
)
from dimesh.logs.stderr import logs_json, reset
from dimesh.printable import printable_lines

# Newer versions of typer bundle click; these are the classes of the click that is in use.
_UsageError = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")
_ClickError = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def guarded(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code. No traceback is printed unless ``--debug`` is given.

    Raises:
        BrokenPipeError: the reader of the output has closed it.
    """
    reset()
    command = typer.main.get_command(app)
    debug = "--debug" in arguments
    try:
        result = command.main(
            args=global_options_first(command, arguments), prog_name="dimesh", standalone_mode=False
        )
    except typer.Exit as done:
        return int(done.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _report(arguments, "interrupted", ExitCode.INTERRUPTED)
    except SystemExit as left:
        return _exited(arguments, left)
    except BrokenPipeError as error:
        if _reader_has_gone():
            raise
        # Not our output: a connection that its peer has closed.
        if debug:
            raise DimeshError(f"a connection was closed: {error}") from error
        return _report(arguments, f"a connection was closed: {error.strerror or error}", ExitCode.UNAVAILABLE)
    except DimeshError as error:
        if debug:
            raise
        return _report(arguments, str(error), code_of(error))
    except OSError as error:
        if debug:
            raise
        return _report(
            arguments, f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), ExitCode.FAILED
        )
    except Exception as error:
        if isinstance(error, _ClickError):
            return _usage(arguments, error)
        if debug:
            raise
        return _report(
            arguments,
            f"this is a bug in dimesh: {describe(error)}; run the command with --debug for a traceback",
            ExitCode.FAILED,
        )
    return int(result) if isinstance(result, int) else ExitCode.OK


def _exited(arguments: Sequence[str], left: SystemExit) -> int:
    """Return the exit code after a call of ``sys.exit``, which counts only if it is typer's: completion ends so.

    Raises:
        BrokenPipeError: typer found that the reader of the output has closed it.
    """
    trace = left.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    if name.partition(".")[0] in ("typer", "click"):
        if isinstance(left.__context__, OSError) and left.__context__.errno == errno.EPIPE:
            raise BrokenPipeError from None
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    return _report(arguments, str(exited(left, f"in the module {name or 'of a plugin'}")), ExitCode.FAILED)


def _reader_has_gone() -> bool:
    """Return whether the reader of standard output or standard error has closed it."""
    try:
        poll = select.poll()
        for stream in (sys.stdout, sys.stderr):
            poll.register(stream.fileno(), 0)
        return any(happened & (select.POLLERR | select.POLLHUP) for _, happened in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # a system without poll, or a stream without a file
        return True


_NOT_FOUND = (
    TopicNotFoundError,
    GroupNotFoundError,
    DeadLetterNotFoundError,
    EventNotFoundError,
    SubjectNotFoundError,
    NodeNotFoundError,
)


def code_of(error: DimeshError) -> ExitCode:
    """Return the exit code for an error."""
    if isinstance(error, _NOT_FOUND):
        return ExitCode.NOT_FOUND
    if isinstance(error, ConfigurationError):
        return ExitCode.CONFIGURATION
    if isinstance(error, PluginError):
        return ExitCode.PLUGIN
    if isinstance(error, EventError):
        return ExitCode.USAGE
    if isinstance(error, NotOfferedError):
        return ExitCode.FAILED  # the bus is there, and never does this
    if isinstance(
        error, (StorageError, BusError, ListenError, RegistryAccessError, RegistryUnavailableError)
    ):
        return ExitCode.UNAVAILABLE
    return ExitCode.FAILED


def _usage(arguments: Sequence[str], error: Any) -> int:
    """Report an error of the command line's parser."""
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(error.format_message() + "\n")
        return ExitCode.OK
    code = ExitCode.USAGE if isinstance(error, _UsageError) else ExitCode.FAILED
    return _report(arguments, error.format_message(), code, getattr(error, "ctx", None))


def _report(arguments: Sequence[str], text: str, code: ExitCode, context: Any = None) -> int:
    if logs_json() or any(_gives(arguments, name, "json") for name in ("--output", "--log-format")):
        sys.stderr.write(json.dumps({"error": text, "code": int(code)}) + "\n")
    else:
        sys.stderr.write(f"error: {printable_lines(text)}\n")
        if context is not None:
            sys.stderr.write(f"see '{context.command_path} --help'\n")
    return code


def _gives(arguments: Sequence[str], name: str, value: str) -> bool:
    return f"{name}={value}" in arguments or (name, value) in itertools.pairwise(arguments)
