"""ASGI applications side by side, each below a path of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dimesh.errors import ConfigurationError
from dimesh.http.body import ASGIApp, Receive, Refusal, Send, plain_refusal, response_start


class Mounts:
    """An ASGI application that passes a request to the first application whose prefix its path begins with.

    The application sees its prefix as ``root_path``, as the ASGI specification asks.

    Args:
        mounts: prefixes, such as ``/webhooks``, and applications. The empty prefix takes every path.

    Raises:
        ConfigurationError: a prefix is malformed or used twice.
    """

    def __init__(self, mounts: Iterable[tuple[str, ASGIApp]]) -> None:
        self._mounts = list(mounts)
        seen = set()
        for prefix, _ in self._mounts:
            if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
                raise ConfigurationError(
                    f"{prefix!r} is not a path to mount at: it must begin with '/' and not end with one"
                )
            if prefix in seen:
                raise ConfigurationError(f"two applications are mounted at {prefix!r}")
            seen.add(prefix)

    def worded(self, path: str) -> Callable[[int, str], Refusal]:
        """Return the function that words the refusal of a body as the application at a path does: its method ``refusal``, if it
        has one, given the status and the text.
        """
        for prefix, app in self._mounts:
            if path == prefix or path.startswith(f"{prefix}/"):
                own: Callable[[int, str], Refusal] = getattr(app, "refusal", plain_refusal)
                return own
        return plain_refusal

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Handle one request. See the ASGI specification."""
        path = scope["path"]
        for prefix, app in self._mounts:
            if path == prefix or path.startswith(f"{prefix}/"):
                await app({**scope, "root_path": scope.get("root_path", "") + prefix}, receive, send)
                return
        await send(response_start(404, "not found"))
        await send({"type": "http.response.body", "body": b"not found"})
