"""The command of a sandbox: ``python -m PACKAGE.sandbox``, or ``dimesh sandbox NAME``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dimesh.errors import DimeshError, ListenError
from dimesh.signals import stop_event
from dimesh.sourcekit.sandbox.base import Sandbox
from dimesh.sourcekit.sandbox.control import MAX_ROWS

_FAILED = 3
_UNAVAILABLE = 5
# The exit codes of dimesh for a setting that is wrong or missing, and for a port that is in use.


def command_parser(module: str, description: str, port: int) -> argparse.ArgumentParser:
    """Return the parser of a sandbox's command line, with the option ``--port``.

    Args:
        module: the package that ``python -m`` runs.
        description: what the command does, in one sentence.
        port: the default port.
    """
    called = sys.argv[0] if Path(sys.argv[0]).name != "__main__.py" else f"python -m {module}"
    parser = argparse.ArgumentParser(prog=called, description=description, allow_abbrev=False)
    add_port(parser, "--port", port, "port to listen at on 127.0.0.1; 0 takes a free one")
    return parser


def add_port(parser: argparse.ArgumentParser, option: str, port: int, text: str) -> None:
    """Add an option that takes a port."""
    parser.add_argument(
        option, type=bounded_count(65_535), default=port, metavar="PORT", help=f"{text} (default: {port})"
    )


def bounded_count(most: int = MAX_ROWS) -> Callable[[str], int]:
    """Return a type of argument: a whole number from 0 to ``most``."""

    def count(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text[:20]) > most:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 0 to {most:,}")
        return int(text)

    return count


def run_sandbox(
    parser: argparse.ArgumentParser,
    build: Callable[[argparse.Namespace], Sandbox[Any]],
    arguments: Sequence[str] | None = None,
) -> int:
    """Serve a sandbox until SIGINT or SIGTERM, and return the exit code.

    Args:
        parser: the parser of the command line.
        build: makes the sandbox of the parsed arguments.
        arguments: the arguments; None: those of the process.
    """
    try:
        asyncio.run(_serve(build(parser.parse_args(arguments))))
    except DimeshError as error:
        sys.stderr.write(f"error: {error}\n")
        return _UNAVAILABLE if isinstance(error, ListenError) else _FAILED
    except KeyboardInterrupt:  # before the server has started
        pass
    return 0


async def _serve(sandbox: Sandbox[Any]) -> None:
    stopped = stop_event()
    async with sandbox:
        sys.stdout.write(f"{sandbox.announcement}\n")
        sys.stdout.flush()
        await stopped.wait()
