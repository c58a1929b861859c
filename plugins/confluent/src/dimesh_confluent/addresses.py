"""The addresses that requests go to."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from dimesh.sourcekit.addresses import SAFE, is_loopback


@dataclass(frozen=True, slots=True)
class Address:
    """A base address: a scheme, a host, and the path before every path of the API."""

    base: str
    """The address without a slash at its end."""
    safe: bool
    """Whether credentials may be sent to the address."""

    @classmethod
    def parse(cls, text: str, *, anywhere: bool = False) -> Address:
        """Return an address.

        Args:
            text: ``https://host[:port][/path]``, without a login, a query or a fragment; ``http://`` for the loopback interface.
            anywhere: whether ``http://`` may lead to other machines.

        Raises:
            ValueError: the address has another form.
        """
        if not SAFE.fullmatch(text):
            raise ValueError("must be an address such as https://registry.example:8081")
        parts = urlsplit(text)
        if "@" in parts.netloc:
            raise ValueError("must not contain a login (user:password@): use username and password")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be an address such as https://registry.example:8081")
        parts.port  # noqa: B018 - raises ValueError for a number that is no port
        if {".", ".."} & set(parts.path.split("/")):
            raise ValueError("must not have '.' or '..' in its path")
        safe = parts.scheme == "https" or is_loopback(parts.hostname)
        if not safe and not anywhere:
            raise ValueError("must be https (http is allowed on the loopback interface)")
        return cls(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", safe)

    def __str__(self) -> str:
        return self.base
