"""Finds plugins. The only module that reads entry points.

Listing imports nothing: it reads the installed distributions' metadata. Loading imports one entry point, the one that
was asked for, and says exactly what is wrong when that fails.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import EntryPoint, distributions, entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from stevedore import NamedExtensionManager

from dimesh.errors import PluginConflictError, PluginContractError, PluginError, UnknownDriverError
from dimesh.hookspecs import CONTRACT_VERSION

if TYPE_CHECKING:
    _Manager = NamedExtensionManager[Any]
else:
    _Manager = NamedExtensionManager  # not generic in its older releases

log = logging.getLogger("dimesh.plugins")


class Kind(Enum):
    """Kinds of plugins; the value is the entry-point group."""

    BUS = "dimesh.bus"
    REGISTRY = "dimesh.registry"
    CDC = "dimesh.cdc"
    LINEAGE = "dimesh.lineage"
    HOOKS = "dimesh.hooks"

    @property
    def label(self) -> str:
        """As users write it: ``bus``, ``registry`` …"""
        return self.value.rpartition(".")[2]


OURS: Final[dict[Kind, tuple[str, ...]]] = {
    Kind.BUS: ("kafka", "pubsub"),
    Kind.REGISTRY: ("confluent",),
    Kind.CDC: ("salesforce", "stripe", "netsuite", "zendesk"),
    Kind.LINEAGE: ("openlineage",),
    Kind.HOOKS: (),
}
"""Drivers that come as ``dimesh[name]``."""


@dataclass(frozen=True, slots=True)
class Found:
    """An entry point, not loaded."""

    kind: Kind
    name: str
    target: str
    """``module:attribute``."""
    distribution: str
    version: str
    entry_point: EntryPoint

    def __str__(self) -> str:
        return f"{self.kind.label} {self.name!r} of {self.distribution} {self.version}"


class _Group(_Manager):
    """stevedore's manager without its caches.

    They forget whose an entry point is, last as long as the process, and their key on disk holds file times rounded
    to two minutes: a plugin that was just installed again with one more entry point would not be seen.
    """

    _points: list[EntryPoint] | None = None

    def list_entry_points(self) -> list[EntryPoint]:
        if self._points is None:
            try:
                self._points = list(entry_points(group=self.namespace))
            except Exception:
                self._points = _readable(self.namespace)
        return self._points


def _readable(group: str) -> list[EntryPoint]:
    """The entry points of every distribution whose metadata can be read, where some cannot."""
    points: list[EntryPoint] = []
    for distribution in distributions():
        try:
            points += distribution.entry_points.select(group=group)
        except Exception as error:
            where = getattr(distribution, "_path", "an installed distribution")
            log.warning("%s is damaged, its plugins are left out: %s", where, describe(error))
    return points


def find(kind: Kind) -> list[Found]:
    """All entry points of a kind, by name and distribution. Nothing is imported, nothing is remembered."""
    found: dict[tuple[str, str, str], Found] = {}
    for point in _Group(kind.value, names=[]).list_entry_points():  # asked for no names, it loads nothing
        owner, version = _owner(point)
        # A distribution that is on the path twice (an editable install does that) counts once.
        found.setdefault(
            (point.name, owner, point.value), Found(kind, point.name, point.value, owner, version, point)
        )
    return sorted(found.values(), key=lambda f: (f.name, f.distribution))


def companions(module: str) -> dict[str, str]:
    """Modules of this name beside the change sources that are installed, by driver: ``sandbox`` (a local server that behaves as
    the system does; runs as a module) and ``demo`` are there for users, and nothing else loads them.
    """
    found = {}
    for plugin in find(Kind.CDC):
        full = f"{plugin.target.partition(':')[0].partition('.')[0]}.{module}"
        with contextlib.suppress(ImportError):
            if plugin.distribution != "dimesh" and find_spec(full) is not None:
                found[plugin.name] = full
    return found


def _owner(point: EntryPoint) -> tuple[str, str]:
    """Name and version of an entry point's distribution, whose metadata may be damaged."""
    try:
        assert point.dist is not None
        metadata = point.dist.metadata
        # Not by index: that warns today where there is none, and raises tomorrow.
        return metadata.get("Name", "unknown"), metadata.get("Version", "unknown")  # type: ignore[attr-defined]
    except Exception as error:
        log.debug("unreadable metadata behind %r: %s", point, describe(error))
        return "unknown", "unknown"


def describe(error: BaseException) -> str:
    """A foreign exception in one short text."""
    try:
        text = str(error)
    except Exception:
        text = "(it cannot be printed)"
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


