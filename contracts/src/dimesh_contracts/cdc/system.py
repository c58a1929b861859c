"""The hands with which the kit changes a system that is captured."""

from __future__ import annotations

from typing import Any, Protocol

from dimesh.spi.cdc import Change


class System(Protocol):
    """The system that is captured: a table of keys and values, as its application changes it."""

    object: str
    """What the source calls it."""

    async def put(self, key: str, value: str) -> None:
        """Insert the row or update it; committed when it returns."""
        ...

    async def delete(self, key: str) -> None:
        """Delete the row; committed when it returns."""
        ...

    def key(self, change: Change) -> str:
        """The key of a changed row."""
        ...

    def value(self, row: Any) -> str:
        """The value in a ``before`` or ``after``."""
        ...


class Forgets(System, Protocol):
    """A system whose history can be cut off. Have this method if yours keeps changes for a limited time."""

    async def lose_history(self) -> None:
        """Forget all changes so far, as if they had aged out; the rows stay."""
        ...


class Expires(System, Protocol):
    """A system whose credentials can end. Have these methods if yours asks for any."""

    async def expire_credentials(self) -> None:
        """Refuse the credentials of the sources from now on."""
        ...

    async def renew_credentials(self) -> None:
        """Take them again."""
        ...


class Refuses(System, Protocol):
    """A system that refuses requests for their rate. Have these methods if yours does."""

    async def refuse_requests(self, seconds: float) -> None:
        """Refuse every request from now on for so long, and say how long to wait."""
        ...

    def refused(self) -> int:
        """How many requests were refused."""
        ...
