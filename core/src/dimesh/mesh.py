"""A whole mesh from its settings: bus, registry, change capture and lineage, opened and closed together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dimesh.bus.counts import EventCounts
from dimesh.bus.engine import EventBus
from dimesh.bus.schema_rules import Action, SchemaRule, SubjectName, Unavailable, Unknown
from dimesh.capabilities import Capability
from dimesh.clock import Clock, SystemClock
from dimesh.errors import ConfigurationError
from dimesh.handlers import import_object, prepare, subscribe_all
from dimesh.plugins import PluginManager
from dimesh.settings import DriverSection, MeshSettings, SourceSection, check_references
from dimesh.spi.cdc import CDCSource, WebhookSource
from dimesh.spi.context import PluginContext
from dimesh.spi.interceptor import HandleInterceptor, Interceptor, PublishInterceptor
from dimesh.tasks import finish

if TYPE_CHECKING:
    from dimesh.backends.state.sqlite import SqliteCDCStore
    from dimesh.cdc import CDCConnector, CDCManager
    from dimesh.cdc.reports import SourceReport
    from dimesh.lineage import LineageService
    from dimesh.registry import SchemaRegistry
    from dimesh.spi.registry import RegistryStore

log = logging.getLogger("dimesh.mesh")

# The paths of the embedded drivers' files, for settings without a path.
_DEFAULT_PATHS = {"sqlite": "{part}.db", "file": "{part}"}


class Mesh:
    """The parts of one mesh. Nothing is connected before :meth:`open`.

    Args:
        settings: from :func:`dimesh.settings.load_settings`.
        manager: the plugin manager; by default a new one as the settings describe it.
        clock: the clock of the mesh; by default the machine's.

    Raises:
        PluginError: a configured plugin cannot be used.
        ConfigurationError: a driver refuses an option, or an interceptor cannot be imported.
    """

    def __init__(
        self, settings: MeshSettings, *, manager: PluginManager | None = None, clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.context = PluginContext(
            settings.mesh.name, settings.mesh.data_dir, self.clock, self._opened_store
        )
        """The description of this mesh for plugins."""
        self.plugins = manager or PluginManager(settings.plugins.allow, settings.plugins.block, self.context)
        self.plugins.load_observers(settings.plugins.options)
        self._registry: SchemaRegistry | None = None
        self._lineage: LineageService | None = None
        self._cdc: CDCManager | None = None
        self._cdc_store: SqliteCDCStore | None = None
        self.counts = EventCounts(self.plugins) if settings.http.listen is not None else None
        """The counters for metrics; None where nobody can read them."""
        self.webhook_sources: dict[str, WebhookSource] = {}
        """The sources that are captured here and that webhooks wake, by name."""
        bus = settings.bus
        rules = schema_rules(settings)
        self.bus = EventBus(
            self.plugins.bus_backend(bus.driver, driver_options(self.settings, bus, "mesh"), self.context),
            clock=self.clock,
            consumer_group=bus.consumer_group,
            registry=self.registry if rules else None,
            schemas=rules or None,
            interceptors=self._interceptors(),
            observer=self.plugins if self.counts is None else self.counts,
            principal=settings.mesh.principal,
            publish_timeout=bus.publish_timeout,
            drain_timeout=bus.drain_timeout,
            create_topics=bus.create_topics,
        )

    def _interceptors(self) -> list[Interceptor]:
        """Return the interceptors of the bus, the outermost first: those of the settings, of plugins, and lineage."""
        named: list[Interceptor] = []
        for path in self.settings.mesh.interceptors:
            target = import_object(path, "interceptor")
            if isinstance(target, type) or not isinstance(target, (PublishInterceptor, HandleInterceptor)):
                raise ConfigurationError(
                    f"interceptor {path!r} is {'a class' if isinstance(target, type) else 'an object'} without a "
                    "method publish or handle: name an instance that has one or both"
                )
            named.append(target)
        named += self.plugins.interceptors(self.context)
        if self.settings.lineage.enabled:
            from dimesh.lineage.interceptor import LineageInterceptor

            named.append(LineageInterceptor(lambda: self.lineage))
        return named

    @property
    def registry(self) -> SchemaRegistry:
        """The schema registry; opens at first use."""
        if self._registry is None:
            from dimesh.registry import SchemaRegistry

            section = self.settings.registry
            store = self.plugins.registry_store(
                section.driver, driver_options(self.settings, section, "registry"), self.context
            )
            self._registry = SchemaRegistry(
                store,
                policy=section.policy,
                undecided=section.undecided,
                languages=self.plugins.schema_language,
                on_registered=self.plugins.schema_registered,
            )
        return self._registry

    async def _opened_store(self) -> RegistryStore:
        await self.registry.open()
        return self.registry.store

    @property
    def lineage(self) -> LineageService:
        """The lineage service; opens at first use."""
        if self._lineage is None:
            from dimesh.lineage import LineageService

            section = self.settings.lineage
            sink = self.plugins.lineage_sink(
                section.driver, driver_options(self.settings, section, "lineage"), self.context
            )
            self._lineage = LineageService(
                sinks=[sink], clock=self.clock, on_recorded=self.plugins.lineage_recorded
            )
        return self._lineage

    def lineage_reader(self) -> LineageService:
        """Return a service that reads what was recorded, also while another process records. The caller opens and closes it.

        Raises:
            ConfigurationError: the driver of the settings keeps nothing that could be read.
        """
        from dimesh.capabilities import Capability
        from dimesh.lineage import LineageService

        section = self.settings.lineage
        options = driver_options(self.settings, section, "lineage")
        if section.driver == "file":
            options["read_only"] = True
        sink = self.plugins.lineage_sink(section.driver, options, self.context)
        if not {Capability.READ_BACK, Capability.DURABLE} <= set(sink.capabilities):
            raise ConfigurationError(
                f"the lineage driver {section.driver!r} keeps nothing that another process can read: set [lineage] driver = "
                '"file"'
            )
        return LineageService(sinks=[sink], clock=self.clock)

    def lineage_counts(self) -> dict[str, int] | None:
        """Return :meth:`LineageService.counts`; None where the service was not used."""
        return self._lineage.counts() if self._lineage is not None else None

    @property
    def cdc(self) -> CDCManager:
        """The manager of the change sources."""
        if self._cdc is None:
            from dimesh.cdc import CDCManager

            self._cdc = CDCManager(self.bus)
        return self._cdc

    def source_reports(self) -> dict[str, SourceReport]:
        """Return the state of each source that was started, by name."""
        return self._cdc.reports() if self._cdc is not None else {}

    @property
    def cdc_store(self) -> SqliteCDCStore:
        """The store of capture's positions and rows; opens at first use."""
        if self._cdc_store is None:
            from dimesh.backends.state.sqlite import SqliteCDCStore

            self._cdc_store = SqliteCDCStore(self.settings.cdc.state, self.settings.cdc.last_state)
        return self._cdc_store

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> Self:
        """Connect the bus. The other parts connect at first use."""
        await self.bus.open()
        try:
            self.plugins.start(self.context)
        except BaseException:
            await self.bus.close()
            raise
        return self

    async def close(self) -> None:
        """Close the sources first, then the handlers, then the services that they write to. Each step has a bound, and the log
        names what exceeds it; see :meth:`EventBus.close`.
        """
        async with AsyncExitStack() as stack:
            stack.callback(self.plugins.stop)
            if self._registry is not None:
                stack.push_async_callback(_closed, self._registry.close, "the registry")
            if self._lineage is not None:
                stack.push_async_callback(self._lineage.close)
            stack.push_async_callback(self.bus.close)
            if self._cdc_store is not None:
                stack.push_async_callback(_closed, self._cdc_store.close, "the store of capture")
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
        """Subscribe the handlers and start the sources of the settings; return a line about each for the log.

        Raises:
            ConfigurationError: a handler cannot be imported, or there is nothing to run.
        """
        settings = self.settings
        if not settings.handlers and not settings.sources and not settings.registry.serve.mount:
            raise ConfigurationError(
                "nothing to run: the settings have no [[handlers]] and no [[sources]]; see 'Run a mesh from a file' in "
                "the documentation"
            )
        # All handlers first: they should receive the first events of the sources.
        handlers = prepare(settings.handlers)
        lineage = self.lineage if settings.lineage.enabled and handlers else None
        await self.open()
        if lineage is not None:
            lineage.open_in_background()  # now, so that an operator sees at once if it cannot be written
        started = await subscribe_all(self.bus, handlers)
        started += await self.capture([(source, source.objects) for source in settings.sources])
        return started

    async def capture(self, sources: Sequence[tuple[SourceSection, Sequence[str]]]) -> list[str]:
        """Start capturing objects of sources, and let webhooks wake them; return a line about each source for the log. The mesh
        must be open, and stops the capture when it is closed.

        Raises:
            PluginError: a driver cannot be used.
            ConfigurationError: a driver refuses an option.
        """
        # At the same time: one that is down, which takes seconds to find out, must not delay the others.
        connectors = [(source, objects, self.connector(source)) for source, objects in sources]
        # One source that is down must not prevent the rest of the mesh from running, either.
        outcomes = await asyncio.gather(
            *(connector.start(objects, keep_trying=True) for _, objects, connector in connectors),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        started = []
        for source, objects, connector in connectors:
            driver = connector.source
            if isinstance(driver, WebhookSource):
                self.webhook_sources[source.name] = driver
            started.append(f"source {source.name}: {', '.join(objects)} to {connector.topic}")
        if self.webhook_sources:
            from dimesh.cdc.webhooks import listen

            await listen(self.bus, self.webhook_sources)
        return started

    def source(self, section: SourceSection) -> CDCSource:
        """Return a new change source as the settings describe it, not opened.

        Raises:
            PluginError: the driver cannot be used.
            ConfigurationError: the driver refuses an option, or an option refers to a variable that is not set.
        """
        check_references(section.options)
        return self.plugins.cdc_source(
            section.driver,
            section.options,
            self.context,
            subject=f"source {section.name!r} ({section.driver})",
        )

    def connector(self, source: SourceSection) -> CDCConnector:
        """Create the connector of a source of the settings, not started, and register it with :attr:`cdc`.

        Raises:
            PluginError: the driver cannot be used.
            ConfigurationError: the driver refuses an option.
        """
        from dimesh.cdc import SourceConnector

        driver = self.source(source)
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
            topic=source.topic,
            status_events=source.status_events,
            verify=source.verify,
        )
        self.cdc.register_connector(connector)
        return connector

    async def run(self, stop: asyncio.Event) -> None:
        """Start everything, wait until ``stop`` is set, drain and close."""
        try:
            for line in await self.start():
                log.info("started %s", line)
            await stop.wait()
        finally:
            await self.close()


