"""What a running mesh serves over HTTP: health, readiness, metrics, the webhooks of its sources and the pages of plugins."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from dimesh.errors import ConfigurationError
from dimesh.http.exposition import CONTENT_TYPE, render
from dimesh.http.host import HttpHost
from dimesh.http.mounts import Mounts
from dimesh.http.pages import Gate, Page, Response, text
from dimesh.mesh import Mesh
from dimesh.ops.metrics import Metrics
from dimesh.ops.readiness import Stage, Watch

if TYPE_CHECKING:
    from dimesh.cdc.webhooks import WebhookGateway
    from dimesh.http.body import ASGIApp
    from dimesh.spi.cdc import WebhookSource

log = logging.getLogger("dimesh.http")


class HealthPages:
    """Health, readiness and metrics of one mesh, as applications for any host.

    Args:
        mesh: the mesh. It counts what it publishes only if its settings have ``[http] listen``.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._watch = Watch(mesh)
        self._metrics = Metrics(self._watch)
        self.mounts: list[tuple[str, ASGIApp]] = [
            ("/healthz", Page(self._alive)),
            ("/readyz", Page(self._ready)),
            ("/metrics", Page(self._scrape)),
        ]
        """The paths and their applications."""

    def running(self) -> None:
        """Record that the process does its work. Until then the mesh is not ready."""
        self._watch.stage = Stage.RUNNING

    def stopping(self) -> None:
        """Record that the process stops: the mesh is not ready from now on."""
        self._watch.stage = Stage.STOPPING

    def close(self) -> None:
        """Wait for the bus no longer."""
        self._watch.close()

    async def _alive(self) -> Response:
        return text(200, "alive")

    async def _ready(self) -> Response:
        readiness = await self._watch.readiness()
        body = json.dumps(asdict(readiness), indent=2).encode()
        return Response(200 if readiness.ready else 503, "application/json", body + b"\n")

    async def _scrape(self) -> Response:
        families = await self._metrics.collect()
        return Response(200, CONTENT_TYPE, await asyncio.to_thread(render, families))


class MeshServer:
    """Serves a mesh at the address of its settings, from before it starts until after it has stopped.

    Args:
        mesh: a mesh whose settings have ``[http] listen``.

    Raises:
        ConfigurationError: the settings have no such address.
    """

    def __init__(self, mesh: Mesh) -> None:
        address = mesh.settings.http.address
        if address is None:
            raise ConfigurationError("[http] listen is not set")
        self._mesh = mesh
        self._health = HealthPages(mesh)
        self._rest = Gate()
        self._gateway: WebhookGateway | None = None
        host, port = address
        self._host = HttpHost(
            [*self._health.mounts, ("", self._rest)], host=host, port=port, setting="[http] listen"
        )

    @property
    def url(self) -> str:
        """The URL of the server; empty before it is started."""
        return self._host.url

    async def start(self) -> None:
        """Listen. Until :meth:`started` is called, the mesh is not ready.

        Raises:
            ConfigurationError: uvicorn is not installed.
            ListenError: the address cannot be listened on.
        """
        await self._host.start()

    def started(self) -> None:
        """Record that the mesh runs, and pass requests on to webhooks and pages.

        Raises:
            ConfigurationError: a plugin mounts a page at a path that is taken.
        """
        pages = self._mesh.plugins.http_mounts(self._mesh.context)
        Mounts([*self._health.mounts, *_registry(self._mesh), *pages])  # refuses a path that is taken
        webhooks: list[tuple[str, ASGIApp]] = []
        sources = {
            name: source for name, source in self._mesh.webhook_sources.items() if _receives(name, source)
        }
        if sources:
            from dimesh.cdc.webhooks import PREFIX, WebhookGateway

            self._gateway = WebhookGateway(self._mesh.bus, sources)
            webhooks = [(PREFIX, self._gateway)]
        self._rest.app = Mounts([*webhooks, *_registry(self._mesh), *pages])
        self._health.running()

    async def stopping(self) -> None:
        """Record that the mesh stops: it is not ready from now on, and gets no more webhooks."""
        self._health.stopping()
        self._rest.app = None
        if self._gateway is not None:
            await self._gateway.drain()

    async def stop(self) -> None:
        """Stop listening; may be called twice, and without :meth:`start`."""
        self._health.close()
        await self._host.stop()


def _registry(mesh: Mesh) -> list[tuple[str, ASGIApp]]:
    """Return the REST API of the registry, if the settings ask for it."""
    settings = mesh.settings.registry.serve
    if not settings.mount:
        return []
    from dimesh.registry.rest import PREFIX, Access, RegistryApp

    return [(PREFIX, RegistryApp(mesh.registry, Access(*settings.credentials())))]


def _receives(name: str, source: WebhookSource) -> bool:
    """Return whether the options of a source have what signatures of webhooks are checked with."""
    try:
        source.webhooks(lambda kind: None, f"/webhooks/{name}")
    except ConfigurationError as error:
        log.info("no webhooks of %s are received: %s", name, error)
        return False
    return True
