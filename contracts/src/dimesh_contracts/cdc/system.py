"""How the kit changes the captured system."""

from __future__ import annotations

from typing import Any, Protocol

from dimesh.spi.cdc import Change


class System(Protocol):
    """The captured system: a table of keys and values, as its application changes it."""

    object: str
    """The name by which the source knows the table."""

    async def put(self, key: str, value: str) -> None:
        """Insert or update the row; return when the change is committed."""
        ...

    async def delete(self, key: str) -> None:
        """Delete the row; return when the change is committed."""
        ...

    def key(self, change: Change) -> str:
        """Return the key of a changed row."""
        ...

    def value(self, row: Any) -> str:
        """Return the value in a ``before`` or ``after``."""
        ...


class KeepsRowsOnly(System, Protocol):
    """A system without a record of changes: its rows can be read, and nothing shows what they were before. Implement this
    attribute if yours is one. What changed twice between two polls is then one change.
    """

    only_rows: bool
    """True."""


class Forgets(System, Protocol):
    """A system whose history can be cut off. Implement this method if yours keeps changes for a limited time."""

    async def lose_history(self) -> None:
        """Forget all changes so far, as if they were too old; the rows stay."""
        ...


class Expires(System, Protocol):
    """A system whose credentials can expire. Implement these methods if yours needs credentials."""

    async def expire_credentials(self) -> None:
        """Refuse the credentials of the sources from now on."""
        ...

    async def renew_credentials(self) -> None:
        """Accept the credentials again."""
        ...


class Refuses(System, Protocol):
    """A system that limits the rate of requests. Implement these methods if yours does."""

    async def refuse_requests(self, seconds: float) -> None:
        """Refuse every request for the given seconds, and answer with the time to wait."""
        ...

    def refused(self) -> int:
        """Return the number of refused requests."""
        ...


class Interrupted(System, Protocol):
    """A system that a proxy can stand in front of. Implement this method if yours is read over HTTP."""

    async def answer_by_proxy(self, status: int, times: int) -> None:
        """Let the next ``times`` requests be answered by an HTML page with this status, instead of by the system."""
        ...


class Announces(System, Protocol):
    """A system that also tells about things that are no rows. Implement this method if yours does."""

    async def announce(self) -> None:
        """Tell the sources about the object without naming a row, as in an event about an invoice that is still to come."""
        ...


class Hides(Forgets, Protocol):
    """A system whose lists can leave rows out that exist. Implement this method if yours does, or may do so some day."""

    async def hide(self, key: str) -> None:
        """Leave the row out of lists from now on, although it exists. Reading it by its key may find it or not."""
        ...


class Derives(System, Protocol):
    """A system whose rows have a field that its changes leave out. Implement these methods if yours does."""

    async def derive(self, key: str, value: str) -> None:
        """Change the value of that field of a row without a change of the row, as a formula changes."""
        ...

    def derived(self, row: Any) -> str | None:
        """Return the value of that field in an ``after`` or ``before``; None if it is not there."""
        ...

    derived_field: str
    """The name of that field."""


class Silent(System, Protocol):
    """A system with rows whose changes it does not report. Implement these if yours has such rows."""

    silent_object: str
    """The name of the table of these rows; it may be another one."""

    async def put_silently(self, key: str, value: str) -> None:
        """Insert or update a row of that table so that the system reports no update."""
        ...

    def silent_value(self, row: Any) -> str:
        """Return the value in an ``after`` of that table."""
        ...


class Clocked(System, Protocol):
    """A system with a clock of its own. Implement this method if the positions of yours contain a time."""

    async def skew(self, seconds: float) -> None:
        """Move the system's clock forward, or back by a negative number; ours stays."""
        ...


class Nested(System, Protocol):
    """A system whose rows contain lists. Implement these methods if yours shows only the first entries of long ones."""

    async def put_entries(self, key: str, count: int) -> None:
        """Insert or update the row so that its list has ``count`` entries."""
        ...

    def entries(self, row: Any) -> int:
        """Return the number of entries of the list in an ``after``."""
        ...