class Selection:
    """Which plugins may be used.

    A plugin is named by its driver (``kafka``), kind and driver (``bus.kafka``), distribution (``acme-kafka``), or
    distribution, kind and driver (``acme-kafka:bus.kafka``).

    Args:
        allow: those that may be used; None: all. The built-in ones need not be named.
        block: those that may not, whatever ``allow`` says; built-in ones too.
    """

    def __init__(self, allow: Iterable[str] | None = None, block: Iterable[str] = ()) -> None:
        self.allow = frozenset(map(_canonical, allow)) if allow is not None else None
        self.block = frozenset(map(_canonical, block))

    def why_not(self, found: Found) -> str | None:
        """The reason why a plugin may not be used; None if it may."""
        driver = f"{found.kind.label}.{found.name}"
        names = {
            _canonical(name)
            for name in (found.name, driver, found.distribution, f"{found.distribution}:{driver}")
        }
        if names & self.block:
            return "on the block list"
        if self.allow is not None and not names & self.allow and found.distribution != "dimesh":
            return "not on the allow list"
        return None


def _canonical(name: str) -> str:
    """Distribution names differ in case and in ``-``, ``_``, ``.`` only by accident."""
    return re.sub(r"[-_.]+", "-", name).lower()


def choose(kind: Kind, name: str, selection: Selection) -> Found:
    """The one entry point of that name.

    Raises:
        UnknownDriverError: there is none (or it may not be used); lists those there are and how to get others.
        PluginConflictError: two distributions offer it.
    """
    everything = find(kind)
    named = [found for found in everything if found.name == name]
    allowed = [found for found in named if selection.why_not(found) is None]
    if len(allowed) == 1:
        return allowed[0]
    if allowed:
        owners = " and ".join(f"{found.distribution} {found.version}" for found in allowed)
        last = allowed[-1]
        raise PluginConflictError(
            f"{kind.label} {name!r} is offered by {owners}: uninstall one, or block it in the settings, as in "
            f'[plugins] block = ["{last.distribution}:{kind.label}.{last.name}"]'
        )
    if named:
        raise UnknownDriverError(
            f"{named[0]} is installed but may not be used: it is {selection.why_not(named[0])} of the settings"
        )
    raise UnknownDriverError(_unknown(kind, name, everything))


def _unknown(kind: Kind, name: object, everything: Sequence[Found]) -> str:
    installed = sorted({found.name for found in everything})
    text = f"no {kind.label} plugin is named {name!r:.60}; installed are: {', '.join(installed) or 'none'}"
    if name in OURS[kind]:
        return f"{text}. To get it: {_pip(name)}"
    nearest = difflib.get_close_matches(str(name)[:100], [*installed, *OURS[kind]], 1)
    if nearest:
        return f"{text}. Did you mean {nearest[0]!r}?" + (
            "" if nearest[0] in installed else f" To get it: {_pip(nearest[0])}"
        )
    others = [_pip(other) for other in OURS[kind] if other not in installed]
    return f"{text}. To get another: {' or '.join(others)}" if others else text


def _pip(extra: object) -> str:
    return f'pip install "dimesh[{extra}]"'


def load(found: Found) -> Any:
    """The plugin object that an entry point names.

    Raises:
        PluginError: it cannot be imported; the cause is attached.
        PluginContractError: it was made for another contract version.
    """
    point = found.entry_point
    try:
        module = point.module
    except Exception as error:
        raise PluginError(
            f"{found} names {found.target!r:.100}, which is not of the form module:attribute"
        ) from error
    try:
        plugin = point.load()
        version = getattr(plugin, "contract_version", 1)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        raise PluginError(f"{found} {missing_module(found, error)}") from error
    except (
        BaseException
    ) as error:  # a plugin may call sys.exit; a panic in an extension module is no Exception either
        if isinstance(error, AttributeError) and module in sys.modules:
            raise PluginError(
                f"{found} names {found.target!r:.200}, and there is no such attribute"
            ) from error
        raise PluginError(f"{found} failed while it was imported: {describe(error)}") from error
    if type(version) is not int or version != CONTRACT_VERSION:
        newer = type(version) is int and version > CONTRACT_VERSION
        raise PluginContractError(
            f"{found} was made for contract version {version!r:.40}, this dimesh has {CONTRACT_VERSION}: "
            f"upgrade {'dimesh' if newer else found.distribution}"
        )
    return plugin


def missing_module(found: Found, error: ModuleNotFoundError) -> str:
    """What to do about a module that a plugin did not find."""
    missing = error.name or "?"
    top = missing.partition(".")[0]
    if top == found.target.partition(":")[0].partition(".")[0].strip():
        return f"names the module {missing!r}, which its distribution does not contain: reinstall it"
    if top == "dimesh":
        return f"needs the module {missing!r}, which this dimesh does not have: upgrade one of them"
    return f"needs the module {missing!r}, which is not installed: reinstall {found.distribution} with its dependencies"
