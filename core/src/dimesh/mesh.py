"""A whole mesh from its settings: bus, registry, change capture and lineage, opened and closed together."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dimesh.bus.engine import EventBus
from dimesh.bus.handler import EventHandler, Middleware, Next
from dimesh.bus.options import SubscriptionOptions
from dimesh.bus.retry import RetryPolicy
from dimesh.capabilities import Capability
from dimesh.clock import Clock, SystemClock
from dimesh.errors import ConfigurationError
from dimesh.events.event import Event
from dimesh.plugins import PluginManager
from dimesh.settings import DriverSection, HandlerSection, MeshSettings, SourceSection
from dimesh.spi.bus import StartAt
from dimesh.spi.cdc import WebhookSource

if TYPE_CHECKING:
    from dimesh.cdc import CDCConnector, CDCManager
    from dimesh.cdc.store import SqliteCDCStore
    from dimesh.lineage import LineageService
    from dimesh.registry import SchemaRegistry

log = logging.getLogger("dimesh.mesh")

# Where the embedded drivers put their files when the settings do not say.
_DEFAULT_PATHS = {"sqlite": "{part}.db", "file": "{part}"}


class Mesh:
    """The parts of one mesh. Nothing is connected before :meth:`open`.

    Args:
        settings: from :func:`dimesh.settings.load_settings`.
        manager: of the plugins; made from the settings by default.
        clock: time.

    Raises:
        PluginError: a configured plugin cannot be used.
        ConfigurationError: a driver's option, or a handler's path, cannot be.
    """

    def __init__(
        self, settings: MeshSettings, *, manager: PluginManager | None = None, clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.plugins = manager or PluginManager(settings.plugins.allow, settings.plugins.block, self.clock)
        self.plugins.load_observers()
        self._registry: SchemaRegistry | None = None
        self._lineage: LineageService | None = None
        self._cdc: CDCManager | None = None
        self._cdc_store: SqliteCDCStore | None = None
        bus = settings.bus
        self.bus = EventBus(
            self.plugins.bus_backend(bus.driver, self._options(bus, "mesh"), self.clock),
            clock=self.clock,
            consumer_group=bus.consumer_group,
            registry=self.registry if bus.validate_schemas else None,
            observer=self.plugins,
            publish_timeout=bus.publish_timeout,
            drain_timeout=bus.drain_timeout,
        )

    def _options(self, section: DriverSection, part: str) -> dict[str, Any]:
        options = dict(section.options)
        default = _DEFAULT_PATHS.get(section.driver)
        if default is not None and "path" not in options:
            options["path"] = str(Path(self.settings.mesh.data_dir) / default.format(part=part))
        return options

    @property
    def registry(self) -> SchemaRegistry:
        """The schema registry; opens at first use."""
        if self._registry is None:
            from dimesh.registry import SchemaRegistry

            section = self.settings.registry
            store = self.plugins.registry_store(
                section.driver, self._options(section, "registry"), self.clock
            )
            self._registry = SchemaRegistry(store, on_registered=self.plugins.schema_registered)
        return self._registry

    @property
    def lineage(self) -> LineageService:
        """The lineage service; opens at first use."""
        if self._lineage is None:
            from dimesh.lineage import LineageService

            section = self.settings.lineage
            sink = self.plugins.lineage_sink(section.driver, self._options(section, "lineage"), self.clock)
            self._lineage = LineageService(
                sinks=[sink], clock=self.clock, on_recorded=self.plugins.lineage_recorded
            )
        return self._lineage

    @property
    def cdc(self) -> CDCManager:
        """The manager of the change sources."""
        if self._cdc is None:
            from dimesh.cdc import CDCManager

            self._cdc = CDCManager(self.bus)
        return self._cdc

    @property
    def cdc_store(self) -> SqliteCDCStore:
        """Where capture keeps positions and rows; opens at first use."""
        if self._cdc_store is None:
            from dimesh.cdc.store import SqliteCDCStore

            self._cdc_store = SqliteCDCStore(self.settings.cdc.state, self.settings.cdc.last_state)
        return self._cdc_store

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> Self:
        """Connect the bus. The other parts connect at first use."""
        await self.bus.open()
        return self

    async def close(self) -> None:
        """Sources first, then the handlers, then what they write to."""
        async with AsyncExitStack() as stack:
            if self._registry is not None:
                stack.push_async_callback(self._registry.close)
            if self._lineage is not None:
                stack.push_async_callback(self._lineage.close)
            stack.push_async_callback(self.bus.close)
            if self._cdc_store is not None:
                stack.push_async_callback(self._cdc_store.close)
            if self._cdc is not None:
                stack.push_async_callback(self._cdc.stop_all)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- running ---------------------------------------------------------------------------------

    async def start(self) -> list[str]:
        """Subscribe the handlers and start the sources of the settings; returns what was started, for people.

        Raises:
            ConfigurationError: a handler cannot be imported, or there is nothing to run.
        """
        settings = self.settings
        if not settings.handlers and not settings.sources:
            raise ConfigurationError(
                "nothing to run: the settings name no [[handlers]] and no [[sources]]; see 'Run a mesh from a file' in "
                "the documentation"
            )
        # All handlers first: a source's first events should find them.
        handlers = [(section, import_handler(section.call)) for section in settings.handlers]
        await self.open()
        middleware = [self._record_lineage] if settings.lineage.enabled else []
        started = []
        for section, function in handlers:
            started.append(await self._subscribe(section, function, middleware))
        wakers: dict[str, WebhookSource] = {}
        for source in settings.sources:
            connector = self.connector(source)
            # One source that is down must not keep the mesh from its work.
            await connector.start(source.objects, keep_trying=True)
            driver = connector.source
            if isinstance(driver, WebhookSource):
                wakers[source.name] = driver
            started.append(
                f"source {source.name}: {', '.join(source.objects)} to cdc.{connector.source_system}"
            )
        if wakers:
            from dimesh.cdc.hints import listen

            await listen(self.bus, wakers)
        return started

    def connector(self, source: SourceSection) -> CDCConnector:
        """The connector of a source of the settings, not started; the manager knows it.

        Raises:
            PluginError, ConfigurationError
        """
        from dimesh.cdc import SourceConnector

        driver = self.plugins.cdc_source(source.driver, source.options, self.clock)
        connector = SourceConnector(
            source.name,
            driver,
            self.bus,
            source.pillar,
            clock=self.clock,
            observer=self.plugins,
            store=self.cdc_store,
            registry=self.registry if Capability.DESCRIBED in driver.capabilities else None,
            repair=source.repair,
            repair_pause=source.repair_pause,
        )
        self.cdc.register_connector(connector)
        return connector

    async def _subscribe(
        self, section: HandlerSection, function: Callable[..., Any], middleware: Sequence[Middleware]
    ) -> str:
        handler = EventHandler(
            function,
            section.event_types or None,
            section.pillars or None,
            section.priorities or None,
            batch_size=section.batch_size,
            name=section.call,
        )
        group = section.group or section.call
        await self.bus.subscribe(
            section.topic,
            handler,
            group=group,
            start=StartAt(section.start),
            produce_to=section.produce_to,
            options=SubscriptionOptions(
                concurrency=section.concurrency,
                max_in_flight=section.max_in_flight,
                retry=RetryPolicy(attempts=section.attempts),
                handler_timeout=section.timeout,
            ),
            middleware=middleware if section.batch_size is None else (),
        )
        return f"handler {section.call}: {section.topic} as group {group}"

    async def _record_lineage(self, event: Event, call_next: Next) -> Any:
        result = await call_next(event)
        self.lineage.track_event_nowait(event)
        return result

    async def run(self, stop: asyncio.Event) -> None:
        """Start everything, wait until ``stop`` is set, drain and close."""
        try:
            for line in await self.start():
                log.info("started %s", line)
            await stop.wait()
        finally:
            await self.close()


def import_handler(path: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names.

    Raises:
        ConfigurationError: no such module or function; says which.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigurationError(f"handler {path[:200]!r} is not of the form package.module:function")
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"handler {path!r}: there is no module {error.name!r} (looked in the working folder, too)"
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f"handler {path!r}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    for part in attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            raise ConfigurationError(f"handler {path!r}: {module_name} has no {attribute!r}") from None
    if not callable(target):
        raise ConfigurationError(f"handler {path!r} is {type(target).__name__}, not a function")
    return target  # type: ignore[no-any-return]
