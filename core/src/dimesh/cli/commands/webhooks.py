"""``dimesh webhooks``: receiving webhooks for the sources of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dimesh.cli.context import run, state_of, stop_event
from dimesh.cli.logs import log_to_stderr
from dimesh.errors import ConfigurationError

if TYPE_CHECKING:
    from dimesh.cdc.webhooks import WebhookGateway
    from dimesh.cli.context import State
    from dimesh.http.body import ASGIApp
    from dimesh.http.host import HttpHost
    from dimesh.http.limits import HttpLimits
    from dimesh.mesh import Mesh
    from dimesh.ops.serving import HealthPages
    from dimesh.spi.cdc import WebhookSource

webhooks = typer.Typer(
    help="Receive webhooks, which wake the change sources.", no_args_is_help=True, rich_markup_mode=None
)


@webhooks.callback()
def _group() -> None:
    """Receive webhooks, which wake the change sources."""


@webhooks.command("serve")
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="The name or address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port; 0 chooses a free one.")] = 8_080,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Serve HTTPS with the certificate chain of this PEM file.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="The PEM file of the private key, if it is not in the certificate's.")
    ] = None,
    max_connections: Annotated[int, typer.Option(min=1, help="The most open connections.")] = 1_000,
    max_body: Annotated[int, typer.Option(min=1, help="The most bytes of a request's body.")] = 1 << 20,
    header_timeout: Annotated[float, typer.Option(help="Seconds for a request's header to arrive.")] = 10.0,
    body_timeout: Annotated[float, typer.Option(help="Seconds for a request's body to arrive.")] = 20.0,
    stop_timeout: Annotated[
        float, typer.Option(help="Seconds for unfinished requests when the command is stopped.")
    ] = 5.0,
) -> None:
    """Serve /webhooks/NAME for each source that receives webhooks. A webhook makes 'dimesh run' or 'dimesh cdc run', here or
    elsewhere on the same bus, read at once what changed. Where [http] listen is set, health and metrics are served at the same
    address.
    """
    from dimesh.http.limits import HttpLimits

    limits = HttpLimits(
        connections=max_connections,
        header_timeout=header_timeout,
        body_timeout=body_timeout,
        body_size=max_body,
        stop_timeout=stop_timeout,
    )
    log_to_stderr(state_of(context))
    run(_serve(state_of(context), host, port, tls_cert, tls_key, limits))


async def _serve(
    state: State, host: str, port: int, certificate: Path | None, key: Path | None, limits: HttpLimits
) -> None:
    from dimesh.cdc.webhooks import PREFIX, WebhookGateway
    from dimesh.http.host import HttpHost
    from dimesh.systemd import ServiceManager

    stop = stop_event()
    async with ServiceManager() as manager, state.opened() as mesh:
        gateway = WebhookGateway(mesh.bus, _sources(mesh))
        health = _health(mesh)
        mounts: list[tuple[str, ASGIApp]] = [
            (PREFIX, gateway),
            *(health.mounts if health is not None else ()),
            *mesh.plugins.http_mounts(mesh.context),
        ]
        serving = HttpHost(mounts, host=host, port=port, certificate=certificate, key=key, limits=limits)
        try:
            async with serving:
                if health is not None:
                    health.running()
                _announce(state, serving, gateway, health)
                manager.ready()
                await stop.wait()
                manager.stopping()
                if health is not None:
                    health.stopping()
        finally:
            if health is not None:
                health.close()
            await gateway.drain()


def _health(mesh: Mesh) -> HealthPages | None:
    """Return the pages of ``[http] listen``, which belong on this host: its address is that of another process."""
    if mesh.settings.http.listen is None:
        return None
    from dimesh.ops.serving import HealthPages

    return HealthPages(mesh)


def _sources(mesh: Mesh) -> dict[str, WebhookSource]:
    from dimesh.spi.cdc import WebhookSource

    sources = {section.name: mesh.source(section) for section in mesh.settings.sources}
    found: dict[str, WebhookSource] = {
        name: source for name, source in sources.items() if isinstance(source, WebhookSource)
    }
    if not found:
        raise ConfigurationError(
            "no source of the settings receives webhooks; sources of the drivers 'stripe' and 'zendesk' do"
        )
    return found


def _announce(state: State, serving: HttpHost, gateway: WebhookGateway, health: HealthPages | None) -> None:
    for path, name in gateway.paths.items():
        state.output.note(f"webhooks of {name}: {serving.url}{path}")
    if health is not None:
        state.output.note(f"health, readiness and metrics: {serving.url}")
    if state.output.as_json:
        state.output.line({"address": serving.url, "paths": gateway.paths})
