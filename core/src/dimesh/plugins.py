"""Calls plugins: a typed function around every hook. Nobody else touches pluggy."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from dimesh import hookspecs
from dimesh.clock import Clock, SystemClock
from dimesh.discovery import Found, Kind, Selection, choose, find, load
from dimesh.errors import PluginContractError, PluginError

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
        allow: names of drivers or distributions that may be used; None: all.
        block: names that may not.
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

    # -- registering -----------------------------------------------------------------------------

    def register(self, plugin: object, *, kind: Kind = Kind.HOOKS, name: str = "") -> None:
        """Add a plugin object of this process: an observer, or (with ``kind`` and ``name``) a driver.

        Raises:
            PluginContractError: its hooks do not fit the specs.
        """
        self._register(plugin, name or repr(plugin))
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
        if self._pluggy.is_registered(plugin):
            return
        try:
            self._pluggy.register(plugin)
            unknown = [
                impl.function.__name__
                for name, caller in vars(self._pluggy.hook).items()
                if isinstance(caller, pluggy.HookCaller) and not caller.has_spec()
                for impl in caller.get_hookimpls()
                if impl.plugin is plugin
            ]
            if unknown:
                raise PluginContractError(f"{who} implements {_nearest(unknown[0])}")
            if not self._pluggy.get_hookcallers(plugin):
                raise PluginContractError(
                    f"{who} implements no hook: mark its functions with @dimesh.spi.hookimpl"
                )
        except pluggy.PluginValidationError as error:
            self._forget(plugin)
            raise PluginContractError(f"{who} does not fit the hook specs: {error}") from error
        except PluginContractError:
            self._forget(plugin)
            raise

    def _forget(self, plugin: object) -> None:
        if self._pluggy.is_registered(plugin):
            self._pluggy.unregister(plugin)

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
        if (kind, name) in self._own:
            plugin, who = self._own[kind, name], f"{kind.label} {name!r}"
        else:
            found = choose(kind, name, self.selection)
            plugin, who = self._get(found), str(found)
        others = [p for p in self._pluggy.get_plugins() if p is not plugin]
        caller = self._pluggy.subset_hook_caller(hook, others)
        provider = caller(options=dict(options or {}), clock=clock or self._clock)
        if provider is None:
            raise PluginContractError(
                f"{who} gave no provider: it does not implement {hook}, or returned None"
            )
        if not isinstance(provider, protocol):
            lacking = sorted(
                member
                for member in getattr(protocol, "__protocol_attrs__", None) or _members(protocol)
                if not hasattr(provider, member)
            )
            raise PluginContractError(
                f"{who} gave a {type(provider).__name__}, which is no {protocol.__name__}: "
                f"it lacks {', '.join(lacking)}"
            )
        return provider

    # -- observers -------------------------------------------------------------------------------

    def _observed(self, hook: str) -> bool:
        caller: pluggy.HookCaller = getattr(self._pluggy.hook, hook)
        return bool(caller.get_hookimpls())

    @property
    def observes_published(self) -> bool:
        """Whether anybody listens to :meth:`published`."""
        return self._observed("dimesh_published")

    @property
    def observes_delivered(self) -> bool:
        """Whether anybody listens to :meth:`delivered`."""
        return self._observed("dimesh_delivered")

    def _tell(self, hook: str, **arguments: Any) -> None:
        # One by one: pluggy's own call would end at the first observer that raises.
        caller: pluggy.HookCaller = getattr(self._pluggy.hook, hook)
        for impl in caller.get_hookimpls():
            try:
                impl.function(*(arguments[name] for name in impl.argnames))
            except Exception as error:
                self.observer_errors += 1
                if (impl.plugin_name, hook) not in self._complained:
                    self._complained.add((impl.plugin_name, hook))
                    log.warning(
                        "observer %s failed in %s (said once, counted from now on): %s: %s",
                        impl.plugin_name,
                        hook,
                        type(error).__name__,
                        error,
                    )

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


def _members(protocol: type) -> set[str]:
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
