"""Paths: split before they are decoded, because a subject may contain an encoded slash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

from dimesh.registry.rest.failures import RestError
from dimesh.registry.rest.requests import Request, context_name

Handler: TypeAlias = Callable[[Request], Awaitable[Any]]
"""Returns what the answer's body is made from, see :mod:`dimesh.registry.rest.answers`."""


class Router:
    """Finds the handler of a path.

    Args:
        routes: handlers by ``METHOD /path/{placeholder}``.
    """

    def __init__(self, routes: Mapping[str, Handler]) -> None:
        self._routes: dict[int, list[tuple[tuple[str, ...], dict[str, Handler]]]] = {}
        for route, handler in routes.items():
            method, _, path = route.partition(" ")
            parts = tuple(path.strip("/").split("/"))
            same = self._routes.setdefault(len(parts), [])
            for known, methods in same:
                if known == parts:
                    methods[method] = handler
                    break
            else:
                same.append((parts, {method: handler}))

    def find(self, method: str, raw_path: bytes) -> tuple[Handler, dict[str, str], str | None]:
        """Return the handler, the names in the path, and the context in the path.

        Raises:
            RestError: there is no such path (404), or the path has no such method (405).
        """
        parts = split(raw_path)
        context = None
        if len(parts) > 2 and parts[0] == "contexts":
            context, parts = context_name(parts[1]), parts[2:]
        for pattern, methods in self._routes.get(len(parts), ()):
            names = _match(pattern, parts)
            if names is None:
                continue
            handler = methods.get("GET" if method == "HEAD" else method)
            if handler is None:
                allowed = ", ".join(methods)
                raise RestError(405, f"use {allowed}", ((b"allow", allowed.encode()),))
            return handler, names, context
        raise RestError(404, "there is no such path in this registry")


def split(raw_path: bytes) -> list[str]:
    """Return the decoded parts of a path. Slashes at its ends do not count, and a plus is a plus."""
    try:
        return [unquote_to_bytes(part).decode() for part in raw_path.strip(b"/").split(b"/")]
    except UnicodeDecodeError:
        raise RestError(404, "the path is not UTF-8") from None


def _match(pattern: tuple[str, ...], parts: list[str]) -> dict[str, str] | None:
    names: dict[str, str] = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{"):
            names[wanted[1:-1]] = part
        elif wanted != part:
            return None
    return names
