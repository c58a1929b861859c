"""The context of every command: the global options, the settings, and the mesh."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from dimesh.cli.output import Output
from dimesh.errors import DimeshError
from dimesh.logs.stderr import logs_json
from dimesh.signals import INTERRUPTED, LAST_WORDS, asked_to_stop, on_signal
from dimesh.tasks import run_to_end

if TYPE_CHECKING:
    from dimesh.mesh import Mesh
    from dimesh.settings import LoadedSettings

T = TypeVar("T")


@dataclass
class State:
    """The global options of one invocation."""

    config: str | None = None
    bus_path: str | None = None
    debug: bool = False
    log_level: str | None = None
    log_format: str | None = None
    output: Output = field(default_factory=Output)
    _loaded: LoadedSettings | None = None

    @property
    def loaded(self) -> LoadedSettings:
        """The settings. The file is read at first use.

        Raises:
            ConfigurationError
        """
        if self._loaded is None:
            from dimesh.settings import load_settings

            given: dict[str, Any] = {}
            if self.bus_path is not None:
                given["bus"] = {"driver": "sqlite", "options": {"path": self.bus_path}}
            self._loaded = load_settings(self.config, **given)
        return self._loaded

    def mesh(self) -> Mesh:
        """Return a mesh made from the settings. It is not opened."""
        from dimesh.mesh import Mesh

        return Mesh(self.loaded.settings)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Mesh]:
        """Open a mesh, and close it at the end of the block."""
        async with self.mesh() as mesh:
            self.warn_if_alone(mesh)
            yield mesh

    def warn_if_alone(self, mesh: Mesh) -> None:
        """Print a warning if no other process sees the events of an open mesh."""
        from dimesh.capabilities import Capability

        if Capability.MULTI_PROCESS not in mesh.bus.capabilities:
            self.output.warn(
                f"the {mesh.bus.door.name} bus keeps events in the memory of one process: this command sees none of another "
                "process, and what it publishes is gone when it ends"
            )


def import_from_working_folder() -> None:
    """Make the modules of the working folder importable, where handlers usually are. The folder comes last, so that a file
    in it replaces no installed module.
    """
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)


class ExitedError(DimeshError):
    """Code outside dimesh has called ``sys.exit``."""


def state_of(context: typer.Context) -> State:
    """Return the global options that the application stored in the context."""
    state = context.find_object(State)
    assert state is not None
    return state


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine to its end and return its result. A first Ctrl-C cancels it, a second one ends the process.

    Raises:
        ExitedError: code that the command called has called ``sys.exit``. Its code is not that of the command.
        KeyboardInterrupt: the command was cancelled by Ctrl-C.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return run_to_end(_interruptible(work))
    except SystemExit as left:
        raise exited(left, "in a task of a handler or plugin") from left
    except asyncio.CancelledError:
        if asked_to_stop():
            raise KeyboardInterrupt from None
        raise
    finally:
        if (
            not asked_to_stop()
        ):  # otherwise the process ends, and a second signal must still be able to end it
            for number, handler in before.items():
                signal.signal(number, handler)


def exited(left: SystemExit, where: str) -> ExitedError:
    """Return the error for code that is not dimesh's and has called ``sys.exit``."""
    from dimesh.events.names import show

    shown = "" if left.code is None else show(left.code)
    return ExitedError(f"the process was ended by sys.exit({shown}) {where}: let it raise an error instead")


def stop_event() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set, for a command that runs until then. A second signal ends the process."""
    from dimesh import signals

    return signals.stop_event(_last_words())


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    on_signal(task.cancel, _last_words(), (signal.SIGINT,))
    return await work


def _last_words() -> str:
    if logs_json():
        return json.dumps({"error": LAST_WORDS, "code": INTERRUPTED})
    return f"error: {LAST_WORDS}"
