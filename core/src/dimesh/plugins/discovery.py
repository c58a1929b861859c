"""Finds plugins. The only module that reads entry points.

Listing imports nothing: it reads the metadata of the installed distributions. Loading imports a single entry point, and
reports the exact cause if that fails.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import EntryPoint, distributions, entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NoReturn

from stevedore import NamedExtensionManager

from dimesh.errors import PluginContractError, PluginError, describe
from dimesh.plugins.isolation import stdout_to_stderr
from dimesh.printable import printable_error
from dimesh.spi import CONTRACT_VERSION

if TYPE_CHECKING:
    _Manager = NamedExtensionManager[Any]
else:
    _Manager = NamedExtensionManager  # not generic in its older releases

log = logging.getLogger("dimesh.plugins")

CORE: Final = "dimesh"
"""The distribution whose drivers are built in."""


class Kind(Enum):
    """Kinds of plugins; the value is the entry-point group."""

    BUS = "dimesh.bus"
    REGISTRY = "dimesh.registry"
    CDC = "dimesh.cdc"
    LINEAGE = "dimesh.lineage"
    SCHEMA = "dimesh.schema"
    HOOKS = "dimesh.hooks"

    @property
    def label(self) -> str:
        """The name of the kind for users: ``bus``, ``registry`` …"""
        return self.value.rpartition(".")[2]


OFFICIAL_EXTRAS: Final[dict[Kind, tuple[str, ...]]] = {
    Kind.BUS: ("kafka", "pubsub"),
    Kind.REGISTRY: ("confluent",),
    Kind.CDC: ("salesforce", "stripe", "netsuite", "zendesk"),
    Kind.LINEAGE: ("openlineage",),
    Kind.SCHEMA: ("avro", "protobuf"),
    Kind.HOOKS: ("otel",),
}
"""The drivers that ``pip install dimesh[name]`` installs, each in a distribution ``dimesh-<name>``."""


@dataclass(frozen=True, slots=True)
class PluginRef:
    """An entry point, not loaded."""

    kind: Kind
    name: str
    target: str
    """The plugin object, as ``module:attribute``."""
    distribution: str
    version: str
    entry_point: EntryPoint

    def __str__(self) -> str:
        return f"{self.kind.label} {self.name!r} of {self.distribution} {self.version}"

    @property
    def driver(self) -> str:
        """The kind and the name, such as ``bus.kafka``."""
        return f"{self.kind.label}.{self.name}"

    @property
    def full_name(self) -> str:
        """The distribution, kind and name, as in the allow list: ``dimesh-kafka:bus.kafka``."""
        return f"{self.distribution}:{self.driver}"

    @property
    def builtin(self) -> bool:
        """Whether the plugin is part of the core."""
        return canonical(self.distribution) == CORE


def canonical(name: str) -> str:
    """Return a distribution's name in its canonical form: lower case, with ``-`` for ``_`` and ``.``."""
    return re.sub(r"[-_.]+", "-", name).lower()


class _FreshGroup(_Manager):
    """A stevedore manager without stevedore's caches.

    Its caches do not record the distribution of an entry point, live as long as the process, and their key on disk
    contains file times rounded to two minutes: a plugin that was just installed again with one more entry point would
    not be seen.
    """

    def __init__(self, group: str, points: list[EntryPoint] | None = None, name: str | None = None) -> None:
        self._points = points
        super().__init__(
            group, names=[] if name is None else [name], on_load_failure_callback=_raise_load_failure
        )

    def list_entry_points(self) -> list[EntryPoint]:
        if self._points is None:
            try:
                self._points = list(entry_points(group=self.namespace))
            except Exception:
                self._points = _readable_entry_points(self.namespace)
        return self._points


def _raise_load_failure(manager: object, point: object, error: BaseException) -> NoReturn:
    raise error


