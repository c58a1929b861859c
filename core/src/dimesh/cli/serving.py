"""The mesh of a command that runs until it is stopped, with its health served beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from dimesh.errors import ConfigurationError

if TYPE_CHECKING:
    from dimesh.cli.context import State
    from dimesh.mesh import Mesh
    from dimesh.ops.serving import MeshServer


@asynccontextmanager
async def served_mesh(state: State) -> AsyncIterator[tuple[Mesh, MeshServer | None]]:
    """Make the mesh of the settings, and close it at the end of the block. Where ``[http] listen`` is set, listen before the mesh
    is opened and until it is closed, so that it is live and not ready meanwhile, and a port in use stops it at once.
    """
    mesh = state.mesh()
    server: MeshServer | None = None
    if mesh.settings.registry.serve.mount and mesh.settings.http.listen is None:
        raise ConfigurationError(
            "[registry.serve] mount needs the address of [http] listen; 'dimesh registry serve' needs neither"
        )
    if mesh.settings.http.listen is not None:
        from dimesh.ops.serving import MeshServer

        server = MeshServer(mesh)
        await server.start()
    try:
        yield mesh, server
    finally:
        await mesh.close()
        if server is not None:
            await server.stop()


def announce(state: State, server: MeshServer | None) -> None:
    """Record that the mesh runs, and print the address of its server."""
    if server is not None:
        server.started()
        state.output.note(f"health, readiness and metrics: {server.url}")
