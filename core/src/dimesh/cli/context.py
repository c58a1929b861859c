"""What every command shares: the global options, the settings, and a mesh that is opened and closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from dimesh.cli.output import Output

if TYPE_CHECKING:
    from dimesh.mesh import Mesh
    from dimesh.settings import Loaded

T = TypeVar("T")


@dataclass
class State:
    """The global options."""

    config: str | None = None
    bus_path: str | None = None
    debug: bool = False
    output: Output = field(default_factory=Output)
    _loaded: Loaded | None = None

    @property
    def loaded(self) -> Loaded:
        """The settings, read once.

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
        """A mesh as the settings say; not opened."""
        from dimesh.mesh import Mesh

        return Mesh(self.loaded.settings)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Mesh]:
        """A mesh, opened and closed."""
        mesh = self.mesh()
        async with mesh:
            yield mesh


def state_of(context: typer.Context) -> State:
    """The state that the application put there."""
    state = context.find_object(State)
    assert state is not None
    return state


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine."""
    return asyncio.run(work)
