"""``dimesh registry``: the registry of the settings as a server."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dimesh.cli.context import run, state_of, stop_event
from dimesh.cli.logs import log_to_stderr
from dimesh.errors import ConfigurationError

if TYPE_CHECKING:
    from dimesh.cli.context import State

registry = typer.Typer(
    help="Serve the schema registry to other programs.", no_args_is_help=True, rich_markup_mode=None
)


@registry.callback()
def _group() -> None:
    """Serve the schema registry to other programs."""


@registry.command("serve")
def serve(
    context: typer.Context,
    listen: Annotated[
        str | None,
        typer.Option(help="HOST:PORT, instead of [registry.serve] listen; port 0 chooses a free one."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Serve HTTPS with the certificate chain of this PEM file.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="The PEM file of the private key, if it is not in the certificate's.")
    ] = None,
) -> None:
    """Serve the registry of the settings over the REST API of Confluent's schema registry, until SIGINT or SIGTERM. Clients of
    that registry, in any language, need only the address. Who may use it is set in [registry.serve].
    """
    log_to_stderr(state_of(context))
    run(_serve(state_of(context), listen, tls_cert, tls_key))


async def _serve(state: State, listen: str | None, certificate: Path | None, key: Path | None) -> None:
    from dimesh.http.host import HttpHost
    from dimesh.http.limits import HttpLimits
    from dimesh.registry.rest import MAX_BODY, Access, RegistryApp
    from dimesh.settings import parse_address
    from dimesh.systemd import ServiceManager

    stop = stop_event()
    async with ServiceManager() as manager, AsyncExitStack() as stack:
        mesh = state.mesh()
        stack.push_async_callback(mesh.close)
        settings = mesh.settings.registry.serve
        try:
            host, port = settings.address if listen is None else parse_address(listen)
        except ValueError as error:
            raise ConfigurationError(f"--listen {listen}: {error}") from None
        access = Access(*settings.credentials())
        await mesh.registry.open()
        serving = await stack.enter_async_context(
            HttpHost(
                [("", RegistryApp(mesh.registry, access))],
                host=host,
                port=port,
                certificate=certificate,
                key=key,
                # The application refuses a larger body itself, in the form that clients read.
                limits=HttpLimits(body_size=2 * MAX_BODY),
                setting="--listen" if listen is not None else "[registry.serve] listen",
            )
        )
        state.output.note(f"schema registry: {serving.url}")
        if access.open:
            state.output.note(
                "everybody who reaches this address may read and write: set [registry.serve] users"
            )
        if state.output.as_json:
            state.output.line({"address": serving.url})
        manager.ready()
        await stop.wait()
        manager.stopping()
        state.output.note("stopping: finishing the requests being served")
