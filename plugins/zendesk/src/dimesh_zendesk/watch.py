"""What is watched beside the exports: the deliveries of the webhook, and the options of ticket fields."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dimesh.clock import Clock
from dimesh.errors import CredentialsError, SourceObjectError, SourceUnavailableError
from dimesh.sourcekit.budget import Priority
from dimesh_zendesk.catalogue import Resource
from dimesh_zendesk.client import Client, MissingError
from dimesh_zendesk.options import ZendeskOptions

log = logging.getLogger("dimesh.cdc.zendesk")

_NEVER_SENT: Final = ("throttled", "circuit broken", "circuit_broken")
"""The states of invocations that Zendesk did not send (recorded: they have no status code)."""
_FAILED: Final = ("terminated", "failed")
_MOST_PAGES: Final = 20
_ABOUT: Final = "the webhook's invocations"


@dataclass(frozen=True, slots=True)
class Losses:
    """Invocations of the webhook that did not arrive."""

    cause: str
    since: datetime | None
    until: str
    """The time of the newest one, as Zendesk writes it."""


class Watches:
    """Watches for all streams of a source."""

    def __init__(self, options: ZendeskOptions, clock: Clock, client: Client) -> None:
        self._given = options
        self._clock = clock
        self._client = client
        self._lock = asyncio.Lock()
        self._next_look = 0.0
        self._lost: list[tuple[str, str, str]] = []
        """The time, the id and the state of each invocation that did not arrive, oldest first."""
        self._refused = False
        self._next_options = 0.0
        self._values: frozenset[str] | None = None
        self._known: dict[str, frozenset[str]] = {}
        """The options that were read, by what stands for them."""

    def seconds(self, about: Resource) -> float:
        """Return the number of seconds until the next look is due."""
        due = float("inf")
        if self._given.webhook_id is not None and about.events:
            due = self._next_look
        if about.name == "tickets" and self._given.options_look:
            due = min(due, self._next_options)
        return max(due - self._clock.monotonic(), 0.01)

    # -- options of ticket fields -----------------------------------------------------------------

    def options_due(self) -> bool:
        """Return whether the options of ticket fields are to be compared."""
        return bool(self._given.options_look) and self._clock.monotonic() >= self._next_options

    async def options(self) -> str:
        """Return what stands for the options of all ticket fields; empty if they cannot be read."""
        if not self._given.options_look:
            return ""
        self._next_options = self._clock.monotonic() + self._given.options_look
        values: set[str] = set()
        path, params = "ticket_fields.json", {"page[size]": "100"}
        try:
            while path:
                found = await self._client.get(path, params, Priority.STREAM, "ticket_fields")
                for field in found.get("ticket_fields") or ():
                    for option in field.get("custom_field_options") or ():
                        values.add(f"{field.get('id')}:{option.get('value')}")
                path, params = next_page(found), {}
        except (SourceObjectError, SourceUnavailableError) as error:
            log.warning("whether options of ticket fields have changed is unknown for now: %s", error)
            return ""
        self._values = frozenset(values)
        told = _digest(self._values)
        self._known[told] = self._values
        return told

    def options_gone(self, earlier: str) -> bool:
        """Return whether an option is gone since the options were ``earlier``; True if they are not known any more."""
        before = self._known.get(earlier)
        return before is None or self._values is None or bool(before - self._values)

    # -- invocations of the webhook ---------------------------------------------------------------

    async def lost(self, reported: str) -> Losses | None:
        """Return the invocations after a time that did not arrive; None: there are none.

        Raises:
            CredentialsError: Zendesk refuses the credentials.
        """
        if self._given.webhook_id is None:
            return None
        async with self._lock:
            if self._clock.monotonic() >= self._next_look:
                await self._look()
                self._next_look = self._clock.monotonic() + self._given.webhook_look
        fresh = [(when, state) for when, _, state in self._lost if when > reported]
        if not fresh:
            return None
        counts = {state: sum(1 for _, other in fresh if other == state) for _, state in fresh}
        told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        cause = f"invocations of the webhook {self._given.webhook_id} did not arrive ({told}): changes came by polling meanwhile"
        return Losses(cause, _moment(fresh[0][0]), fresh[-1][0])

    async def lost_until(self) -> str:
        """Return the time of the newest invocation that did not arrive: those up to it are from before the capture."""
        found = await self.lost("")
        return found.until if found is not None else ""

    async def _look(self) -> None:
        try:
            self._lost = await self._invocations()
        except SourceObjectError as error:
            if not self._refused:
                log.warning(
                    "%s cannot be read: %s. Give the user the permission to manage webhooks", _ABOUT, error
                )
            self._refused = True
        except SourceUnavailableError as error:
            log.warning("whether all webhooks arrived is unknown for now: %s", error)

    async def _invocations(self) -> list[tuple[str, str, str]]:
        path = f"webhooks/{self._given.webhook_id}/invocations"
        params = {"page[size]": "100", "sort": "-latest_completed_at"}
        found: list[tuple[str, str, str]] = []
        newest = self._lost[-1][0] if self._lost else ""
        for _ in range(_MOST_PAGES):
            answer = await self._client.get(path, params, Priority.STREAM, _ABOUT, retry_for=0.0)
            rows = list(answer.get("invocations") or ())
            for row in rows:
                state = str(row.get("status") or "").lower()
                when = str(row.get("latest_completed_at") or row.get("created_at") or "")
                if state in _NEVER_SENT or state in _FAILED:
                    found.append((when, str(row.get("id")), state.replace("_", " ")))
            path, params = next_page(answer), {}
            if not path or (rows and newest and str(rows[-1].get("latest_completed_at") or "") <= newest):
                break
        return sorted({*self._lost[-1_000:], *found})

    async def problem(self) -> str | None:
        """Return what is wrong with the webhook and what to do about it; None: nothing."""
        if self._given.webhook_id is None:
            return None
        try:
            found = await self._client.get(
                f"webhooks/{self._given.webhook_id}", {}, Priority.CHECK, "the webhook", retry_for=0.0
            )
        except MissingError:
            return (
                f"the webhook {self._given.webhook_id} does not exist: changes arrive by polling until you create another one in "
                "the Admin Center and name it in the option webhook_id"
            )
        except SourceObjectError as error:
            return f"{error}. Give the user the permission to manage webhooks"
        except (CredentialsError, SourceUnavailableError) as error:
            return str(error)
        status = (found.get("webhook") or {}).get("status")
        if status == "inactive":
            return f"the webhook {self._given.webhook_id} is inactive: changes arrive by polling until you activate it"
        return None


def next_page(answer: dict[str, Any]) -> str:
    """Return the address of the next page of a list with cursor paging; empty: it was the last one."""
    meta = answer.get("meta")
    if isinstance(meta, dict) and not meta.get("has_more"):
        return ""
    links = answer.get("links")
    return str(links.get("next") or "") if isinstance(links, dict) else ""


def _digest(values: frozenset[str]) -> str:
    return hashlib.blake2b("\n".join(sorted(values)).encode(), digest_size=10).hexdigest()


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None
