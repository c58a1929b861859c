"""Every hook that a plugin can implement. Four return a provider, three extend the mesh, the others observe it.

Hooks are synchronous and quick; the methods of a provider are async. A plugin is any object (a module, an instance)
with functions of these names that are marked ``@dimesh.spi.hookimpl``. It may state ``contract_version = 1``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import typer

    from dimesh.events import Event
    from dimesh.spi.bus import BusBackend
    from dimesh.spi.cdc import CDCSource, Change, Gap
    from dimesh.spi.context import PluginContext
    from dimesh.spi.interceptor import Interceptor
    from dimesh.spi.lineage import LineageRecord, LineageSink
    from dimesh.spi.receipt import Receipt
    from dimesh.spi.registry import RegistryStore, StoredSchema

    Message = MutableMapping[str, Any]
    ASGIApp = Callable[
        [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
    ]

hookspec = pluggy.HookspecMarker("dimesh")


# -- providers: only the driver that is asked for is called -----------------------------------------------


@hookspec(firstresult=True)
def dimesh_bus_backend(options: Mapping[str, Any], context: PluginContext) -> BusBackend | None:
    """Return a new bus backend, not opened. Pass ``options`` to ``dimesh.options.parse_options``."""


@hookspec(firstresult=True)
def dimesh_registry_store(options: Mapping[str, Any], context: PluginContext) -> RegistryStore | None:
    """Return a new schema store, not opened. Pass ``options`` to ``dimesh.options.parse_options``."""


@hookspec(firstresult=True)
def dimesh_cdc_source(options: Mapping[str, Any], context: PluginContext) -> CDCSource | None:
    """Return a new change source, not opened. Pass ``options`` to ``dimesh.options.parse_options``."""


@hookspec(firstresult=True)
def dimesh_lineage_sink(options: Mapping[str, Any], context: PluginContext) -> LineageSink | None:
    """Return a new lineage sink, not opened. Pass ``options`` to ``dimesh.options.parse_options``."""


# -- extensions: called once for each mesh, or by the command line ---------------------------------------


@hookspec
def dimesh_interceptor(options: Mapping[str, Any] | None, context: PluginContext) -> Interceptor | None:
    """Return an interceptor (see ``dimesh.spi.interceptor``) for every publish and every handling of the mesh's bus; None: none,
    which costs events nothing. ``options`` come from ``[plugins.options.<name>]``; None: the settings have no such section. The
    mesh is not open yet: what needs a thread or a connection belongs into ``dimesh_start``.
    """


@hookspec
def dimesh_commands(cli: typer.Typer) -> None:
    """Add commands to the command line: ``cli`` is an empty ``typer.Typer``. A built-in command cannot be replaced."""


@hookspec
def dimesh_http(context: PluginContext) -> Sequence[tuple[str, ASGIApp]] | None:
    """Return ASGI applications to mount in the HTTP host, each with its path, such as ``("/pages", app)``."""


# -- observers: called after the fact; an exception is logged and counted, and affects nothing else -------


@hookspec
def dimesh_start(options: Mapping[str, Any], context: PluginContext) -> None:
    """Start the plugin: the mesh has been opened. ``options`` come from ``[plugins.options.<name>]``."""


@hookspec
def dimesh_stop(context: PluginContext) -> None:
    """Stop the plugin: the mesh has been closed. Called only if ``dimesh_start`` succeeded, and with the same context."""


@hookspec
def dimesh_published(topic: str, event: Event, receipt: Receipt) -> None:
    """Observe that the backend has acknowledged an event."""


@hookspec
def dimesh_delivered(topic: str, subscription: str, event: Event) -> None:
    """Observe that a handler has handled an event."""


@hookspec
def dimesh_failed(topic: str, subscription: str, event: Event, error: BaseException, attempt: int) -> None:
    """Observe that a handler has failed to handle an event; ``attempt`` counts from 1."""


@hookspec
def dimesh_dead_lettered(topic: str, subscription: str, event: Event, reason: str) -> None:
    """Observe that an event has been moved to the dead letters."""


@hookspec
def dimesh_given_up(topic: str, subscription: str, event: Event, reason: str) -> None:
    """Observe that an event could neither be handled nor be dead-lettered: the backend refuses its dead letter in every form. The
    event stays in its topic until retention removes it.
    """


@hookspec
def dimesh_change_captured(source: str, change: Change) -> None:
    """Observe that a change has been published and acknowledged."""


@hookspec
def dimesh_gap_detected(source: str, gap: Gap) -> None:
    """Observe that a source may have missed changes."""


@hookspec
def dimesh_schema_registered(schema: StoredSchema) -> None:
    """Observe that a new schema version has been stored."""


@hookspec
def dimesh_lineage_recorded(record: LineageRecord) -> None:
    """Observe that a lineage record has been written to the sinks."""
