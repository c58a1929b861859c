"""The one rule for addresses: credentials go to the origin that the user configured, and nowhere else.

An answer of a system may name addresses: the next page, a redirect, a related object. Whoever can forge an answer could
otherwise name a host of their own there, and would be sent the token. So an address from an answer is reduced to its path
(:meth:`Origin.path`), after a check that it belongs to the origin; requests are made to ``origin + path`` only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from dimesh.errors import SourceUnavailableError

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_PORTS: Final = {"http": 80, "https": 443}
_LONGEST: Final = 16_384
SAFE: Final = re.compile(r"[!-\[\]-~]+")
"""Printable ASCII without the backslash: parsers of addresses disagree about everything else."""


class ForeignAddressError(SourceUnavailableError):
    """An answer names an address outside the configured origin. No request was made to that address."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A scheme, a host and a port."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Return the origin of an address.

        Args:
            url: ``https://host[:port]``, without a path; ``http://`` for the loopback interface only.

        Raises:
            ValueError: the address is of another form, has a login in it, or is not safe to send credentials to.
        """
        origin, rest = _split(url)
        if rest not in ("", "/"):
            raise ValueError("must be https://host, without a path")
        if origin.scheme == "http" and not origin.is_loopback:
            raise ValueError(
                "must be https: credentials are sent to it (http is allowed on the loopback interface)"
            )
        return origin

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine."""
        return self.host in _LOOPBACK

    def path(self, address: str) -> str:
        """Return the path and query of an address that an answer names.

        Args:
            address: a path that begins with ``/``, or a complete address of this origin.

        Raises:
            ForeignAddressError: the address is neither.
        """
        if len(address) <= _LONGEST and SAFE.fullmatch(address):
            if address.startswith("/") and not address.startswith("//"):
                return address.partition("#")[0]
            try:
                origin, rest = _split(address)
            except ValueError:
                pass
            else:
                if origin == self:
                    return rest or "/"
        raise ForeignAddressError(
            f"an answer names the address {address[:200]!r}, which is outside {self}: it is not followed"
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port != _PORTS[self.scheme] else "")


def is_loopback(target: str) -> bool:
    """Return whether ``host:port`` or ``host`` is this machine."""
    host = target.rpartition(":")[0] if re.search(r":\d+$", target) and target != "::1" else target
    return host.strip("[]") in _LOOPBACK


def _split(address: str) -> tuple[Origin, str]:
    """Return the origin of a complete address, and its path with the query."""
    if not SAFE.fullmatch(address):
        raise ValueError("must consist of printable ASCII characters")
    parts = urlsplit(address)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("must be https://host, without a path")
    if "@" in parts.netloc:
        raise ValueError("must not contain a login (user:password@)")
    origin = Origin(parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme])
    return origin, (parts.path or "/" * bool(parts.query)) + (f"?{parts.query}" if parts.query else "")
