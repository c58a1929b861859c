"""Finds plugins. The only module that reads entry points.

Listing imports nothing: stevedore reads the installed distributions' metadata. Loading imports one entry point, the one
that was asked for, and says exactly what is wrong when that fails.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from dimesh.errors import PluginConflictError, PluginContractError, PluginError, UnknownDriverError
from dimesh.hookspecs import CONTRACT_VERSION


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


def find(kind: Kind) -> list[Found]:
    """All entry points of a kind, by name and distribution. Nothing is imported."""
    from stevedore import NamedExtensionManager

    # Asked for no names, stevedore loads nothing and still knows what there is.
    manager: NamedExtensionManager[Any] = NamedExtensionManager(kind.value, names=[])
    points = manager.list_entry_points()
    if any(point.dist is None for point in points):
        # Its cache on disk does not keep whose they are.
        points = list(entry_points(group=kind.value))
    found: dict[tuple[str, str, str], Found] = {}
    for point in points:
        name = point.dist.name if point.dist is not None else "unknown"
        version = point.dist.version if point.dist is not None else "?"
        # A distribution that is on the path twice (an editable install does that) counts once.
        found[point.name, name, point.value] = Found(kind, point.name, point.value, name, version, point)
    return sorted(found.values(), key=lambda f: (f.name, f.distribution))


class Selection:
    """Which plugins may be used.

    Args:
        allow: names of drivers, or of distributions; None: all.
        block: names of drivers or distributions that may not, whatever ``allow`` says.
    """

    def __init__(self, allow: Iterable[str] | None = None, block: Iterable[str] = ()) -> None:
        self.allow = frozenset(allow) if allow is not None else None
        self.block = frozenset(block)

    def why_not(self, found: Found) -> str | None:
        """The reason why a plugin may not be used; None if it may."""
        names = {found.name, found.distribution, f"{found.kind.label}.{found.name}"}
        if names & self.block:
            return "on the block list"
        if self.allow is not None and not names & self.allow and found.distribution != "dimesh":
            return "not on the allow list"
        return None


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
        raise PluginConflictError(
            f"{kind.label} {name!r} is offered by {owners}: uninstall one, or put its distribution on the block list "
            '([plugins] block = ["…"])'
        )
    if named:
        raise UnknownDriverError(
            f"{named[0]} is installed but may not be used: it is {selection.why_not(named[0])} of the settings"
        )
    raise UnknownDriverError(_unknown(kind, name, everything))


def _unknown(kind: Kind, name: str, everything: Sequence[Found]) -> str:
    installed = sorted({found.name for found in everything})
    text = f"no {kind.label} plugin is named {name!r:.60}; installed are: {', '.join(installed) or 'none'}"
    if name in OURS[kind]:
        return f'{text}. To get it: pip install "dimesh[{name}]"'
    nearest = difflib.get_close_matches(name, [*installed, *OURS[kind]], 1)
    if nearest:
        text += f". Did you mean {nearest[0]!r}?"
    others = [other for other in OURS[kind] if other not in installed]
    if others:
        text += f' Others: pip install "dimesh[{"|".join(others)}]"'
    return text


def load(found: Found) -> Any:
    """The plugin object that an entry point names.

    Raises:
        PluginError: it cannot be imported; the cause is attached.
        PluginContractError: it was made for another contract version.
    """
    try:
        plugin = found.entry_point.load()
    except ModuleNotFoundError as error:
        own = found.target.partition(":")[0].partition(".")[0]
        missing = error.name or "?"
        if missing.partition(".")[0] == own:
            raise PluginError(
                f"{found} names the module {missing!r}, which its distribution does not contain: reinstall it"
            ) from error
        raise PluginError(
            f"{found} needs the module {missing!r}, which is not installed: reinstall {found.distribution} with its "
            "dependencies"
        ) from error
    except AttributeError as error:
        raise PluginError(
            f"{found} names {found.target!r}, and there is no such attribute: {error}"
        ) from error
    except (Exception, SystemExit) as error:
        raise PluginError(f"{found} failed while it was imported: {type(error).__name__}: {error}") from error
    version = getattr(plugin, "contract_version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version != CONTRACT_VERSION:
        raise PluginContractError(
            f"{found} was made for contract version {version!r:.40}, this dimesh has {CONTRACT_VERSION}: "
            + (
                "upgrade dimesh"
                if isinstance(version, int) and version > CONTRACT_VERSION
                else f"upgrade {found.distribution}"
            )
        )
    return plugin