def driver_options(settings: MeshSettings, section: DriverSection, part: str) -> dict[str, Any]:
    """Return the options of a driver, with the path of an embedded driver's file.

    Args:
        settings: the settings of the mesh.
        section: the driver.
        part: the name of the file without its ending: ``mesh``, ``registry`` or ``lineage``.

    Raises:
        ConfigurationError: an option refers to an environment variable that is not set.
    """
    check_references(section.options)
    options = dict(section.options)
    default = _DEFAULT_PATHS.get(section.driver)
    if default is not None and "path" not in options:
        options["path"] = str(settings.mesh.data_dir / default.format(part=part))
    return options


def schema_rules(settings: MeshSettings) -> list[SchemaRule]:
    """Return the rules of the check of schemas, of the settings; empty: nothing is checked.

    Raises:
        EventError: a topic or pattern is not acceptable.
    """
    rules = [
        SchemaRule(
            (section.topic,) if isinstance(section.topic, str) else tuple(section.topic),
            Action(section.publish),
            Action(section.consume),
            SubjectName(section.subject),
            Unknown(section.unknown),
            Unavailable(section.unavailable),
        )
        for section in settings.schemas
    ]
    return [*rules, SchemaRule()] if settings.bus.validate_schemas else rules


async def _closed(close: Callable[[], Awaitable[None]], name: str) -> None:
    await finish(close(), f"closing {name}")
