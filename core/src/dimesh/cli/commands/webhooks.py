"""``dimesh webhooks``: a receiver for the sources of the settings."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from dimesh.cli.context import run, state_of
from dimesh.cli.exit_codes import ExitCode
from dimesh.errors import ConfigurationError

if TYPE_CHECKING:
    from dimesh.cli.context import State

webhooks = typer.Typer(
    help="Take webhooks, which wake the change sources.", no_args_is_help=True, rich_markup_mode=None
)


@webhooks.callback()
def _group() -> None:
    """Take webhooks, which wake the change sources."""


@webhooks.command("serve")
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.")] = 8_080,
) -> None:
    """Serve /webhooks/NAME for each source that takes webhooks. They are hints: `dimesh run`, here or elsewhere on the same
    bus, then looks at once. Put TLS in front of it.
    """
    raise typer.Exit(run(_serve(state_of(context), host, port)))


async def _serve(state: State, host: str, port: int) -> ExitCode:
    try:
        import uvicorn
    except ImportError as error:
        raise ConfigurationError("webhooks are served by uvicorn: pip install uvicorn") from error
    from dimesh.cdc.hints import Doorbell
    from dimesh.spi.cdc import WebhookSource

    async with state.opened() as mesh:
        sources = {}
        for section in mesh.settings.sources:
            source = mesh.plugins.cdc_source(section.driver, section.options, mesh.clock)
            if isinstance(source, WebhookSource):
                sources[section.name] = source
        if not sources:
            raise ConfigurationError("no source of the settings takes webhooks; those of Stripe do")
        bell = Doorbell(mesh.bus, sources)
        server = uvicorn.Server(
            uvicorn.Config(bell, host=host, port=port, log_config=None, lifespan="off", ws="none")
        )
        serving = asyncio.create_task(server._serve(), name="dimesh-webhooks")
        try:
            while not server.started:
                if serving.done():
                    raise ConfigurationError(f"cannot listen at {host}:{port}: is something else there?")
                await asyncio.sleep(0.01)
            at = server.servers[0].sockets[0].getsockname()
            for path, name in bell.paths.items():
                state.output.note(f"webhooks of {name}: http://{at[0]}:{at[1]}{path}")
            if state.output.as_json:
                state.output.line({"address": f"http://{at[0]}:{at[1]}", "paths": bell.paths})
            stop = asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(NotImplementedError):
                    asyncio.get_running_loop().add_signal_handler(number, stop.set)
            await stop.wait()
        finally:
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)
            await bell.drain()
    return ExitCode.OK
