"""Finds, loads and calls plugins: a typed method for every hook."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from dimesh.errors import (
    ConfigurationError,
    PluginContractError,
    PluginError,
    UnknownDriverError,
)
from dimesh.plugins.discovery import Kind, PluginRef, canonical, find, load
from dimesh.plugins.extensions import Extension, Extensions, call_or_raise
from dimesh.plugins.languages import check_language
from dimesh.plugins.selection import Selection, resolve, unknown_driver
from dimesh.secrets import wrap_secrets
from dimesh.spi.context import PluginContext

if TYPE_CHECKING:
    from dimesh.spi.bus import BusBackend
    from dimesh.spi.cdc import CDCSource
    from dimesh.spi.lineage import LineageSink
    from dimesh.spi.registry import RegistryStore
    from dimesh.spi.schema import SchemaLanguage

log = logging.getLogger("dimesh.plugins")

T = TypeVar("T")

_PROVIDER_HOOKS: Final = {
    Kind.BUS: "dimesh_bus_backend",
    Kind.REGISTRY: "dimesh_registry_store",
    Kind.CDC: "dimesh_cdc_source",
    Kind.LINEAGE: "dimesh_lineage_sink",
}


@dataclass(frozen=True, slots=True)
class PluginRow:
    """One line of ``dimesh plugins``."""

    kind: str
    name: str
    distribution: str
    version: str
    state: str
    """``available`` (not imported), ``loaded``, ``blocked``, ``conflict``, ``failed``; ``unknown`` is an entry of the
    allow or block list that has no effect."""
    reason: str = ""
    milliseconds: float | None = None
    """The time that importing the plugin took; None if this manager has not imported it for a check."""


class PluginManager(Extensions):
    """Finds, loads and calls plugins.

    Args:
        allow: the plugins that may be used, see :class:`~dimesh.plugins.selection.Selection`; None: all.
        block: the plugins that may not be used.
        context: the mesh that providers are made for, unless a call names another one.
    """

    def __init__(
        self,
        allow: Iterable[str] | None = None,
        block: Iterable[str] = (),
        context: PluginContext | None = None,
    ) -> None:
        super().__init__(context or PluginContext())
        self.selection = Selection(allow, block)
        self._own: dict[tuple[Kind, str], Any] = {}
        self._chosen: dict[tuple[Kind, str], PluginRef] = {}
        """The plugin that a driver's name means, for drivers that were used: finding it reads the metadata of every installed
        distribution, and a mesh has many sources of one driver."""
        self._loaded: dict[PluginRef, Any] = {}
        self._failed: dict[PluginRef, str] = {}
        self._observers_loaded = False

    # -- registering and loading -----------------------------------------------------------------

    def register(self, plugin: object, *, kind: Kind = Kind.HOOKS, name: str = "") -> None:
        """Add a plugin object of this process: an observer, or (with ``kind`` and ``name``) a driver, which then takes
        precedence over an installed one of that name.

        Raises:
            PluginContractError: the plugin's hooks do not fit the specs.
            ConfigurationError: a driver has no name.
        """
        if kind is not Kind.HOOKS and not name:
            raise ConfigurationError(
                f"a {kind.label} driver needs a name: register(plugin, kind=…, name='…')"
            )
        who = f"{kind.label} {name!r}" if name else repr(plugin)[:200]
        self._admit(plugin, kind, name, who)
        if kind is not Kind.HOOKS:
            self._own[kind, name] = plugin
        elif not any(extension.plugin is plugin for extension in self._extensions):
            self._extensions.append(Extension(plugin, who, name, None))

    def load_observers(self, options: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Load the installed plugins of the group ``dimesh.hooks``, once.

        Args:
            options: the options of each plugin that the settings configure, by its name or by
                ``distribution:hooks.name``. Such a plugin must work; any other one that fails is a warning and a row.

        Raises:
            PluginError: a configured plugin cannot be used.
            ConfigurationError: options are given for a name that two plugins have.
        """
        if self._observers_loaded:
            return
        self._observers_loaded = True
        for entry, reason in self.selection.problems():
            log.warning("[plugins] %r is %s", entry, reason)
        refs = find(Kind.HOOKS)
        excluded = self.selection.excluded(refs)
        configured = dict(self._configured(options or {}, refs, excluded))
        for ref in refs:
            if ref in excluded:
                continue
            try:
                plugin = self._get(ref)
            except PluginError as error:
                if ref.full_name in configured:
                    raise
                log.warning("%s", error)
            else:
                given = configured.get(ref.full_name)
                self._extensions.append(Extension(plugin, str(ref), ref.name, ref, given))

    def _configured(
        self,
        options: Mapping[str, Mapping[str, Any]],
        refs: list[PluginRef],
        excluded: Mapping[PluginRef, str],
    ) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """Yield the full name and the options of each installed plugin that has some; set those of registered plugins."""
        for name, given in options.items():
            own = [extension for extension in self._extensions if extension.name == name]
            if own:
                own[0].options = given
                continue
            named = [ref for ref in refs if name == ref.name or canonical(name) == canonical(ref.full_name)]
            usable = [ref for ref in named if ref not in excluded]
            if not named:
                problem = unknown_driver(Kind.HOOKS, name, refs)
                raise UnknownDriverError(f"[plugins.options] {problem}")
            if not usable:
                raise UnknownDriverError(
                    f"[plugins.options] {named[0]} is installed but may not be used: {excluded[named[0]]}"
                )
            if len(usable) > 1:
                choices = " or ".join(f'[plugins.options."{ref.full_name}"]' for ref in usable)
                raise ConfigurationError(f"two plugins have this name: write {choices}", subject=name)
            yield usable[0].full_name, given

    def _get(self, ref: PluginRef) -> Any:
        if ref not in self._loaded:
            try:
                plugin = load(ref)
                self._admit(plugin, ref.kind, ref.name, str(ref))
            except PluginError as error:
                self._failed[ref] = str(error)
                raise
            self._loaded[ref] = plugin
            self._failed.pop(ref, None)
        return self._loaded[ref]

    def _admit(self, plugin: object, kind: Kind, name: str, who: str) -> None:
        if kind is Kind.SCHEMA:  # the language itself, which has no hooks
            check_language(plugin, name, who)
        else:
            self._add(plugin, who)

    def _forget(self, ref: PluginRef, reason: str) -> None:
        self._loaded.pop(ref, None)
        self._failed[ref] = reason

    # -- providers -------------------------------------------------------------------------------

    def bus_backend(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        context: PluginContext | None = None,
        *,
        subject: str = "",
    ) -> BusBackend:
        """Return a new bus backend, not opened.

        Args:
            name: the driver.
            options: the driver's options.
            context: the mesh that the backend is for; None: the manager's own.
            subject: the beginning of messages about the options; by default the kind and the driver.

        Raises:
            UnknownDriverError: no such driver is installed, or it may not be used.
            PluginError: the plugin cannot be used; the cause is attached.
            ConfigurationError: the driver refuses an option.
        """
        from dimesh.spi.bus import BusBackend

        return self._provide(Kind.BUS, BusBackend, name, options, context, subject)  # type: ignore[type-abstract]

    def registry_store(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        context: PluginContext | None = None,
        *,
        subject: str = "",
    ) -> RegistryStore:
        """Return a new schema store, not opened; like :meth:`bus_backend`."""
        from dimesh.spi.registry import RegistryStore

        return self._provide(Kind.REGISTRY, RegistryStore, name, options, context, subject)  # type: ignore[type-abstract]

    def cdc_source(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        context: PluginContext | None = None,
        *,
        subject: str = "",
    ) -> CDCSource:
        """Return a new change source, not opened; like :meth:`bus_backend`."""
        from dimesh.spi.cdc import CDCSource

        return self._provide(Kind.CDC, CDCSource, name, options, context, subject)  # type: ignore[type-abstract]

    def lineage_sink(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        context: PluginContext | None = None,
        *,
        subject: str = "",
    ) -> LineageSink:
        """Return a new lineage sink, not opened; like :meth:`bus_backend`."""
        from dimesh.spi.lineage import LineageSink

        return self._provide(Kind.LINEAGE, LineageSink, name, options, context, subject)  # type: ignore[type-abstract]

    def _provide(
        self,
        kind: Kind,
        protocol: type[T],
        name: str,
        options: Mapping[str, Any] | None,
        context: PluginContext | None,
        subject: str,
    ) -> T:
        hook = _PROVIDER_HOOKS[kind]
        ref: PluginRef | None = None
        if (kind, name) in self._own:
            plugin, who = self._own[kind, name], f"{kind.label} {name!r}"
        else:
            ref = self._chosen.get((kind, name)) or resolve(kind, name, self.selection)
            plugin, who = self._get(ref), str(ref)
            self._chosen[kind, name] = ref
        impl = self._impl(hook, plugin)
        if impl is None:
            raise PluginContractError(f"{who} does not implement {hook}")
        arguments = {"options": wrap_secrets(options or {}), "context": context or self._context}
        subject = subject or f"{'source' if kind is Kind.CDC else kind.label} {name!r}"
        provider = call_or_raise(impl, hook, who, arguments, subject, ref)
        if provider is None:
            raise PluginContractError(f"{who} created no provider: its {hook} returned None")
        if isinstance(provider, type):
            raise PluginContractError(
                f"{who} returned the class {provider.__name__} instead of an instance of it"
            )
        if not isinstance(provider, protocol):
            lacking = ", ".join(sorted(m for m in _members(protocol) if not hasattr(provider, m)))
            raise PluginContractError(
                f"{who} returned a {type(provider).__name__}, which is not a {protocol.__name__}: it lacks {lacking}"
            )
        return provider

    # -- schema languages ------------------------------------------------------------------------

    def schema_language(self, name: str) -> SchemaLanguage:
        """Return a schema language. Only the plugin of this language is imported.

        Args:
            name: the name of the language, such as ``AVRO``; upper and lower case, ``_`` and ``-`` are the same.

        Raises:
            UnknownDriverError: no such language is installed, or it may not be used.
            PluginError: the plugin cannot be used; the cause is attached.
        """
        driver = canonical(name)
        key = (Kind.SCHEMA, driver)
        if key in self._own:
            language: SchemaLanguage = self._own[key]
            return language
        ref = self._chosen.get(key) or resolve(Kind.SCHEMA, driver, self.selection)
        language = self._get(ref)
        self._chosen[key] = ref
        return language

    def schema_languages(self) -> dict[str, SchemaLanguage]:
        """Return the schema languages that can be used, by their names, such as ``AVRO``. A plugin that fails is a warning
        and a row.
        """
        refs = find(Kind.SCHEMA)
        excluded = self.selection.excluded(refs)
        usable = {ref.name for ref in refs if ref not in excluded}
        own = {driver for kind, driver in self._own if kind is Kind.SCHEMA}
        found = []
        for driver in sorted(usable | own):
            try:
                found.append(self.schema_language(driver))
            except PluginError as error:
                log.warning("%s", error)
        return {language.name: language for language in found}

    # -- listing ---------------------------------------------------------------------------------

    def rows(self) -> list[PluginRow]:
        """Return every entry point, and every list entry that has no effect, with its state. Imports nothing."""
        return [row for _, row in self._rows()] + self._unknown_rows()

    def check(self) -> list[PluginRow]:
        """Import every plugin that may be used and return what :meth:`rows` does, with the time of each import."""
        checked = []
        for ref, row in self._rows():
            if row.state not in ("available", "loaded"):
                checked.append(row)
                continue
            begin = perf_counter()
            try:
                self._get(ref)
                self._check_hook(ref)
            except PluginError as error:
                row = replace(row, state="failed", reason=str(error))
            else:
                row = replace(row, state="loaded")
            checked.append(replace(row, milliseconds=round((perf_counter() - begin) * 1_000, 1)))
        return checked + self._unknown_rows()

    def _check_hook(self, ref: PluginRef) -> None:
        hook = _PROVIDER_HOOKS.get(ref.kind)
        if hook is not None and self._impl(hook, self._loaded[ref]) is None:
            raise PluginContractError(f"{ref} does not implement {hook}")

    def _rows(self) -> list[tuple[PluginRef, PluginRow]]:
        found = []
        for kind in Kind:
            refs = find(kind)
            excluded = self.selection.excluded(refs)
            usable = [ref for ref in refs if ref not in excluded]
            found += [(ref, self._row(ref, excluded.get(ref), usable)) for ref in refs]
        return found

    def _row(self, ref: PluginRef, excluded: str | None, usable: list[PluginRef]) -> PluginRow:
        rivals = [
            other.distribution
            for other in usable
            if other.name == ref.name and other.distribution != ref.distribution
        ]
        if excluded is not None:
            state, reason = "blocked", excluded
        elif ref in self._failed:
            state, reason = "failed", self._failed[ref]
        elif rivals and ref.kind is not Kind.HOOKS:
            state, reason = "conflict", f"also offered by {', '.join(rivals)}"
        elif ref in self._loaded:
            state, reason = "loaded", ""
        else:
            state, reason = "available", ""
        return PluginRow(ref.kind.label, ref.name, ref.distribution, ref.version, state, reason)

    def _unknown_rows(self) -> list[PluginRow]:
        return [
            PluginRow("", entry, "", "", "unknown", reason) for entry, reason in self.selection.problems()
        ]


def _members(protocol: type) -> set[str]:
    """Return the names of a protocol's members (Python 3.12 and later have a function for this)."""
    return {name for base in protocol.__mro__ for name in vars(base) if not name.startswith("_")} | set(
        getattr(protocol, "__annotations__", {})
    )


@cache
def default_manager() -> PluginManager:
    """Return the manager that :class:`EventBusFactory` and the other factories use: it allows every installed plugin."""
    return PluginManager()
