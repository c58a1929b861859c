"""Calls plugins: a typed function around every hook. Nobody else touches pluggy."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from dimesh import hookspecs
from dimesh.clock import Clock, SystemClock
from dimesh.discovery import Found, Kind, Selection, choose, describe, find, load, missing_module
from dimesh.errors import ConfigurationError, DimeshError, PluginContractError, PluginError

if TYPE_CHECKING:
    from dimesh.bus.receipt import Receipt
    from dimesh.events import Event
    from dimesh.spi.bus import BusBackend
    from dimesh.spi.cdc import CDCSource, Change, Gap
    from dimesh.spi.lineage import LineageRecord, LineageSink
    from dimesh.spi.registry import RegistryStore, StoredSchema

log = logging.getLogger("dimesh.plugins")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PluginRow:
    """One line of ``dimesh plugins``."""

    kind: str
    name: str
    distribution: str
    version: str
    state: str
    """``available`` (not imported), ``loaded``, ``blocked``, ``conflict``, ``failed``."""
    reason: str = ""


class PluginManager:
    """Finds, loads and calls plugins.

    Args:
        allow: plugins that may be used, see :class:`~dimesh.discovery.Selection`; None: all.
        block: plugins that may not.
        clock: for providers that are made without one.
    """

    def __init__(
        self,
        allow: Iterable[str] | None = None,
        block: Iterable[str] = (),
        clock: Clock | None = None,
    ) -> None:
        self.selection = Selection(allow, block)
        self._clock = clock or SystemClock()
        self._pluggy = pluggy.PluginManager("dimesh")
        self._pluggy.add_hookspecs(hookspecs)
        self._own: dict[tuple[Kind, str], Any] = {}
        self._loaded: dict[tuple[str, str, str], Any] = {}
        self._failed: dict[tuple[str, str, str], str] = {}
        self._observers_loaded = False
        self._complained: set[tuple[str, str]] = set()
        self.observer_errors = 0
        """Exceptions that observers raised."""
        self.observes_published = False
        """Whether anybody listens to :meth:`published`; the hot path asks."""
        self.observes_delivered = False
        """Whether anybody listens to :meth:`delivered`."""

    # -- registering -----------------------------------------------------------------------------

    def register(self, plugin: object, *, kind: Kind = Kind.HOOKS, name: str = "") -> None:
        """Add a plugin object of this process: an observer, or (with ``kind`` and ``name``) a driver, which then
        comes before an installed one of that name.

        Raises:
            PluginContractError: its hooks do not fit the specs.
            ConfigurationError: a driver without a name.
        """
        if kind is not Kind.HOOKS and not name:
            raise ConfigurationError(
                f"a {kind.label} driver needs a name: register(plugin, kind=…, name='…')"
            )
        self._register(plugin, f"{kind.label} {name!r}" if name else repr(plugin)[:200])
        if kind is not Kind.HOOKS:
            self._own[kind, name] = plugin

    def load_observers(self) -> None:
        """Load the installed plugins that only observe. One that fails is a warning and a row, nothing more."""
        if self._observers_loaded:
            return
        self._observers_loaded = True
        for found in find(Kind.HOOKS):
            if self.selection.why_not(found) is None:
                try:
                    self._get(found)
                except PluginError as error:
                    log.warning("%s", error)

    def _get(self, found: Found) -> Any:
        key = (found.kind.value, found.name, found.distribution)
        if key not in self._loaded:
            try:
                plugin = load(found)
                self._register(plugin, str(found))
            except PluginError as error:
                self._failed[key] = str(error)
                raise
            self._loaded[key] = plugin
            self._failed.pop(key, None)
        return self._loaded[key]

    def _register(self, plugin: object, who: str) -> None:
        if plugin is None:  # pluggy takes it for a blocked name
            raise PluginContractError(f"{who} is None, not a plugin")
        # By identity: plugins may be equal, or not hashable.
        if any(plugin is known for _, known in self._pluggy.list_name_plugin()):
            return
        name = who if not self._pluggy.has_plugin(who) else f"{who} ({id(plugin):#x})"
        try:
            self._pluggy.register(plugin, name)
            self._check(plugin, who)
        except Exception as error:
            if self._pluggy.has_plugin(name):
                self._pluggy.unregister(name=name)
            if isinstance(error, PluginContractError):
                raise
            raise PluginContractError(f"{who} does not fit the hook specs: {describe(error)}") from error
        self.observes_published = bool(self._impls("dimesh_published"))
        self.observes_delivered = bool(self._impls("dimesh_delivered"))

    def _check(self, plugin: object, who: str) -> None:
        """What pluggy lets pass: hooks that nobody calls, or whose answer nobody waits for."""
        implemented = 0
        for hook, caller in vars(self._pluggy.hook).items():
            for impl in caller.get_hookimpls() if isinstance(caller, pluggy.HookCaller) else ():
                if impl.plugin is not plugin:
                    continue
                implemented += 1
                if not caller.has_spec() and not impl.optionalhook:
                    raise PluginContractError(f"{who} implements {_nearest(hook)}")
                if inspect.iscoroutinefunction(impl.function):
                    raise PluginContractError(
                        f"{who}: {hook} is an async function; hooks are plain functions"
                    )
                if impl.wrapper or impl.hookwrapper:
                    raise PluginContractError(
                        f"{who}: {hook} is a wrapper; hooks of dimesh cannot be wrapped"
                    )
        if not implemented:
            raise PluginContractError(
                f"{who} implements no hook: mark its functions with @dimesh.spi.hookimpl"
            )

    def _impls(self, hook: str) -> list[pluggy.HookImpl]:
        caller: pluggy.HookCaller = getattr(self._pluggy.hook, hook)
        return caller.get_hookimpls()

    # -- providers -------------------------------------------------------------------------------

    def bus_backend(
        self, name: str, options: Mapping[str, Any] | None = None, clock: Clock | None = None
    ) -> BusBackend:
        """A bus backend, not opened.

        Raises:
            UnknownDriverError, PluginError, ConfigurationError
        """
        from dimesh.spi.bus import BusBackend

        return self._provide(Kind.BUS, "dimesh_bus_backend", BusBackend, name, options, clock)  # type: ignore[type-abstract]

    def registry_store(
        self, name: str, options: Mapping[str, Any] | None = None, clock: Clock | None = None
    ) -> RegistryStore:
        """A schema store, not opened. Raises like :meth:`bus_backend`."""
        from dimesh.spi.registry import RegistryStore

        return self._provide(Kind.REGISTRY, "dimesh_registry_store", RegistryStore, name, options, clock)  # type: ignore[type-abstract]

    def cdc_source(
        self, name: str, options: Mapping[str, Any] | None = None, clock: Clock | None = None
    ) -> CDCSource:
        """A change source, not opened. Raises like :meth:`bus_backend`."""
        from dimesh.spi.cdc import CDCSource

        return self._provide(Kind.CDC, "dimesh_cdc_source", CDCSource, name, options, clock)  # type: ignore[type-abstract]

    def lineage_sink(
        self, name: str, options: Mapping[str, Any] | None = None, clock: Clock | None = None
    ) -> LineageSink:
        """A lineage sink, not opened. Raises like :meth:`bus_backend`."""
        from dimesh.spi.lineage import LineageSink

        return self._provide(Kind.LINEAGE, "dimesh_lineage_sink", LineageSink, name, options, clock)  # type: ignore[type-abstract]

    def _provide(
        self,
        kind: Kind,
        hook: str,
        protocol: type[T],
        name: str,
        options: Mapping[str, Any] | None,
        clock: Clock | None,
    ) -> T:
        found: Found | None = None
        if (kind, name) in self._own:
            plugin, who = self._own[kind, name], f"{kind.label} {name!r}"
        else:
            found = choose(kind, name, self.selection)
            plugin, who = self._get(found), str(found)
        # Only the driver that was asked for: pluggy's own call would ask all that are loaded.
        impl = next((impl for impl in self._impls(hook) if impl.plugin is plugin), None)
        if impl is None:
            raise PluginContractError(f"{who} does not implement {hook}")
        try:
            provider = _call(impl, {"options": dict(options or {}), "clock": clock or self._clock})
        except (DimeshError, KeyboardInterrupt):
            raise
        except BaseException as error:
            if isinstance(error, ModuleNotFoundError) and found is not None:
                raise PluginError(f"{who} {missing_module(found, error)}") from error
            raise PluginError(f"{who} failed in {hook}: {describe(error)}") from error
        if provider is None:
            raise PluginContractError(f"{who} gave no provider: its {hook} returned None")
        if isinstance(provider, type):
            raise PluginContractError(
                f"{who} gave the class {provider.__name__} instead of an instance of it"
            )
        if not isinstance(provider, protocol):
            lacking = ", ".join(sorted(m for m in _members(protocol) if not hasattr(provider, m)))
            raise PluginContractError(
                f"{who} gave a {type(provider).__name__}, which is no {protocol.__name__}: it lacks {lacking}"
            )
        return provider

    # -- observers -------------------------------------------------------------------------------

    def _tell(self, hook: str, **arguments: Any) -> None:
        # One by one: pluggy's own call would end at the first observer that raises. Its order, though.
        for impl in reversed(self._impls(hook)):
            try:
                _call(impl, arguments)
            except (Exception, SystemExit) as error:
                self.observer_errors += 1
                if (impl.plugin_name, hook) not in self._complained:
                    self._complained.add((impl.plugin_name, hook))
                    log.warning(
                        "observer %s failed in %s (said once, counted from now on): %s",
                        impl.plugin_name,
                        hook,
                        describe(error),
                    )
                    log.debug("the failure of %s in full", impl.plugin_name, exc_info=error)

    def published(self, topic: str, event: Event, receipt: Receipt) -> None:
        """See the hook of that name."""
        self._tell("dimesh_published", topic=topic, event=event, receipt=receipt)

    def delivered(self, topic: str, subscription: str, event: Event) -> None:
        """See the hook of that name."""
        self._tell("dimesh_delivered", topic=topic, subscription=subscription, event=event)

    def failed(self, topic: str, subscription: str, event: Event, error: BaseException, attempt: int) -> None:
        """See the hook of that name."""
        self._tell(
            "dimesh_failed", topic=topic, subscription=subscription, event=event, error=error, attempt=attempt
        )

    def dead_lettered(self, topic: str, subscription: str, event: Event, reason: str) -> None:
        """See the hook of that name."""
        self._tell("dimesh_dead_lettered", topic=topic, subscription=subscription, event=event, reason=reason)

    def change_captured(self, source: str, change: Change) -> None:
        """See the hook of that name."""
        self._tell("dimesh_change_captured", source=source, change=change)

    def gap_detected(self, source: str, gap: Gap) -> None:
        """See the hook of that name."""
        self._tell("dimesh_gap_detected", source=source, gap=gap)

    def schema_registered(self, schema: StoredSchema) -> None:
        """See the hook of that name."""
        self._tell("dimesh_schema_registered", schema=schema)

    def lineage_recorded(self, record: LineageRecord) -> None:
        """See the hook of that name."""
        self._tell("dimesh_lineage_recorded", record=record)

    # -- listing ---------------------------------------------------------------------------------

    def rows(self) -> list[PluginRow]:
        """Every entry point with its state. Imports nothing."""
        return [
            self._row(found, everything)
            for kind in Kind
            for everything in [find(kind)]
            for found in everything
        ]

    def _row(self, found: Found, everything: list[Found]) -> PluginRow:
        key = (found.kind.value, found.name, found.distribution)
        why_not = self.selection.why_not(found)
        rivals = [
            other.distribution
            for other in everything
            if other.name == found.name
            and other.distribution != found.distribution
            and self.selection.why_not(other) is None
        ]
        if why_not is not None:
            state, reason = "blocked", why_not
        elif key in self._failed:
            state, reason = "failed", self._failed[key]
        elif rivals and found.kind is not Kind.HOOKS:
            state, reason = "conflict", f"also offered by {', '.join(rivals)}"
        elif key in self._loaded:
            state, reason = "loaded", ""
        else:
            state, reason = "available", ""
        return PluginRow(found.kind.label, found.name, found.distribution, found.version, state, reason)


def _call(impl: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
    return impl.function(*(arguments[name] for name in impl.argnames))


def _members(protocol: type) -> set[str]:
    """What a protocol asks for (Python 3.12 and later know it themselves)."""
    return {name for base in protocol.__mro__ for name in vars(base) if not name.startswith("_")} | set(
        getattr(protocol, "__annotations__", {})
    )


def _nearest(name: str) -> str:
    known = [hook for hook in vars(hookspecs) if hook.startswith("dimesh_")]
    near = difflib.get_close_matches(name, known, 1)
    return f"{name!r}, which is no hook" + (f"; did you mean {near[0]!r}?" if near else "")


@cache
def default_manager() -> PluginManager:
    """The manager that :class:`EventBusFactory` and its like use: everything installed may be used."""
    return PluginManager()
