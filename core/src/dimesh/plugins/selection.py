"""Decides which installed plugins may be used, and which one a name means."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Sequence
from functools import cache

from dimesh.errors import PluginConflictError, UnknownDriverError
from dimesh.plugins.discovery import CORE, OFFICIAL_EXTRAS, Kind, PluginRef, canonical, find, find_all

log = logging.getLogger("dimesh.plugins")

_OFFICIAL = frozenset(name for names in OFFICIAL_EXTRAS.values() for name in names)
_BLOCKED = "it is on the block list of the settings"
_NOT_ALLOWED = "it is not on the allow list of the settings"


class Selection:
    """The allow list and the block list.

    An entry names one plugin, ``acme-kafka:bus.kafka``, or a whole distribution, ``acme-kafka``. The short forms
    ``bus.kafka`` and ``kafka`` are for the official plugins and for names that only one distribution offers; in the
    allow list ``kafka`` never means an observer, since observers run without being named anywhere else.

    Args:
        allow: the plugins that may be used; None: all. The built-in ones need not be listed.
        block: the plugins that may not be used, even if ``allow`` lists them; built-in ones too. A short form blocks
            every plugin that it could mean.
    """

    def __init__(self, allow: Iterable[str] | None = None, block: Iterable[str] = ()) -> None:
        self._allow = tuple(allow) if allow is not None else None
        self._block = tuple(block)

    def excluded(self, refs: Sequence[PluginRef]) -> dict[PluginRef, str]:
        """Return the plugins among ``refs`` (all of one or more kinds) that may not be used, with the reason."""
        reserved = {ref.driver for ref in refs if ref.builtin}
        block = frozenset(map(canonical, self._block))
        allowed = self._allowed()
        reasons = {}
        for ref in refs:
            if ref.driver in reserved and not ref.builtin:
                reasons[ref] = f"the name {ref.driver} belongs to dimesh itself"
            elif _names(ref) & block:
                reasons[ref] = _BLOCKED
            elif allowed is not None and not ref.builtin and ref not in allowed:
                reasons[ref] = _NOT_ALLOWED
        return reasons

    def _allowed(self) -> frozenset[PluginRef] | None:
        if self._allow is None:
            return None
        installed = find_all() if self._allow else []
        return frozenset(ref for entry in self._allow for ref in _meant(entry, installed)[0])

    def problems(self) -> list[tuple[str, str]]:
        """Return every entry of the two lists that has no effect, with the reason."""
        if not self._allow and not self._block:
            return []
        installed = find_all()
        found = [
            (entry, f"on the allow list, but {reason}")
            for entry in self._allow or ()
            for meant, reason in [_meant(entry, installed)]
            if not meant
        ]
        found += [
            (entry, f"on the block list, but {_unknown_entry(entry, installed)}")
            for entry in self._block
            if not any(canonical(entry) in _names(ref) for ref in installed)
        ]
        return found


def _names(ref: PluginRef) -> set[str]:
    return {canonical(name) for name in (ref.name, ref.driver, ref.distribution, ref.full_name)}


def _meant(entry: str, installed: Sequence[PluginRef]) -> tuple[list[PluginRef], str]:
    """Return the plugins that an entry of the allow list means; if there is none, also the reason."""
    name = canonical(entry)
    if ":" in entry:
        found = [ref for ref in installed if canonical(ref.full_name) == name]
        return found, _unknown_entry(entry, installed)
    named = [
        ref
        for ref in installed
        if name == canonical(ref.driver) or (name == canonical(ref.name) and ref.kind is not Kind.HOOKS)
    ]
    # An official plugin's name means the official plugin, never another one with the same name.
    named = [
        ref
        for ref in named
        if ref.name not in OFFICIAL_EXTRAS[ref.kind] or canonical(ref.distribution) == f"{CORE}-{ref.name}"
    ]
    whole = [ref for ref in installed if canonical(ref.distribution) == name and name not in _OFFICIAL]
    owners = {canonical(ref.distribution) for ref in (*named, *whole)}
    if len(owners) > 1 and CORE not in owners:
        choices = ", ".join(sorted({ref.full_name for ref in (*named, *whole)}))
        return [], f"it could mean {choices}: name one of these"
    observers = [ref.full_name for ref in installed if ref.kind is Kind.HOOKS and canonical(ref.name) == name]
    if observers:
        return whole or named, f"an observer is listed with its distribution: {' or '.join(observers)}"
    return whole or named, _unknown_entry(entry, installed)


def _unknown_entry(entry: str, installed: Sequence[PluginRef]) -> str:
    known = {name for ref in installed for name in (ref.name, ref.distribution, ref.full_name)}
    near = difflib.get_close_matches(entry[:100], sorted(known), 1, 0.7)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"no installed plugin or distribution has this name{hint}"


def resolve(kind: Kind, name: str, selection: Selection) -> PluginRef:
    """Return the one plugin that a driver's name means.

    Raises:
        UnknownDriverError: no such plugin is installed, or it may not be used; the message lists the installed plugins
            and how to install others.
        PluginConflictError: two distributions offer the name.
    """
    everything = find(kind)
    excluded = selection.excluded(everything)
    # The built-in plugin first: messages are about it.
    named = sorted((ref for ref in everything if ref.name == name), key=lambda ref: not ref.builtin)
    usable = [ref for ref in named if ref not in excluded]
    for ref in named:
        if named[0].builtin and not ref.builtin:
            _warn_reserved(str(ref))
    if len(usable) == 1:
        return usable[0]
    if usable:
        owners = " and ".join(f"{ref.distribution} {ref.version}" for ref in usable)
        raise PluginConflictError(
            f"{kind.label} {name!r} is offered by {owners}: uninstall one, or block it in the settings, as in "
            f'[plugins] block = ["{usable[-1].full_name}"]'
        )
    if named:
        raise UnknownDriverError(f"{named[0]} is installed but may not be used: {excluded[named[0]]}")
    raise UnknownDriverError(unknown_driver(kind, name, everything))


@cache
def _warn_reserved(plugin: str) -> None:
    log.warning("%s is ignored: the name belongs to dimesh itself", plugin)


def unknown_driver(kind: Kind, name: object, everything: Sequence[PluginRef]) -> str:
    """Return the message about a name that no installed plugin has."""
    installed = sorted({ref.name for ref in everything})
    extras = OFFICIAL_EXTRAS[kind]
    text = f"no {kind.label} plugin is named {name!r:.60}; installed are: {', '.join(installed) or 'none'}"
    if name in extras:
        return f"{text}. To get it: {_pip(name)}"
    nearest = difflib.get_close_matches(str(name)[:100], [*installed, *extras], 1)
    if nearest:
        return f"{text}. Did you mean {nearest[0]!r}?" + (
            "" if nearest[0] in installed else f" To get it: {_pip(nearest[0])}"
        )
    others = [_pip(other) for other in extras if other not in installed]
    return f"{text}. To get another: {' or '.join(others)}" if others else text


def _pip(extra: object) -> str:
    return f'pip install "dimesh[{extra}]"'