def _readable_entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of every distribution whose metadata can be read, when some cannot."""
    points: list[EntryPoint] = []
    for distribution in distributions():
        try:
            points += distribution.entry_points.select(group=group)
        except Exception as error:
            where = getattr(distribution, "_path", "an installed distribution")
            log.warning("%s is damaged; its plugins are skipped: %s", where, printable_error(error))
    return points


def find(kind: Kind) -> list[PluginRef]:
    """Return all entry points of a kind, sorted by name and distribution. Imports nothing and caches nothing."""
    found: dict[tuple[str, str, str], PluginRef] = {}
    for point in _FreshGroup(kind.value).list_entry_points():  # without a name it loads nothing
        owner, version = _owner(point)
        # A distribution that is on the path twice (an editable install does that) counts once.
        found.setdefault(
            (point.name, owner, point.value), PluginRef(kind, point.name, point.value, owner, version, point)
        )
    return sorted(found.values(), key=lambda ref: (ref.name, ref.distribution))


def find_all() -> list[PluginRef]:
    """Return the entry points of all kinds."""
    return [ref for kind in Kind for ref in find(kind)]


def companion_modules(module: str) -> dict[str, str]:
    """Return the modules of this name in the packages of the installed change sources, by driver.

    ``sandbox`` is a local server that behaves as the system does and runs as a module; ``demo`` belongs to the demo.
    Nothing else loads them.
    """
    found = {}
    for plugin in find(Kind.CDC):
        full = f"{plugin.target.partition(':')[0].partition('.')[0]}.{module}"
        with contextlib.suppress(ImportError):
            if not plugin.builtin and find_spec(full) is not None:
                found[plugin.name] = full
    return found


def _owner(point: EntryPoint) -> tuple[str, str]:
    """Return name and version of an entry point's distribution, whose metadata may be damaged."""
    try:
        assert point.dist is not None
        metadata = point.dist.metadata
        # Not by index: a missing key is a warning today and an error in later Pythons.
        return metadata.get("Name", "unknown"), metadata.get("Version", "unknown")  # type: ignore[attr-defined]
    except Exception as error:
        log.debug("unreadable metadata behind %r: %s", point, printable_error(error))
        return "unknown", "unknown"


def load(ref: PluginRef) -> Any:
    """Import the plugin object that an entry point names.

    Raises:
        PluginError: the plugin cannot be imported; the cause is attached.
        PluginContractError: the plugin was made for another contract version.
    """
    try:
        module = ref.entry_point.module
    except Exception as error:
        raise PluginError(
            f"{ref} names {ref.target!r:.100}, which is not of the form module:attribute"
        ) from error
    try:
        with stdout_to_stderr:
            plugin = _FreshGroup(ref.kind.value, [ref.entry_point], ref.name)[ref.name].plugin
            version = getattr(plugin, "contract_version", 1)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        raise PluginError(f"{ref} {missing_module(ref, error)}") from error
    except BaseException as error:  # plugins call sys.exit, and a panic in an extension is not an Exception
        if isinstance(error, AttributeError) and module in sys.modules:
            raise PluginError(f"{ref} names {ref.target!r:.200}, and there is no such attribute") from error
        raise PluginError(f"{ref} failed while it was imported: {describe(error)}") from error
    if type(version) is not int or version != CONTRACT_VERSION:
        newer = type(version) is int and version > CONTRACT_VERSION
        raise PluginContractError(
            f"{ref} was made for contract version {version!r:.40}, this dimesh has {CONTRACT_VERSION}: "
            f"upgrade {'dimesh' if newer else ref.distribution}"
        )
    return plugin


def missing_module(ref: PluginRef, error: ModuleNotFoundError) -> str:
    """Return the advice about a module that a plugin could not import."""
    missing = error.name or "?"
    top = missing.partition(".")[0]
    if top == ref.target.partition(":")[0].partition(".")[0].strip():
        return f"names the module {missing!r}, which its distribution does not contain: reinstall it"
    if top == CORE:
        return f"needs the module {missing!r}, which this dimesh does not have: upgrade one of them"
    text = f"needs the module {missing!r}, which is not installed"
    # Only for the plugin's own requirements: another module, such as one that its options name, is the user's.
    return f"{text}: reinstall {ref.distribution} with its dependencies" if _requires(ref, missing) else text


def _requires(ref: PluginRef, module: str) -> bool:
    parts = module.split(".")
    names = {canonical("-".join(parts[:n])) for n in range(1, len(parts) + 1)}
    try:
        required = ref.entry_point.dist.requires if ref.entry_point.dist is not None else None
        return any(canonical(re.split(r"[^\w.-]", line, maxsplit=1)[0]) in names for line in required or ())
    except Exception:
        return False  # damaged metadata
